"""
What a process knows of the presence of one group: the channels that it has there, and whose change it sees to.

What a server may lose, and what is then restored. A record only; no I/O.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from ..connection.identity import UNKNOWN, ServerIdentity
from .keys import PresenceKeys

#: Seconds after which an event that was delivered has come to its receivers.
RECENT = 3.0


class Entry(NamedTuple):
    """The presence of one channel. ``info``: as it is stored."""

    user: bytes
    info: bytes


class Waiting(NamedTuple):
    """A user whose change waits: ``kind`` as scripts call it, and when (monotonic) it is due."""

    kind: bytes
    due: float
    info: bytes


class GroupPresence:
    """The presence of one group, as far as it is this process'. ``place``: the shard, or on a cluster the slot."""

    __slots__ = (
        "channels",
        "ending",
        "epoch",
        "group_key",
        "is_doubtful",
        "is_pending",
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
        #: The epoch of the data that the channels are in; empty for none.
        self.epoch = ""
        #: By channel of this process.
        self.channels: dict[str, Entry] = {}
        #: Those that are to leave, and could not be told to the server.
        self.ending: set[str] = set()
        #: By user, the changes that this process sees to.
        self.waiting: dict[bytes, Waiting] = {}
        #: By user, events that may not have come to their receivers yet, with the info, and when (monotonic) they were
        #: heard of: should the server lose them, nobody else may know of them. And whether some are not delivered.
        self.untold: dict[bytes, tuple[bytes, float]] = {}
        self.is_pending = False
        #: Who the server was when it was told last, and when (monotonic) that was.
        self.server: ServerIdentity = UNKNOWN
        self.renewed = time.monotonic()
        #: Whether a call has failed that may have been carried out.
        self.is_doubtful = False
        #: How many queues there are for it.
        self.users = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing that a server could lose."""
        return not (self.channels or self.waiting or self.untold)

    def may_have(self, channel: str) -> bool:
        """Return whether a channel of this process may be present: it is, or something is under way."""
        return channel in self.channels or self.users > 0

    def prune(self, now: float) -> None:
        """Forget events that were delivered some time ago."""
        if self.untold and not self.is_pending:
            self.untold = {user: event for user, event in self.untold.items() if now - event[1] < RECENT}

    def forget(self, channel: str) -> None:
        """Forget a channel that has left."""
        self.channels.pop(channel, None)
        self.ending.discard(channel)
