"""
IDs of entries that a sender proposes, since it has to encrypt a message together with its position.

An ID is the server's time in microseconds, and a random number behind that; each one that is proposed for a stream is
above the last. A sender that was overtaken is told the newest ID, and proposes one above that: the further ahead the
more often it was, so that among many it prevails over those that have just come.
"""

from __future__ import annotations

import random
from collections import OrderedDict

from ..connection.identity import ServerIdentity

#: Streams of which the last proposal is remembered.
MAX_STREAMS = 10_000

#: How often a message is made anew for a position that is not taken.
ATTEMPTS = 5

#: The numbers behind one millisecond: microseconds, and a random part of each. A position has ten digits for them.
_PART = 1_000_000
_NUMBERS = 10_000_000_000

#: Milliseconds by which a sender goes ahead of the time for each time that it was overtaken; and numbers by which it
#: goes ahead of the newest ID the first time: at random, since all those that were overtaken by one ID do so, and four
#: times as many each further time.
_AHEAD, _SPREAD = 1, 100_000

Entry = tuple[int, int]


class Proposer:
    """Proposes IDs for the streams of one layer."""

    def __init__(self) -> None:
        #: By the stream's key, the newest ID known of; the stream used last at the end.
        self._newest: OrderedDict[bytes, Entry] = OrderedDict()

    def propose(self, key: bytes, server: ServerIdentity, attempt: int = 0) -> Entry:
        """
        Return an ID above all that are known of in a stream: milliseconds and number.

        ``attempt``: how often the message was overtaken.
        """
        milliseconds, microseconds = divmod(server.microseconds(), 1000)
        entry = (milliseconds + attempt * _AHEAD, microseconds * _PART + random.randrange(_PART))
        newest = self._newest.get(key)
        if newest is not None and entry <= newest:
            number = newest[1] + 1 + (random.randrange(_SPREAD * 4**attempt) if attempt else 0)
            entry = (newest[0] + number // _NUMBERS, number % _NUMBERS)
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
