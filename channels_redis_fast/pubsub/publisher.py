"""
Batched publishing: the messages of one tick for one shard are PUBLISH (or SPUBLISH) commands in one write. Where
messages come one at a time, each is written at once.

Knows Redis channels and payloads, and the slots of channels on a cluster. Does not know what is in a payload.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from ..cluster.cluster import Cluster
from ..cluster.node import Node
from ..cluster.slot_queue import Reclaimable, SlotQueue
from ..cluster.slots import slot_of
from ..connection.commands import EARLY, MAX_MESSAGES, CommandConnection
from ..connection.futures import fail
from ..connection.identity import ServerIdentity
from ..connection.link import Command
from ..connection.replies import REDIRECTIONS, UnexpectedReply
from ..connection.requests import Pending
from ..hot import PublishCommands, PublishGatherer, Waiter, Waker
from ..subscriptions.dialect import PLAIN, SHARDED, Dialect

#: A batch with this many bytes of payloads takes no more, so that a write exceeds this by little more than one payload.
MAX_BYTES = 1_000_000

#: How many channels of a cluster have their slot queue cached.
MAX_REMEMBERED = 10_000

#: Makes a request, given the way to its server.
MakeRequest = Callable[["CommandConnection | SlotQueue"], Pending]


class BatchOwner(Protocol):
    """Fills batches, or resends single messages of a batch."""

    def seal(self, batch: PublishBatch, /) -> None:
        """Add no more messages to a batch that is being written, or never will be."""


class PublishBatch(PublishCommands):
    """
    PUBLISH commands that leave together, each with a waiter of its own.

    Commands that a server did not carry out are written again individually, in their order. ``queues``: on a cluster,
    the queue that has counted each message; empty elsewhere.
    """

    __slots__ = ("_dialect", "_not_done", "_publisher", "connection")

    repeatable = False
    first_lost = 0.0

    def __init__(self, publisher: BatchOwner, connection: CommandConnection | SlotQueue, dialect: Dialect) -> None:
        super().__init__()
        self._publisher = publisher
        self._dialect = dialect
        #: Positions of messages that were answered but not carried out.
        self._not_done: list[int] = []
        self.connection = connection

    def commands(self, server: ServerIdentity) -> Sequence[Command]:
        self._publisher.seal(self)
        if self.answered:
            self._keep_unanswered()
        stats = self.connection.stats
        stats.batches += 1
        stats.batch_messages.add(len(self.messages))
        return self.messages

    def _take_other(self, reply: Any) -> bool:
        if not isinstance(reply, Exception):
            raise UnexpectedReply.to(self._dialect.publish.decode(), reply)
        waiter = self.waiters[self.answered]
        self.answered += 1
        if not waiter.done():
            label = f"Redis at {self.connection.dialer.label}"
            waiter.set_exception(self._dialect.explain(self._dialect.publish, reply, label))
        return False

    def not_done(self) -> None:
        self._not_done.append(self.answered)
        self.answered += 1

    def fail(self, error: Exception) -> None:
        self._publisher.seal(self)
        self._keep_unanswered()
        self.answered = len(self.messages)
        fail(self.waiters, error)

    def _unanswered(self) -> list[int]:
        """Return the positions of the messages that were not answered or not carried out."""
        return [*self._not_done, *range(self.answered, len(self.messages))]

    def _keep_unanswered(self) -> None:
        kept = self._unanswered()
        self.messages = [self.messages[position] for position in kept]
        self.waiters = [self.waiters[position] for position in kept]
        self.answered = 0
        self._not_done.clear()


class NodeBatch(PublishBatch, Reclaimable):
    """Publish commands for the channels of one server of a cluster. Each belongs to its channel's queue."""

    __slots__ = ()

    def _take_other(self, reply: Any) -> bool:
        position = self.answered
        queue = self.queues[position]
        if reply.__class__ in REDIRECTIONS:
            self.answered += 1
            queue.came_back(self._alone(position), reply)
        else:
            super()._take_other(reply)
            queue.answered()
        return False

    def fail(self, error: Exception) -> None:
        super().fail(error)
        queues, self.queues = self.queues, []
        for queue in queues:
            queue.answered()

    def take_back(self) -> Iterable[SlotQueue]:
        self._publisher.seal(self)
        self._keep_unanswered()
        for position, queue in enumerate(self.queues):
            queue.take_back(self._alone(position))
        return self.queues

    def _keep_unanswered(self) -> None:
        self.queues = [self.queues[position] for position in self._unanswered()]
        super()._keep_unanswered()

    def _alone(self, position: int) -> PublishBatch:
        """Return one of the messages as a separate request."""
        batch = PublishBatch(self._publisher, self.queues[position], self._dialect)
        batch.messages.append(self.messages[position])
        batch.waiters.append(self.waiters[position])
        return batch


