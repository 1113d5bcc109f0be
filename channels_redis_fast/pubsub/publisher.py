"""
Publishing, gathered: the messages of one tick for one shard are PUBLISH (or SPUBLISH) commands in one write.

Knows Redis channels and payloads, and on a cluster the slots of channels; not what is in a payload.
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
from ..hot import Waiter, Waker
from ..subscriptions.dialect import PLAIN, SHARDED, Dialect

#: Bytes of payloads after which a batch takes no more, so that no write holds much more than one payload beyond this.
MAX_BYTES = 1_000_000


#: Makes a request, given the way to its server and its waiter.
MakeRequest = Callable[["CommandConnection | SlotQueue", "Waiter[None]"], Pending]


class BatchOwner(Protocol):
    """What fills batches."""

    def seal(self, batch: PublishBatch) -> None:
        """Take no more messages into a batch that is being written, or never will be."""


class PublishBatch:
    """
    Commands that publish and leave together; each has a waiter of its own.

    Those that a server would not carry out are written again by themselves, in their order.
    """

    __slots__ = ("_answered", "_dialect", "_not_done", "_publisher", "connection", "messages", "size", "waiters")

    repeatable = False
    first_lost = 0.0

    def __init__(self, publisher: BatchOwner, connection: CommandConnection | SlotQueue, dialect: Dialect) -> None:
        self._publisher = publisher
        self._dialect = dialect
        self._answered = 0
        #: Positions of messages that were answered, and not carried out.
        self._not_done: list[int] = []
        self.connection = connection
        #: Bytes of the payloads in it.
        self.size = 0
        self.messages: list[Command] = []
        self.waiters: list[Waiter[None]] = []

    def commands(self, server: ServerIdentity) -> Sequence[Command]:
        self._publisher.seal(self)
        self.connection.stats.batches += 1
        if self._answered:
            self._keep_unanswered()
        return self.messages

    def reply(self, reply: Any) -> bool:
        if reply.__class__ is not int and not isinstance(reply, Exception):
            raise UnexpectedReply.to(self._dialect.publish.decode(), reply)
        waiter = self.waiters[self._answered]
        self._answered += 1
        if not waiter.done():
            if isinstance(reply, Exception):
                label = f"Redis at {self.connection.dialer.label}"
                waiter.set_exception(self._dialect.explain(self._dialect.publish, reply, label))
            else:
                waiter.set_result(None)
        return False

    def not_done(self) -> None:
        self._not_done.append(self._answered)
        self._answered += 1

    def fail(self, error: Exception) -> None:
        self._publisher.seal(self)
        self._keep_unanswered()
        self._answered = len(self.messages)
        fail(self.waiters, error)

    def _unanswered(self) -> list[int]:
        """Return the positions of the messages of which it is not known what became, or that nothing did."""
        return [*self._not_done, *range(self._answered, len(self.messages))]

    def _keep_unanswered(self) -> None:
        kept = self._unanswered()
        self.messages = [self.messages[position] for position in kept]
        self.waiters = [self.waiters[position] for position in kept]
        self._answered = 0
        self._not_done.clear()


class Publisher:
    """Fills the batches of one shard in one event loop."""

    def __init__(self, connection: CommandConnection, waker: Waker, dialect: Dialect = PLAIN) -> None:
        self._connection = connection
        self._dialect = dialect
        self._command = dialect.publish
        self._new_waiter = waker.waiter
        self._batch: PublishBatch | None = None
        #: The request of ``submit`` that was handed in last, if no message was since.
        self.last: Pending | None = None
        self._early = EARLY

    def publish(self, channel: bytes, payload: bytes) -> Waiter[None]:
        """Add one message to the tick's batch. The waiter raises redis-py's errors."""
        batch = self._batch
        if batch is None or len(batch.messages) >= MAX_MESSAGES or batch.size >= MAX_BYTES:
            self.last = None
            batch = self._batch = PublishBatch(self, self._connection, self._dialect)
            self._connection.submit(batch)
        waiter: Waiter[None] = self._new_waiter()
        batch.messages.append((self._command, channel, payload))
        batch.waiters.append(waiter)
        batch.size += len(payload)
        if len(batch.messages) >= self._early:
            self._early = min(2 * self._early, MAX_MESSAGES)
            self._connection.write_now()
        elif batch.size >= MAX_BYTES:
            self._connection.write_now()
        return waiter

    def submit(self, channel: bytes, make: MakeRequest) -> Waiter[None]:
        """Hand in a request that publishes by itself: behind what was handed in before, and ahead of what comes."""
        waiter: Waiter[None] = self._new_waiter()
        request = make(self._connection, waiter)
        self._batch = None
        self.last = request
        self._connection.submit(request)
        return waiter

    def seal(self, batch: PublishBatch) -> None:
        """Take no more messages into a batch that is being written, or never will be."""
        if len(batch.messages) < self._early:
            self._early = EARLY
        if self._batch is batch:
            self._batch = None


class NodeBatch(PublishBatch, Reclaimable):
    """Commands that publish on the channels of one server of a cluster; each is on its channel's queue."""

    __slots__ = ("_queues",)

    def __init__(self, publisher: BatchOwner, node: Node) -> None:
        super().__init__(publisher, node, SHARDED)
        self._queues: list[SlotQueue] = []

    def add(self, queue: SlotQueue, command: Command, waiter: Waiter[None]) -> None:
        """Take one more message, whose queue has counted it."""
        self._queues.append(queue)
        self.messages.append(command)
        self.waiters.append(waiter)

    def reply(self, reply: Any) -> bool:
        position = self._answered
        queue = self._queues[position]
        if reply.__class__ in REDIRECTIONS:
            self._answered += 1
            queue.came_back(self._alone(position), reply)
        else:
            super().reply(reply)
            queue.answered()
        return False

    def fail(self, error: Exception) -> None:
        super().fail(error)
        queues, self._queues = self._queues, []
        for queue in queues:
            queue.answered()

    def take_back(self) -> Iterable[SlotQueue]:
        self._publisher.seal(self)
        self._keep_unanswered()
        for position, queue in enumerate(self._queues):
            queue.take_back(self._alone(position))
        return self._queues

    def _keep_unanswered(self) -> None:
        self._queues = [self._queues[position] for position in self._unanswered()]
        super()._keep_unanswered()

    def _alone(self, position: int) -> PublishBatch:
        """Return one of the messages as a request of its own."""
        batch = PublishBatch(self._publisher, self._queues[position], SHARDED)
        batch.messages.append(self.messages[position])
        batch.waiters.append(self.waiters[position])
        return batch


