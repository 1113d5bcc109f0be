"""
Sends on sorted sets, gathered: the messages of one tick become one call of one script.

Knows keys, members and capacities as they come from ``core``; not what is in a message, nor which shard it
belongs to. A batch stays open for more messages until the moment it is written, so the busier the
connection, the larger the batches.
"""

from __future__ import annotations

import asyncio
from typing import Any

from . import scripts
from .commands import EARLY, MAX_MESSAGES, CommandConnection, ScriptRequest
from .connection import reply_error
from .futures import fail
from .stats import Stats

#: With MAX_MESSAGES, what one call may hold: it must not hold up the server for long.
MAX_KEYS, MAX_BYTES = 64, 1_000_000


class KeyBatch:
    """Messages for one key, in the order in which they were sent; their capacities and outcomes side by side."""

    __slots__ = ("capacities", "futures", "key", "members", "send_batch")

    def __init__(self, key: bytes, send_batch: SendBatch) -> None:
        self.key = key
        self.send_batch = send_batch
        self.members: list[bytes] = []
        self.capacities: list[int] = []
        self.futures: list[asyncio.Future[bool]] = []

    def arguments(self) -> list[Any]:
        """Return the number of runs of equal capacity, and each as capacity, length, members."""
        members, capacities = self.members, self.capacities
        if capacities.count(capacities[0]) == len(capacities):
            return [1, capacities[0], len(members), *members]
        arguments: list[Any] = [0]
        start = 0
        while start < len(members):
            end = start + 1
            while end < len(members) and capacities[end] == capacities[start]:
                end += 1
            arguments[0] += 1
            arguments += (capacities[start], end - start)
            arguments += members[start:end]
            start = end
        return arguments


class SendBatch(ScriptRequest):
    """One call: the messages of a tick, by key."""

    __slots__ = ("_sender", "keys", "messages", "size")

    def __init__(self, sender: Sender) -> None:
        super().__init__(scripts.SEND)
        self._sender = sender
        self.keys: list[KeyBatch] = []
        #: How many messages, and how many bytes, are in it.
        self.messages = 0
        self.size = 0

    def arguments(self) -> list[Any]:
        self._sender.seal(self)
        self._sender.stats.batches += 1
        arguments: list[Any] = [len(self.keys)]
        arguments += [batch.key for batch in self.keys]
        arguments.append(self._sender.expiry)
        for batch in self.keys:
            arguments += batch.arguments()
        return arguments

    def fail(self, error: Exception) -> None:
        self._sender.seal(self)
        super().fail(error)

    def done(self, reply: Any) -> None:
        futures = [future for batch in self.keys for future in batch.futures]
        if isinstance(reply, Exception):
            fail(futures, reply)
        elif reply:
            refused, failed = reply
            for position in refused:
                if not futures[position].done():
                    futures[position].set_result(False)
            for first, end, text in zip(failed[::3], failed[1::3], failed[2::3], strict=True):
                fail(futures[first:end], reply_error(text.decode(errors="replace")))
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
        self.stats = stats
        #: What more messages can still go into.
        self._keys: dict[bytes, KeyBatch] = {}
        self._batch: SendBatch | None = None
        self._early = EARLY

    def send(self, key: bytes, member: bytes, capacity: int) -> asyncio.Future[bool]:
        """
        Add one message to the tick's batch.

        The future gives True, or False when the key was at ``capacity``; it raises redis-py's errors.
        """
        batch = self._keys.get(key)
        if (
            batch is None
            or len(batch.members) >= self._max_messages
            or batch.send_batch.messages >= MAX_MESSAGES
            or batch.send_batch.size + len(member) > MAX_BYTES
        ):
            batch = self._begin(key, len(member))
        future: asyncio.Future[bool] = asyncio.Future(loop=self._loop)
        batch.members.append(member)
        batch.capacities.append(capacity)
        batch.futures.append(future)
        send_batch = batch.send_batch
        send_batch.messages += 1
        send_batch.size += len(member)
        if send_batch.messages >= self._early:
            self._early = min(2 * self._early, MAX_MESSAGES)
            self._connection.write_now()
        return future

    def _begin(self, key: bytes, size: int) -> KeyBatch:
        call = self._batch
        if call is None or len(call.keys) >= MAX_KEYS or call.messages >= MAX_MESSAGES or call.size + size > MAX_BYTES:
            call = self._batch = SendBatch(self)
            self._connection.submit(call)
        batch = self._keys[key] = KeyBatch(key, call)
        call.keys.append(batch)
        return batch

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

    def seal(self, call: SendBatch) -> None:
        """Take no more messages into a batch that is being written, or never will be."""
        if call.messages < self._early:
            self._early = EARLY
        if self._batch is call:
            self._batch = None
        for batch in call.keys:
            if self._keys.get(batch.key) is batch:
                del self._keys[batch.key]
