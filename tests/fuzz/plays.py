"""Objects that remember: what they answer to a row of calls, as a text that two twins must agree on.

It knows the waiters' own methods and what asyncio's tasks ask of them; a loop is played by a list of callbacks.
"""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from typing import Any

from tests.fuzz.source import Source

MOVES = 200


class Interrupt(BaseException):
    """What leaves a task's step and then the loop, as KeyboardInterrupt does."""


class Loop:
    """The part of an event loop that wakers use."""

    def __init__(self) -> None:
        self.ready: list[Any] = []

    def call_soon(self, callback: Any) -> None:
        self.ready.append(callback)


class Waiting:
    """Waiters of two loops and the callbacks of their tasks, moved by bytes."""

    def __init__(self, hot: Any, data: bytes) -> None:
        self.source = Source(data)
        self.loops = [Loop(), Loop()]
        self.wakers = [hot.Waker(loop) for loop in self.loops]
        self.waiters: list[Any] = [self.wakers[0].waiter()]
        self.story: list[Any] = []
        self.callbacks = [self.callback(number) for number in range(8)]

    def callback(self, number: int) -> Any:
        """A task's step: it notes that it ran, and some of them do what steps do."""

        def step(waiter: Any) -> None:
            self.story.append((number, self.waiters.index(waiter), waiter.done()))
            if number == 5:
                raise Interrupt
            if number == 6:
                raise ValueError(number)
            if number == 7:
                self.waiters[0].cancel()

        return step

    def play(self) -> list[Any]:
        """Make the moves that the bytes say; return what happened."""
        for _ in range(MOVES):
            if not self.source:
                break
            self.story.append(self.answer(self.move))
        # Whatever the moves left is woken in the end.
        while any(loop.ready for loop in self.loops):
            self.story.append(self.answer(self.run))
        return self.story

    def answer(self, call: Any) -> Any:
        try:
            result = call()
        except (Exception, Interrupt, asyncio.CancelledError) as error:
            return type(error).__name__, str(error)
        return self.waiters.index(result) if any(result is waiter for waiter in self.waiters) else repr(result)

    def run(self) -> int:
        """One tick of both loops."""
        count = 0
        for loop in self.loops:
            ready, loop.ready = loop.ready, []
            for place, callback in enumerate(ready):
                count += 1
                try:
                    callback()
                except BaseException:
                    loop.ready[:0] = ready[place + 1 :]
                    raise
        return count

    def move(self) -> Any:
        """One call, of which the bytes say which."""
        kind = self.source.byte() % 16
        if kind == 0:
            return self.run()
        if kind < 3:
            self.waiters.append(self.source.pick(self.wakers).waiter())
            return None
        waiter = self.source.pick(self.waiters)
        if kind < 6:
            return waiter.add_done_callback(self.source.pick(self.callbacks), context=copy_context())
        if kind == 6:
            return waiter.remove_done_callback(self.source.pick(self.callbacks))
        if kind == 7:
            return waiter.set_result(self.source.byte())
        if kind == 8:
            return waiter.set_exception(KeyError(self.source.byte()))
        if kind == 9:
            return waiter.cancel(self.source.pick((None, "why")))
        if kind == 10:
            return next(iter(waiter.__await__()))
        if kind == 11:
            waiter._asyncio_future_blocking = bool(self.source.byte() & 1)
            return waiter._asyncio_future_blocking
        question = (waiter.result, waiter.exception, waiter.take, waiter.has_result)[kind - 12]
        return question(), waiter.done(), waiter.cancelled()
