"""Decides when an overdue answer counts as missing, by one rule for all connections. Knows none of them."""

from __future__ import annotations

#: How long the socket is still read when an answer is overdue, in seconds.
LAST_READ = 0.05

#: A timer that is this many seconds late shows that this process was stopped.
LATE = 1.0


class OverdueCheck:
    """
    Distinguishes a peer that does not answer from a process that has not read the answer.

    In a process that was stopped, or a loop that was busy, timers fire before the data that came meanwhile has been
    read. So an answer has to be overdue at two checks, ``LAST_READ`` seconds apart. If the second check is itself
    ``LATE``, a third is needed.
    """

    __slots__ = ("_due",)

    def __init__(self) -> None:
        #: Loop time of the check that is to confirm; None while nothing seems overdue.
        self._due: float | None = None

    def confirms(self, is_overdue: bool, now: float) -> bool:
        """
        Return whether to give up; ``now`` is loop time.

        If it ``is_overdue`` and this returns False, ask again in ``LAST_READ`` seconds.
        """
        due, self._due = self._due, None
        if is_overdue and due is not None and now - due < LATE:
            return True
        if is_overdue:
            self._due = now + LAST_READ
        return False

    def reset(self) -> None:
        """Called when there is a new connection."""
        self._due = None
