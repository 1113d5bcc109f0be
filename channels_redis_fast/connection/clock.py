"""
A server's clock as seen from this process: the offset between its Unix time and the monotonic clock. No I/O.

Servers stamp messages, and this process receives them. Comparing the two clocks shows how long a message was in
transit. TIME is sent on an open socket when somebody needs it, and again after ``RENEW`` seconds.

Rules kept here:

- A less precise reading does not replace a more precise one, unless that is old: clocks drift, and they get adjusted.
- A server that refuses TIME is not asked again on that socket.
"""

from __future__ import annotations

from time import monotonic
from typing import Any

#: Seconds after which TIME is sent again.
RENEW = 60.0

#: How far two clocks may drift apart, as a fraction of the elapsed time.
DRIFT = 1e-4


class ServerClock:
    """The clock of the server at the other end of a socket."""

    __slots__ = ("_doubt", "_due", "_read_at", "offset")

    def __init__(self) -> None:
        #: Seconds to add to ``time.monotonic()`` to get the server's Unix time; None while unknown.
        self.offset: float | None = None
        self._due = 0.0
        #: The maximum error of the offset, in seconds, when it was read.
        self._doubt = 0.0
        self._read_at = 0.0

    def is_due(self, now: float) -> bool:
        """Whether it is time to send TIME; ``now``: monotonic."""
        return now >= self._due

    def ask(self, now: float) -> ClockReading:
        """Return the object that takes the reply to a TIME command written now."""
        self._due = now + RENEW
        return ClockReading(self, now)

    def began(self, stamp: bytes | float) -> float:
        """
        Return the monotonic time at which the server's clock showed ``stamp`` (Unix time in seconds).

        0.0 if that is unknown.
        """
        if self.offset is None:
            return 0.0
        try:
            return float(stamp) - self.offset
        except ValueError:
            return 0.0

    def read(self, reply: Any, asked_at: float, now: float) -> None:
        """Take the reply to TIME. The server read its clock at some moment between ``asked_at`` and ``now``."""
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
    """A TIME command on the wire."""

    __slots__ = ("_asked_at", "_clock")

    def __init__(self, clock: ServerClock, asked_at: float) -> None:
        self._clock = clock
        self._asked_at = asked_at

    def resolve(self, reply: Any) -> None:
        self._clock.read(reply, self._asked_at, monotonic())

    def lost(self, error: Exception) -> None:
        """Do nothing: the next socket has a clock of its own."""