class NodePublisher:
    """
    Fills the batches of a cluster in one event loop: one for each server. Stands where a server has a ``Publisher``.

    What a server did not do goes on by itself, through the queue of its slot, which keeps the order of the slot.
    """

    #: Requests go to several servers, and come back from them: none is known to be the last.
    last: Pending | None = None

    def __init__(self, cluster: Cluster, waker: Waker) -> None:
        self._cluster = cluster
        self._new_waiter = waker.waiter
        self._batches: dict[CommandConnection | SlotQueue, NodeBatch] = {}

    def publish(self, channel: bytes, payload: bytes) -> Waiter[None]:
        """Add one message to the tick's batch for the channel's server. The waiter raises redis-py's errors."""
        queue = self._cluster.queue(slot_of(channel))
        waiter: Waiter[None] = self._new_waiter()
        command = (b"SPUBLISH", channel, payload)
        node = queue.enter()
        if node is None:
            alone = PublishBatch(self, queue, SHARDED)
            alone.messages.append(command)
            alone.waiters.append(waiter)
            queue.submit(alone)
            return waiter
        batch = self._batches.get(node)
        if batch is None or len(batch.messages) >= MAX_MESSAGES or batch.size >= MAX_BYTES:
            batch = self._batches[node] = NodeBatch(self, node)
            node.submit(batch)
        batch.add(queue, command, waiter)
        batch.size += len(payload)
        if len(batch.messages) == EARLY or batch.size >= MAX_BYTES:
            node.write_now()
        return waiter

    def submit(self, channel: bytes, make: MakeRequest) -> Waiter[None]:
        """Do what ``Publisher.submit`` does, on the way to the channel's server."""
        slot = slot_of(channel)
        queue = self._cluster.queue(slot)
        waiter: Waiter[None] = self._new_waiter()
        request = make(queue, waiter)
        node = self._cluster.owner(slot)
        if node is not None:
            self._batches.pop(node, None)
        queue.submit(request)
        return waiter

    def seal(self, batch: PublishBatch) -> None:
        """Take no more messages into a batch that is being written, or never will be."""
        if self._batches.get(batch.connection) is batch:
            del self._batches[batch.connection]
