"""
Publishing, gathered: the messages of one tick for one shard are PUBLISH (or SPUBLISH) commands in one write.

Knows Redis channels and payloads, and on a cluster the slots of channels; not what is in a payload.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ._hot import Waiter, Waker
from .cluster import Cluster
from .commands import EARLY, MAX_MESSAGES, CommandConnection
from .connection import Command
from .futures import fail
from .lanes import Lane
from .pubsubwords import PLAIN, SHARDED, Words
from .slots import slot_of


class PublishBatch:
    """Commands that publish and leave together; each has a waiter of its own."""

    __slots__ = ("_answered", "_publisher", "messages", "waiters")

    repeatable = False

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._answered = 0
        self.messages: list[Command] = []
        self.waiters: list[Waiter[None]] = []

    def commands(self) -> Sequence[Command]:
        self._publisher.seal(self)
        self._publisher.connection.stats.batches += 1
        return self.messages

    def reply(self, reply: Any) -> bool:
        waiter = self.waiters[self._answered]
        self._answered += 1
        if not waiter.done():
            if isinstance(reply, Exception):
                waiter.set_exception(self._publisher.explain(reply))
            else:
                waiter.set_result(None)
        return False

    def fail(self, error: Exception) -> None:
        self._publisher.seal(self)
        fail(self.waiters[self._answered :], error)


class Publisher:
    """Fills the batches of one shard, or of one slot of a cluster, in one event loop."""

    def __init__(self, connection: CommandConnection | Lane, waker: Waker, words: Words = PLAIN) -> None:
        self.connection = connection
        self._words = words
        self._command = words.publish
        self._new_waiter = waker.waiter
        self._batch: PublishBatch | None = None
        self._early = EARLY

    def publish(self, channel: bytes, payload: bytes) -> Waiter[None]:
        """Add one message to the tick's batch. The waiter raises redis-py's errors."""
        batch = self._batch
        if batch is None or len(batch.messages) >= MAX_MESSAGES:
            batch = self._batch = PublishBatch(self)
            self.connection.submit(batch)
        waiter: Waiter[None] = self._new_waiter()
        batch.messages.append((self._command, channel, payload))
        batch.waiters.append(waiter)
        if len(batch.messages) >= self._early:
            self._early = min(2 * self._early, MAX_MESSAGES)
            self.connection.write_now()
        return waiter

    def explain(self, error: Exception) -> Exception:
        """Return what to raise for an error that the server answered."""
        return self._words.explain(self._command, error, f"Redis at {self.connection.dialer.label}")

    def seal(self, batch: PublishBatch) -> None:
        """Take no more messages into a batch that is being written, or never will be."""
        if len(batch.messages) < self._early:
            self._early = EARLY
        if self._batch is batch:
            self._batch = None


class SlotPublishers(dict[int, Publisher]):
    """
    The publishers of a cluster by slot; one that is missing is made. Stands where a single server has its publisher.

    What those of one tick have for one server leaves in one write all the same: their lanes end on one connection.
    """

    def __init__(self, cluster: Cluster, waker: Waker) -> None:
        super().__init__()
        self._cluster = cluster
        self._waker = waker

    def __missing__(self, slot: int) -> Publisher:
        publisher = self[slot] = Publisher(self._cluster.lane(slot), self._waker, SHARDED)
        return publisher

    def publish(self, channel: bytes, payload: bytes) -> Waiter[None]:
        """Add one message to the tick's batch for the channel's slot. The waiter raises redis-py's errors."""
        return self[slot_of(channel)].publish(channel, payload)
