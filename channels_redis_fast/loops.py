"""
Manages a layer's state in each event loop, and when it must be released: close, loop close, garbage collection, fork.

Knows the state only as an object to make and to close.

Rules kept here:

- A layer's state in a loop is closed by one task at a time. All callers wait for that task, and it continues if they
  are cancelled.
- Nothing here keeps a layer alive. The state that a collected layer leaves behind is closed by its loop.
- Whatever happens while connections are closed, ``loop.close()`` closes the loop.
- What timers and tasks open in a layer while their loop closes is closed too: uvloop hangs if warnings are errors and a
  socket is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import threading
import types
import weakref
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from redis.exceptions import ConnectionError

from .hot import reseed
from .process import FORKED, Process, current_number

logger = logging.getLogger("channels_redis_fast")

#: Seconds that closing an event loop waits for a close that is under way.
CLOSING_TIMEOUT = 5.0


class Closable(Protocol):
    """One or more connections."""

    @property
    def is_open(self) -> int:
        """How many sockets are open."""

    async def aclose(self) -> None: ...


class LoopState(Protocol):
    """The state of a layer in one event loop."""

    def connections(self) -> Sequence[Closable]:
        """Return all connections, including those without a socket."""

    async def disconnect(self) -> None:
        """Close the sockets. They are opened again when needed, immediately if something is waiting."""

    async def retire(self) -> None:
        """Close permanently, because the event loop closes or the layer was garbage-collected."""


State = TypeVar("State", bound=LoopState)


#: Maximum number of layers that are closed with an event loop. Its tasks may make more and more of them.
MAX_RETIRED = 10_000


class Tenancy:
    """One layer's state in one event loop, and the close that is under way."""

    def __init__(self, loop: asyncio.AbstractEventLoop, state: LoopState, states: LoopStates[Any]) -> None:
        self.loop = loop
        self._state = state
        self._states = weakref.ref(states)
        self._closing: asyncio.Task[None] | None = None
        self._retiring: asyncio.Task[None] | None = None
        self._collected = weakref.finalize(states, self._retire_later)
        self._collected.atexit = False

    async def disconnect(self) -> None:
        """Close the sockets, in this loop."""
        while True:
            if self._closing is None or self._closing.done():
                self._closing = _start(self.loop, self._state.disconnect())
                self._closing.add_done_callback(self._closed)
            if await _is_whole(self._closing):
                return

    async def retire(self) -> None:
        """Close permanently, in this loop, after any close that is under way."""
        while True:
            if self._retiring is None or self._retiring.cancelled():
                self._retiring = _start(self.loop, self._retire())
            if await _is_whole(self._retiring):
                return

    def leave(self) -> None:
        """Make the layer forget this loop, which closes."""
        self._collected.detach()
        states = self._states()
        if states is not None:
            states.forget_loop(self.loop)

    def forget(self) -> None:
        """In a forked child: never close anything."""
        self._collected.detach()

    def _closed(self, closing: asyncio.Task[None]) -> None:
        if self._closing is closing:
            self._closing = None

    async def _retire(self) -> None:
        if self._closing is not None:
            _, late = await asyncio.wait([self._closing], timeout=CLOSING_TIMEOUT)
            for closing in late:
                closing.cancel()
                await asyncio.wait([closing])
        try:
            await self._state.retire()
        except Exception as error:
            logger.warning("A layer's connections did not close cleanly: %s: %s", type(error).__name__, error)
            await asyncio.gather(*(each.aclose() for each in self._state.connections()), return_exceptions=True)

    def _retire_later(self) -> None:
        # The garbage collector may run in any thread, at any point. A closed loop has already closed the state.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(run_alone, self.loop, self._retire_collected)

    async def _retire_collected(self) -> None:
        await self.retire()
        with contextlib.suppress(KeyError, ValueError):
            _tenancies[self.loop].remove(self)


