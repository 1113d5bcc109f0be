"""
IDs of entries that a sender proposes, since it has to encrypt a message together with its position.

An ID is the server's time in microseconds, followed by a random number; each proposal for a stream is greater than
the last. A sender that was overtaken is told the newest ID, and gets the turn (``scripts.TURNS``): nobody else
records until its next proposal, which is greater, has been accepted. Other senders wait, and ask again.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable

from redis.exceptions import ResponseError

from ..connection.identity import ServerIdentity
from ..hot import next_prefix

#: Streams of which the last proposal is remembered.
MAX_STREAMS = 10_000

#: How often a message is made anew for a position that is not taken.
ATTEMPTS = 5

#: Seconds until a sender asks again whose turn it was not, on average; twice as many each further time, up to the
#: second number; and for how long it asks.
PAUSE, LONGEST_PAUSE, PATIENCE = 0.002, 0.05, 60.0

#: The numbers behind one millisecond: microseconds, and a random part of each. A position has ten digits for them.
_PART = 1_000_000
_NUMBERS = 10_000_000_000

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
            number = newest[1] + 1
            entry = (newest[0] + number // _NUMBERS, number % _NUMBERS)
        self._keep(key, entry)
        return entry

    def overtaken(self, key: bytes, newest: bytes) -> None:
        """Called with a stream's newest ID when a proposal was refused. Raises ``ValueError`` for an invalid ID."""
        milliseconds, _, number = newest.partition(b"-")
        entry = (int(milliseconds), int(number))
        self._keep(key, max(entry, self._newest.get(key, entry)))

    def _keep(self, key: bytes, entry: Entry) -> None:
        self._newest[key] = entry
        self._newest.move_to_end(key)
        if len(self._newest) > MAX_STREAMS:
            self._newest.popitem(last=False)


class Contest:
    """
    The messages of one event loop to a group, among those of other senders: what the first of them has come to.

    ``clock`` gives seconds. ``by``: what the turn is claimed with.
    """

    __slots__ = ("_attempts", "_clock", "_group", "_since", "_waits", "by", "pause")

    def __init__(self, group: str, clock: Callable[[], float]) -> None:
        self._group = group
        self._clock = clock
        self.by = next_prefix(8).hex()
        self.recorded()

    def recorded(self) -> None:
        """Called when the first message is no longer the first."""
        self._attempts = self._waits = 0
        self._since = 0.0
        #: Seconds to wait before the next attempt.
        self.pause = 0.0

    def overtaken(self) -> ResponseError | None:
        """Called when its position was not the newest; return what to raise, None to try again."""
        self._attempts += 1
        self.pause = 0.0
        if self._attempts < ATTEMPTS:
            return None
        return self._give_up(f"{ATTEMPTS} positions that were proposed for it in the group's history were taken")

    def not_its_turn(self) -> ResponseError | None:
        """Called when another sender has the turn; return what to raise, None to try again after the ``pause``."""
        now = self._clock()
        if not self._waits:
            self._since = now
        # At random: of those who wait together, most would come together again.
        self.pause = random.uniform(0, 2 * min(PAUSE * 2 ** min(self._waits, 10), LONGEST_PAUSE))
        self._waits += 1
        if now - self._since < PATIENCE:
            return None
        return self._give_up(f"it has waited {PATIENCE:g} s for its turn in the group's history")

    def _give_up(self, why: str) -> ResponseError:
        self.recorded()
        return ResponseError(
            f"Message for group {self._group} was not sent: {why}, since others send to the group at the same time"
        )
