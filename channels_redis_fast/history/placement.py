"""
Where a script inserts the position in a packed message. Bytes only.

The position is the last entry of a message, after all of its own, so its place follows from the length of the rest and
needs no search.
"""

from __future__ import annotations

from typing import Any

from ..connection.script import in_lua
from ..hot import pack
from .positions import FIELD, PLACEHOLDER, WIDTH

#: The bytes between the entries of a packed message and its position.
ENTRY = pack({FIELD: PLACEHOLDER})[1:-WIDTH]
ENTRY_IN_LUA = in_lua(ENTRY)


def with_position(message: dict[str, Any], position: str) -> dict[str, Any]:
    """Return a message with its position as the last entry, replacing any that it has."""
    # Through ``items``, as serializers do: a subclass of dict (Django's QueryDict) may return other values there.
    return {**dict(without_position(message).items()), FIELD: position}


def without_position(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message without its position, as when an event is forwarded; the message itself if it has none."""
    if FIELD not in message:
        return message
    return {name: value for name, value in message.items() if name != FIELD}


def widened(packed: bytes, start: int, more: int) -> tuple[bytes, int]:
    """
    Return a message's msgpack header with more entries: its position and, on core, the entry that names its channels.

    ``start``: where the message begins in ``packed``. The second value is where its entries begin.
    """
    first = packed[start]
    if first & 0xF0 == 0x80:
        begin, count = start + 1, first & 0x0F
    else:
        # The two longer map formats have a count of two bytes or of four.
        begin = start + (3 if first == 0xDE else 5)
        count = int.from_bytes(packed[start + 1 : begin], "big")
    count += more
    if count < 16:
        return bytes((0x80 | count,)), begin
    if count < 2**16:
        return b"\xde" + count.to_bytes(2, "big"), begin
    return b"\xdf" + count.to_bytes(4, "big"), begin
