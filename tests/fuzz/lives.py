"""Whole lives of the objects that remember: waiters, mailboxes, locks and batches, each from its making to its end.

Each function makes all it needs and returns what can be compared; `hot` is one of the twins.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from tests.fuzz.samples import BODY, HOSTILE, MEMBERS, ONE, TABLE


class Loop:
    """The part of an event loop that wakers use; each call makes its own."""

    def __init__(self) -> None:
        self.ready: list[Any] = []

    def call_soon(self, callback: Any) -> None:
        self.ready.append(callback)

    def run(self) -> None:
        while self.ready:
            self.ready.pop(0)()


def waited(hot: Any) -> Any:
    """A whole life of waiters: awaited, done, woken; late, twice, not at all."""
    loop = Loop()
    waker = hot.Waker(loop)
    steps: list[Any] = []
    made = [waker.waiter() for _ in range(5)]
    for waiter in made[:4]:
        steps.append(next(iter(waiter.__await__())) is waiter)
        waiter._asyncio_future_blocking = False
        waiter.add_done_callback(lambda done: steps.append(done.done()), context=copy_context())
    made[0].add_done_callback(steps.append, context=copy_context())
    made[1].add_done_callback(print, context=copy_context())
    steps.append(made[1].remove_done_callback(print))
    made[0].set_result({"n": [1]})
    made[1].set_exception(KeyError("k"))
    made[2].cancel("why")
    made[4].set_result(1)
    made[4].add_done_callback(lambda done: steps.append(done.take()), context=copy_context())
    loop.run()
    return len(steps), made[0].take(), made[0].has_result(), made[0].get_loop() is loop, waker.loop is loop


def asked(hot: Any, question: str, end: Callable[[Any], Any]) -> Any:
    """One question to a waiter in one state."""
    waiter = hot.Waker(Loop()).waiter()
    end(waiter)
    return getattr(waiter, question)()


def interrupted(hot: Any) -> Any:
    """A step whose error leaves the loop: the others are woken by the next run."""
    loop = Loop()
    waker = hot.Waker(loop)
    for number in range(4):
        waiter = waker.waiter()
        waiter.add_done_callback(lambda _, number=number: [1][number], context=copy_context())
        waiter.set_result(number)
    errors = 0
    while loop.ready:
        try:
            loop.run()
        except IndexError:
            errors += 1
    return errors


def gated(hot: Any) -> Any:
    """A whole life of a gate: opened by a waiter, by hand, and by a cancellation; also while nobody waits at it."""
    loop = Loop()
    gate, waker = hot.Gate(loop), hot.Waker(loop)
    steps: list[Any] = []
    waiters = [waker.waiter() for _ in range(3)]
    for waiter in waiters:
        gate.watch(waiter)
    steps.append(next(gate.__await__()) is gate)
    gate._asyncio_future_blocking = False
    gate.add_done_callback(lambda done: steps.append(done.result()), context=copy_context())
    waiters[1].set_result({"n": [1]})
    loop.run()
    waiters[0].cancel()
    steps += [gate.is_open, next(gate, "through"), gate.is_open, next(gate.__await__()) is gate]
    gate._asyncio_future_blocking = False
    gate.add_done_callback(steps.append, context=copy_context())
    gate.cancel("why")
    loop.run()
    try:
        gate.result()
    except CancelledError as error:
        steps.append(error.args)
    gate.open()
    return len(steps), steps[:3], steps[-1], gate.result(), gate.get_loop() is loop


STATES: dict[str, Callable[[Any], Any]] = {
    "pending": lambda waiter: None,
    "finished": lambda waiter: waiter.set_result({"n": [1]}),
    "failed": lambda waiter: waiter.set_exception(ValueError("that")),
    "cancelled": lambda waiter: waiter.cancel("why"),
}
QUESTIONS = ("done", "cancelled", "has_result", "take", "result", "exception", "cancel", "get_loop", "__await__")


def again(waiter: Any, method: str) -> Any:
    """End a wait that has ended."""
    waiter.set_result(1)
    return getattr(waiter, method)(ValueError("again"))


def table_of(hot: Any, lag: Any = None) -> Any:
    """The receivers of a few channels: one alone, two together, one that has gone, one in another loop."""

    class Table(hot.MailboxTable):  # type: ignore[misc]
        def _take(self, channel: str) -> Any:
            return self.pop(channel, 1.0).message

    table = Table(hot.Lock(), None, lag)
    waker, other = hot.Waker(Loop()), hot.Waker(Loop())
    table.put("stored", hot.StoredMessage({"n": [1]}, 0.0, False), False)
    made = [table.claim(channel, waker) for channel in ("a", "b", "b", "c", "f", "g", "stored")]
    table.claim("d", other)
    made[3].cancel()
    return table, waker, made


def served(hot: Any) -> Any:
    """Deliveries to one receiver and to several, who get copies."""
    table, waker, made = table_of(hot)
    flat, deep = {"n": 1}, {"n": [1]}
    deliveries = [
        ("a", deep),
        (["e", "f", "b"], deep),
        (["g"], flat),
        ([], flat),
        ("c", flat),
        ("d", flat),
        (None, flat),
    ]
    return table.hand_out(deliveries, waker), sorted(table.waiting), [waiter.take() for waiter in (made[0], made[6])]


def handed_in(hot: Any) -> Any:
    """Messages for one who waits, for nobody, for nobody and without room, and for those whom the caller knows."""
    lag = hot.Histogram([1000.0])
    table, waker, made = table_of(hot, lag)
    channels = ("a", "x", "x", "x", "b", "d", "stored")
    sizes = [table.hand_in(channel, {"n": [1]}, waker, lambda channel: 2, 60.0) for channel in channels]
    sizes += [table.hand_in(channel, {"n": 2}, waker, len, 60.0, False) for channel in ("z", "c")]
    taken = made[0].take(), [table.claim("x", waker).take() for _ in range(2)], table.claim("z", waker).take()
    return sizes, taken, sorted(table.waiting), sorted(table.stored), table.held, lag.counts()


def handed_in_wrongly(hot: Any, channel: Any, capacity_of: Any) -> Any:
    """A message to what is no channel, or to one whose capacity cannot be told."""
    table, waker, _ = table_of(hot)
    table.put("x", hot.StoredMessage({}, 1.0, False), False)
    return table.hand_in(channel, {}, waker, capacity_of, 60.0)


def kept_from(hot: Any, at: int = 0) -> Any:
    """Deliveries to mailboxes: with room, of no name, to one who waits, to several, to no channel, without room."""
    table, _, _ = table_of(hot)
    to = ("x", None, "x", "a", "y", ["y"], "x", "y", "unknown", [], "last")
    deliveries: list[Any] = [(channel, {"n": n}) for n, channel in enumerate(to)]
    ends = []
    while at < len(deliveries):
        at = table.keep_from(deliveries, at, "own", {"x": 2, "y": 5, "own": 1, "last": 1}.__getitem__, 9.0, 1.5)
        ends.append(at)
        at += 1
    boxes = {
        channel: [(one.message, one.deadline, one.sent_at) for one in box] for channel, box in table.stored.items()
    }
    return ends, {channel: boxes[channel] for channel in ("x", "own", "y", "last")}, table.held


def kept_wrongly(hot: Any, deliveries: Any, at: int) -> Any:
    """Deliveries that are none, or from where none can be."""
    return table_of(hot)[0].keep_from(deliveries, at, "own", len, 9.0, 0.0)


def stored(hot: Any) -> Any:
    """A message in several mailboxes, one of which is long; taken, put back in front, thrown away."""
    table, _, _ = table_of(hot)
    body = hot.StoredMessage({"n": [1], "text": "\xe9"}, 1.0, True)
    counts = [table.put(channel, body, False) for channel in ("x", "y", "z")]
    for n in range(200):
        table.put("x", hot.StoredMessage({"n": n}, 2.0, False), False)
    taken = [table.pop("x", 3.0) for _ in range(150)]
    counts += [table.put("x", taken[-1], True), table.put("new", taken[-1], True)]
    table.keep(["x", "kept", "a"], hot.StoredMessage({"n": -1}, 2.0, False), lambda channel: 2)
    kept = hot.StoredMessage({"n": -2}, float("inf"), False)
    counts.append(table.keep(["kept", "b", None], kept, {"kept": 2}.__getitem__))
    seen = len(table.stored["x"]), [one.message for one in table.stored["x"]], table.stored["x"].last_received
    facts = body.message, body.deadline, body.is_shared, body.holders, body.size, table.held
    expired = table.expire(1.5), table.expire(5.0)
    table.put("x", body, False)
    table.clear()
    return counts, [one.message for one in taken], seen, facts, expired, table.held, table.pop("x")


def emptied(hot: Any) -> Any:
    """A mailbox that somebody made, and that holds nothing."""
    table, _, _ = table_of(hot)
    table.stored["x"] = hot.Mailbox()
    return len(hot.Mailbox()), list(hot.Mailbox()), hot.Mailbox().channel, table.pop("x")


def left(hot: Any) -> Any:
    """A line of two that one leaves, and others of one, or of nobody."""
    table, _, made = table_of(hot)
    table.leave("b", made[1])
    table.leave("a", made[1])
    lines = [len(table.line(channel)) for channel in ("a", "b", "none")]
    return lines, [table.next_in_line(channel) is not None for channel in ("b", "b", "none")], sorted(table.waiting)


def refused(hot: Any, deliveries: Any) -> Any:
    """Deliveries that are none, or cannot be copied."""
    table, waker, _ = table_of(hot)
    return table.hand_out(deliveries, waker)


def locked(hot: Any) -> Any:
    """A lock in turn, and one that goes while it is held."""
    lock = hot.Lock()
    with lock:
        pass
    lock.acquire()
    lock.release()
    hot.Lock().acquire()
    return lock.release()


def sender_of(hot: Any, early: int = 4) -> Any:
    """A gatherer whose batches are kept in `batches`."""

    class Sender(hot.Gatherer):  # type: ignore[misc]
        batches: list[Any]

        def _open(self) -> Any:
            self.batches.append(hot.Batch())
            return self.batches[-1]

        def _write_early(self) -> None:
            self.seal(self.batches[-1])

    sender = Sender(hot.Waker(Loop()), 3, 6, 2, 4000, early)
    sender.batches = []
    return sender


def gathered(hot: Any) -> Any:
    """A tick's sends, in several calls: written, accepted, sent again."""
    sender = sender_of(hot)
    waiters = [sender.send(b"key%d" % (n % 3), BODY[: 40 * n], 100 + n % 2) for n in range(20)]
    waiters[3].cancel()
    arguments = [batch.arguments(60) for batch in sender.batches]
    alone = hot.Batch()
    alone.take(sender.batches[0].keys[0])
    alone.take(hot.KeyBatch(b"key", alone))
    found = [len(batch.waiters()) for batch in [*sender.batches, alone]]
    for batch in sender.batches:
        batch.accept()
        sender.seal(batch)
    return arguments, alone.arguments(60), found, [waiter.done() for waiter in waiters]


