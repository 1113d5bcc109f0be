"""
The members of a Redis key that were delivered recently, so that none of them is delivered again.

A delivered member can come again if its removal did not reach the server that is read next: a promoted replica, or a
server that another event loop was reading. Knows members by their hashes. Knows no connection and no message.
"""

from __future__ import annotations

import time
from collections import deque

#: How many members are remembered for each key: 2 megabytes.
REMEMBERED = 50_000


class DeliveredMembers:
    """The members of one key. They have to be distinct, as they are with a random prefix."""

    __slots__ = ("_doubted", "_hashes", "_until")

    def __init__(self) -> None:
        self._hashes: deque[int] = deque(maxlen=REMEMBERED)
        self._doubted: frozenset[int] = frozenset()
        self._until = 0.0

    def doubt(self, seconds: float) -> None:
        """Called when members that were delivered until now may come again within this many seconds. Thread-safe."""
        self._doubted = frozenset(self._hashes)
        self._until = time.monotonic() + seconds

    def new(self, members: list[bytes]) -> list[bytes]:
        """Return the members that were not delivered before, and remember them as delivered."""
        doubted = self._doubted
        if not doubted:
            self._hashes.extend(map(hash, members))
            return members
        hashes = list(map(hash, members))
        if time.monotonic() > self._until:
            self._doubted = frozenset()
        elif not doubted.isdisjoint(hashes):
            members = [member for member, value in zip(members, hashes, strict=True) if value not in doubted]
        self._hashes.extend(hashes)
        return members
