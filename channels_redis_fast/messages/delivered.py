"""
The members of a Redis key that were delivered recently, so that none of them is delivered again.

A delivered member can come again if its removal did not reach the server that is read next: a promoted replica, or a
server that another event loop was reading. Knows members by their fingerprints. Knows no connection and no message.
"""

from __future__ import annotations

import time

from ..hot import FINGERPRINT, fingerprints

#: How many members are remembered for each key: 400 kilobytes.
REMEMBERED = 50_000

NO_DOUBT: tuple[frozenset[bytes], float] = frozenset(), 0.0


class DeliveredMembers:
    """The members of one key. They have to be distinct, as they are with a random prefix."""

    __slots__ = ("_doubt", "_fingerprints")

    def __init__(self) -> None:
        #: Of the remembered members, one after the other.
        self._fingerprints = bytearray()
        #: The fingerprints of members that may come again, and until when (monotonic). One object, so that other
        #: threads see both or neither.
        self._doubt: tuple[frozenset[bytes], float] = NO_DOUBT

    def doubt(self, seconds: float) -> None:
        """Called when members that were delivered until now may come again within this many seconds. Thread-safe."""
        until = max(time.monotonic() + seconds, self._doubt[1])
        self._doubt = frozenset(_split(bytes(self._fingerprints))), until

    def new(self, members: list[bytes]) -> list[bytes]:
        """Return the members that were not delivered before, and remember them as delivered."""
        found = fingerprints(members)
        doubt = self._doubt
        if doubt is not NO_DOUBT:
            doubted, until = doubt
            if time.monotonic() <= until:
                pairs = zip(members, _split(found), strict=True)
                members = [member for member, fingerprint in pairs if fingerprint not in doubted]
            elif self._doubt is doubt:
                self._doubt = NO_DOUBT
        self._fingerprints += found
        surplus = len(self._fingerprints) - REMEMBERED * FINGERPRINT
        if surplus > 0:
            del self._fingerprints[:surplus]
        return members


def _split(found: bytes) -> list[bytes]:
    return [found[start : start + FINGERPRINT] for start in range(0, len(found), FINGERPRINT)]
