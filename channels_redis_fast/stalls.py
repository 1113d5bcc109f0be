"""
Detects stalls of an event loop: something ran in it for a long time without yielding, or the process was suspended.
Knows an event loop and counters. Does not know what runs in the loop.
"""

from __future__ import annotations

import asyncio
from time import monotonic

from .stats import Stats

#: Seconds between two checks while messages arrive, and while none do; and how many seconds late a check must be to
#: count as a stall.
INTERVAL, IDLE_INTERVAL, STALL = 0.1, 1.0, 0.1


class StallDetector:
    """
    Records how long an event loop was stalled, each time that it was ``STALL`` seconds or longer.

    It checks how late its own timer runs, so up to one check interval of each stall is not seen. A loop that is stopped
    and run again later counts as stalled in between.
    """

    __slots__ = ("_due", "_loop", "_received", "_stats", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, stats: Stats) -> None:
        self._loop = loop
        self._stats = stats
        self._received = stats.bytes_received
        self._due = monotonic() + INTERVAL
        self._timer = loop.call_later(INTERVAL, self._look)

    def close(self) -> None:
        """Stop checking."""
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
