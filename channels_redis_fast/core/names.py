"""
Which functions validate a layer's names: the compiled ones, or Channels' methods where a subclass changes the rules.

Knows the rules by the names of the methods and attributes of Channels' ``BaseChannelLayer`` that make them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from channels.layers import BaseChannelLayer

from ..hot import find, is_group, kind, split
from ..messages.mailbox import Inbox

#: The parts of a group's members on one shard: keys, and the channel names on each.
Part = tuple[list[bytes], list[list[str]]]

_RULES = (
    "MAX_NAME_LENGTH",
    "channel_name_regex",
    "group_name_regex",
    "match_type_and_length",
    "require_valid_channel_name",
    "require_valid_group_name",
)


class Names(NamedTuple):
    """
    The checks of names. ``kind`` returns a negative number, ``is_group`` False and ``find`` None where they are not
    sure: then Channels' own methods decide.
    """

    kind: Callable[[Any], int]
    is_group: Callable[[Any], bool]
    find: Callable[[dict[str, Inbox], str], Inbox | None]


def names_of(layer: type[BaseChannelLayer]) -> Names:
    """Return the compiled functions, or for a class with rules of its own those that are never sure."""
    is_plain = all(getattr(layer, rule) is getattr(BaseChannelLayer, rule) for rule in _RULES)
    return Names(kind, is_group, find) if is_plain else Names(_not_sure, _not_sure_of_group, _find_nothing)


def split_by(hash_of: Callable[[str], int]) -> Callable[[list[bytes], bytes, int], tuple[list[Part], list[bytes]]]:
    """Return what ``split`` is for a layer that has its own way to find a name's shard."""

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
    """Return the members of a group on a shard without some of them, and without the keys on which no others are."""
    keys: list[bytes] = []
    channels: list[list[str]] = []
    for redis_key, names in zip(*part, strict=True):
        kept = names if excluded.isdisjoint(names) else [name for name in names if name not in excluded]
        if kept:
            keys.append(redis_key)
            channels.append(kept)
    return keys, channels


def _not_sure(name: object) -> int:
    return -1


def _not_sure_of_group(name: object) -> bool:
    return False


def _find_nothing(table: dict[str, Inbox], name: str) -> None:
    return None