class LoopStates(dict[asyncio.AbstractEventLoop, State]):
    """The states of one layer by event loop, made when first needed."""

    def __init__(self, make_state: Callable[[asyncio.AbstractEventLoop], State]) -> None:
        super().__init__()
        self._make_state = make_state
        self._tenancies: dict[asyncio.AbstractEventLoop, Tenancy] = {}
        self._followers: list[dict[asyncio.AbstractEventLoop, State]] = []

    def also_forget(self, follower: dict[asyncio.AbstractEventLoop, State]) -> None:
        """Make a dict that contains some of these states forget them when they are forgotten here."""
        self._followers.append(follower)

    def __missing__(self, loop: asyncio.AbstractEventLoop) -> State:
        notice_fork()
        if loop in _inherited_loops:
            raise ConnectionError(f"Redis: {FORKED}")
        state = self[loop] = self._make_state(loop)
        tenancy = self._tenancies[loop] = Tenancy(loop, state, self)
        _before_close(loop, tenancy)
        return state

    async def disconnect(self) -> None:
        """Close the sockets of all running loops. Returns when those of the calling loop and of the hub are closed."""
        here = asyncio.get_running_loop()
        awaited = []
        for loop in list(self):
            if loop is not here and loop.is_running():
                # Do not wait for a loop of the application: it may be waiting for this one.
                closing = asyncio.run_coroutine_threadsafe(self.disconnect_here(), loop)
                if loop in _serving:
                    awaited.append(asyncio.wrap_future(closing))
        await self.disconnect_here()
        if awaited:
            await asyncio.wait(awaited)

    async def disconnect_here(self) -> None:
        """Close the sockets of the calling loop."""
        tenancy = self._tenancies.get(asyncio.get_running_loop())
        if tenancy is not None:
            await tenancy.disconnect()

    def forget_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Forget the layer's state in a loop that is about to close."""
        self.pop(loop, None)
        self._tenancies.pop(loop, None)
        for follower in self._followers:
            follower.pop(loop, None)

    def forget(self) -> None:
        """
        In a forked child: drop the parent's states without touching their sockets.

        They stay referenced until the process ends: a destructor would close a transport, and thereby remove the
        parent's socket from the shared epoll set, or send a TLS close_notify in the parent's name.
        """
        never_collect(dict(self))
        for tenancy in self._tenancies.values():
            tenancy.forget()
        self.clear()
        self._tenancies.clear()
        for follower in self._followers:
            follower.clear()


_inherited: list[Any] = []


def never_collect(inherited: Any) -> None:
    """In a forked child: prevent an object of the parent from being destroyed."""
    _inherited.append(inherited)


#: What to close with each loop.
_tenancies: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, list[Tenancy]] = weakref.WeakKeyDictionary()
_serving: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()

#: In a child that was forked without the hooks of ``os.register_at_fork``: the parent's loops. The parent uses the same
#: selectors.
_inherited_loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()


def serves_others(loop: asyncio.AbstractEventLoop) -> None:
    """Declare that a loop only runs calls of other threads, so that closing a layer may wait for it."""
    _serving.add(loop)


