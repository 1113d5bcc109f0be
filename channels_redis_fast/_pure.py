"""The hot path in plain Python: names, capacities, envelopes and RESP commands.

Three things at once: what runs where the compiled modules are missing, the oracle they are tested against, and the
declaration of their types. So it is written to be obviously right first and fast second, and it changes together with
`_ext/*.pyx`. It knows bytes and names; no event loop, no Redis client, nothing else of the package.
"""

from __future__ import annotations

import binascii
import fnmatch
import io
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from msgpack import packb, unpackb

T = TypeVar("T")

Message = dict[str, Any]
Word = bytes | str | int | float

# ---------------------------------------------------------------------------------------------------------- names

# Channels' own limit: a name of this many characters or more is invalid.
_MAX_NAME = 100
# Channels' name rules without what they let through by accident: digits of other scripts, a final newline.
_CHANNEL = re.compile(r"[a-zA-Z0-9\-_.]+(![a-zA-Z0-9\-_.]*)?\Z")
_GROUP = re.compile(r"[a-zA-Z0-9\-_.]+\Z")


def kind(name: object, /) -> int:
    """What sort of channel a name is, when that is beyond doubt.

    Returns 0 for a general channel; for a specific one the length, in characters, of its non-local part, `!` included;
    -1 for everything else, valid or not: Channels' `require_valid_channel_name` then has the word. Never raises.
    """
    if type(name) is not str or len(name) >= _MAX_NAME or _CHANNEL.match(name) is None:
        return -1
    return name.find("!") + 1


def find(table: dict[str, T], name: object, /) -> T | None:
    """What a table holds for the non-local part, `!` included, of a specific channel's name.

    Returns None when it holds nothing, and for every name that `kind` does not call specific. Never raises.
    """
    length = kind(name)
    return table.get(name[:length]) if length > 0 and isinstance(name, str) else None


def is_group(name: object, /) -> bool:
    """Whether a group name is valid beyond doubt; `require_valid_group_name` decides about the others. Never raises."""
    return type(name) is str and len(name) < _MAX_NAME and _GROUP.match(name) is not None


def key(prefix: bytes, name: str, length: int = 0) -> bytes:
    """The Redis key `prefix` + `name`, the name cut to its first `length` characters unless that is 0.

    Raises UnicodeEncodeError for a name with lone surrogates.
    """
    return prefix + (name[:length] if length else name).encode()


def shard(value: str | bytes, ring_size: int) -> int:
    """The shard, from 0 to `ring_size` - 1, that a name lives on.

    The rule is `channels_redis`' `_consistent_hash`: the low 12 bits of the CRC-32 of the UTF-8 name, divided in double
    arithmetic. Dividing in integers gives other shards, first with 186 of them.

    Raises ValueError for a ring of less than one shard, UnicodeEncodeError for lone surrogates.
    """
    _check_ring(ring_size)
    if ring_size == 1:
        return 0
    if isinstance(value, str):
        value = value.encode()
    return int((binascii.crc32(value) & 0xFFF) / (4096 / float(ring_size)))


def split(
    members: list[bytes], prefix: bytes, ring_size: int
) -> tuple[list[tuple[list[bytes], list[list[str]]]], list[bytes]]:
    """A group's members, sorted by the shard and the Redis key that each is delivered to.

    `members` are raw channel names. The first result has one entry per shard of the ring: its keys in the order they
    were first seen, and beside each key the channels on it. A key is `prefix` + the name up to its first `!`, or the
    whole name; the shard is that of the same part without the prefix. The second result holds the members that are not
    UTF-8 and so belong to nobody.

    Raises TypeError for a member that is not bytes, ValueError for a ring of less than one shard.
    """
    _check_ring(ring_size)
    shards: list[tuple[list[bytes], list[list[str]]]] = [([], []) for _ in range(ring_size)]
    broken: list[bytes] = []
    seen: dict[bytes, list[str]] = {}
    for member in members:
        if type(member) is not bytes:
            raise TypeError(f"a group member must be bytes, not {type(member).__name__}")
        try:
            name = member.decode()
        except UnicodeDecodeError:
            broken.append(member)
            continue
        cut = member.find(b"!") + 1
        local = member[:cut] if cut else member
        names = seen.get(local)
        if names is None:
            names = seen[local] = []
            keys, channels = shards[shard(local, ring_size)]
            keys.append(prefix + local)
            channels.append(names)
        names.append(name)
    return shards, broken


def _check_ring(ring_size: int) -> None:
    if ring_size < 1:
        raise ValueError(f"a ring has at least one shard, not {ring_size}")


# -------------------------------------------------------------------------------------------------------- capacity


