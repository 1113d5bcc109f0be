"""
Which overdue leases mean that a process is gone. No I/O.

While a server is away, nobody can renew a lease. So a lease that has run out since then says nothing, until its process
has had the time of a whole lease for coming back. A process that has just started does not know whether the server was
away. It waits for as long as reconnecting usually takes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping


class Absences:
    """The processes that count as gone. ``duration``: seconds that a lease lasts."""

    def __init__(self, duration: float) -> None:
        self._duration = duration
        #: The deadlines of those that counted as gone when the connection was last lost; and until when (monotonic) no
        #: others do.
        self._before: Mapping[str, float] = {}
        self._until = float("-inf")

    def began(self, seconds: float) -> None:
        """Called when the leases have been read for the first time. None of the processes counts as gone yet."""
        self._until = time.monotonic() + seconds

    def came_back(self, overdue: Mapping[str, float]) -> None:
        """Called when a lost connection is restored. ``overdue``: overdue leases as last read."""
        self._before = self.among(overdue)
        self._until = time.monotonic() + self._duration

    def among(self, overdue: Mapping[str, float]) -> Mapping[str, float]:
        """Return those of the overdue leases (deadlines by process) whose processes count as gone."""
        if time.monotonic() >= self._until:
            return overdue
        before = self._before
        return {process: deadline for process, deadline in overdue.items() if before.get(process) == deadline}
