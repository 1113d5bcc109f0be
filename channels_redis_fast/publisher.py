"""
Publishing, gathered: the messages of one tick for one shard are PUBLISH commands in one write.

Knows Redis channels and payloads; not what is in them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from .commands import EARLY, MAX_MESSAGES, CommandConnection
from .connection import Command
from .futures import fail


class PublishBatch:
    """PUBLISH commands that leave together; each has a future of its own."""

    __slots__ = ("_answered", "_publisher", "futures", "messages")

    repeatable = False

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._answered = 0
        self.messages: list[Command] = []
        self.futures: list[asyncio.Future[None]] = []

    def commands(self) -> Sequence[Command]:
        self._publisher.seal(self)
        return self.messages

    def reply(self, reply: Any) -> bool:
        future = self.futures[self._answered]
        self._answered += 1
        if not future.done():
            if isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(None)
        return False

    def fail(self, error: Exception) -> None:
        self._publisher.seal(self)
        fail(self.futures[self._answered :], error)


class Publisher:
    """Fills the batches of one shard in one event loop."""

    def __init__(self, connection: CommandConnection) -> None:
        self._connection = connection
        self._loop = connection.loop
        self._batch: PublishBatch | None = None
        self._early = EARLY

    def publish(self, channel: bytes, payload: bytes) -> asyncio.Future[None]:
        """Add one message to the tick's batch. The future raises redis-py's errors."""
        batch = self._batch
        if batch is None or len(batch.messages) >= MAX_MESSAGES:
            batch = self._batch = PublishBatch(self)
            self._connection.submit(batch)
        future: asyncio.Future[None] = asyncio.Future(loop=self._loop)
        batch.messages.append((b"PUBLISH", channel, payload))
        batch.futures.append(future)
        if len(batch.messages) >= self._early:
            self._early = min(2 * self._early, MAX_MESSAGES)
            self._connection.write_now()
        return future

    def seal(self, batch: PublishBatch) -> None:
        """Take no more messages into a batch that is being written, or never will be."""
        if len(batch.messages) < self._early:
            self._early = EARLY
        if self._batch is batch:
            self._batch = None
