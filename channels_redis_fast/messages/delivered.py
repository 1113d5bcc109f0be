"""
The members of a Redis key that were delivered recently, so that none of them is delivered again.

A delivered member can come again if its removal did not reach the server that is read next: a promoted replica, or a
server that another event loop was reading. Knows members by their prefixes. Knows no connection and no message.
"""

from __future__ import annotations

import time

from ..hot import ORDERED_FROM, identities

#: How many members are remembered for each key: half a megabyte.
REMEMBERED = 50_000


class DeliveredMembers:
    """The members of one key. Each begins with ``ORDERED_FROM`` bytes of its own, as with a prefix of that length."""

    __slots__ = ("_doubted", "_identities", "_until")

    def __init__(self) -> None:
        #: Those of the remembered members, one after the other.
        self._identities = bytearray()
        self._doubted: frozenset[bytes] = frozenset()
        self._until = 0.0

    def doubt(self, seconds: float) -> None:
        """Called when members that were delivered until now may come again within this many seconds. Thread-safe."""
        self._doubted = frozenset(_split(bytes(self._identities)))
        self._until = time.monotonic() + seconds

    def new(self, members: list[bytes]) -> list[bytes]:
        """Return the members that were not delivered before, and remember them as delivered."""
        found = identities(members)
        doubted = self._doubted
        if doubted:
            if time.monotonic() > self._until:
                self._doubted = frozenset()
            else:
                pairs = zip(members, _split(found), strict=True)
                members = [member for member, identity in pairs if identity not in doubted]
        self._identities += found
        surplus = len(self._identities) - REMEMBERED * ORDERED_FROM
        if surplus > 0:
            del self._identities[:surplus]
        return members


def _split(found: bytes) -> list[bytes]:
    return [found[start : start + ORDERED_FROM] for start in range(0, len(found), ORDERED_FROM)]
