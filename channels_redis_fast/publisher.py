"""
Publishing, gathered: the messages of one tick for one shard are PUBLISH (or SPUBLISH) commands in one write.

Knows Redis channels and payloads, and on a cluster the slots of channels; not what is in a payload.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ._hot import Waiter, Waker
from .cluster import Cluster
from .commands import EARLY, MAX_MESSAGES, CommandConnection
from .connection import Command
from .futures import fail
from .lanes import Lane
from .pubsubwords import PLAIN, SHARDED, Words
from .slots import slot_of


class Gathers(Protocol):
    """What fills batches."""

    def seal(self, batch: PublishBatch) -> None:
        """Take no more messages into a batch that is being written, or never will be."""


class PublishBatch:
    """Commands that publish and leave together; each has a waiter of its own."""

    __slots__ = ("_answered", "_publisher", "_words", "connection", "messages", "waiters")

    repeatable = False

    def __init__(self, publisher: Gathers, connection: CommandConnection | Lane, words: Words) -> None:
        self._publisher = publisher
        self._words = words
        self._answered = 0
        self.connection = connection
        self.messages: list[Command] = []
        self.waiters: list[Waiter[None]] = []

    def commands(self) -> Sequence[Command]:
        self._publisher.seal(self)
        self.connection.stats.batches += 1
        return self.messages

    def reply(self, reply: Any) -> bool:
        waiter = self.waiters[self._answered]
        self._answered += 1
        if not waiter.done():
            if isinstance(reply, Exception):
                label = f"Redis at {self.connection.dialer.label}"
                waiter.set_exception(self._words.explain(self._words.publish, reply, label))
            else:
                waiter.set_result(None)
        return False

    def fail(self, error: Exception) -> None:
        self._publisher.seal(self)
        fail(self.waiters[self._answered :], error)


class Publisher:
    """Fills the batches of one shard in one event loop."""

    def __init__(self, connection: CommandConnection, waker: Waker, words: Words = PLAIN) -> None:
        self._connection = connection
        self._words = words
        self._command = words.publish
        self._new_waiter = waker.waiter
        self._batch: PublishBatch | None = None
        self._early = EARLY

    def publish(self, channel: bytes, payload: bytes) -> Waiter[None]:
        """Add one message to the tick's batch. The waiter raises redis-py's errors."""
        batch = self._batch
        if batch is None or len(batch.messages) >= MAX_MESSAGES:
            batch = self._batch = PublishBatch(self, self._connection, self._words)
            self._connection.submit(batch)
        waiter: Waiter[None] = self._new_waiter()
        batch.messages.append((self._command, channel, payload))
        batch.waiters.append(waiter)
        if len(batch.messages) >= self._early:
            self._early = min(2 * self._early, MAX_MESSAGES)
            self._connection.write_now()
        return waiter

    def seal(self, batch: PublishBatch) -> None:
        """Take no more messages into a batch that is being written, or never will be."""
        if len(batch.messages) < self._early:
            self._early = EARLY
        if self._batch is batch:
            self._batch = None


class SlotPublisher:
    """
    Fills the batches of a cluster in one event loop: one for each slot. Stands where a server has a ``Publisher``.

    What those of one tick have for one server leaves in one write all the same: their lanes end on one connection.
    """

    def __init__(self, cluster: Cluster, waker: Waker) -> None:
        self._cluster = cluster
        self._new_waiter = waker.waiter
        #: The batches that take messages, by slot. There are many slots: nothing is kept of one between two ticks.
        self._batches: dict[int, PublishBatch] = {}

    def publish(self, channel: bytes, payload: bytes) -> Waiter[None]:
        """Add one message to the tick's batch for the channel's slot. The waiter raises redis-py's errors."""
        slot = slot_of(channel)
        batch = self._batches.get(slot)
        if batch is None or len(batch.messages) >= MAX_MESSAGES:
            lane = self._cluster.lane(slot)
            batch = self._batches[slot] = PublishBatch(self, lane, SHARDED)
            lane.submit(batch)
        waiter: Waiter[None] = self._new_waiter()
        batch.messages.append((b"SPUBLISH", channel, payload))
        batch.waiters.append(waiter)
        if len(batch.messages) == EARLY:
            batch.connection.write_now()
        return waiter

    def seal(self, batch: PublishBatch) -> None:
        """Take no more messages into a batch that is being written, or never will be."""
        slot = slot_of(batch.messages[0][1])
        if self._batches.get(slot) is batch:
            del self._batches[slot]
