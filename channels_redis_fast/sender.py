"""
Sends on sorted sets, gathered: the messages of one tick for one key become one call of one script.

Knows keys, members and capacities as they come from ``core``; not what is in a message, nor which shard it
belongs to. A batch stays open for more messages until the moment it is written, so the busier the
connection, the larger the batches.
"""

from __future__ import annotations

import asyncio
from typing import Any

from . import scripts
from .commands import CommandConnection, ScriptRequest
from .stats import Stats

#: A script's ``unpack`` fails near 4,000 values, and one call must not hold up the server for long.
MAX_MESSAGES, MAX_BYTES = 1000, 1_000_000


class SendBatch(ScriptRequest):
    """Messages for one key, in the order in which they were sent."""

    __slots__ = ("_sender", "capacities", "futures", "key", "members", "size")

    def __init__(self, sender: Sender, key: bytes) -> None:
        super().__init__(scripts.SEND)
        self.key = key
        self._sender = sender
        #: The messages, their capacities and their outcomes, side by side; and the messages' bytes.
        self.members: list[bytes] = []
        self.capacities: list[int] = []
        self.futures: list[asyncio.Future[bool]] = []
        self.size = 0

    def arguments(self) -> list[Any]:
        self._sender.seal(self)
        members, capacities = self.members, self.capacities
        arguments: list[Any] = [1, self.key, self._sender.expiry]
        if capacities.count(capacities[0]) == len(capacities):
            return [*arguments, capacities[0], len(members), *members]
        start = 0
        while start < len(members):
            capacity = capacities[start]
            end = start + 1
            while end < len(members) and capacities[end] == capacity:
                end += 1
            arguments += (capacity, end - start)
            arguments += members[start:end]
            start = end
        return arguments

    def done(self, reply: Any) -> None:
        futures = self.futures
        if isinstance(reply, Exception):
            for future in futures:
                if not future.done():
                    # One for each: a traceback grows on an exception that is raised in several tasks.
                    future.set_exception(type(reply)(*reply.args))
            return
        if reply:
            for position in reply:
                if not futures[position].done():
                    futures[position].set_result(False)
        for future in futures:
            if not future.done():
                future.set_result(True)


class GroupBatch(ScriptRequest):
    """One group message on all its keys of one shard; the future gives how many keys were over capacity."""

    __slots__ = ("_arguments", "_future")

    def __init__(
        self, keys: list[bytes], members: list[bytes], capacities: list[int], expiry: int, future: asyncio.Future[int]
    ) -> None:
        super().__init__(scripts.GROUP_SEND)
        arguments: list[Any] = [len(keys), *keys, expiry]
        for capacity, member in zip(capacities, members, strict=True):
            arguments += (capacity, member)
        self._arguments = arguments
        self._future = future

    def arguments(self) -> list[Any]:
        return self._arguments

    def done(self, reply: Any) -> None:
        if self._future.done():
            return
        if isinstance(reply, Exception):
            self._future.set_exception(reply)
        else:
            self._future.set_result(reply)


class Sender:
    """
    Fills the batches of one shard in one event loop.

    ``ordered``: whether members sort in the order in which they were made. All messages of a batch get one score,
    so others travel alone.
    """

    def __init__(self, connection: CommandConnection, expiry: int, ordered: bool, stats: Stats) -> None:
        self.expiry = expiry
        self._max_messages = MAX_MESSAGES if ordered else 1
        self._connection = connection
        self._loop = connection.loop
        self._stats = stats
        self._open: dict[bytes, SendBatch] = {}

    def send(self, key: bytes, member: bytes, capacity: int) -> asyncio.Future[bool]:
        """
        Add one message to the tick's batch for its key.

        The future gives True, or False when the key was at ``capacity``; it raises redis-py's errors.
        """
        batch = self._open.get(key)
        if batch is None or len(batch.members) >= self._max_messages or batch.size + len(member) > MAX_BYTES:
            batch = self._open[key] = SendBatch(self, key)
            self._connection.submit(batch)
        future: asyncio.Future[bool] = asyncio.Future(loop=self._loop)
        batch.members.append(member)
        batch.capacities.append(capacity)
        batch.futures.append(future)
        batch.size += len(member)
        return future

    def send_group(self, keys: list[bytes], members: list[bytes], capacities: list[int]) -> list[asyncio.Future[int]]:
        """Send one group message to the keys of this shard; each future gives a number of keys over capacity."""
        futures: list[asyncio.Future[int]] = []
        start = 0
        while start < len(keys):
            end, size = start, 0
            while end < len(keys) and end - start < MAX_MESSAGES and (end == start or size < MAX_BYTES):
                size += len(members[end])
                end += 1
            future: asyncio.Future[int] = self._connection.loop.create_future()
            part = slice(start, end)
            self._connection.submit(GroupBatch(keys[part], members[part], capacities[part], self.expiry, future))
            futures.append(future)
            start = end
        return futures

    def seal(self, batch: SendBatch) -> None:
        """Take no more messages into a batch that is being written."""
        self._stats.batches += 1
        if self._open.get(batch.key) is batch:
            del self._open[batch.key]
