"""What is fuzzed: from bytes to calls, each on both twins, which must come to the same result or the same error.

A target is a function of bytes that raises on a difference; `TARGETS` has them all. It takes everything it decides from
the bytes (`Source`), so an input is a test for ever. It does not know who makes the inputs.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable
from typing import Any

import hiredis

from tests.fuzz.plays import Delivering, Gathering, Waiting
from tests.fuzz.source import Source, guarded
from tests.fuzz.twins import compiled_modules, namespace, outcome, own, pure_modules, text_of

MODULES = compiled_modules()
COMPILED = namespace(MODULES)
PURE = namespace(pure_modules())


class Different(Exception):
    """The twins do not agree, or not with what is true of both."""


def same(call: Callable[[Any], Any], what: str, *given: Any) -> bool:
    """Make a call on both twins; return whether it had a result. Raises `Different`, with what was given."""
    compiled, pure = outcome(call, COMPILED), outcome(call, PURE)
    if compiled != pure:
        raise Different(f"{what}{given!r}\ncompiled: {compiled!r:.2000}\npure:     {pure!r:.2000}")
    return len(compiled) == 1


def require(condition: object, what: str, *given: Any) -> None:
    """What holds whatever the twins agree on."""
    if not condition:
        raise Different(f"{what}: {given!r}")


# ---------------------------------------------------------------------------------------------------------- envelope


def decode(data: bytes) -> None:
    """A member of a channel's sorted set, from a server that anybody may have written to."""
    length = data[0] % 32 if data else 0
    member = guarded(data[1:])
    # As one of a reply, and again right after itself.
    same(lambda hot: shown(hot.EnvelopeCodec(length).decode_all([member, b"", member])), "decode_all", member, length)
    if not same(lambda hot: hot.decode(member, length), "decode", member, length):
        return
    channel, message = COMPILED.decode(member, length)
    # What was decoded goes out again: to one channel, to several, as a copy.
    same(lambda hot: hot.encode(message, channel, length)[length:], "encode", message, channel)
    same(lambda hot: hot.pack(message), "pack", message)
    same(lambda hot: hot.clone(message), "clone", message)
    same(lambda hot: hot.footprint(message), "footprint", message)
    body = guarded(member[length:])
    same(lambda hot: hot.splice(body, channel), "splice", body, channel)


def shown(reply: Any) -> Any:
    """Deliveries as they are, errors as text."""
    deliveries, errors = reply
    return deliveries, [(type(error), str(error)) for error in errors]


def splice(data: bytes) -> None:
    """A packed body, sound or not, to several keys."""
    source = Source(data)
    length = source.byte() % 40
    groups = [source.channel() for _ in range(source.byte() % 4)]
    body = source.take(len(data))
    for channel in groups:
        same(lambda hot, to=channel: hot.splice(body, to), "splice", body, channel)
    same(lambda hot: [member[length:] for member in hot.frames(body, groups, length)], "frames", body, groups, length)


def encode(data: bytes) -> None:
    """A message that an application wrote, with whatever an application may put into one."""
    source = Source(data)
    length = source.byte() % 40
    channel = source.channel()
    message = source.entries() if source.byte() % 16 else source.value()
    before = text_of(message)
    same(lambda hot: hot.pack(message), "pack", message)
    same(lambda hot: hot.clone(message), "clone", message)
    same(lambda hot: hot.footprint(message), "footprint", message)
    if same(lambda hot: hot.encode(message, channel, length)[length:], "encode", message, channel):
        member = COMPILED.encode(message, channel, length)
        require(len(member) >= length, "a member is shorter than its prefix", member, length)
        same(lambda hot: hot.decode(member, length), "decode", member, length)
    require(text_of(message) == before, "a message was changed", before, message)


# ------------------------------------------------------------------------------------------------------------- names


def glob(data: bytes) -> None:
    """The globs of `channel_capacity`, and names that they are tried on: texts with a zero in between, in turn."""
    parts = [guarded(part.decode("utf-8", "surrogateescape")) for part in data[:400].split(b"\0")]
    pairs = [(pattern, number) for number, pattern in enumerate(parts[0::2])]
    tried = [*parts[1::2], "", *parts[0::2]]

    def capacities(hot: Any) -> list[int]:
        table = hot.CapacityTable(pairs, -1)
        return [table.lookup(name) for name in tried]

    same(capacities, "the capacities", pairs, tried)