class CapacityTable:
    """The `channel_capacity` option: which capacity holds for which channel name.

    `patterns` maps (or pairs) globs, or compiled patterns, to capacities in messages; their order is their precedence.
    A glob means what `fnmatch.translate` makes of it, matched with case. `default` is the layer's own `capacity`.

    Raises TypeError for a pattern that is neither a str nor has a `match` method and for a capacity that is not an int;
    ValueError for a negative capacity. The text begins with the name of the option.
    """

    __slots__ = ("_rules", "default")

    default: int

    def __init__(
        self, patterns: Mapping[str | re.Pattern[str], int] | Iterable[tuple[str | re.Pattern[str], int]], default: int
    ) -> None:
        self.default = default
        self._rules: list[tuple[Callable[[str], object], int]] = []
        for pattern, capacity in patterns.items() if isinstance(patterns, Mapping) else patterns:
            if isinstance(pattern, str):
                match = re.compile(fnmatch.translate(pattern)).match
            elif hasattr(pattern, "match"):
                match = pattern.match
            else:
                raise TypeError(f"channel_capacity: {pattern!r} is neither a glob nor a compiled pattern")
            if not isinstance(capacity, int) or isinstance(capacity, bool):
                raise TypeError(f"channel_capacity: the capacity of {pattern!r} must be an int, not {capacity!r}")
            if capacity < 0:
                raise ValueError(f"channel_capacity: the capacity of {pattern!r} must not be negative: {capacity!r}")
            self._rules.append((match, int(capacity)))

    def lookup(self, channel: str, /) -> int:
        """The capacity of a channel, in messages: that of the first pattern that matches, else the default."""
        for match, capacity in self._rules:
            if match(channel):
                return capacity
        return self.default


# -------------------------------------------------------------------------------------------------------- envelope

_CHANNEL_FIELD = "__asgi_channel__"
_PACKED_FIELD: bytes = packb(_CHANNEL_FIELD)
# Levels of dict and list that `clone` follows: the decoder builds at most as many as msgpack's stack holds.
_MAX_CLONE = 512
_POOL = 4096

#: Bytes from which on a prefix has room to count and to be random.
ORDERED_FROM = 10

_pool = io.BytesIO()
_prefixes: Iterator[int] | None = None


