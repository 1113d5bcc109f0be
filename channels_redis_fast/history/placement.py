"""
Where in a packed message its position goes, for a script that adds it. Bytes only.

The position is the last entry of a message, after all of its own: so its place follows from the length of the rest,
and nothing is searched for.
"""

from __future__ import annotations

from typing import Any

from ..hot import pack
from .positions import FIELD, PLACEHOLDER, WIDTH

#: What is between the entries of a packed message and its position.
ENTRY = pack({FIELD: PLACEHOLDER})[1:-WIDTH]


def in_lua(data: bytes) -> str:
    """Return bytes as Lua writes them."""
    return "'" + "".join(f"\\{byte:03d}" for byte in data) + "'"


ENTRY_IN_LUA = in_lua(ENTRY)


def with_position(message: dict[str, Any], position: str) -> dict[str, Any]:
    """Return a message with its position as the last entry, in place of any that it has."""
    # By ``items``, as serializers do: a subclass of dict (Django's QueryDict) may show others there than it holds.
    return {**dict(without_position(message).items()), FIELD: position}


def without_position(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message without the position that it has, as where an event is forwarded; itself if it has none."""
    if FIELD not in message:
        return message
    return {name: value for name, value in message.items() if name != FIELD}


def widened(packed: bytes, start: int, more: int) -> tuple[bytes, int]:
    """
    Return the header of a message as msgpack with more entries: its position, and on core what names its channels.

    ``start``: where the message begins in ``packed``. Second comes where its entries do.
    """
    first = packed[start]
    if first & 0xF0 == 0x80:
        begin, count = start + 1, first & 0x0F
    else:
        # The two longer formats of a map: a number of two bytes, or of four.
        begin = start + (3 if first == 0xDE else 5)
        count = int.from_bytes(packed[start + 1 : begin], "big")
    count += more
    if count < 16:
        return bytes((0x80 | count,)), begin
    if count < 2**16:
        return b"\xde" + count.to_bytes(2, "big"), begin
    return b"\xdf" + count.to_bytes(4, "big"), begin
