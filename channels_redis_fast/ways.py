"""
Which way a layer's calls take: over connections of their own event loop, or through the process' hub.

Synchronous code gives each call an event loop of its own (``async_to_sync``, ``asyncio.run``), and a loop that ends
with the call is not worth a connection: what it sends goes through the ``hub``. The rule, for ``sync_hub="auto"``: a
loop has connections of its own from when it receives, or when it has made ``MANY`` calls, or makes one ``LONG`` seconds
after its first. Knows event loops and what a layer has in them; not what is called.

Rules kept here:

- The calls of one loop are carried out in the order in which they were made, also when it changes its way: the first
  one on its own connections waits until the hub has answered all before it, and those behind it wait their turn.
- The hub does not mind when a loop is closed that waits for an answer.
- Connections of the hub that nobody has used for ``IDLE`` seconds are closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import Coroutine
from threading import Event
from typing import Any, TypeVar

from . import hub
from .loops import LoopState, LoopStates

RULES = ("auto", "always", "never")

#: Calls after which a loop counts as one that stays, and seconds.
MANY = 100
LONG = 1.0

IDLE = 60.0

State = TypeVar("State", bound=LoopState)


class NotOver(Exception):
    """A thread has waited as long as it would."""


class Passing:
    """A loop whose calls go through the hub."""

    __slots__ = ("answers", "began", "calls", "turn", "waiting")

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.calls = 0
        #: What the hub has not yet answered.
        self.answers: set[asyncio.Future[asyncio.Task[Any]]] = set()
        #: The calls that wait for that, first come first served, and how many they are.
        self.turn = asyncio.Lock()
        self.waiting = 0


class Ways(dict[asyncio.AbstractEventLoop, State]):
    """By event loop, what a layer has there, for those whose calls take that way; a loop that is missing gives None."""

    def __init__(self, states: LoopStates[State], rule: str) -> None:
        super().__init__()
        self._states = states
        self._rule = rule
        self._begin()
        states.also_forget(self)

    def _begin(self) -> None:
        self._passing: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Passing] = weakref.WeakKeyDictionary()
        self._used = 0.0
        self._closing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def clear(self) -> None:
        """Forget all, in a forked child."""
        super().clear()
        self._begin()

    def __missing__(self, loop: asyncio.AbstractEventLoop) -> None:
        return None

    async def find(self, loop: asyncio.AbstractEventLoop) -> State | None:
        """
        Return what the layer has in the running loop, if a call is to take that way, else None.

        Returns at once for a loop that stays on its way. The caller hands its call in before it awaits anything else.
        """
        passing = self._passing.get(loop)
        if passing is None:
            if not self._may_pass(loop):
                state = self[loop] = self._states[loop]
                return state
            passing = self._passing[loop] = Passing()
        if not passing.waiting and not self._is_over(loop, passing):
            passing.calls += 1
            return None
        passing.waiting += 1
        try:
            async with passing.turn:
                while passing.answers:
                    await asyncio.wait(passing.answers)
        finally:
            passing.waiting -= 1
            if not passing.waiting:
                # Not before: who comes now would overtake those that have not yet had their turn.
                self[loop] = self._states[loop]
                self._passing.pop(loop, None)
        return self._states[loop]

    async def through_hub(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run one of the layer's coroutines on the hub, for a caller to whom ``find`` gave None."""
        loop = asyncio.get_running_loop()
        home = _hub_for(coroutine)
        answer: asyncio.Future[asyncio.Task[Any]] = loop.create_future()
        answers = self._passing[loop].answers
        answers.add(answer)
        answer.add_done_callback(answers.discard)

        def done(task: asyncio.Task[Any]) -> None:
            self._was_used(task)
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(answer.set_result, task)

        call = home.call(coroutine, done)
        try:
            # wait(), so that the answer is awaited by those behind this call even if the caller is cancelled.
            await asyncio.wait([answer])
        except BaseException:
            call.cancel()
            raise
        return answer.result().result()

    def wait_for(self, coroutine: Coroutine[Any, Any, Any], timeout: float | None) -> Any:
        """
        Run one of the layer's coroutines on the hub, for a thread without an event loop, and wait for it.

        Raises ``NotOver`` if it is not over in ``timeout`` seconds, ``RuntimeError`` where there can be no hub.
        """
        tasks: list[asyncio.Task[Any]] = []
        is_done = Event()

        def done(task: asyncio.Task[Any]) -> None:
            tasks.append(task)
            is_done.set()
            self._was_used(task)

        call = _hub_for(coroutine).call(coroutine, done)
        try:
            if not is_done.wait(timeout):
                raise NotOver
        except BaseException:
            call.cancel()
            raise
        return tasks[0].result()

    def _may_pass(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether the calls of a loop that is new here may go through the hub."""
        if self._rule == "never" or hub.is_hub(loop) or (self._rule == "auto" and loop in self._states):
            return False
        try:
            hub.current()
        except RuntimeError:
            return False
        return True

    def _is_over(self, loop: asyncio.AbstractEventLoop, passing: Passing) -> bool:
        """Whether a loop has turned out to be one that stays."""
        if self._rule == "always":
            return False
        return loop in self._states or passing.calls >= MANY or time.monotonic() - passing.began >= LONG

    def _was_used(self, task: asyncio.Task[Any]) -> None:
        """Hear, in the hub's loop, that a call is over."""
        if not task.cancelled():
            # Who asked may be gone, and the error is nobody else's business.
            task.exception()
        loop = task.get_loop()
        self._used = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(IDLE, self._close_if_idle, loop)

    def _close_if_idle(self, loop: asyncio.AbstractEventLoop) -> None:
        left = self._used + IDLE - loop.time()
        if left > 0:
            self._timer = loop.call_later(left, self._close_if_idle, loop)
            return
        self._timer = None
        if loop in self._states:
            # Kept, since the loop itself has only a weak reference to it.
            self._closing = loop.create_task(self._states[loop].disconnect())


def _hub_for(coroutine: Coroutine[Any, Any, Any]) -> hub.Hub:
    """Return the hub; without one the coroutine is not left behind unawaited."""
    try:
        return hub.current()
    except RuntimeError:
        coroutine.close()
        raise
