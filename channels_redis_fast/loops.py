"""
What a layer has in each event loop, and the two moments when it has to let go: loop close and fork.

Knows what a layer has in a loop only as a thing to make and to close.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import types
import weakref
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from .hot import reseed


class Closable(Protocol):
    """A connection, or several."""

    @property
    def is_open(self) -> int:
        """How many sockets there are."""

    async def aclose(self) -> None: ...


class LoopState(Protocol):
    """What a layer has in one event loop."""

    def connections(self) -> Sequence[Closable]:
        """Return all connections, those without a socket too."""

    async def disconnect(self) -> None:
        """Close the sockets; they are opened again when they are needed, at once by those who wait."""

    async def retire(self) -> None:
        """Close for good, since the event loop closes."""


State = TypeVar("State", bound=LoopState)


class LoopStates(dict[asyncio.AbstractEventLoop, State]):
    """The states of one layer by event loop; one that is missing is made."""

    def __init__(self, make_state: Callable[[asyncio.AbstractEventLoop], State]) -> None:
        super().__init__()
        self._make_state = make_state
        self._followers: list[dict[asyncio.AbstractEventLoop, State]] = []

    def also_forget(self, follower: dict[asyncio.AbstractEventLoop, State]) -> None:
        """Have a dict that shows some of these states forget them when they are forgotten here."""
        self._followers.append(follower)

    def __missing__(self, loop: asyncio.AbstractEventLoop) -> State:
        state = self[loop] = self._make_state(loop)
        _before_close(loop, self)
        if loop in _outliving:
            # Weak, since a connection may know a layer that opens sockets in its own way.
            connections = [weakref.ref(connection) for connection in state.connections()]
            weakref.finalize(self, _close_later, loop, connections).atexit = False
        return state

    async def disconnect(self) -> None:
        """Close the sockets of all running loops; this returns when the calling loop's and the hub's are closed."""
        here = asyncio.get_running_loop()
        awaited = []
        for loop, state in list(self.items()):
            if loop is not here and loop.is_running():
                # Nobody waits for a loop of the site's own, which may wait for this one.
                closing = asyncio.run_coroutine_threadsafe(state.disconnect(), loop)
                if loop in _outliving:
                    awaited.append(asyncio.wrap_future(closing))
        if here in self:
            await self[here].disconnect()
        if awaited:
            await asyncio.wait(awaited)

    def closing(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close what the layer has in a loop that is about to close."""
        state = self.pop(loop, None)
        for follower in self._followers:
            follower.pop(loop, None)
        if state is not None and not loop.is_closed() and not loop.is_running():
            loop.run_until_complete(state.retire())

    def forget(self) -> None:
        """
        In a forked child: let go of the parent's states without touching their sockets.

        They stay referenced for ever: a destructor would close a transport, and with it take the parent's
        socket out of the epoll set that both share, or send a TLS goodbye in the parent's name.
        """
        keep_for_ever(dict(self))
        self.clear()
        for follower in self._followers:
            follower.clear()


_inherited: list[Any] = []


def keep_for_ever(inherited: Any) -> None:
    """In a forked child: keep something of the parent's from being destroyed."""
    _inherited.append(inherited)


#: What there is to close with a loop. A layer stays alive as long as a loop in which it has something, unless that
#: outlives layers.
_users: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, list[Callable[[], LoopStates[Any] | None]]] = (
    weakref.WeakKeyDictionary()
)
_outliving: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()


def outlives_layers(loop: asyncio.AbstractEventLoop) -> None:
    """Say that a loop goes on when layers that use it are gone. What such a layer has there is closed then."""
    _outliving.add(loop)


def _close_later(loop: asyncio.AbstractEventLoop, connections: Sequence[weakref.ref[Closable]]) -> None:
    # The garbage collector may be in any thread, in the middle of anything.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(_close, loop, connections)


def _close(loop: asyncio.AbstractEventLoop, connections: Sequence[weakref.ref[Closable]]) -> None:
    for connection in connections:
        found = connection()
        if found is not None:
            run_alone(loop, found.aclose())


_alone: set[asyncio.Task[None]] = set()


def run_alone(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, None]) -> None:
    """Run, from within a loop, what nobody awaits. The loop itself would have a weak reference only."""
    task = loop.create_task(coroutine)
    _alone.add(task)
    task.add_done_callback(_alone.discard)


def _before_close(loop: asyncio.AbstractEventLoop, states: LoopStates[Any]) -> None:
    """Make ``loop.close()`` close the layer's connections first, as channels_redis does."""
    users = _users.get(loop)
    if users is None:
        users = _users[loop] = []
        _hook(loop, users)
    users[:] = [user for user in users if user() is not None]
    users.append(weakref.ref(states) if loop in _outliving else lambda: states)


def _hook(loop: asyncio.AbstractEventLoop, users: list[Callable[[], LoopStates[Any] | None]]) -> None:
    close = loop.close

    def closing(self: asyncio.AbstractEventLoop) -> None:
        self.close = close  # type: ignore[method-assign]
        for user in users:
            states = user()
            if states is not None:
                states.closing(self)
        self.close()

    loop.close = types.MethodType(closing, loop)  # type: ignore[method-assign]


class Forkable(Protocol):
    """Something that has to change in a forked child."""

    def after_fork(self) -> None: ...


_forkables: weakref.WeakSet[Forkable] = weakref.WeakSet()


def on_fork(forkable: Forkable) -> None:
    """Have ``after_fork`` called in every forked child, for as long as the object lives."""
    _forkables.add(forkable)


def _after_fork() -> None:
    reseed()
    for forkable in list(_forkables):
        forkable.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
