"""
Noticing that an event loop stood still: something ran in it for long without letting anything else run, or the process
was stopped. Knows an event loop and a histogram; not what is done there.
"""

from __future__ import annotations

import asyncio
from time import monotonic

from .hot import Histogram

#: Seconds between two looks, and by how many of them one is so late that the loop has stood still.
INTERVAL, STALL = 0.1, 0.1


class StallDetector:
    """
    Counts how long an event loop stood still, each time that it was for ``STALL`` seconds and more.

    It looks at when a timer of its own runs, so up to ``INTERVAL`` seconds of each are not seen. A loop that is stopped
    and run again later stood still in between.
    """

    __slots__ = ("_due", "_loop", "_stalls", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, stalls: Histogram) -> None:
        self._loop = loop
        self._stalls = stalls
        self._due = monotonic() + INTERVAL
        self._timer = loop.call_later(INTERVAL, self._look)

    def close(self) -> None:
        """Look no more."""
        self._timer.cancel()

    def _look(self) -> None:
        now = monotonic()
        if now - self._due >= STALL:
            self._stalls.add(now - self._due)
        self._due = now + INTERVAL
        self._timer = self._loop.call_later(INTERVAL, self._look)
