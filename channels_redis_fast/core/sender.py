"""
Batched sends on sorted sets: the messages of one tick become one call of one script.

Knows keys, members and capacities as they come from ``core``. Does not know what is in a message, or which shard it
belongs to. A batch accepts messages until the moment it is written, so the busier the connection, the larger the
batches. Where messages come one at a time, each is written at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.exceptions import NoPermissionError, ResponseError

from ..cluster.slot_queue import SlotQueue
from ..connection.commands import EARLY, MAX_MESSAGES, CommandConnection
from ..connection.futures import fail
from ..connection.identity import ServerIdentity
from ..connection.link import Command
from ..connection.replies import UnexpectedReply, reply_error
from ..connection.script_call import ScriptCall
from ..hot import Batch, Gatherer, KeyBatch, Waker, are_strings
from ..stats import Stats
from . import scripts
from .script_calls import Failure, PlainCommands, Write, WriteCall

#: With MAX_MESSAGES, the limits of one call: it must not block the server for long.
MAX_KEYS, MAX_BYTES = 64, 1_000_000


class SendBatch(WriteCall):
    """One call: the messages of a tick, by key."""

    __slots__ = ("_sender", "batch")

    def __init__(self, sender: Sender) -> None:
        super().__init__(sender.send_script, sender.plain)
        self._sender = sender
        self.batch = Batch()

    def commands(self, server: ServerIdentity) -> Sequence[Command]:
        self._sender.seal(self.batch)
        stats = self._sender.stats
        stats.batches += 1
        stats.batch_messages.add(self.batch.messages)
        return super().commands(server)

    def arguments(self, server: ServerIdentity) -> list[Any]:
        return self.batch.arguments(self._sender.expiry)

    def fail(self, error: Exception) -> None:
        self._sender.seal(self.batch)
        super().fail(error)

    def writes(self) -> list[Write]:
        return [(batch.key, batch.members, batch.capacities) for batch in self.batch.keys]

    def done(self, reply: Any) -> None:
        if reply.__class__ is int and not reply:
            self.batch.accept()
        elif isinstance(reply, NoPermissionError) and len(self.batch.keys) > 1:
            # Redis refuses the whole call because of one key that an ACL forbids.
            for batch in self.batch.keys:
                self._sender.send_alone(batch)
        elif isinstance(reply, Exception):
            fail(self.batch.waiters(), reply)
        else:
            try:
                refused, failed = reply
                failures = zip(failed[::3], failed[1::3], failed[2::3], strict=True)
                self.settle(
                    refused, [(first, end, reply_error(text.decode(errors="replace"))) for first, end, text in failures]
                )
            except (AttributeError, IndexError, TypeError, ValueError):
                raise UnexpectedReply.to("the script of send", reply) from None

    def settle(self, refused: Sequence[int], failed: Sequence[Failure]) -> None:
        waiters = self.batch.waiters()
        for position in refused:
            if not waiters[position].done():
                waiters[position].set_result(False)
        for first, end, error in failed:
            fail(waiters[first:end], error)
        self.batch.accept()


class GroupBatch(WriteCall):
    """One group message for all its keys on one shard. The future's result is how many keys were over capacity."""

    __slots__ = ("_capacities", "_expiry", "_future", "_keys", "_members")

    def __init__(
        self,
        keys: list[bytes],
        members: list[bytes],
        capacities: list[int],
        sender: Sender,
        future: asyncio.Future[int],
    ) -> None:
        super().__init__(sender.group_script, sender.plain)
        self._keys = keys
        self._members = members
        self._capacities = capacities
        self._expiry = sender.expiry
        self._future = future

    def arguments(self, server: ServerIdentity) -> list[Any]:
        arguments: list[Any] = [len(self._keys), *self._keys, self._expiry]
        _put_deliveries(arguments, self._capacities, self._members)
        return arguments

    def writes(self) -> list[Write]:
        return [
            (key, [member], [capacity])
            for key, member, capacity in zip(self._keys, self._members, self._capacities, strict=True)
        ]

    def done(self, reply: Any) -> None:
        if reply.__class__ is int:
            self._end(reply, None)
        elif isinstance(reply, NoPermissionError) and len(self._keys) > 1:
            # As with sends: the keys that the ACL allows get the message.
            self.carry_out_plainly()
        elif isinstance(reply, Exception):
            self._end(0, reply)
        else:
            raise UnexpectedReply.to("the script of group_send", reply)

    def settle(self, refused: Sequence[int], failed: Sequence[Failure]) -> None:
        self._end(len(refused), failed[0][2] if failed else None)

    def _end(self, over_capacity: int, error: Exception | None) -> None:
        if self._future.done():
            return
        if error is None:
            self._future.set_result(over_capacity)
        else:
            self._future.set_exception(error)


