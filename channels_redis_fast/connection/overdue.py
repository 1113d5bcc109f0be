"""When an overdue answer counts as missing: the rule for all connections. Knows none of them."""

from __future__ import annotations

#: Seconds for which the socket is still read when an answer is overdue.
LAST_READ = 0.05

#: Seconds by which a timer is so late that this process was stopped.
LATE = 1.0


class OverdueCheck:
    """
    Tells a peer that does not answer from a process that has not read the answer.

    A process that was stopped, or a loop that was busy, finds its timers due before it has read what came meanwhile. So
    what is overdue has to be so twice, ``LAST_READ`` seconds apart; and if the second check is ``LATE`` itself, once
    more.
    """

    __slots__ = ("_due",)

    def __init__(self) -> None:
        #: Loop time at which the check that confirms is due; None while nothing seems overdue.
        self._due: float | None = None

    def confirms(self, is_overdue: bool, now: float) -> bool:
        """
        Return whether to give up; ``now`` is loop time.

        Where it ``is_overdue`` and this returns False, ask again in ``LAST_READ`` seconds.
        """
        due, self._due = self._due, None
        if is_overdue and due is not None and now - due < LATE:
            return True
        if is_overdue:
            self._due = now + LAST_READ
        return False

    def reset(self) -> None:
        """Called when the connection is a new one."""
        self._due = None
