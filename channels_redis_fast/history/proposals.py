"""
IDs of entries that a sender proposes, because it has to encrypt a message together with its position.

An ID is the server's time in microseconds, followed by a random number. Each proposal for a stream is greater than the
last. A sender that was overtaken is told the newest ID and gets the turn (``scripts.TURNS``): nobody else records until
its next proposal, which is greater, has been accepted. Other senders wait and ask again.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable

from redis.exceptions import ResponseError

from ..connection.identity import ServerIdentity
from ..hot import next_prefix

#: How many streams' last proposals are remembered.
MAX_STREAMS = 10_000

#: How many positions are proposed for a message before it fails.
ATTEMPTS = 5

#: The average delay in seconds before a sender whose turn it was not asks again, doubled each time up to
#: ``LONGEST_PAUSE``, and how long it keeps asking.
PAUSE, LONGEST_PAUSE, PATIENCE = 0.002, 0.05, 60.0

#: The numbers within one millisecond: microseconds, and a random part of each. A position has ten digits for them.
_PART = 1_000_000
_NUMBERS = 10_000_000_000

Entry = tuple[int, int]


class Proposer:
    """Proposes IDs for the streams of one layer."""

    def __init__(self) -> None:
        #: By the stream's key, the newest ID known; the most recently used stream is last.
        self._newest: OrderedDict[bytes, Entry] = OrderedDict()

    def propose(self, key: bytes, server: ServerIdentity) -> Entry:
        """Return an ID above all known ones of a stream: milliseconds and number."""
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
    Tracks the first message that one event loop sends to a group, while other senders send to the group too.

    ``clock`` returns seconds. ``by``: the text that claims the turn.
    """

    __slots__ = ("_attempts", "_clock", "_group", "_since", "_waits", "by", "pause")

    def __init__(self, group: str, clock: Callable[[], float]) -> None:
        self._group = group
        self._clock = clock
        self.by = next_prefix(8).hex()
        self.recorded()

    def recorded(self) -> None:
        """Called when another message becomes the first one."""
        self._attempts = self._waits = 0
        self._since = 0.0
        #: Seconds to wait before the next attempt.
        self.pause = 0.0

    def overtaken(self) -> ResponseError | None:
        """Called when its position was not the newest; return the error to raise, None to try again."""
        self._attempts += 1
        self.pause = 0.0
        if self._attempts < ATTEMPTS:
            return None
        return self._give_up(f"{ATTEMPTS} positions that were proposed for it in the group's history were taken")

    def not_its_turn(self) -> ResponseError | None:
        """Called when another sender has the turn; return the error to raise, None to try again after the ``pause``."""
        now = self._clock()
        if not self._waits:
            self._since = now
        # Random, because senders that wait together would otherwise ask together again.
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
