"""
Noticing that an event loop stood still: something ran in it for long without letting anything else run, or the process
was stopped. Knows an event loop and counters; not what is done there.
"""

from __future__ import annotations

import asyncio
from time import monotonic

from .stats import Stats

#: Seconds between two looks while messages come and go and while none do, and by how many of them one is so late that
#: the loop has stood still.
INTERVAL, IDLE_INTERVAL, STALL = 0.1, 1.0, 0.1


class StallDetector:
    """
    Counts how long an event loop stood still, each time that it was for ``STALL`` seconds and more.

    It looks at when a timer of its own runs, so up to the seconds between two looks are not seen of each. A loop that
    is stopped and run again later stood still in between.
    """

    __slots__ = ("_due", "_loop", "_received", "_stats", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, stats: Stats) -> None:
        self._loop = loop
        self._stats = stats
        self._received = stats.bytes_received
        self._due = monotonic() + INTERVAL
        self._timer = loop.call_later(INTERVAL, self._look)

    def close(self) -> None:
        """Look no more."""
        self._timer.cancel()

    def _look(self) -> None:
        now = monotonic()
        if now - self._due >= STALL:
            self._stats.loop_stalls.add(now - self._due)
        received = self._stats.bytes_received
        interval = IDLE_INTERVAL if received == self._received else INTERVAL
        self._received = received
        self._due = now + interval
        self._timer = self._loop.call_later(interval, self._look)