class Queue:
    """What is told that a message was answered."""

    def __init__(self, told: list[int], number: int) -> None:
        self._told, self._number = told, number

    def answered(self) -> None:
        self._told.append(self._number)


def publisher_of(hot: Any, early: int = 3) -> Any:
    """A gatherer of messages that are published, whose batches are kept in `batches`."""

    class Batch(hot.PublishCommands):  # type: ignore[misc]
        def _take_other(self, reply: Any) -> Any:
            self.answered += 1
            return reply

    class Publisher(hot.PublishGatherer):  # type: ignore[misc]
        batches: list[Any]

        def _open(self) -> Any:
            self.batches.append(Batch())
            return self.batches[-1]

        def _write_early(self) -> None:
            if len(self.batches) % 2:
                self.seal(self.batches[-1])

    publisher = Publisher(hot.Waker(Loop()), b"PUBLISH", 5, 400, early)
    publisher.batches = []
    return publisher


def published(hot: Any) -> Any:
    """A tick's messages, in several batches, some with a queue; answered, and some not."""
    publisher = publisher_of(hot)
    told: list[int] = []
    waiters = [publisher.publish(b"c%d" % (n % 3), BODY[: 30 * (n % 9)], Queue(told, n)) for n in range(20)]
    publisher.end_batch()
    waiters += [publisher.publish(b"c%d" % n, BODY[:30]) for n in range(11)]
    waiters[2].cancel()
    replies = [
        batch.reply(5 if n % 5 else "no number") for batch in publisher.batches for n in range(len(batch.messages))
    ]
    seen = [
        (batch.messages, len(batch.waiters), len(batch.queues), batch.size, batch.answered)
        for batch in publisher.batches
    ]
    publisher.seal(publisher.batches[-1])
    publisher.seal(publisher.batches[0])
    return replies, seen, told, [waiter.done() for waiter in waiters]


