"""
Decides from the leases which processes are dead when something is sent to a group: their channels get nothing.

Knows how a process is named in its channels' names, and how late it may be. Does not know how leases are read, or how
anything is sent.

Rules kept here:

- A process is dead when its lease is overdue by at least the expiry of messages: if it resumes after all, every message
  that it would find has expired by then. A process without a lease is never dead: it runs channels_redis, or a layer
  without leases.
- The channels of a dead process are removed from groups ``REMOVE_AFTER`` lease durations later. If the process resumes,
  it adds them again; scores tell those added before from those added since.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..presence import LeaseReading, Leases

#: Number of lease durations for which a dead process stays in its groups; and by how many of them clocks may differ.
REMOVE_AFTER, SKEW = 10, 5


class DeadProcesses(NamedTuple):
    """
    Dead processes, by name. ``removable``: those whose channels are removed from groups, with the score (seconds) below
    which channels were added while the process was alive.
    """

    names: frozenset[bytes]
    removable: Mapping[bytes, float]


NONE_DEAD = DeadProcesses(frozenset(), {})


class Liveness:
    """What the leases of a layer say about its processes. ``expiry``: lifetime of a message in seconds."""

    def __init__(self, leases: Leases, expiry: float) -> None:
        self._leases = leases
        self._expiry = expiry
        self._remove_after = expiry + REMOVE_AFTER * leases.duration
        self._reading: LeaseReading | None = None
        self._dead = NONE_DEAD

    def look(self) -> DeadProcesses:
        """Return the processes known to be dead. As long as nothing changes, it is the same object."""
        reading = self._leases.look()
        return self._dead if reading is self._reading else self._judge(reading)

    def refresh(self) -> None:
        """Called when members were skipped: a process that resumes should be noticed soon."""
        self._leases.refresh()

    def may_be_removed(self, overdue: float) -> bool:
        """Whether others may have removed the channels of a process whose lease was ``overdue`` seconds late."""
        # Clocks differ, so the limit is one lease duration earlier than theirs.
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
