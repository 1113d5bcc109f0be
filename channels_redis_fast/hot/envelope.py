"""The reference twin of `_ext/envelope.pyx`, `packer.pyx` and `unpacker.pyx`: converts a message to bytes and back.

It knows msgpack, the random prefix of a member and the field that names the channel. It does not know keys or shards.
"""

from __future__ import annotations

import io
import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from msgpack import packb, unpackb

Message = dict[str, Any]

_CHANNEL_FIELD = "__asgi_channel__"

_PACKED_FIELD: bytes = packb(_CHANNEL_FIELD)

# The nesting levels of dict and list that `clone` follows: the decoder builds at most as many as msgpack's stack holds.
_MAX_CLONE = 512

# How many values `footprint` looks at: enough to tell that a message is large, even if it refers to itself.
_MAX_WEIGHED = 1_000_000

_POOL = 4096

#: The number of bytes from which a prefix has room for a count and for randomness.
ORDERED_FROM = 10

#: The number of bytes of a fingerprint.
FINGERPRINT = 8

_pool = io.BytesIO()

_prefixes: Iterator[int] | None = None


def next_prefix(length: int, /) -> bytes:
    """`length` bytes that distinguish equal messages in a sorted set, across all processes that use it.

    From `ORDERED_FROM` bytes on, the first half (at most 8 bytes) is a big-endian count of the prefixes made in this
    process, from a random start. Members with one score are sorted by their bytes, so those of one process keep the
    order in which they were made. The rest, and every shorter prefix, is random and never repeats the same bytes. It
    comes from `os.urandom`, never from `random`: seeding `random` would make members collide.

    Raises ValueError for a negative length.
    """
    global _prefixes
    if length < 0:
        raise ValueError(f"a prefix has no negative length: {length}")
    if length < ORDERED_FROM:
        return _random(length)
    half = min(length // 2, 8)
    if _prefixes is None:
        # Below the middle of the range of the shortest half, so that no process ever counts past its end.
        _prefixes = itertools.count(int.from_bytes(os.urandom(8), "big") % 2**39 + 1)
    return next(_prefixes).to_bytes(half, "big") + _random(length - half)


def _random(length: int) -> bytes:
    global _pool
    if length > _POOL:
        return os.urandom(length)
    # One C call takes the bytes and advances, so two threads never get the same ones.
    taken = _pool.read(length)
    while len(taken) < length:
        _pool = io.BytesIO(os.urandom(_POOL))
        taken = _pool.read(length)
    return taken


def reseed() -> None:
    """Forget the stored random bytes and the count. A forked child must do so, or it would continue its parent's."""
    global _pool, _prefixes
    _pool = io.BytesIO()
    _prefixes = None


def fingerprints(members: list[bytes], /) -> bytes:
    """`FINGERPRINT` bytes for each member, one after the other, by which this process recognizes it.

    They depend on every byte of a member: a sender need not give each a prefix of its own.

    Raises TypeError for a member that is not bytes.
    """
    for member in members:
        if type(member) is not bytes:
            raise TypeError(f"a member must be bytes, not {type(member).__name__}")
    return b"".join([hash(member).to_bytes(FINGERPRINT, sys.byteorder, signed=True) for member in members])


def pack(message: Message, /) -> bytes:
    """The message as msgpack: the same bytes and exceptions as `msgpack.packb(message)`."""
    packed: bytes = packb(message)
    return packed


def encode(message: Message, channel: str | None, prefix_length: int) -> bytes:
    """A whole member of a channel's sorted set: a prefix of `prefix_length` bytes (`next_prefix`), then the message.

    `channel` becomes the last entry, `__asgi_channel__`, unless it is None; the message must not have that entry
    already. The message is not changed. Exceptions are those of `msgpack.packb`; ValueError for a negative prefix
    length.
    """
    prefix = next_prefix(prefix_length)
    return prefix + pack(message if channel is None else _with_channel(message, channel))


def _with_channel(message: Message, channel: str) -> Message:
    # For a subclass of dict, use its `items()`, which is what msgpack packs if no channel is added.
    if type(message) is not dict and isinstance(message, dict):
        message = dict(message.items())
    return {**message, _CHANNEL_FIELD: channel}


def splice(body: bytes, channel: str | list[str]) -> bytes:
    """A packed message with the entry `__asgi_channel__` added at its end.

    Raises ValueError if the body does not begin like a packed map, or if its map is full.
    """
    header, start = _map_header(body)
    return b"".join((header, body[start:], _PACKED_FIELD, packb(channel)))


def frames(body: bytes, channels: list[list[str]], prefix_length: int) -> list[bytes]:
    """One member for each list of channels: a fresh prefix, then the body spliced with that list.

    Raises the same errors as `splice`; ValueError for a negative prefix length.
    """
    header, start = _map_header(body)
    rest = body[start:] + _PACKED_FIELD
    return [next_prefix(prefix_length) + header + rest + packb(names) for names in channels]


def decode(member: bytes, prefix_length: int) -> tuple[str | list[str] | None, Message]:
    """The contents of a member: the channel that it names, if any, and the message without that entry.

    The channel is a str (one receiver), a list (the members of a group on this key) or None (a general channel).

    Keys may be any hashable values. Raises the errors of `msgpack.unpackb` for bytes that are not msgpack; ValueError
    if they are not a map, if the channel is neither a str nor a non-empty list of strings, and for a
    negative prefix length.
    """
    if prefix_length < 0:
        raise ValueError(f"a prefix has no negative length: {prefix_length}")
    message = unpackb(member[prefix_length:], strict_map_key=False)
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


def round_trip(message: Message, /) -> Message:
    """A message as a receiver would unpack it. Exceptions are those of `encode` and `decode`."""
    return decode(encode(message, None, 0), 0)[1]


def clone(message: Any, /) -> Any:
    """A copy that shares nothing mutable: every exact dict and list is copied, everything else is the same object.

    This is enough for what a decoder builds, which has no other containers. A value that is reached twice is copied
    twice.

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


def footprint(message: Any, /) -> int:
    """Approximately how many bytes of memory a message takes: text, bytes, dicts, lists, and 32 for anything else.

    It is meant for a bound on memory, not for anything exact. It follows 512 levels and looks at about a million values
    at most.
    """
    return _footprint((message,), _MAX_CLONE, [_MAX_WEIGHED])


def _footprint(values: Iterable[Any], levels: int, left: list[int]) -> int:
    size = 0
    for value in values:
        kind = type(value)
        if kind is str:
            size += 56 + (1 if value.isascii() else 4) * len(value)
        elif kind is bytes:
            size += 40 + len(value)
        elif kind is dict or kind is list:
            inner: Iterable[Any] = value
            size += 60 + 8 * len(value)
            if kind is dict:
                size += 40 + 42 * len(value)
                inner = itertools.chain.from_iterable(value.items())
            left[0] -= len(value)
            if levels and left[0] > 0:
                size += _footprint(inner, levels - 1, left)
        else:
            size += 32
    return size


def _map_header(body: bytes) -> tuple[bytes, int]:
    """The header for a packed map with one more entry, and where the map's entries begin."""
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
