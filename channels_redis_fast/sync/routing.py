"""
Which way a layer's calls take: over connections of their own event loop, or through the process' hub.

Synchronous code gives each call an event loop of its own (``async_to_sync``, ``asyncio.run``), and a loop that ends
with the call is not worth a connection: what it sends goes through the ``hub``. The rule, for ``sync_hub="auto"``: a
loop has connections of its own from when it receives, or when it has made ``MANY`` calls, or makes one ``LONG`` seconds
after its first. Knows event loops and what a layer has in them; not what is called.

Rules kept here:

- The calls of one loop are carried out in the order in which they were made, also when it changes its way: the first
  one on its own connections waits until the hub has answered all before it, and those behind it wait their turn.
- A loop may be closed while it waits for an answer of the hub.
- Connections of the hub that were not used for ``IDLE`` seconds are closed, and so are those of a collected layer.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import Callable, Coroutine
from functools import wraps
from threading import TIMEOUT_MAX, Lock
from typing import Any, TypeVar, cast

from ..loops import LoopState, LoopStates, notice_fork, run_alone
from . import hub

RULES = ("auto", "always", "never")

#: Calls after which a loop counts as one that stays, and seconds.
MANY = 100
LONG = 1.0

IDLE = 60.0

State = TypeVar("State", bound=LoopState)


class WaitExpired(Exception):
    """A thread has waited for its timeout."""


class TransientLoop:
    """A loop whose calls go through the hub."""

    __slots__ = ("answered", "began", "calls", "stays", "turn", "unanswered", "waiting")

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.calls = 0
        #: Whether it is to have connections of its own by any rule, since there is no hub any more.
        self.stays = False
        #: What the hub has not yet answered, by what their callers wait for.
        self.unanswered: set[asyncio.Future[hub.Call]] = set()
        #: The calls that wait for that, first come first served, and how many they are; what the first of them awaits.
        self.turn = asyncio.Lock()
        self.waiting = 0
        self.answered: asyncio.Future[None] | None = None

    def arrived(self, answer: asyncio.Future[hub.Call], call: hub.Call) -> None:
        """Called in the loop when the hub has finished a call."""
        if not answer.done():
            answer.set_result(call)
        if self.answered is not None and not self.answered.done():
            self.answered.set_result(None)


class CallRouter(dict[asyncio.AbstractEventLoop, State]):
    """By event loop, what a layer has there, for those whose calls take that way."""

    def __init__(self, states: LoopStates[State], rule: str) -> None:
        super().__init__()
        self._states = states
        self.rule = rule
        self._begin()
        states.also_forget(self)

    def _begin(self) -> None:
        self._transient: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, TransientLoop] = (
            weakref.WeakKeyDictionary()
        )
        self._used = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def clear(self) -> None:
        """Forget all, in a forked child."""
        super().clear()
        self._begin()

    async def find(self, loop: asyncio.AbstractEventLoop) -> State | None:
        """
        Return what the layer has in the running loop, if a call is to take that way, else None.

        Returns at once for a loop that stays on its way. The caller hands its call in before it awaits anything else.
        """
        notice_fork()
        transient = self._transient.get(loop)
        if transient is None:
            if not self._may_pass(loop):
                state = self[loop] = self._states[loop]
                return state
            transient = self._transient[loop] = TransientLoop()
        if not self._is_over(loop, transient):
            transient.calls += 1
            return None
        transient.waiting += 1
        try:
            async with transient.turn:
                while transient.unanswered:
                    transient.answered = loop.create_future()
                    await transient.answered
                state = self._states[loop]
                if transient.waiting == 1:
                    # Not before: a new call would overtake those that have not yet had their turn.
                    self[loop] = state
                    self._transient.pop(loop, None)
        finally:
            transient.waiting -= 1
            if not transient.waiting:
                # The waiters refer to the loop, and would keep it alive.
                transient.turn = asyncio.Lock()
                transient.answered = None
        return state

    async def through_hub(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run one of the layer's coroutines on the hub, for a caller to whom ``find`` gave None."""
        loop = asyncio.get_running_loop()
        transient = self._transient[loop]
        answer: asyncio.Future[hub.Call] = loop.create_future()

        def done(call: hub.Call) -> None:
            self._was_used()
            # Here and not in the loop, which may be closed or about to be: one that stays would keep it alive.
            transient.unanswered.discard(answer)
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(transient.arrived, answer, call)

        transient.unanswered.add(answer)
        try:
            call = hub.current().call(lambda: coroutine, done)
        except RuntimeError:
            # It has ended since ``find`` looked: the coroutine asks that again, and goes the other way.
            transient.unanswered.discard(answer)
            transient.stays = True
            return await coroutine
        try:
            await answer
        except BaseException:
            # Those behind it wait until the hub has ended it all the same.
            call.cancel()
            raise
        return call.result()

    def wait_for(self, function: hub.Work, timeout: float | None) -> Any:
        """
        Run one of the layer's coroutine functions on the hub, for a thread without an event loop, and wait for it.

        At the end of the interpreter, when the hub has gone, on an event loop of this call's own.

        Raises ``WaitExpired`` if it is not over in ``timeout`` seconds, ``RuntimeError`` where there can be no hub.
        """
        # A lock and no Event, which takes three of them.
        under_way = Lock()
        under_way.acquire()

        def done(call: hub.Call) -> None:
            self._was_used()
            under_way.release()

        try:
            call = hub.current().call(function, done)
        except RuntimeError:
            if hub.has_ended():
                return asyncio.run(_within(function, timeout))
            raise
        try:
            if not under_way.acquire(timeout=-1 if timeout is None else min(max(timeout, 0), TIMEOUT_MAX)):
                raise WaitExpired
        except BaseException:
            call.cancel()
            raise
        return call.result()

    def _may_pass(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether the calls of a loop that is new here may go through the hub."""
        if self.rule == "never" or hub.is_hub(loop) or (self.rule == "auto" and loop in self._states):
            return False
        try:
            hub.current()
        except RuntimeError:
            return False
        return True

    def _is_over(self, loop: asyncio.AbstractEventLoop, transient: TransientLoop) -> bool:
        """Whether a loop has turned out to be one that stays."""
        if transient.stays or self.rule == "always":
            return transient.stays
        return loop in self._states or transient.calls >= MANY or time.monotonic() - transient.began >= LONG

    def _was_used(self) -> None:
        """Called in the hub's loop when a call is over."""
        loop = asyncio.get_running_loop()
        self._used = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(IDLE, _close_if_idle, weakref.ref(self), loop)

    def close_if_idle(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close what the layer has in the hub's loop, or look again when it can have been idle long enough."""
        left = self._used + IDLE - loop.time()
        if left > 0:
            self._timer = loop.call_later(left, _close_if_idle, weakref.ref(self), loop)
            return
        self._timer = None
        if loop in self._states:
            run_alone(loop, self._states.disconnect_here)


async def _within(function: hub.Work, timeout: float | None) -> Any:
    task = asyncio.ensure_future(function())
    await asyncio.wait([task], timeout=timeout)
    if not task.done():
        task.cancel()
        raise WaitExpired
    return task.result()


def _close_if_idle(router: weakref.ref[CallRouter[Any]], loop: asyncio.AbstractEventLoop) -> None:
    # A timer of a minute must not keep a layer alive.
    found = router()
    if found is not None:
        found.close_if_idle(loop)


Method = TypeVar("Method", bound=Callable[..., Coroutine[Any, Any, Any]])


def routed(method: Method) -> Method:
    """
    Let a layer's coroutine run on the hub when it is called in a loop whose calls go through it.

    Wherever it runs, that loop is one in which the layer has connections of its own. ``send`` and ``group_send`` do
    the same without the frame that this costs.
    """

    @wraps(method)
    async def call(layer: Any, /, *arguments: Any, **options: Any) -> Any:
        router: CallRouter[Any] = layer._router
        loop = asyncio.get_running_loop()
        if router.get(loop) is None and await router.find(loop) is None:
            return await router.through_hub(call(layer, *arguments, **options))
        return await method(layer, *arguments, **options)

    # Callers see the method itself, names and types of the parameters included.
    return cast(Method, call)
