"""Calls of every compiled function and method: with results, and with errors of every kind it has.

What is searched for leaks and hammered by threads is here once. A call that needs an object of its own makes it, so all
may run in any order, as often as one likes, in several threads. `CASES` says which function each is about; a function
that has none is for the tests to complain of.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, NamedTuple

import msgpack

FIELD = "__asgi_channel__"
MESSAGE: dict[str, Any] = {
    "type": "chat.message",
    "text": "h\xe9llo \u20ac " * 9,
    "n": [0, -1, 200, -200, 70_000, -70_000, 2**40, -(2**40), 2**63, (1.5, -0.0)],
    "more": {"b": b"\0" * 300, "none": None, b"raw": [True, False], "deep": [[[{"k": ["v"]}]]]},
    "a key with more than thirty-one bytes": list(range(300)),
}
BODY: bytes = msgpack.packb(MESSAGE)
ONE = "specific.abc!def"
SEVERAL = ["specific.abc!def", "specific.abc!gh\xef"]
PREFIX = b"p" * 12
MEMBERS = {
    "one": PREFIX + msgpack.packb({**MESSAGE, FIELD: ONE}),
    "several": PREFIX + msgpack.packb({**MESSAGE, FIELD: SEVERAL}),
    "none": PREFIX + BODY,
}
HOSTILE = {
    "not msgpack": PREFIX + b"\xc1",
    "cut off": MEMBERS["one"][:-3],
    "goes on": MEMBERS["one"] + b"\0",
    "no map": PREFIX + msgpack.packb([1]),
    "no address": PREFIX + msgpack.packb({"a": [1], FIELD: [b"a"]}),
    "empty address": PREFIX + msgpack.packb({"a": [1], FIELD: []}),
    "key": PREFIX + b"\x81\x01\xc0",
    "text": PREFIX + b"\x82\xa1a\xd9\x28" + b"x" * 40 + b"\xa1k\xa2\xff\xfe",
    "promise": PREFIX + b"\x81\xa1k\xdd\xff\xff\xff\xff" + b"\xa3abc" * 9,
    "deep": PREFIX + b"\x81\xa1k" + b"\x91" * 40 + b"\xa3abc",
    "extension": PREFIX + b"\x81\xa1k" + msgpack.packb(msgpack.ExtType(5, b"data")),
}
ODD = {"a": "x" * 3000, "v": {1, 2}}
LARGE = {"text": "x" * 300_000, "n": list(range(5000))}
LARGE_BODY: bytes = msgpack.packb(LARGE)


def nested(levels: int) -> list[Any]:
    """A list in a list in a list."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


