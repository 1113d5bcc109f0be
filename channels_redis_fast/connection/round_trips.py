"""Timing the commands of one socket, from the write to the reply. Knows how many there are, and no other thing."""

from __future__ import annotations

from time import monotonic

from ..hot import Histogram
from ..stats import SAMPLE_INTERVAL


class RoundTripTimer:
    """
    Times one command after the other, ``SAMPLE_INTERVAL`` seconds apart at least.

    ``unanswered``: how many commands are on the wire that it was not told of.
    """

    __slots__ = ("_asked", "_began", "_histogram", "_next", "_timed")

    def __init__(self, histogram: Histogram, unanswered: int) -> None:
        self._histogram = histogram
        #: How many commands were written, and which of them is timed, counted from 1; 0 for none.
        self._asked = unanswered
        self._timed = 0
        self._began = self._next = 0.0

    def wrote(self, count: int, now: float) -> None:
        """Called with so many commands when they are written; ``now``: loop time, of the last look at it."""
        if now >= self._next and not self._timed:
            self._next = now + SAMPLE_INTERVAL
            self._timed = self._asked + 1
            # Loop time may stand still for long.
            self._began = monotonic()
        self._asked += count

    def read(self, unanswered: int) -> None:
        """Called when replies were read; ``unanswered``: how many commands are on the wire."""
        if self._timed and self._asked - unanswered >= self._timed:
            self._timed = 0
            self._histogram.since(self._began)
