"""
Decides which way a layer's calls take: over connections of their own event loop, or through the process' hub.

Synchronous code runs each call in a separate event loop (``async_to_sync``, ``asyncio.run``). A loop that ends with the
call is not worth a connection, so its calls go through the ``hub``. The rule for ``sync_hub="auto"``: a loop gets its
own connections when it receives, or after ``MANY`` calls, or when it makes a call ``LONG`` seconds after its first.
Knows event loops and a layer's state in them. Does not know what is called.

Rules kept here:

- The calls of one loop are carried out in the order in which they were made, even when it switches to its own
  connections: the first call on them waits until the hub has answered all calls before it, and later ones wait their
  turn.
- A loop may be closed while it waits for the hub.
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

#: Number of calls, and seconds, after which a loop counts as long-lived.
MANY = 100
LONG = 1.0

IDLE = 60.0

State = TypeVar("State", bound=LoopState)


class WaitExpired(Exception):
    """The timeout of a waiting thread has expired."""


class TransientLoop:
    """A loop whose calls go through the hub."""

    __slots__ = ("answered", "began", "calls", "stays", "turn", "unanswered", "waiting")

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.calls = 0
        #: Whether it gets its own connections regardless of the rule, because the hub no longer exists.
        self.stays = False
        #: The calls that the hub has not yet answered: the futures that their callers await.
        self.unanswered: set[asyncio.Future[hub.Call]] = set()
        #: The calls waiting for these answers take turns, in order; how many they are; and what the first of them
        #: awaits.
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
    """The state of a layer by event loop, for those loops whose calls use their own connections."""

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
        """In a forked child: forget all loops."""
        super().clear()
        self._begin()

    async def find(self, loop: asyncio.AbstractEventLoop) -> State | None:
        """
        Return the layer's state in the running loop if a call should use it; None if it should go through the hub.

        Returns immediately unless the loop is switching to its own connections. The caller must submit its call before
        it awaits anything else.
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
                    # Not earlier: a new call would overtake those that have not had their turn yet.
                    self[loop] = state
                    self._transient.pop(loop, None)
        finally:
            transient.waiting -= 1
            if not transient.waiting:
                # The waiters reference the loop, and would keep it alive.
                transient.turn = asyncio.Lock()
                transient.answered = None
        return state

    async def through_hub(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run one of the layer's coroutines on the hub, for a caller to which ``find`` returned None."""
        loop = asyncio.get_running_loop()
        transient = self._transient[loop]
        answer: asyncio.Future[hub.Call] = loop.create_future()

        def done(call: hub.Call) -> None:
            self._was_used()
            # Here and not in the loop, which may be closed or about to close: a remaining future would keep the loop
            # alive.
            transient.unanswered.discard(answer)
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(transient.arrived, answer, call)

        transient.unanswered.add(answer)
        try:
            call = hub.current().call(lambda: coroutine, done)
        except RuntimeError:
            # The hub has ended since ``find`` looked. The coroutine calls ``find`` again, and uses the loop's own
            # connections.
            transient.unanswered.discard(answer)
            transient.stays = True
            return await coroutine
        try:
            await answer
        except BaseException:
            # Calls behind it still wait until the hub has ended it.
            call.cancel()
            raise
        return call.result()

    def wait_for(self, function: hub.Work, timeout: float | None) -> Any:
        """
        Run one of the layer's coroutine functions on the hub for a thread without an event loop, and wait for the
        result.

        At interpreter exit, when the hub is gone, the function runs in a new event loop instead.

        Raises ``WaitExpired`` if it does not finish within ``timeout`` seconds, ``RuntimeError`` if there can be no
        hub.
        """
        # A lock and not an Event, which needs three of them.
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
        """Whether the calls of a new loop may go through the hub."""
        if self.rule == "never" or hub.is_hub(loop) or (self.rule == "auto" and loop in self._states):
            return False
        try:
            hub.current()
        except RuntimeError:
            return False
        return True

    def _is_over(self, loop: asyncio.AbstractEventLoop, transient: TransientLoop) -> bool:
        """Whether a loop has turned out to be long-lived."""
        if transient.stays or self.rule == "always":
            return transient.stays
        return loop in self._states or transient.calls >= MANY or time.monotonic() - transient.began >= LONG

    def _was_used(self) -> None:
        """Called in the hub's loop when a call has finished."""
        loop = asyncio.get_running_loop()
        self._used = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(IDLE, _close_if_idle, weakref.ref(self), loop)

    def close_if_idle(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close the layer's connections in the hub's loop if they are idle; otherwise check again when they may be."""
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
    # A one-minute timer must not keep a layer alive.
    found = router()
    if found is not None:
        found.close_if_idle(loop)


Method = TypeVar("Method", bound=Callable[..., Coroutine[Any, Any, Any]])


def routed(method: Method) -> Method:
    """
    Decorate a layer's coroutine function: calls from loops that use the hub run on the hub.

    Wherever it runs, the layer has its own connections in that loop. ``send`` and ``group_send`` do the same inline, to
    save a frame.
    """

    @wraps(method)
    async def call(layer: Any, /, *arguments: Any, **options: Any) -> Any:
        router: CallRouter[Any] = layer._router
        loop = asyncio.get_running_loop()
        if router.get(loop) is None and await router.find(loop) is None:
            return await router.through_hub(call(layer, *arguments, **options))
        return await method(layer, *arguments, **options)

    # Callers see the method itself, including the names and types of its parameters.
    return cast(Method, call)
