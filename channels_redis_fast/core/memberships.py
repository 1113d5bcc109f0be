"""
Records the group memberships of this process' own channels: what a server that comes back empty has lost.

Only a record: ``restoration`` compares it with the servers. It belongs to the layer and not to an event loop, because a
channel may be added in one loop (such as the hub's) and received on in another. Opens no connections.

Rules kept here:

- A channel counts as live while it is received on: a receive waits, or its last message is being handled. A cancelled
  receive without a successor ends that; so do ``group_expiry`` seconds without a receive.
- Memberships are recorded when they are requested, so in the same order as on the server.
- No more than ``MAX_MEMBERSHIPS`` are recorded. Memberships beyond that are not restored; this is logged once.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..hot import Lock
from ..messages.mailbox import InboxRegistry

logger = logging.getLogger("channels_redis_fast")

#: Maximum number of memberships in all groups together: about 40 megabytes.
MAX_MEMBERSHIPS = 200_000

#: Seconds between two searches for channels that have gone, once the record is full.
SEARCH_INTERVAL = 10.0


@dataclass(frozen=True)
class Dataset:
    """
    Identifies the data of a server: ``identity`` changes if they may have been lost.

    ``started``: when the server process started; ``known_at``: when this was determined (both Unix time).
    """

    identity: bytes
    started: float = field(default=0.0, compare=False)
    known_at: float = field(default_factory=time.time, compare=False)


class ChannelRecord:
    """The record of one channel that is in groups."""

    __slots__ = ("groups", "is_gone", "name", "received", "seen")

    def __init__(self, name: str) -> None:
        self.name = name
        #: When the channel was last added (Unix time), by the group's key.
        self.groups: dict[bytes, float] = {}
        #: Whether a message was received since the record was last checked.
        self.received = False
        #: Whether the last receive was cancelled.
        self.is_gone = False
        #: When (monotonic) a receive was last seen.
        self.seen = time.monotonic()

    def took(self) -> None:
        """Called when a message was received."""
        self.received = True
        self.is_gone = False


class GroupRecord:
    """The record of one group that has channels of this layer."""

    __slots__ = ("channels", "dataset", "key", "refreshed", "shard")

    def __init__(self, key: bytes, shard: int) -> None:
        self.key = key
        self.shard = shard
        self.channels: dict[str, ChannelRecord] = {}
        #: The server data that last held the members; None until it has been determined.
        self.dataset: Dataset | None = None
        #: When (monotonic) the scores were last renewed.
        self.refreshed = time.monotonic()


class Memberships:
    """The record of one layer. Thread-safe."""

    def __init__(self, registry: InboxRegistry, group_expiry: int) -> None:
        self.group_expiry = group_expiry
        #: The channels that are in any group, by name. Read without the lock for each received message.
        self.channels: dict[str, ChannelRecord] = {}
        self.groups: dict[bytes, GroupRecord] = {}
        self._lock = Lock()
        # Weak, because a connection in the hub's loop references this object and must not keep the layer alive.
        self._inboxes = weakref.ref(registry)
        self._count = 0
        self._search_at = 0.0
        self._has_warned = False

    def add(self, key: bytes, shard: int, channel: str) -> GroupRecord | None:
        """Record that a channel is added to a group. Return the group's record; None if the limit is reached."""
        with self._lock:
            group = self.groups.get(key)
            if group is None or channel not in group.channels:
                if not self._has_room():
                    return None
                if group is None:
                    group = self.groups[key] = GroupRecord(key, shard)
                record = self.channels.get(channel)
                if record is None:
                    record = self.channels[channel] = ChannelRecord(channel)
                group.channels[channel] = record
                self._count += 1
            group.channels[channel].groups[key] = time.time()
            return group

    def left(self, channel: str) -> None:
        """Called when a receive on a channel was cancelled."""
        member = self.channels.get(channel)
        if member is not None:
            member.is_gone = True

    def discard(self, key: bytes, channel: str) -> None:
        """Forget that a channel is in a group."""
        with self._lock:
            self._discard(key, channel)

    def discard_unchanged(self, key: bytes, channels: Iterable[str], since: float) -> None:
        """Forget those channels of a group that were not added after ``since`` (Unix time)."""
        with self._lock:
            group = self.groups.get(key)
            for channel in channels:
                if group is not None and channel in group.channels and group.channels[channel].groups[key] <= since:
                    self._discard(key, channel)

    def clear(self) -> None:
        """Forget everything, because the layer's data are being deleted."""
        with self._lock:
            for record in self.channels.values():
                record.groups.clear()
            self.channels.clear()
            self.groups.clear()
            self._count = 0

    def all_groups(self) -> list[GroupRecord]:
        """Return a copy of the list of all group records."""
        with self._lock:
            return list(self.groups.values())

    def living(self, group: GroupRecord, added_since: float = 0.0) -> tuple[list[str], list[str]]:
        """
        Return the channels of a group that were added at ``added_since`` (Unix time) or later.

        The first list has those that are received on, the second those whose last receive was cancelled.
        """
        now = time.monotonic()
        living: list[str] = []
        gone: list[str] = []
        with self._lock:
            for channel, record in group.channels.items():
                if record.groups[group.key] >= added_since:
                    if self._lives(record, now):
                        living.append(channel)
                    elif record.is_gone:
                        gone.append(channel)
        return living, gone

    def received_on(self, group: GroupRecord) -> list[str]:
        """Return the channels of a group that are received on. Forget those long gone."""
        now = time.monotonic()
        with self._lock:
            found = []
            for channel, record in list(group.channels.items()):
                was_received_on = self._is_awaited(record) or record.received
                if not self._lives(record, now):
                    if now - record.seen > self.group_expiry:
                        self._discard(group.key, channel)
                elif was_received_on or record.seen > group.refreshed:
                    found.append(channel)
            return found

    def end_round(self) -> None:
        """Called when all groups were checked: messages received from now on count for the next round."""
        with self._lock:
            for record in self.channels.values():
                record.received = False

    def _lives(self, record: ChannelRecord, now: float) -> bool:
        if self._is_awaited(record):
            record.seen = now
            return True
        if record.received and not record.is_gone:
            record.seen = now
        return not record.is_gone and now - record.seen <= self.group_expiry

    def _is_awaited(self, record: ChannelRecord) -> bool:
        registry = self._inboxes()
        if registry is None:
            return False
        inbox = registry.inboxes.get(record.name[: record.name.find("!") + 1])
        return inbox is not None and record.name in inbox.waiting

    def _discard(self, key: bytes, channel: str) -> None:
        group = self.groups.get(key)
        record = None if group is None else group.channels.pop(channel, None)
        if group is None or record is None:
            return
        self._count -= 1
        record.groups.pop(key, None)
        if not record.groups:
            self.channels.pop(channel, None)
        if not group.channels:
            del self.groups[key]

    def _has_room(self) -> bool:
        now = time.monotonic()
        if self._count >= MAX_MEMBERSHIPS and now >= self._search_at:
            self._search_at = now + SEARCH_INTERVAL
            for record in list(self.channels.values()):
                if not self._lives(record, now):
                    for key in list(record.groups):
                        self._discard(key, record.name)
        if self._count < MAX_MEMBERSHIPS:
            return True
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "This process has more than %d group memberships: further ones will not be restored if Redis "
                "loses them",
                MAX_MEMBERSHIPS,
            )
        return False
