"""
Where in a packed message its position is, for a script that fills it in. Bytes only.

The position is the last entry of a message, and of fixed width: so its place follows from the length of what is before
it, and nothing is searched for.
"""

from __future__ import annotations

from typing import Any

from .positions import FIELD, WIDTH


def with_position(message: dict[str, Any], position: str) -> dict[str, Any]:
    """Return a message with its position as the last entry, in place of any that it has."""
    return {**without_position(message), FIELD: position}


def without_position(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message without the position that it has, as where an event is forwarded; itself if it has none."""
    if FIELD not in message:
        return message
    return {name: value for name, value in message.items() if name != FIELD}


def place_in(packed: bytes) -> int:
    """Return where the position begins in a message as msgpack (``with_position``)."""
    return len(packed) - WIDTH


def place_behind_prefix(packed: bytes, member: bytes, prefix_length: int) -> int:
    """
    Return where it begins in a member of a sorted set, which adds a random prefix and one entry behind the position.

    ``packed``: the message alone. The entry may make the map's header longer.
    """
    return prefix_length + _header(member[prefix_length]) + place_in(packed) - _header(packed[0])


def _header(first: int) -> int:
    """Return how long a map's header is, by its first byte (the map formats of msgpack's specification)."""
    return {0xDE: 3, 0xDF: 5}.get(first, 1)