def answered_once_too_often(hot: Any, at: int) -> Any:
    """A reply to no command."""
    publisher = publisher_of(hot)
    publisher.publish(b"c", b"x")
    (batch,) = publisher.batches
    batch.answered = at
    return batch.reply(1)


def published_nowhere(hot: Any) -> Any:
    """A message whose batch cannot be made."""
    publisher = publisher_of(hot)
    publisher._open = BODY.index  # type: ignore[method-assign]
    return publisher.publish(b"c", b"x")


def not_opened(hot: Any) -> Any:
    """A call that cannot be made, with a waiter already there."""
    sender = sender_of(hot)
    sender._open = BODY.index  # type: ignore[method-assign]
    return sender.send(b"key", BODY, 5)


def measured(hot: Any) -> Any:
    """Of a moment long ago only the bucket is the same every time."""
    histogram = hot.Histogram([1.0, 2.5])
    for value in (0, 1.0, 2.25, 2.5, -1.0, float("nan")):
        histogram.add(value)
    before = histogram.counts(), histogram.recent(), histogram.count, histogram.total
    histogram.since(-1000.0)
    return before, histogram.counts()


def capacities(hot: Any) -> list[int]:
    table = hot.CapacityTable(TABLE, 7)
    return [table.lookup(name) for name in ("axbxc", "bxyz", "]", "\xe9a", "zzz", ONE, "other", table_name(table))]


def table_name(table: Any) -> str:
    return f"specific.{table.default}"


def replied(hot: Any) -> Any:
    """A whole reply, in which not all is sound."""
    deliveries, errors = hot.EnvelopeCodec(12).decode_all([*MEMBERS.values(), *HOSTILE.values()])
    return deliveries, [(type(error), str(error)) for error in errors]
