"""
What a process knows of the presence of one group: the channels that it has there, and the changes it takes care of.

This is what a server may lose, and what is then restored. A record only. No I/O.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from ..connection.identity import UNKNOWN, ServerIdentity
from .keys import PresenceKeys

#: Seconds after which an event that was delivered has reached its receivers.
RECENT = 3.0


class Entry(NamedTuple):
    """The presence of one channel. ``info``: in its stored form."""

    user: bytes
    info: bytes


class Waiting(NamedTuple):
    """A user whose change is waiting. ``kind``: as named by scripts. ``due``: when (monotonic) it is due."""

    kind: bytes
    due: float
    info: bytes


class GroupPresence:
    """This process' part of the presence of one group. ``place``: the shard, or on a cluster the slot."""

    __slots__ = (
        "channels",
        "ending",
        "epoch",
        "group_key",
        "is_doubtful",
        "is_pending",
        "is_told_by_script",
        "keys",
        "name",
        "place",
        "renewed",
        "server",
        "shard",
        "untold",
        "users",
        "waiting",
    )

    def __init__(self, name: str, shard: int, place: int, group_key: bytes, keys: PresenceKeys) -> None:
        self.name = name
        self.shard = shard
        self.place = place
        self.group_key = group_key
        self.keys = keys
        #: The epoch of the data that contains the channels; empty for none.
        self.epoch = ""
        #: The entries of this process' channels.
        self.channels: dict[str, Entry] = {}
        #: Channels that are leaving, which the server could not be told.
        self.ending: set[str] = set()
        #: By user: the changes that this process takes care of.
        self.waiting: dict[bytes, Waiting] = {}
        #: By user: events that may not have reached their receivers yet, with the info, and when (monotonic) this
        #: process heard of them. If the server loses them, nobody else may know of them. Then: whether some are
        #: undelivered.
        self.untold: dict[bytes, tuple[bytes, float]] = {}
        self.is_pending = False
        #: Whether a script may deliver events. False once a server has refused that.
        self.is_told_by_script = True
        #: The identity of the server when it was last told of this part, and when (monotonic) that was.
        self.server: ServerIdentity = UNKNOWN
        self.renewed = time.monotonic()
        #: Whether a call has failed that may have been carried out.
        self.is_doubtful = False
        #: The number of queues that use this record.
        self.users = 0

    @property
    def is_empty(self) -> bool:
        """Whether it contains nothing that a server could lose."""
        return not (self.channels or self.waiting or self.untold)

    def may_have(self, channel: str) -> bool:
        """Return whether a channel of this process may be present: it is, or a change is under way."""
        return channel in self.channels or self.users > 0

    def prune(self, now: float) -> None:
        """Forget events that were delivered some time ago."""
        if self.untold and not self.is_pending:
            self.untold = {user: event for user, event in self.untold.items() if now - event[1] < RECENT}

    def forget(self, channel: str) -> None:
        """Forget a channel that has left."""
        self.channels.pop(channel, None)
        self.ending.discard(channel)