def _start(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    # An empty context, because the task may outlive the request that started it.
    return contextvars.Context().run(loop.create_task, coroutine)


async def _is_whole(shared: asyncio.Task[None]) -> bool:
    """
    Wait for a task that others may wait for too. Return False if it was cancelled. Raises its error.

    If all tasks of a loop are cancelled, what was being closed is still open. This ends the current callers, which are
    tasks themselves, but not callers that come while the cancellation takes effect.
    """
    await asyncio.wait([shared])
    if shared.cancelled():
        return False
    shared.result()
    return True


_alone: set[asyncio.Task[None]] = set()


def run_alone(loop: asyncio.AbstractEventLoop, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine that nobody awaits. Keep a reference to its task, because the loop only has a weak one."""
    task = _start(loop, function())
    _alone.add(task)
    task.add_done_callback(_alone.discard)


def _before_close(loop: asyncio.AbstractEventLoop, tenancy: Tenancy) -> None:
    """Make ``loop.close()`` close the layer's connections first, as channels_redis does."""
    tenancies = _tenancies.get(loop)
    if tenancies is None:
        tenancies = _tenancies[loop] = []
        _hook(loop, tenancies)
    tenancies.append(tenancy)


def _hook(loop: asyncio.AbstractEventLoop, tenancies: list[Tenancy]) -> None:
    close = loop.close

    def closing(self: asyncio.AbstractEventLoop) -> None:
        if not self.is_running():
            # Otherwise it raises, and the loop continues.
            self.close = close  # type: ignore[method-assign]
            try:
                _retire_all(self, tenancies)
            finally:
                # An error of a layer in these last steps must not prevent the loop from closing.
                for tenancy in tenancies:
                    tenancy.leave()
                tenancies.clear()
                close()
        else:
            close()

    loop.close = types.MethodType(closing, loop)  # type: ignore[method-assign]


def _retire_all(loop: asyncio.AbstractEventLoop, tenancies: list[Tenancy]) -> None:
    for tenancy in tenancies:
        tenancy.leave()
    if loop.is_closed() or not tenancies:
        return
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        _run_retirements(loop, tenancies)
    else:
        # Another loop runs in this thread, and a thread can only run one at a time.
        thread = threading.Thread(target=_run_retirements, args=(loop, tenancies), name="channels_redis_fast-close")
        try:
            thread.start()
        except RuntimeError as error:
            logger.warning("Connections were left open in an event loop that is closing: %s", error)
        else:
            thread.join()


def _run_retirements(loop: asyncio.AbstractEventLoop, tenancies: list[Tenancy]) -> None:
    # The list changes: timers and tasks of the loop run meanwhile. They may use a layer that has forgotten the loop;
    # and a layer that was collected removes itself when it has closed.
    retired: set[Tenancy] = set()
    while len(retired) < MAX_RETIRED:
        tenancy = next((each for each in tenancies if each not in retired), None)
        if tenancy is None:
            return
        retired.add(tenancy)
        retirement = tenancy.retire()
        try:
            loop.run_until_complete(retirement)
        except Exception as error:
            retirement.close()
            logger.warning(
                "The connections of a closing event loop could not be closed: %s: %s", type(error).__name__, error
            )
    logger.warning("Connections were left open in a closing event loop: its tasks use more and more layers")


class Forkable(Protocol):
    """An object that has to change in a forked child."""

    def after_fork(self) -> None: ...


_forkables: weakref.WeakSet[Forkable] = weakref.WeakSet()


def on_fork(forkable: Forkable) -> None:
    """Register an object, for as long as it lives: ``after_fork`` is called in every forked child."""
    _forkables.add(forkable)


class _Owner:
    """The process that everything here belongs to, and the lock for noticing that this is a different one."""

    def __init__(self) -> None:
        self.process = Process()
        self.noticing = threading.RLock()


_owner = _Owner()


def notice_fork() -> None:
    """
    Make a forked child drop its parent's objects if it was forked without the hooks of ``os.register_at_fork``.

    A fork by C code runs no Python hooks: uWSGI forks its workers like this. Called wherever something that does not
    survive a fork is looked up and not found immediately: every process starts with such a lookup.
    """
    if _owner.process.number != current_number[0]:
        with _owner.noticing:
            if not _owner.process.is_current:
                _inherited_loops.update(loop for loop, tenancies in _tenancies.items() if tenancies)
                _after_fork()


def _told_of_fork() -> None:
    # A thread that does not exist here may hold it.
    _owner.noticing = threading.RLock()
    _after_fork()


def _after_fork() -> None:
    reseed()
    for tenancies in list(_tenancies.values()):
        # The loops are the parent's too, even if somebody closes them here.
        never_collect(list(tenancies))
        tenancies.clear()
    for forkable in list(_forkables):
        forkable.after_fork()
    # Last, because other threads wait until everything is done.
    _owner.process = Process()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_told_of_fork)