class SameGroupCall(ScriptCall):
    """
    One group message to a group that is assumed to be unchanged.

    The future's result is how many keys were over capacity. If nothing was delivered, it is the list of current
    members, or None if they have to be requested.
    """

    __slots__ = ("_arguments", "_future", "_plain")

    def __init__(self, arguments: list[Any], sender: Sender, future: asyncio.Future[Any]) -> None:
        super().__init__(scripts.SAME_GROUP_SEND, sender.way)
        self._plain = sender.plain
        self._arguments = arguments
        self._future = future

    def arguments(self, server: ServerIdentity) -> list[Any]:
        return self._arguments

    def done(self, reply: Any) -> None:
        if self._future.done():
            return
        if reply.__class__ is int or reply is None:
            self._future.set_result(reply)
        elif isinstance(reply, NoPermissionError):
            self._leave_to_two_trips()
        elif isinstance(reply, Exception):
            self._future.set_exception(reply)
        elif are_strings(reply):
            self._future.set_result(reply)
        else:
            raise UnexpectedReply.to("the script of group_send", reply)

    def refused(self, error: ResponseError | None) -> None:
        if error is not None:
            self._plain.take_over(error)
        self._leave_to_two_trips()

    def _leave_to_two_trips(self) -> None:
        if not self._future.done():
            self._future.set_result(None)


class Sender(Gatherer):
    """
    Fills the batches of one shard in one event loop.

    ``send`` comes from ``Gatherer``. Its waiter returns True, or False if the key was at capacity; it raises redis-py's
    errors. ``ordered``: whether members sort in the order in which they were made. All messages of a batch get the same
    score, so members that do not are sent one per call.
    """

    send_script, group_script = scripts.SEND, scripts.GROUP_SEND

    def __init__(
        self, connection: CommandConnection | SlotQueue, expiry: int, ordered: bool, stats: Stats, waker: Waker
    ) -> None:
        super().__init__(waker, MAX_MESSAGES if ordered else 1, MAX_MESSAGES, MAX_KEYS, MAX_BYTES, EARLY)
        self.expiry = expiry
        self.plain = PlainCommands(connection, expiry)
        self.stats = stats
        self.way = connection

    def send_group(self, keys: list[bytes], members: list[bytes], capacities: list[int]) -> list[asyncio.Future[int]]:
        """Send one group message to the keys of this shard. Each future's result is a number of keys over capacity."""
        futures: list[asyncio.Future[int]] = []
        start = 0
        while start < len(keys):
            end, size = start, 0
            while end < len(keys) and end - start < MAX_MESSAGES and (end == start or size < MAX_BYTES):
                size += len(members[end])
                end += 1
            future: asyncio.Future[int] = self.way.loop.create_future()
            part = slice(start, end)
            self.way.submit(GroupBatch(keys[part], members[part], capacities[part], self, future))
            futures.append(future)
            start = end
        return futures

    def send_same_group(
        self,
        key: bytes,
        limit: int,
        digest: bytes,
        keys: list[bytes],
        members: list[bytes],
        capacities: list[int],
    ) -> asyncio.Future[int | list[bytes] | None]:
        """
        Send one group message to a group whose key is on this shard, if its list of members has the given digest.

        The future's result is how many keys were over capacity. If nothing was delivered, it is the list of members, or
        None if they have to be requested.
        """
        arguments: list[Any] = [1 + len(keys), key, *keys, self.expiry, limit, digest]
        _put_deliveries(arguments, capacities, members)
        future: asyncio.Future[int | list[bytes] | None] = self.way.loop.create_future()
        self.way.submit_urgent(SameGroupCall(arguments, self, future))
        return future

    def send_alone(self, batch: KeyBatch) -> None:
        """Send the messages of one key again, in a separate call."""
        call = SendBatch(self)
        call.batch.take(batch)
        self.way.repeat(call)

    def _open(self) -> Batch:
        call = SendBatch(self)
        self.is_idle = self.way.is_idle
        if self.is_idle and self.was_alone:
            # A tick later is too late for a message that has no company.
            self.way.submit_unscheduled(call)
        else:
            self.way.submit(call)
        return call.batch

    def _write_early(self) -> None:
        self.way.write_now()


def _put_deliveries(arguments: list[Any], capacities: list[int], members: list[bytes]) -> None:
    for capacity, member in zip(capacities, members, strict=True):
        arguments += (capacity, member)
