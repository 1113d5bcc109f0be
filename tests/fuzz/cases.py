"""Calls of every compiled function and method: with results, and with errors of every kind it has.

What is searched for leaks and hammered by threads is here once. A call that needs an object of its own makes it, so all
may run in any order, as often as one likes, in several threads. `CASES` says which function each is about; a function
that has none is for the tests to complain of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgpack

from tests.fuzz.lives import (
    QUESTIONS,
    STATES,
    Loop,
    again,
    answered_once_too_often,
    asked,
    capacities,
    emptied,
    gated,
    gathered,
    handed_in,
    handed_in_wrongly,
    interrupted,
    kept_from,
    kept_wrongly,
    left,
    locked,
    measured,
    not_opened,
    published,
    published_nowhere,
    publisher_of,
    refused,
    replied,
    sender_of,
    served,
    stored,
    table_of,
    waited,
)
from tests.fuzz.samples import (
    BODY,
    DEEP,
    GROUP,
    HOSTILE,
    LARGE,
    LARGE_BODY,
    MANY,
    MEMBERS,
    MESSAGE,
    ODD,
    ONE,
    SEVERAL,
    TABLE,
)


class Case(NamedTuple):
    """One call, and the functions (`function` or `Class.method`) it is about. It comes to the same every time."""

    name: str
    about: tuple[str, ...]
    call: Callable[[Any], Any]
    # So large that a lost buffer shows in the size of the process.
    large: bool = False


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
    Case(
        "measurements",
        ("Histogram", "Histogram.add", "Histogram.since", "Histogram.counts", "Histogram.recent"),
        measured,
    ),
    Case("no measurements", ("Histogram",), lambda hot: hot.Histogram([2.0, 1.0])),
    Case("no bounds", ("Histogram",), lambda hot: hot.Histogram([])),
    Case("a bound that is none", ("Histogram",), lambda hot: hot.Histogram([1.0, None])),
    Case("capacities", ("CapacityTable", "CapacityTable.lookup"), capacities),
    Case("no capacity", ("CapacityTable",), lambda hot: hot.CapacityTable([*TABLE, ("a", -1)], 7)),
    Case("no pattern", ("CapacityTable",), lambda hot: hot.CapacityTable([*TABLE, (5, 1)], 7)),
    Case("no name", ("CapacityTable.lookup",), lambda hot: hot.CapacityTable(TABLE, 7).lookup(5)),
    Case("prefixes", ("next_prefix",), lambda hot: [len(hot.next_prefix(n)) for n in (0, 1, 9, 10, 12, 40)]),
    Case("a long prefix", ("next_prefix",), lambda hot: len(hot.next_prefix(5000))),
    Case("a negative prefix", ("next_prefix",), lambda hot: hot.next_prefix(-1)),
    Case("fingerprints", ("fingerprints",), lambda hot: hot.fingerprints([BODY, b"short", b""])),
    Case("fingerprints, refused", ("fingerprints",), lambda hot: hot.fingerprints([BODY, "text"])),
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
    Case("a way there and back", ("round_trip",), lambda hot: hot.round_trip(MESSAGE)),
    Case("a way there, refused", ("round_trip",), lambda hot: hot.round_trip(ODD)),
    Case("a way there, too deep", ("round_trip",), lambda hot: hot.round_trip(DEEP)),
    Case("a way there and back, large", ("round_trip",), lambda hot: len(hot.round_trip(LARGE)), large=True),
    Case("a way there, large, refused", ("round_trip",), lambda hot: hot.round_trip({**LARGE, "v": {1}}), large=True),
    Case("a copy", ("clone",), lambda hot: hot.clone(MESSAGE)),
    Case("a copy, too deep", ("clone",), lambda hot: hot.clone(DEEP)),
    Case("a weight", ("footprint",), lambda hot: (hot.footprint(MESSAGE), hot.footprint(DEEP), hot.footprint([b"x"]))),
    Case("commands", ("assemble",), lambda hot: hot.assemble([["SET", "k\xe9", BODY, 2**70, -5, 1.5], ("PING",)])),
    Case("commands, their size", ("payload_size",), lambda hot: hot.payload_size([["SET", BODY, 5], (b"PING",), 7])),
    Case(
        "a reply of strings",
        ("are_strings",),
        lambda hot: [hot.are_strings(reply) for reply in ([b"a", BODY], [b"", 1], [], 5)],
    ),
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
    Case(
        "a gate",
        (
            "Gate",
            "Gate.add_done_callback",
            "Gate.cancel",
            "Gate.get_loop",
            "Gate.open",
            "Gate.result",
            "Gate.watch",
        ),
        gated,
    ),
    Case("a gate that watches nobody", ("Gate.watch",), lambda hot: hot.Gate(Loop()).watch(None)),
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
    Case("deliveries", ("MailboxTable", "MailboxTable.claim", "MailboxTable.hand_out"), served),
    Case(
        "messages in mailboxes",
        (
            "MailboxTable.put",
            "MailboxTable.keep",
            "MailboxTable.pop",
            "MailboxTable.expire",
            "MailboxTable.clear",
            "StoredMessage",
        ),
        stored,
    ),
    Case("an empty mailbox", ("Mailbox", "MailboxTable.pop"), emptied),
    Case("a line", ("MailboxTable.line", "MailboxTable.leave", "MailboxTable.next_in_line"), left),
    Case("a delivery that is none", ("MailboxTable.hand_out",), lambda hot: refused(hot, [("a", MESSAGE), 5])),
    Case("a delivery too deep", ("MailboxTable.hand_out",), lambda hot: refused(hot, [(["a", "f", "g"], DEEP)])),
    Case("a message that is handed in", ("MailboxTable.hand_in",), handed_in),
    Case("handed in to no channel", ("MailboxTable.hand_in",), lambda hot: handed_in_wrongly(hot, [], len)),
    Case("handed in, no capacity", ("MailboxTable.hand_in",), lambda hot: handed_in_wrongly(hot, "x", {}.__getitem__)),
    Case("messages that are kept", ("MailboxTable.keep_from",), kept_from),
    Case("kept from the middle", ("MailboxTable.keep_from",), lambda hot: kept_from(hot, 7)),
    Case("kept from nowhere", ("MailboxTable.keep_from",), lambda hot: kept_wrongly(hot, [("x", MESSAGE)], -1)),
    Case("kept from the end", ("MailboxTable.keep_from",), lambda hot: kept_wrongly(hot, [("x", MESSAGE)], 5)),
    Case("kept that is none", ("MailboxTable.keep_from",), lambda hot: kept_wrongly(hot, [("x", MESSAGE), 5], 0)),
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
    Case(
        "a tick of published messages",
        (
            "PublishGatherer",
            "PublishGatherer.publish",
            "PublishGatherer.seal",
            "PublishGatherer.end_batch",
            "PublishCommands",
            "PublishCommands.reply",
        ),
        published,
    ),
    Case("a message of no bytes", ("PublishGatherer.publish",), lambda hot: publisher_of(hot).publish(b"c", "text")),
    Case("a message without a batch", ("PublishGatherer.publish",), published_nowhere),
    Case("a publisher without a waker", ("PublishGatherer",), lambda hot: hot.PublishGatherer(None, b"", 1, 1, 1)),
    Case("a reply to no message", ("PublishCommands.reply",), lambda hot: answered_once_too_often(hot, 1)),
    Case("a reply to none before", ("PublishCommands.reply",), lambda hot: answered_once_too_often(hot, -1)),
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
    Case("a delivery", ("EnvelopeCodec.decode",), lambda hot: hot.EnvelopeCodec(12).decode(MEMBERS["one"])),
    Case("no delivery", ("EnvelopeCodec.decode",), lambda hot: hot.EnvelopeCodec(12).decode(HOSTILE["text"])),
    Case("a reply", ("EnvelopeCodec.decode_all",), replied),
    Case("no reply", ("EnvelopeCodec.decode_all",), lambda hot: hot.EnvelopeCodec(12).decode_all(5)),
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