DEEP = {"v": nested(600)}
MANY = {f"number{number}!": [number] for number in range(20)}
GROUP = [b"specific.%d!%d" % (number // 4, number) for number in range(40)]
TABLE = [("a*b?c", 1), ("[a-c]x*", 2), ("[]]", 3), ("\xe9*", 4), (re.compile("z+"), 5), ("specific.*", 6)]


class Case(NamedTuple):
    """One call, and the functions (`function` or `Class.method`) it is about."""

    name: str
    about: tuple[str, ...]
    call: Callable[[Any], Any]
    # The same every time, in every process: what has random bytes in it is not.
    steady: bool = True
    # So large that a lost buffer shows in the size of the process.
    large: bool = False


class Loop:
    """The part of an event loop that wakers use; each call makes its own."""

    def __init__(self) -> None:
        self.ready: list[Any] = []

    def call_soon(self, callback: Any) -> None:
        self.ready.append(callback)

    def run(self) -> None:
        while self.ready:
            self.ready.pop(0)()


# ------------------------------------------------------------------------------------------------ what objects live


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


def table_of(hot: Any) -> Any:
    """The receivers of a few channels: one alone, two together, one that has gone, one in another loop."""

    class Table(hot.MailboxTable):  # type: ignore[misc]
        def _take(self, channel: str) -> Any:
            return self.stored.pop(channel)

    table = Table(hot.Lock())
    waker, other = hot.Waker(Loop()), hot.Waker(Loop())
    table.stored["stored"] = {"n": [1]}
    made = [table.claim(channel, waker) for channel in ("a", "b", "b", "c", "f", "g", "stored")]
    table.claim("d", other)
    made[3].cancel()
    return table, waker, made


def served(hot: Any) -> Any:
    """Letters to one receiver and to several, who get copies."""
    table, waker, made = table_of(hot)
    flat, deep = {"n": 1}, {"n": [1]}
    letters = [("a", deep), (["e", "f", "b"], deep), (["g"], flat), ([], flat), ("c", flat), ("d", flat), (None, flat)]
    return table.hand_out(letters, waker), sorted(table.waiting), [waiter.take() for waiter in (made[0], made[6])]


def refused(hot: Any, letters: Any) -> Any:
    """Letters that are none, or cannot be copied."""
    table, waker, _ = table_of(hot)
    return table.hand_out(letters, waker)


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


def not_opened(hot: Any) -> Any:
    """A call that cannot be made, with a waiter already there."""
    sender = sender_of(hot)
    sender._open = BODY.index  # type: ignore[method-assign]
    return sender.send(b"key", BODY, 5)


def capacities(hot: Any) -> list[int]:
    table = hot.CapacityTable(TABLE, 7)
    return [table.lookup(name) for name in ("axbxc", "bxyz", "]", "\xe9a", "zzz", ONE, "other", table_name(table))]


def table_name(table: Any) -> str:
    return f"specific.{table.default}"


def replied(hot: Any) -> Any:
    """A whole reply, in which not all is sound."""
    letters, errors = hot.EnvelopeCodec(12).decode_all([*MEMBERS.values(), *HOSTILE.values()])
    return letters, [(type(error), str(error)) for error in errors]


# ----------------------------------------------------------------------------------------------------------- the list

CASES = [
    Case("a general channel", ("kind", "is_group"), lambda hot: (hot.kind("general"), hot.is_group("general"))),
    Case("a specific channel", ("kind", "is_group"), lambda hot: (hot.kind(ONE), hot.is_group(ONE))),
    Case("odd names", ("kind", "is_group"), lambda hot: [(hot.kind(n), hot.is_group(n)) for n in (None, "\xe9", b"a")]),
    Case("a key", ("key",), lambda hot: (hot.key(b"p:", ONE), hot.key(b"p:", ONE, 5), hot.key(b"p:", "\xe9\u20ac", 1))),
    Case("a key of a surrogate", ("key",), lambda hot: hot.key(b"p:", "\ud800")),
    Case("a key of nothing", ("key",), lambda hot: hot.key(None, 5)),
    Case(
        "shards", ("shard",), lambda hot: [hot.shard(name, 5) for name in (ONE, ONE.encode(), "\xe9", bytearray(b"a"))]
    ),
    Case("a shard of none", ("shard",), lambda hot: hot.shard(ONE, 0)),
    Case("a shard of a surrogate", ("shard",), lambda hot: hot.shard("\ud800", 5)),
    Case("a split group", ("split",), lambda hot: hot.split(GROUP, b"p:", 3)),
    Case("a split group, partly broken", ("split",), lambda hot: hot.split([b"\xff", b"a!b", b"!", b"a"], b"p:", 1)),
    Case("a split that is refused", ("split",), lambda hot: hot.split([*GROUP, "text"], b"p:", 3)),
    Case("a split over none", ("split",), lambda hot: hot.split(GROUP, b"p:", 0)),
    Case("a split prefix of no bytes", ("split",), lambda hot: hot.split(GROUP, 5, 3)),
    Case("capacities", ("CapacityTable", "CapacityTable.lookup"), capacities),
    Case("no capacity", ("CapacityTable",), lambda hot: hot.CapacityTable([*TABLE, ("a", -1)], 7)),
    Case("no pattern", ("CapacityTable",), lambda hot: hot.CapacityTable([*TABLE, (5, 1)], 7)),
    Case("no name", ("CapacityTable.lookup",), lambda hot: hot.CapacityTable(TABLE, 7).lookup(5)),
    Case("prefixes", ("next_prefix",), lambda hot: [len(hot.next_prefix(n)) for n in (0, 1, 9, 10, 12, 40)]),
    Case("a long prefix", ("next_prefix",), lambda hot: len(hot.next_prefix(5000))),
    Case("a negative prefix", ("next_prefix",), lambda hot: hot.next_prefix(-1)),
    Case("reseeded", ("reseed",), lambda hot: (hot.reseed(), len(hot.next_prefix(12)))),
    Case("packed", ("pack",), lambda hot: hot.pack(MESSAGE)),
    Case("packed, refused", ("pack",), lambda hot: hot.pack(ODD)),
    Case("packed, too deep", ("pack",), lambda hot: hot.pack(DEEP)),
    Case("packed, a surrogate", ("pack",), lambda hot: hot.pack({"a": "x" * 3000, "k": "\ud800"})),
    Case("packed, large", ("pack",), lambda hot: len(hot.pack(LARGE)), large=True),
    Case("packed, large, refused", ("pack",), lambda hot: hot.pack({**LARGE, "v": {1}}), large=True),
    Case("a member", ("encode",), lambda hot: hot.encode(MESSAGE, ONE, 12)[12:]),
    Case("a member for several", ("encode",), lambda hot: hot.encode(MESSAGE, SEVERAL, 12)[12:]),
    Case("a member for all", ("encode",), lambda hot: hot.encode(MESSAGE, None, 12)[12:]),
    Case("a member, refused", ("encode",), lambda hot: hot.encode(ODD, ONE, 12)),
    Case("a member of no map", ("encode",), lambda hot: hot.encode(5, ONE, 12)),
    Case("a member, negative", ("encode",), lambda hot: hot.encode(MESSAGE, ONE, -1)),
    Case("a member, large", ("encode",), lambda hot: len(hot.encode(LARGE, ONE, 12)), large=True),
    Case("a member, large, refused", ("encode",), lambda hot: hot.encode({**LARGE, "v": {1}}, ONE, 12), large=True),
    Case("spliced", ("splice",), lambda hot: (hot.splice(BODY, ONE), hot.splice(BODY, SEVERAL))),
    Case("spliced, oddly", ("splice",), lambda hot: hot.splice(BODY, msgpack.ExtType(5, b"data"))),
    Case("spliced, refused", ("splice",), lambda hot: hot.splice(BODY, {1})),
    Case("spliced, no map", ("splice",), lambda hot: hot.splice(b"\xc0", ONE)),
    Case("spliced, full", ("splice",), lambda hot: hot.splice(b"\xdf\xff\xff\xff\xff", ONE)),
    Case("spliced, no bytes", ("splice",), lambda hot: hot.splice("text", ONE)),
    Case("spliced, large", ("splice",), lambda hot: len(hot.splice(LARGE_BODY, ONE)), large=True),
    Case("spliced, large, refused", ("splice",), lambda hot: hot.splice(LARGE_BODY, {1}), large=True),
    Case("frames", ("frames",), lambda hot: [frame[12:] for frame in hot.frames(BODY, [[ONE], SEVERAL], 12)]),
    Case("frames, refused", ("frames",), lambda hot: hot.frames(BODY, [[ONE], {1}], 12)),
    Case("frames, negative", ("frames",), lambda hot: hot.frames(BODY, [[ONE]], -1)),
    Case("frames, large", ("frames",), lambda hot: len(hot.frames(LARGE_BODY, [[ONE], SEVERAL], 12)), large=True),
    *(
        Case(f"decoded: {name}", ("decode",), lambda hot, member=member: hot.decode(member, 12))
        for name, member in {**MEMBERS, **HOSTILE}.items()
    ),
    Case("decoded, negative", ("decode",), lambda hot: hot.decode(MEMBERS["one"], -1)),
    Case("decoded, no bytes", ("decode",), lambda hot: hot.decode(5, 12)),
    Case("decoded, large", ("decode",), lambda hot: len(hot.decode(LARGE_BODY, 0)), large=True),
    Case("a copy", ("clone",), lambda hot: hot.clone(MESSAGE)),
    Case("a copy, too deep", ("clone",), lambda hot: hot.clone(DEEP)),
    Case("commands", ("assemble",), lambda hot: hot.assemble([["SET", "k\xe9", BODY, 2**70, -5, 1.5], ("PING",)])),
    Case("commands, refused", ("assemble",), lambda hot: hot.assemble([["SET", BODY * 9, 1.5, None]])),
    Case("commands, a surrogate", ("assemble",), lambda hot: hot.assemble([["SET", BODY * 9, "\ud800"]])),
    Case("commands, none", ("assemble",), lambda hot: hot.assemble([["PING"], []])),
    Case("commands, large", ("assemble",), lambda hot: len(hot.assemble([["SET", LARGE_BODY]])), large=True),
    Case("commands, large, refused", ("assemble",), lambda hot: hot.assemble([["SET", LARGE_BODY, None]]), large=True),
    Case(
        "a life of waiters",
        (
            "Waker",
            "Waker.waiter",
            "Waiter",
            "Waiter.add_done_callback",
            "Waiter.remove_done_callback",
            "Waiter.set_result",
            "Waiter.set_exception",
        ),
        waited,
    ),
    Case("an interrupted loop", ("Waker",), interrupted),
    *(
        Case(
            f"{question} of one {state}",
            (f"Waiter.{question}",),
            lambda hot, q=question, end=end: shape(asked(hot, q, end)),
        )
        for question in QUESTIONS
        for state, end in STATES.items()
    ),
    Case("a result twice", ("Waiter.set_result",), lambda hot: again(hot.Waker(Loop()).waiter(), "set_result")),
    Case("an error twice", ("Waiter.set_exception",), lambda hot: again(hot.Waker(Loop()).waiter(), "set_exception")),
    Case("a waiter of nobody", ("Waiter",), lambda hot: hot.Waiter(None)),
    Case("letters", ("MailboxTable", "MailboxTable.claim", "MailboxTable.hand_out"), served),
    Case("a letter that is none", ("MailboxTable.hand_out",), lambda hot: refused(hot, [("a", MESSAGE), 5])),
    Case("a letter too deep", ("MailboxTable.hand_out",), lambda hot: refused(hot, [(["a", "f", "g"], DEEP)])),
    Case("a claim of no channel", ("MailboxTable.claim",), lambda hot: table_of(hot)[0].claim([], hot.Waker(Loop()))),
    Case("a claim of nobody", ("MailboxTable.claim",), lambda hot: table_of(hot)[0].claim("a", None)),
    Case("mailboxes without a lock", ("MailboxTable",), lambda hot: hot.MailboxTable(None)),
    Case("a lock", ("Lock", "Lock.acquire", "Lock.release"), locked),
    Case(
        "a tick of sends",
        (
            "Gatherer",
            "Gatherer.send",
            "Gatherer.seal",
            "Batch",
            "Batch.take",
            "Batch.arguments",
            "Batch.waiters",
            "Batch.accept",
            "KeyBatch",
        ),
        gathered,
    ),
    Case("a send of no bytes", ("Gatherer.send",), lambda hot: sender_of(hot).send(b"key", "text", 5)),
    Case("a send to no key", ("Gatherer.send",), lambda hot: sender_of(hot).send([], BODY, 5)),
    Case("a send without a call", ("Gatherer.send",), not_opened),
    Case("a gatherer without a waker", ("Gatherer",), lambda hot: hot.Gatherer(None, 1, 1, 1, 1, 1)),
    Case("messages of no batch", ("KeyBatch",), lambda hot: hot.KeyBatch(b"key", None)),
    Case("a batch of no batch", ("Batch.take",), lambda hot: hot.Batch().take(None)),
    Case(
        "an inbox",
        ("find",),
        lambda hot: [hot.find({"specific.abc!": [1]}, name) for name in (ONE, "general", "x!y", 5)],
    ),
    Case("an inbox of many", ("find",), lambda hot: [hot.find(MANY, name) for name in (ONE, "number3!x", "x!y")]),
    Case("no inboxes", ("find",), lambda hot: hot.find(None, ONE)),
    Case(
        "a codec",
        ("EnvelopeCodec", "EnvelopeCodec.encode"),
        lambda hot: hot.EnvelopeCodec(12).encode(MESSAGE, ONE)[12:],
    ),
    Case("a codec, negative", ("EnvelopeCodec",), lambda hot: hot.EnvelopeCodec(-1)),
    Case("a codec, refused", ("EnvelopeCodec.encode",), lambda hot: hot.EnvelopeCodec(12).encode(ODD, ONE)),
    Case(
        "a group",
        ("EnvelopeCodec.encode_group",),
        lambda hot: [member[12:] for member in hot.EnvelopeCodec(12).encode_group(MESSAGE, [[ONE], SEVERAL])],
    ),
    Case(
        "a group, refused",
        ("EnvelopeCodec.encode_group",),
        lambda hot: hot.EnvelopeCodec(12).encode_group(ODD, [[ONE]]),
    ),
    Case("a letter", ("EnvelopeCodec.decode",), lambda hot: hot.EnvelopeCodec(12).decode(MEMBERS["one"])),
    Case("no letter", ("EnvelopeCodec.decode",), lambda hot: hot.EnvelopeCodec(12).decode(HOSTILE["text"])),
    Case("a reply", ("EnvelopeCodec.decode_all",), replied),
    Case("no reply", ("EnvelopeCodec.decode_all",), lambda hot: hot.EnvelopeCodec(12).decode_all(5)),
    Case("shared", ("EnvelopeCodec.share",), lambda hot: hot.EnvelopeCodec(12).share(MESSAGE, SEVERAL)),
    Case(
        "a reply, large",
        ("EnvelopeCodec.decode_all",),
        lambda hot: len(hot.EnvelopeCodec(0).decode_all([LARGE_BODY, LARGE_BODY[:-1]])),
        large=True,
    ),
]


def shape(answer: Any) -> Any:
    """An answer without the address that some have."""
    return answer if type(answer) in (bool, dict) else type(answer).__name__
