"""
Sends on sorted sets, gathered: the messages of one tick become one call of one script.

Knows keys, members and capacities as they come from ``core``; not what is in a message, nor which shard it
belongs to. A batch stays open for more messages until the moment it is written, so the busier the
connection, the larger the batches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.exceptions import NoPermissionError

from . import scripts
from ._hot import Waiter, Waker
from .commands import EARLY, MAX_MESSAGES, CommandConnection
from .connection import Command, reply_error
from .futures import fail
from .scriptcalls import Failure, PlainCommands, ScriptCall, Write
from .stats import Stats

#: With MAX_MESSAGES, what one call may hold: it must not hold up the server for long.
MAX_KEYS, MAX_BYTES = 64, 1_000_000


class KeyBatch:
    """Messages for one key, in the order in which they were sent; their capacities and outcomes side by side."""

    __slots__ = ("capacities", "key", "members", "send_batch", "waiters")

    def __init__(self, key: bytes, send_batch: SendBatch) -> None:
        self.key = key
        self.send_batch = send_batch
        self.members: list[bytes] = []
        self.capacities: list[int] = []
        self.waiters: list[Waiter[bool]] = []

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


class SendBatch(ScriptCall):
    """One call: the messages of a tick, by key."""

    __slots__ = ("_sender", "keys", "messages", "size")

    def __init__(self, sender: Sender) -> None:
        super().__init__(scripts.SEND, sender.plain)
        self._sender = sender
        self.keys: list[KeyBatch] = []
        #: How many messages, and how many bytes, are in it.
        self.messages = 0
        self.size = 0

    def commands(self) -> Sequence[Command]:
        self._sender.seal(self)
        self._sender.stats.batches += 1
        return super().commands()

    def arguments(self) -> list[Any]:
        arguments: list[Any] = [len(self.keys)]
        arguments += [batch.key for batch in self.keys]
        arguments.append(self._sender.expiry)
        for batch in self.keys:
            arguments += batch.arguments()
        return arguments

    def fail(self, error: Exception) -> None:
        self._sender.seal(self)
        super().fail(error)

    def writes(self) -> list[Write]:
        return [(batch.key, batch.members, batch.capacities) for batch in self.keys]

    def done(self, reply: Any) -> None:
        if isinstance(reply, NoPermissionError) and len(self.keys) > 1:
            # Redis refuses the whole call for one key that an ACL forbids.
            for batch in self.keys:
                self._sender.send_alone(batch)
        elif isinstance(reply, Exception):
            fail(self._waiters(), reply)
        elif reply:
            refused, failed = reply
            failures = zip(failed[::3], failed[1::3], failed[2::3], strict=True)
            self.settle(
                refused, [(first, end, reply_error(text.decode(errors="replace"))) for first, end, text in failures]
            )
        else:
            self.settle((), ())

    def settle(self, refused: Sequence[int], failed: Sequence[Failure]) -> None:
        waiters = self._waiters()
        for position in refused:
            if not waiters[position].done():
                waiters[position].set_result(False)
        for first, end, error in failed:
            fail(waiters[first:end], error)
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(True)

    def _waiters(self) -> list[Waiter[bool]]:
        return [waiter for batch in self.keys for waiter in batch.waiters]


class GroupBatch(ScriptCall):
    """One group message on all its keys of one shard; the future gives how many keys were over capacity."""

    __slots__ = ("_capacities", "_expiry", "_future", "_keys", "_members")

    def __init__(
        self,
        keys: list[bytes],
        members: list[bytes],
        capacities: list[int],
        sender: Sender,
        future: asyncio.Future[int],
    ) -> None:
        super().__init__(scripts.GROUP_SEND, sender.plain)
        self._keys = keys
        self._members = members
        self._capacities = capacities
        self._expiry = sender.expiry
        self._future = future

    def arguments(self) -> list[Any]:
        arguments: list[Any] = [len(self._keys), *self._keys, self._expiry]
        for capacity, member in zip(self._capacities, self._members, strict=True):
            arguments += (capacity, member)
        return arguments

    def writes(self) -> list[Write]:
        return [
            (key, [member], [capacity])
            for key, member, capacity in zip(self._keys, self._members, self._capacities, strict=True)
        ]

    def done(self, reply: Any) -> None:
        if isinstance(reply, NoPermissionError) and len(self._keys) > 1:
            # As with sends: the keys that are allowed get the message.
            self.carry_out_plainly()
        elif not isinstance(reply, Exception):
            self._end(reply, None)
        else:
            self._end(0, reply)

    def settle(self, refused: Sequence[int], failed: Sequence[Failure]) -> None:
        self._end(len(refused), failed[0][2] if failed else None)

    def _end(self, over_capacity: int, error: Exception | None) -> None:
        if self._future.done():
            return
        if error is None:
            self._future.set_result(over_capacity)
        else:
            self._future.set_exception(error)


class Sender:
    """
    Fills the batches of one shard in one event loop.

    ``ordered``: whether members sort in the order in which they were made. All messages of a batch get one score,
    so others travel alone.
    """

    def __init__(self, connection: CommandConnection, expiry: int, ordered: bool, stats: Stats, waker: Waker) -> None:
        self.expiry = expiry
        self._max_messages = MAX_MESSAGES if ordered else 1
        self._connection = connection
        self._new_waiter = waker.waiter
        self.plain = PlainCommands(connection, expiry)
        self.stats = stats
        #: What more messages can still go into.
        self._keys: dict[bytes, KeyBatch] = {}
        self._batch: SendBatch | None = None
        self._early = EARLY

    def send(self, key: bytes, member: bytes, capacity: int) -> Waiter[bool]:
        """
        Add one message to the tick's batch.

        The waiter gives True, or False when the key was at ``capacity``; it raises redis-py's errors.
        """
        batch = self._keys.get(key)
        if (
            batch is None
            or len(batch.members) >= self._max_messages
            or batch.send_batch.messages >= MAX_MESSAGES
            or batch.send_batch.size + len(member) > MAX_BYTES
        ):
            batch = self._begin(key, len(member))
        waiter: Waiter[bool] = self._new_waiter()
        batch.members.append(member)
        batch.capacities.append(capacity)
        batch.waiters.append(waiter)
        send_batch = batch.send_batch
        send_batch.messages += 1
        send_batch.size += len(member)
        if send_batch.messages >= self._early:
            self._early = min(2 * self._early, MAX_MESSAGES)
            self._connection.write_now()
        return waiter

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
            self._connection.submit(GroupBatch(keys[part], members[part], capacities[part], self, future))
            futures.append(future)
            start = end
        return futures

    def send_alone(self, batch: KeyBatch) -> None:
        """Send the messages of one key again, in a call of their own."""
        call = SendBatch(self)
        call.keys.append(batch)
        call.messages = len(batch.members)
        self._connection.repeat(call)

    def seal(self, call: SendBatch) -> None:
        """Take no more messages into a batch that is being written, or never will be."""
        if call.messages < self._early:
            self._early = EARLY
        if self._batch is call:
            self._batch = None
        for batch in call.keys:
            if self._keys.get(batch.key) is batch:
                del self._keys[batch.key]
