"""
Which processes count as dead when something is sent to a group, by their leases: their channels get nothing.

Knows what a process is called in the names of its channels, and for how long it may be late; not how leases are read,
nor how anything is sent.

Rules kept here:

- A process is dead when its lease is overdue by the expiry of messages: if it resumes after all, everything that it
  would find has expired by then. A process without a lease is never dead: it runs channels_redis, or a layer without
  leases.
- ``REMOVE_AFTER`` durations of a lease later its channels are removed from groups. It adds them again when it goes on,
  and scores tell those that were added before from those that were added since.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..presence import LeaseReading, Leases

#: Durations of a lease for which a dead process stays in its groups; and for how many of them clocks may differ.
REMOVE_AFTER, SKEW = 10, 5


class DeadProcesses(NamedTuple):
    """
    Processes that are dead, by name. ``removable``: those whose channels leave their groups, with the score (seconds)
    below which they were added while the process was alive.
    """

    names: frozenset[bytes]
    removable: Mapping[bytes, float]


NONE_DEAD = DeadProcesses(frozenset(), {})


class Liveness:
    """What the leases of a layer say of its processes. ``expiry``: seconds that a message lives."""

    def __init__(self, leases: Leases, expiry: float) -> None:
        self._leases = leases
        self._expiry = expiry
        self._remove_after = expiry + REMOVE_AFTER * leases.duration
        self._reading: LeaseReading | None = None
        self._dead = NONE_DEAD

    def look(self) -> DeadProcesses:
        """Return who is dead, as far as is known: the same object for as long as that is the same."""
        reading = self._leases.look()
        return self._dead if reading is self._reading else self._judge(reading)

    def refresh(self) -> None:
        """Called when somebody got nothing: a process that goes on is to be noticed soon."""
        self._leases.refresh()

    def may_be_removed(self, overdue: float) -> bool:
        """Whether others may have removed the channels of a process whose lease was overdue by so many seconds."""
        # By whatever clock: one duration sooner than they do.
        return overdue >= self._remove_after - self._leases.duration

    def _judge(self, reading: LeaseReading) -> DeadProcesses:
        overdue = reading.overdue()
        names = frozenset(process.encode() for process, late in overdue.items() if late >= self._expiry)
        slack = self._expiry + SKEW * self._leases.duration
        removable = {
            process.encode(): reading.deadlines[process] + slack
            for process, late in overdue.items()
            if late >= self._remove_after
        }
        if names != self._dead.names or removable != self._dead.removable:
            self._dead = DeadProcesses(names, removable) if names else NONE_DEAD
        self._reading = reading
        return self._dead