def next_prefix(length: int, /) -> bytes:
    """`length` bytes that keep equal messages apart in a sorted set, for every process on it.

    From `ORDERED_FROM` bytes on, the first half (at most 8 bytes) is a big-endian count of the prefixes made in this
    process, from a random start: members of one score are sorted by their bytes, so those of one process keep the
    order in which they were made. The rest, and every shorter prefix, is random and never the same bytes twice. It
    comes from `os.urandom`, never from `random`: seeding that one would make members collide.

    Raises ValueError for a negative length.
    """
    global _prefixes
    if length < 0:
        raise ValueError(f"a prefix has no negative length: {length}")
    if length < ORDERED_FROM:
        return _random(length)
    half = min(length // 2, 8)
    if _prefixes is None:
        # Below the middle of what the shortest half holds, so that no process ever counts past its end.
        _prefixes = itertools.count(int.from_bytes(os.urandom(8), "big") % 2**39 + 1)
    return next(_prefixes).to_bytes(half, "big") + _random(length - half)


def _random(length: int) -> bytes:
    global _pool
    if length > _POOL:
        return os.urandom(length)
    # One C call takes the bytes and moves on, so two threads never get the same ones.
    taken = _pool.read(length)
    while len(taken) < length:
        _pool = io.BytesIO(os.urandom(_POOL))
        taken = _pool.read(length)
    return taken


def reseed() -> None:
    """Forget the random bytes in stock and the count. A forked child must, or it goes on with its parent's."""
    global _pool, _prefixes
    _pool = io.BytesIO()
    _prefixes = None


def pack(message: Message, /) -> bytes:
    """The message as msgpack: the bytes, and the exceptions, of `msgpack.packb(message)`."""
    packed: bytes = packb(message)
    return packed


def encode(message: Message, channel: str | None, prefix_length: int) -> bytes:
    """A whole member of a channel's sorted set: a prefix of `prefix_length` bytes (`next_prefix`), then the message.

    `channel` becomes the last entry, `__asgi_channel__`, unless it is None; the message must not have one already. The
    message is left as it was. Exceptions are those of `msgpack.packb`; ValueError for a negative prefix length.
    """
    prefix = next_prefix(prefix_length)
    return prefix + pack(message if channel is None else _with_channel(message, channel))


def _with_channel(message: Message, channel: str) -> Message:
    # Of a subclass of dict what its `items()` says, which is what msgpack packs where no channel is added.
    if type(message) is not dict and isinstance(message, dict):
        message = dict(message.items())
    return {**message, _CHANNEL_FIELD: channel}


def splice(body: bytes, channel: str | list[str]) -> bytes:
    """A packed message with the entry `__asgi_channel__` added at its end.

    Raises ValueError when the body does not begin like a packed map, or when its map is full.
    """
    header, start = _map_header(body)
    return b"".join((header, body[start:], _PACKED_FIELD, packb(channel)))


def frames(body: bytes, channels: list[list[str]], prefix_length: int) -> list[bytes]:
    """One member per list of channels: a fresh prefix, then the body spliced with that list.

    Raises what `splice` does; ValueError for a negative prefix length.
    """
    header, start = _map_header(body)
    rest = body[start:] + _PACKED_FIELD
    return [next_prefix(prefix_length) + header + rest + packb(names) for names in channels]


def decode(member: bytes, prefix_length: int) -> tuple[str | list[str] | None, Message]:
    """What a member holds: the channel it names, if any, and the message without that entry.

    The channel is a str (one receiver), a list (the members of a group on this key) or None (a general channel).

    Raises what `msgpack.unpackb` does on bytes that are not msgpack; ValueError when they are no map, when the channel
    is neither a str nor a list of them with at least one, and for a negative prefix length.
    """
    if prefix_length < 0:
        raise ValueError(f"a prefix has no negative length: {prefix_length}")
    message = unpackb(member[prefix_length:])
    if type(message) is not dict:
        raise ValueError(f"a message must be a map, not {type(message).__name__}")
    if _CHANNEL_FIELD not in message:
        return None, message
    channel = message.pop(_CHANNEL_FIELD)
    if type(channel) is str:
        return channel, message
    if type(channel) is not list or not channel or not all(type(name) is str for name in channel):
        raise ValueError(f"{_CHANNEL_FIELD} must be a name or a list of names")
    return channel, message


def clone(message: Any, /) -> Any:
    """A copy that shares nothing changeable: every exact dict and list is copied, everything else is the same object.

    Enough for what a decoder built, which knows no other containers. A value reached twice is copied twice.

    Raises RecursionError beyond 512 levels.
    """
    return _clone(message, _MAX_CLONE)


def _clone(value: Any, levels: int) -> Any:
    if type(value) is not dict and type(value) is not list:
        return value
    if not levels:
        raise RecursionError(f"a message is nested deeper than {_MAX_CLONE} levels")
    copy: Any = value.copy()
    entries: Iterable[tuple[Any, Any]] = value.items() if type(value) is dict else enumerate(value)
    for place, item in entries:
        if type(item) is dict or type(item) is list:
            copy[place] = _clone(item, levels - 1)
    return copy


def _map_header(body: bytes) -> tuple[bytes, int]:
    """The header for one entry more than a packed map has, and where its entries begin."""
    if type(body) is not bytes:
        raise TypeError(f"a packed message must be bytes, not {type(body).__name__}")
    first = body[0] if body else 0
    if first & 0xF0 == 0x80:
        start, count = 1, first & 0x0F
    elif first == 0xDE and len(body) >= 3:
        start, count = 3, int.from_bytes(body[1:3], "big")
    elif first == 0xDF and len(body) >= 5:
        start, count = 5, int.from_bytes(body[1:5], "big")
    else:
        raise ValueError("the body is not a packed map")
    count += 1
    if count < 16:
        return bytes([0x80 | count]), start
    if count < 2**16:
        return b"\xde" + count.to_bytes(2, "big"), start
    if count < 2**32:
        return b"\xdf" + count.to_bytes(4, "big"), start
    raise ValueError("the packed map has no room for one more entry")


# -------------------------------------------------------------------------------------------------------- pipeline


def assemble(commands: list[list[Word] | tuple[Word, ...]] | tuple[list[Word] | tuple[Word, ...], ...], /) -> bytes:
    """Redis commands as one run of bytes, each a RESP array of bulk strings.

    A str goes as UTF-8, an int in decimal, a float as its `repr`, whatever subclass it is.

    Raises TypeError for a word of another type, bool included, and for a command that is neither list nor tuple;
    ValueError for a command without words; UnicodeEncodeError for lone surrogates.
    """
    parts: list[bytes] = []
    for command in _sequence(commands, "commands"):
        words = [_word(word) for word in _sequence(command, "a command")]
        if not words:
            raise ValueError("a command has at least one word")
        parts.append(b"*%d\r\n" % len(words))
        parts.extend(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
    return b"".join(parts)


def _sequence(value: Any, what: str) -> Any:
    if not isinstance(value, list | tuple):
        raise TypeError(f"{what} must be a list or a tuple, not {type(value).__name__}")
    return value


def _word(word: Word) -> bytes:
    if isinstance(word, bytes):
        return word
    if isinstance(word, str):
        return str.encode(word)
    if isinstance(word, bool):
        raise TypeError("a command's word must be bytes, str, int or float, not bool")
    # The base types' own text: that of an IntEnum member, say, would be its name.
    if isinstance(word, int):
        return int.__repr__(word).encode()
    if isinstance(word, float):
        return float.__repr__(word).encode()
    raise TypeError(f"a command's word must be bytes, str, int or float, not {type(word).__name__}")