def names(data: bytes) -> None:
    """Names as texts and as the bytes of a group's members, line by line."""
    source = Source(data)
    ring = source.byte() + 1 if source.byte() else source.integer()
    # What is no C integer is no number of shards anybody has.
    ring = max(-(2**63), min(ring, 2**63 - 1))
    length = source.byte()
    few = source.byte() % 8
    prefix, *members = map(guarded, source.take(len(data)).split(b"\n"))

    # Non-local parts, of this process's inboxes: a few are compared, more are looked up.
    inboxes = [guarded(member.decode("latin-1")[:few]) + "!" for member in members]
    tables = [{text: place for place, text in enumerate(inboxes[:size])} for size in (1, 2, len(members))]

    def answers(hot: Any, text: str) -> tuple[Any, ...]:
        return (
            hot.kind(text),
            hot.is_group(text),
            outcome(hot.key, prefix, text, length),
            outcome(hot.shard, text, ring),
            [hot.find(table, text) for table in tables],
        )

    for member in members:
        for text in (guarded(member.decode("utf-8", "surrogateescape")), member.decode("latin-1")):
            same(lambda hot, to=text: answers(hot, to), "the answers about", text, prefix, length, ring)
        same(lambda hot, to=member: hot.shard(to, ring), "shard", member, ring)
    # A list is made for each shard.
    if ring < 1000:
        same(lambda hot: hot.split(members, prefix, ring), "split", members, prefix, ring)


# -------------------------------------------------------------------------------------------------------------- RESP


def resp(data: bytes) -> None:
    """Commands of words of every kind; a parser of others' reads back what was meant."""
    commands = command_list(Source(data))
    if not same(lambda hot: hot.assemble(commands), "assemble", commands):
        return
    reader = hiredis.Reader()
    reader.feed(COMPILED.assemble(commands))
    for command in commands:
        read = reader.gets()
        require(isinstance(read, list) and len(read) == len(command), "read otherwise", command, read)
        for word, found in zip(command, read, strict=True):
            if isinstance(word, bytes | str):
                require(found == (word if isinstance(word, bytes) else str.encode(word)), "read otherwise", word, found)
    require(reader.gets() is False, "there is more than was meant", commands)


def command_list(source: Source) -> Any:
    """Commands, of which few are none."""

    def word() -> Any:
        if source.byte() > 250:
            return source.value(1)
        return source.pick((source.binary, source.text, source.integer, source.number))()

    def command() -> Any:
        words = [word() for _ in range(source.byte() % 12)]
        kind = source.byte()
        return words if kind < 125 else tuple(words) if kind < 250 else source.value(1)

    return [command() for _ in range(source.byte() % 12)]


# ------------------------------------------------------------------------------------------------ objects, and abuse


def waiters(data: bytes) -> None:
    """What tasks wait on, done and awaited in any order, by well and ill behaved callbacks."""
    same(lambda hot: Waiting(hot, data).play(), "the play of", data)


def mailboxes(data: bytes) -> None:
    """Receivers that wait, and the deliveries of a reply that are handed to them."""
    same(lambda hot: Delivering(hot, data).play(), "the play of", data)


def batches(data: bytes) -> None:
    """Sends that are gathered, and what becomes of them."""
    same(lambda hot: Gathering(hot, data).play(), "the play of", data)


def abuse(data: bytes) -> None:
    """Every compiled function and method with arguments that nobody would give it: any answer but a crash will do."""
    source = Source(data)
    things: list[Any] = []
    while source:
        function = source.pick(CALLABLE)
        instance = source.pick(things) if things and source.byte() & 1 else None
        if instance is not None:
            methods = [name for name in dir(instance) if name not in NEVER_CALLED]
            function = getattr(instance, source.pick(methods), None)
        elif isinstance(function, type) and source.byte() & 1:
            # Memory that no __init__ has seen.
            function = function.__new__
            things.append(outcome_or_error(function, [function.__self__]))
            continue
        given = [argument(source, things) for _ in range(source.byte() % 5)]
        things.append(outcome_or_error(function, given))


def outcome_or_error(function: Any, given: list[Any]) -> Any:
    try:
        return function(*given)
    except (Exception, CancelledError) as error:
        return error


def argument(source: Source, things: list[Any]) -> Any:
    """Anything; but no number that asks for a gigabyte, which would be given."""
    if things and source.byte() & 1:
        return source.pick(things)
    value = source.value(3)
    return value if type(value) is not int or value < 2**16 else value << 64


# The last ones wait for ever on a lock that is held, as they should.
NEVER_CALLED = {
    *("__class__", "__init_subclass__", "__subclasshook__", "__setattr__", "__delattr__", "__dir__"),
    *("acquire", "__enter__", "claim"),
}
CALLABLE = [value for module in MODULES.values() for value in own(module).values()]

TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (decode, splice, encode, glob, names, resp, waiters, mailboxes, batches, abuse)
}
