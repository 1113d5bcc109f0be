"""The reference twin of `_ext/names.pyx`: channel and group names, their keys in Redis, and the shard of each.

It knows names and bytes. It does not know what is sent to a name.
"""

from __future__ import annotations

import binascii
import re
from typing import TypeVar

T = TypeVar("T")

# Channels' own limit: a name of this many characters or more is invalid.
_MAX_NAME = 100

# Channels' name rules without what they accept by accident: digits of other scripts, a final newline.
_CHANNEL = re.compile(r"[a-zA-Z0-9\-_.]+(![a-zA-Z0-9\-_.]*)?\Z")

_GROUP = re.compile(r"[a-zA-Z0-9\-_.]+\Z")


def kind(name: object, /) -> int:
    """Which kind of channel a name is, if that is beyond doubt.

    Returns 0 for a general channel; for a specific one the length, in characters, of its non-local part including `!`;
    -1 for everything else, valid or not: Channels' `require_valid_channel_name` then decides. Never raises.
    """
    if type(name) is not str or len(name) >= _MAX_NAME or _CHANNEL.match(name) is None:
        return -1
    return name.find("!") + 1


def find(table: dict[str, T], name: object, /) -> T | None:
    """The value in a table for the non-local part, including `!`, of a specific channel's name.

    Returns None if there is none, and for every name that `kind` does not call specific. Never raises.
    """
    length = kind(name)
    return table.get(name[:length]) if length > 0 and isinstance(name, str) else None


def is_group(name: object, /) -> bool:
    """Whether a group name is valid beyond doubt; `require_valid_group_name` decides about others. Never raises."""
    return type(name) is str and len(name) < _MAX_NAME and _GROUP.match(name) is not None


def key(prefix: bytes, name: str, length: int = 0) -> bytes:
    """The Redis key `prefix` + `name`, the name cut to its first `length` characters unless that is 0.

    Raises UnicodeEncodeError for a name with lone surrogates.
    """
    return prefix + (name[:length] if length else name).encode()


def shard(value: str | bytes, ring_size: int) -> int:
    """The shard, from 0 to `ring_size` - 1, that a name lives on.

    The rule is `channels_redis`' `_consistent_hash`: the low 12 bits of the CRC-32 of the UTF-8 name, divided in double
    arithmetic. Integer division would give other shards; the smallest ring for which it does has 186.

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

    `members` are raw channel names. The first result has one entry for each shard of the ring: its keys in the order in
    which they were first seen, and for each key the channels on it. A key is `prefix` + the name up to its first `!`,
    or the whole name. The shard is that of the same part without the prefix. The second result holds the members that
    are not UTF-8 and so belong to nobody.

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
