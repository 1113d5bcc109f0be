"""
Maps the names of a group's members to shards and keys, for a layer with its own function from a name to its shard.
"""

from __future__ import annotations

from collections.abc import Callable

from ..hot import split

#: The parts of a group's members on one shard: keys, and the channel names on each.
Part = tuple[list[bytes], list[list[str]]]


def split_by(hash_of: Callable[[str], int]) -> Callable[[list[bytes], bytes, int], tuple[list[Part], list[bytes]]]:
    """Return a ``split`` for a layer with its own function from a name to its shard."""

    def own_split(members: list[bytes], prefix: bytes, ring_size: int) -> tuple[list[Part], list[bytes]]:
        ((keys, channels),), unreadable = split(members, prefix, 1)
        shards: list[Part] = [([], []) for _ in range(ring_size)]
        for redis_key, names in zip(keys, channels, strict=True):
            mine = shards[hash_of(redis_key[len(prefix) :].decode())]
            mine[0].append(redis_key)
            mine[1].append(names)
        return shards, unreadable

    return own_split


def without(part: Part, excluded: frozenset[str]) -> Part:
    """
    Return the members of a group on a shard without the excluded ones. Keys on which no others remain are left out.
    """
    keys: list[bytes] = []
    channels: list[list[str]] = []
    for redis_key, names in zip(*part, strict=True):
        kept = names if excluded.isdisjoint(names) else [name for name in names if name not in excluded]
        if kept:
            keys.append(redis_key)
            channels.append(kept)
    return keys, channels