class Publisher(PublishGatherer):
    """
    Fills the batches of one connection in one event loop.

    ``publish`` is inherited from the gatherer: it adds one message to the tick's batch, and its waiter raises
    redis-py's errors. On a cluster it is passed the queue of the channel's slot, which has counted the message.
    """

    def __init__(
        self,
        connection: CommandConnection,
        waker: Waker,
        dialect: Dialect = PLAIN,
        batch_class: type[PublishBatch] = PublishBatch,
    ) -> None:
        super().__init__(waker, dialect.publish, MAX_MESSAGES, MAX_BYTES, EARLY)
        self._connection = connection
        self._dialect = dialect
        self._batch_class = batch_class
        #: The last submitted request, if more messages may join it.
        self.last: Pending | None = None

    def submit(self, channel: bytes, make: MakeRequest, is_joined: bool = False) -> None:
        """
        Submit a request that does its own publishing: after everything submitted before, and ahead of everything later.

        ``is_joined``: whether its owner is going to look for it in ``last``.
        """
        request = make(self._connection)
        self.end_batch()
        self.last = request if is_joined else None
        self._connection.submit(request)

    def _open(self) -> PublishBatch:
        self.last = None
        batch = self._batch_class(self, self._connection, self._dialect)
        self.is_idle = self._connection.is_idle
        if self.is_idle and self.was_alone:
            self._connection.submit_unscheduled(batch)
        else:
            self._connection.submit(batch)
        return batch

    def _write_early(self) -> None:
        self._connection.write_now()


class ClusterPublisher:
    """
    Publishes on a cluster in one event loop, with a ``Publisher`` for each server. Takes the place of a single server's
    publisher.

    What a server did not carry out is resent through the queue of its slot, which keeps the order within the slot.
    """

    #: Requests go to several servers and may be returned by them, so none is known to be the last.
    last: Pending | None = None

    def __init__(self, cluster: Cluster, waker: Waker) -> None:
        self._cluster = cluster
        self._waker = waker
        self._publishers: dict[Node, Publisher] = {}
        #: The queues of channels that have been published on.
        self._queues: dict[bytes, SlotQueue] = {}
        cluster.follow(self._forget_servers)

    def publish(self, channel: bytes, payload: bytes) -> Waiter[None]:
        """Add one message to the tick's batch for the channel's server. The waiter raises redis-py's errors."""
        queue = self._queues.get(channel) or self._find(channel)
        node = queue.enter()
        if node is None:
            waiter: Waiter[None] = self._waker.waiter()
            alone = PublishBatch(self, queue, SHARDED)
            alone.messages.append((SHARDED.publish, channel, payload))
            alone.waiters.append(waiter)
            queue.submit(alone)
            return waiter
        publisher = self._publishers.get(node)
        if publisher is None:
            publisher = self._publishers[node] = Publisher(node, self._waker, SHARDED, NodeBatch)
        return publisher.publish(channel, payload, queue)

    def submit(self, channel: bytes, make: MakeRequest, is_joined: bool = False) -> None:
        """Do what ``Publisher.submit`` does, through the queue of the channel's slot."""
        slot = slot_of(channel)
        queue = self._cluster.queue(slot)
        request = make(queue)
        node = self._cluster.owner(slot)
        if node in self._publishers:
            self._publishers[node].end_batch()
        queue.submit(request)

    def _find(self, channel: bytes) -> SlotQueue:
        if len(self._queues) >= MAX_REMEMBERED:
            self._queues.clear()
        queue = self._queues[channel] = self._cluster.queue(slot_of(channel))
        return queue

    def seal(self, batch: PublishBatch, /) -> None:
        """Called for a message that is sent alone. Does nothing: no other message ever joins it."""

    def _forget_servers(self) -> None:
        """Called when slots have moved: forget servers that no longer have any."""
        primaries = set(self._cluster.primaries())
        self._publishers = {node: publisher for node, publisher in self._publishers.items() if node in primaries}
