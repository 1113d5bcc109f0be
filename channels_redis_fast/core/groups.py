"""
Sending a message to a group of the core layer: who belongs to the group, and what goes to which of their keys.

This takes two round trips: one to read the members, one to deliver. One is enough if the group was small the last time
and all its keys are on its own shard: the script that delivers checks whether the group is unchanged. If it has
changed, the script returns the members, and the second round trip follows. Knows what a group means. Does not know how
a message is laid out, or when anything is written.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple

from ..connection.futures import ignore
from ..hot import EnvelopeCodec
from ..messages.codec import Codec, Message, prefix_length_of
from ..messages.errors import say_where
from ..messages.exclusion import NOBODY
from ..options import check_size
from ..presence.events import EventInputs
from ..stats import Stats
from .dead_members import leave_out, remove
from .group_cache import GroupMembershipCache, GroupSnapshot
from .liveness import Liveness
from .loop import CoreLoop
from .names import Part, without
from .sender import MAX_BYTES, Sender

logger = logging.getLogger("channels_redis_fast")


class Group(NamedTuple):
    """
    A group as the target of one message: its name, its key and the shard of the key.

    Members added at ``limit`` (seconds) or earlier have expired. Those in ``excluded`` do not get the message.
    """

    name: str
    key: bytes
    shard: int
    limit: int
    excluded: frozenset[str] = NOBODY


class GroupSender:
    """
    Sends to the groups of a layer.

    ``split``: sorts members by shard and key. ``capacity_of``: returns the capacity of a channel's key. ``liveness``:
    tells which processes are dead; None if no process is ever considered dead.
    """

    def __init__(
        self,
        codec: Codec,
        split: Callable[[list[bytes], bytes, int], tuple[list[Part], list[bytes]]],
        capacity_of: Callable[[str], int],
        prefix: bytes,
        ring_size: int,
        stats: Stats,
        max_message_size: int | None,
        liveness: Liveness | None = None,
    ) -> None:
        self._codec = codec
        #: The length of a member's random prefix; None if a script cannot make members.
        self._prefix_length = prefix_length_of(codec) if isinstance(codec, EnvelopeCodec) else None
        #: Tells which processes are skipped because their lease has run out; None without leases.
        self.liveness = liveness
        self._split = split
        self._capacity_of = capacity_of
        self._prefix = prefix
        self._ring_size = ring_size
        self._stats = stats
        self._max_message_size = max_message_size

    async def send(self, state: CoreLoop, group: Group, message: Message) -> None:
        """Send a message to a group. Raises the serializer's error, and redis-py's."""
        group_cache = state.group_cache
        snapshot = group_cache.enter(group.key)
        try:
            members = None
            if snapshot is not None and snapshot.skips:
                self.skipped()
            sender = state.senders[group.shard]
            if snapshot is not None and isinstance(sender, Sender) and not sender.plain.are_needed:
                found = await self._send_to_same(sender, group, snapshot, message)
                if isinstance(found, int):
                    self.count(found, snapshot.count, group)
                    return
                members = found
            if members is None:
                _, members = (
                    await state.commands[group.shard]
                    .at(group.key)
                    .call(
                        (b"ZREMRANGEBYSCORE", group.key, 0, group.limit),
                        (b"ZRANGE", group.key, 0, -1),
                        repeatable=True,
                    )
                )
            await self._send_to(state, group, members, message)
        finally:
            group_cache.leave(group.key)

    def event_inputs(self, state: CoreLoop, group: Group) -> EventInputs | None:
        """
        Return what a script on the group's shard needs to deliver a presence event to the group's members.

        None if it cannot, or if it is not known that all members are on that shard.
        """
        sender = state.senders[group.shard]
        snapshot = state.group_cache.find(group.key)
        if snapshot is None or snapshot.skips or snapshot.is_refused:
            return None
        if not isinstance(sender, Sender) or sender.plain.are_needed or self._prefix_length is None:
            return None
        if self._max_message_size is not None:
            # A script does not know how to refuse what is larger.
            return None
        capacities = self._capacities(snapshot.channels)
        return EventInputs(
            (group.key, *snapshot.keys), (sender.expiry, group.limit, self._prefix_length, self._prefix, *capacities)
        )

    async def _send_to_same(
        self, sender: Sender, group: Group, snapshot: GroupSnapshot, message: Message
    ) -> int | list[bytes] | None:
        """
        Deliver to a group if it is unchanged, and return how many keys were over capacity.

        Otherwise deliver nothing, and return the current members; None if they have to be requested.
        """
        keys, channels = snapshot.keys, snapshot.channels
        if group.excluded:
            keys, channels = without((keys, channels), group.excluded)
        framed = self._framed(message, channels, group)
        if sum(map(len, framed)) > MAX_BYTES:
            return None
        found = await sender.send_same_group(
            group.key, group.limit, snapshot.digest, keys, framed, self._capacities(channels)
        )
        if found is None:
            # Whatever prevented it (a permission, for example) would prevent it next time too.
            snapshot.is_refused = True
        return found

    async def _send_to(self, state: CoreLoop, group: Group, members: list[bytes], message: Message) -> None:
        """Deliver to the members that the group is known to have."""
        await self.deliver(state, group, self.places(members, group, state, state.group_cache), len(members), message)

    def places(
        self, members: list[bytes], group: Group, state: CoreLoop, group_cache: GroupMembershipCache
    ) -> list[Part]:
        """
        Return the keys and channels of a group's members by shard. Cache them if all are on the group's own shard.

        Members of dead processes are left out.
        """
        shards, unreadable = self._split(members, self._prefix, self._ring_size)
        if unreadable:
            logger.error("Skipped %d members of group %r that are not channel names", len(unreadable), group.name)
        skipped = 0
        if state.dead.names:
            shards, skipped, removable = leave_out(shards, state.dead)
            if skipped:
                self.skipped()
                remove(state.commands[group.shard].at(group.key), group.name, group.key, removable)
        if unreadable or any(keys for index, (keys, _) in enumerate(shards) if index != group.shard):
            group_cache.forget(group.key)
        else:
            group_cache.remember(group.key, members, *shards[group.shard], bool(skipped))
        return shards

    async def deliver(self, state: CoreLoop, group: Group, shards: list[Part], members: int, message: Message) -> None:
        """Deliver to a group's members, given by shard. ``members``: how many there are."""
        if group.excluded:
            shards = [without(part, group.excluded) for part in shards]
        framed = self._framed(message, [names for _, channels in shards for names in channels], group)
        calls: list[list[asyncio.Future[int]]] = []
        start = 0
        for index, (keys, channels) in enumerate(shards):
            if keys:
                end = start + len(keys)
                calls.append(state.senders[index].send_group(keys, framed[start:end], self._capacities(channels)))
                start = end
        waited = [call for shard_calls in calls for call in shard_calls]
        if len(waited) > 1:
            # Wait until all have been answered: an error of one shard must not leave another's outcome unread.
            await asyncio.wait(waited)
            for call in waited:
                # Only the first error is raised; asyncio would log the others as never retrieved.
                ignore(call)
        for shard_calls in calls:
            # One log line per shard; a cluster is one shard.
            self.count(sum([await call for call in shard_calls]), members, group)

    def _framed(self, message: Message, channels: list[list[str]], group: Group) -> list[bytes]:
        try:
            framed = self._codec.encode_group(message, channels)
        except Exception as error:
            say_where(error, f"group {group.name}")
            raise
        if self._max_message_size is not None and framed:
            check_size(max(framed, key=len), self._max_message_size, f"group {group.name}")
        return framed

    def _capacities(self, channels: list[list[str]]) -> list[int]:
        return [self._capacity_of(names[0]) for names in channels]

    def skipped(self) -> None:
        """Called when members of a group are left out of a send."""
        if self.liveness is not None:
            self.liveness.refresh()

    def count(self, over_capacity: int, members: int, group: Group) -> None:
        """Count and log the keys that a message did not reach because they were at capacity."""
        if over_capacity:
            self._stats.over_capacity += over_capacity
            logger.info("%s of %s channels over capacity in group %s", over_capacity, members, group.name)
