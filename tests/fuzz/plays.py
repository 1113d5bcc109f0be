"""Objects that remember: what they answer to a row of calls, as a story that two twins must agree on.

It knows the methods of waiters, mailboxes and batches, and what asyncio's tasks and the package's own subclasses ask of
them; a loop is played by a list of callbacks.
"""

from __future__ import annotations

import asyncio
import re
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


class Play:
    """A row of moves on objects of one twin, chosen by bytes. The subclass says what moves there are."""

    def __init__(self, hot: Any, data: bytes) -> None:
        self.hot = hot
        self.source = Source(data)
        self.loops = [Loop(), Loop()]
        self.wakers = [hot.Waker(loop) for loop in self.loops]
        self.waiters: list[Any] = [self.wakers[0].waiter()]
        self.story: list[Any] = []
        self.callbacks = [self.callback(number) for number in range(8)]

    def callback(self, number: int) -> Any:
        """A task's step: it notes that it ran, and some of them do what steps do."""

        def step(waiter: Any) -> None:
            self.story.append((number, self.known(waiter), waiter.done()))
            if number == 5:
                raise Interrupt
            if number == 6:
                raise ValueError(number)
            if number == 7:
                self.waiters[0].cancel()

        return step

    def known(self, waiter: Any) -> int:
        """The number of a waiter; a new one gets the next."""
        for number, other in enumerate(self.waiters):
            if other is waiter:
                return number
        self.waiters.append(waiter)
        return len(self.waiters) - 1

    def play(self) -> list[Any]:
        """Make the moves that the bytes say; return what happened."""
        for _ in range(MOVES):
            if not self.source:
                break
            self.story.append(self.answer(self.move))
        # Whatever the moves left is woken in the end.
        while any(loop.ready for loop in self.loops):
            self.story.append(self.answer(self.run))
        self.story.append([self.answer(waiter.result) for waiter in self.waiters])
        return self.story

    def answer(self, call: Any) -> Any:
        """What a call comes to, without the addresses that some objects have."""
        try:
            result = call()
        except (Exception, Interrupt, asyncio.CancelledError) as error:
            return type(error).__name__, str(error)
        return self.known(result) if isinstance(result, self.hot.Waiter) else re.sub(r" at 0x\w+", "", repr(result))

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
        raise NotImplementedError


class Waiting(Play):
    """Waiters of two loops, and the callbacks of their tasks."""

    def move(self) -> Any:
        kind = self.source.byte() % 16
        if kind == 0:
            return self.run()
        if kind < 3:
            return self.source.pick(self.wakers).waiter()
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


class Delivering(Play):
    """Receivers of a few channels, and deliveries to them: one channel, several, one twice, none, and no deliveries."""

    CHANNELS = ("a", "b", "c", "\xe9", "")

    def __init__(self, hot: Any, data: bytes) -> None:
        super().__init__(hot, data)
        self.lock = hot.Lock()

        class Table(hot.MailboxTable):  # type: ignore[misc]
            """As the package's own: it knows what is stored."""

            def _take(self, channel: Any) -> Any:
                return self.pop(channel, 1.0).message

        self.stored_message = hot.StoredMessage
        self.table = Table(self.lock)
        #: What may lie in several mailboxes.
        self.bodies: list[Any] = []

    def move(self) -> Any:
        kind = self.source.byte() % 10
        if kind == 0:
            return self.run()
        if kind < 4:
            return self.table.claim(self.channel(), self.source.pick(self.wakers))
        if kind == 4:
            waiter = self.source.pick(self.waiters)
            if self.source.byte() % 2:
                with self.lock:
                    return self.table.leave(self.channel(), waiter)
            return waiter.cancel()
        if kind == 5:
            waiter = self.source.pick(self.waiters)
            return waiter.add_done_callback(self.source.pick(self.callbacks), context=copy_context())
        if kind == 6:
            return self.store()
        if kind == 8:
            taken = self.table.pop(self.channel())
            return None if taken is None else (taken.message, taken.holders), self.mailboxes()
        if kind == 9:
            if self.source.byte() % 8 == 0:
                self.table.clear()
            return self.table.expire(float(self.source.byte())), self.mailboxes()
        deliveries = [self.delivery() for _ in range(self.source.byte() % 5)]
        before = repr(deliveries)
        with self.lock:
            left = self.table.hand_out(deliveries, self.source.pick(self.wakers))
        return left, repr(deliveries) == before, {name: len(self.table.line(name)) for name in self.table.waiting}

    def store(self) -> Any:
        """Put a new message, or one that others have too, at either end."""
        if not self.bodies or self.source.byte() % 2:
            body = self.stored_message(self.source.entries(2), float(self.source.byte()), bool(self.source.byte() % 2))
            self.bodies.append(body)
        body = self.source.pick(self.bodies)
        count = self.table.put(self.channel(), body, bool(self.source.byte() % 2))
        return count, (body.message, body.deadline, body.is_shared, body.size, body.holders), self.mailboxes()

    def mailboxes(self) -> Any:
        return self.table.held, {
            name: (mailbox.channel, len(mailbox), [stored.message for stored in mailbox])
            for name, mailbox in self.table.stored.items()
        }

    def channel(self) -> Any:
        return self.source.pick(self.CHANNELS) if self.source.byte() < 250 else self.source.value(1)

    def delivery(self) -> Any:
        kind = self.source.byte()
        message = self.source.entries(3) if kind < 240 else self.source.value(3)
        address: Any = [self.channel() for _ in range(self.source.byte() % 5)] if kind & 1 else self.channel()
        return address, message


class Gathering(Play):
    """Sends of one tick and the next, into batches with room for very few."""

    KEYS = (b"k1", b"k2", b"k3", b"")

    def __init__(self, hot: Any, data: bytes) -> None:
        super().__init__(hot, data)
        self.batches = batches = [hot.Batch()]
        story, source = self.story, self.source

        class Sender(hot.Gatherer):  # type: ignore[misc]
            """As the package's own: it makes the calls, and writes them."""

            def _open(self) -> Any:
                batches.append(hot.Batch())
                return batches[-1]

            def _write_early(self) -> None:
                story.append("early")
                kind = source.byte()
                if kind & 1:
                    self.seal(batches[-1])
                if kind > 250:
                    raise ValueError(kind)

        self.sender = Sender(self.wakers[0], *(1 + source.byte() % 8 for _ in range(3)), 40, 1 + source.byte() % 8)

    def move(self) -> Any:
        kind = self.source.byte() % 16
        if kind == 0:
            return self.run()
        if kind < 9:
            return self.sender.send(self.key(), self.source.take(self.source.byte() % 16), self.source.byte() % 3)
        if kind == 9:
            waiter = self.source.pick(self.waiters)
            return waiter.add_done_callback(self.source.pick(self.callbacks), context=copy_context())
        if kind == 10:
            return self.source.pick(self.waiters).cancel()
        batch = self.source.pick(self.batches)
        if kind == 11:
            return self.sender.seal(batch)
        if kind == 12:
            return batch.accept()
        if kind == 13 and batch.keys:
            return self.batches[0].take(self.source.pick(batch.keys))
        return batch.arguments(60), batch.messages, batch.size, [self.known(waiter) for waiter in batch.waiters()]

    def key(self) -> Any:
        return self.source.pick(self.KEYS)
