"""
What a server's clock says, as seen from this process: the offset of its Unix time to the monotonic clock. No I/O.

Servers stamp messages, and this process receives them; comparing the two clocks tells how long a message was on its
way. TIME is asked for on an open socket, when somebody needs it, and again after ``RENEW`` seconds.

Rules kept here:

- A more precise reading is not replaced by a less precise one, unless it is old: clocks drift, and are set.
- A server that does not tell its time is not asked again on that socket.
"""

from __future__ import annotations

from time import monotonic
from typing import Any

#: Seconds after which the time is asked for again.
RENEW = 60.0

#: By how much two clocks may drift apart, as a share of the time that passes.
DRIFT = 1e-4


class ServerClock:
    """The clock of the server that a socket leads to."""

    __slots__ = ("_doubt", "_due", "_read_at", "offset")

    def __init__(self) -> None:
        #: Seconds to add to ``time.monotonic()`` for the server's Unix time; None as long as that is unknown.
        self.offset: float | None = None
        self._due = 0.0
        #: By how many seconds it may be wrong, when it was read.
        self._doubt = 0.0
        self._read_at = 0.0

    def is_due(self, now: float) -> bool:
        """Whether TIME is to be asked for; ``now``: monotonic."""
        return now >= self._due

    def ask(self, now: float) -> ClockReading:
        """Return what takes the reply to a TIME that is written now."""
        self._due = now + RENEW
        return ClockReading(self, now)

    def began(self, stamp: bytes | float) -> float:
        """
        Return when, on the monotonic clock, the server's clock showed ``stamp`` (Unix time in seconds).

        0.0 if that is not known.
        """
        if self.offset is None:
            return 0.0
        try:
            return float(stamp) - self.offset
        except ValueError:
            return 0.0

    def read(self, reply: Any, asked_at: float, now: float) -> None:
        """Take the reply to a TIME, in which the server's clock was read at some moment between these two."""
        try:
            unix = int(reply[0]) + int(reply[1]) / 1_000_000
        except (IndexError, KeyError, OverflowError, TypeError, ValueError):
            self._due = float("inf")
            return
        doubt = (now - asked_at) / 2
        if self.offset is None or doubt <= self._doubt + DRIFT * (now - self._read_at):
            self.offset = unix - (asked_at + now) / 2
            self._doubt = doubt
            self._read_at = now


class ClockReading:
    """A TIME on the wire."""

    __slots__ = ("_asked_at", "_clock")

    def __init__(self, clock: ServerClock, asked_at: float) -> None:
        self._clock = clock
        self._asked_at = asked_at

    def resolve(self, reply: Any) -> None:
        self._clock.read(reply, self._asked_at, monotonic())

    def lost(self, error: Exception) -> None:
        """The next socket has a clock of its own."""
