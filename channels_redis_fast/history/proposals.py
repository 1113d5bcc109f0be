"""
IDs of entries that a sender proposes, since it has to encrypt a message together with its position.

An ID is the server's time in microseconds, and a random number behind that; each one that is proposed for a stream is
above the last. A sender that was overtaken is told the newest ID, and proposes one above that.
"""

from __future__ import annotations

import random
from collections import OrderedDict

from ..connection.identity import ServerIdentity

#: Streams of which the last proposal is remembered.
MAX_STREAMS = 10_000

#: How often a message is made anew for a position that is not taken.
ATTEMPTS = 5

#: The numbers behind one millisecond: microseconds, and a random part of each.
_PART = 1_000_000

Entry = tuple[int, int]


class Proposer:
    """Proposes IDs for the streams of one layer."""

    def __init__(self) -> None:
        #: By the stream's key, the newest ID known of; the stream used last at the end.
        self._newest: OrderedDict[bytes, Entry] = OrderedDict()

    def propose(self, key: bytes, server: ServerIdentity) -> Entry:
        """Return an ID above all that are known of in a stream: milliseconds and number."""
        milliseconds, microseconds = divmod(server.microseconds(), 1000)
        entry = (milliseconds, microseconds * _PART + random.randrange(_PART))
        newest = self._newest.get(key)
        if newest is not None and entry <= newest:
            entry = (newest[0], newest[1] + 1)
        self._keep(key, entry)
        return entry

    def overtaken(self, key: bytes, newest: bytes) -> None:
        """Called with a stream's newest ID, where a proposal was not taken. Raises ``ValueError`` for what is none."""
        milliseconds, _, number = newest.partition(b"-")
        entry = (int(milliseconds), int(number))
        self._keep(key, max(entry, self._newest.get(key, entry)))

    def _keep(self, key: bytes, entry: Entry) -> None:
        self._newest[key] = entry
        self._newest.move_to_end(key)
        if len(self._newest) > MAX_STREAMS:
            self._newest.popitem(last=False)
