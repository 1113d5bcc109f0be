"""
Sends on a cluster: one ``Sender`` per slot, because a script can only take keys of one slot.

Batches of one tick for the same server still leave in one write: their queues share one connection. Replaces the one
sender of a single server. Knows only the slot of a key.
"""

from __future__ import annotations

import asyncio

from ..cluster.cluster import Cluster
from ..cluster.slots import slot_of
from ..hot import Waiter, Waker
from . import scripts
from .sender import Sender


class AnnouncingSender(Sender):
    """A sender whose receivers do not wait in Redis: its scripts announce messages to them."""

    send_script, group_script = scripts.SEND_ANNOUNCING, scripts.GROUP_SEND_ANNOUNCING


class SlotSenders(dict[int, Sender]):
    """The senders of a cluster by slot, made when first needed. Otherwise like ``Sender``."""

    def __init__(self, cluster: Cluster, expiry: int, ordered: bool, waker: Waker) -> None:
        super().__init__()
        self._cluster = cluster
        self._expiry = expiry
        self._ordered = ordered
        self._waker = waker

    def __missing__(self, slot: int) -> Sender:
        cluster = self._cluster
        sender = self[slot] = AnnouncingSender(
            cluster.queue(slot), self._expiry, self._ordered, cluster.stats, self._waker
        )
        return sender

    def send(self, key: bytes, member: bytes, capacity: int) -> Waiter[bool]:
        """Send a message to a key. The waiter returns True, or False if the key was at capacity."""
        return self[slot_of(key)].send(key, member, capacity)

    def send_group(self, keys: list[bytes], members: list[bytes], capacities: list[int]) -> list[asyncio.Future[int]]:
        """Send one group message to keys. Each future's result is a number of keys over capacity."""
        futures = []
        for key, member, capacity in zip(keys, members, capacities, strict=True):
            futures += self[slot_of(key)].send_group([key], [member], [capacity])
        return futures
