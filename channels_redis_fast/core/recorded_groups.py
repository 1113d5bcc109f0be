"""
A message to a group that has a history: recorded and delivered, so that nothing is missed and nothing comes twice.

On one server both is done by one script, which looks whether the group is what it is thought to be: so on each channel
positions rise in the order in which messages come. Where a group's channels are on several servers, and where they are
more than one script may serve, the script records messages and says who is in the group; then they are delivered.
Knows what a group means; not how a message is laid out (``recorded_calls``).

Rules kept here:

- Each event loop has one call for each group under way. What is sent to it meanwhile waits, in order, and goes in the
  next one: nothing overtakes what finds the group changed, and the more is sent the fewer calls there are.
- A script that finds another group than it was told about has done nothing, or has recorded the message and given the
  members of that moment: who joins then reads it, whoever was there before gets it.
- What is recorded stays recorded, also if its delivery fails.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import Any

from redis.exceptions import NoPermissionError, RedisError, ResponseError

from ..connection.commands import MAX_MESSAGES
from ..connection.replies import reply_error
from ..history import Stream
from ..history.placement import with_position
from ..history.proposals import ATTEMPTS
from ..messages.codec import Codec, Message
from ..messages.exclusion import NOBODY
from ..stats import Stats
from .group_cache import GroupSnapshot
from .groups import Group, GroupSender
from .loop import CoreLoop
from .names import Part
from .recorded_calls import (
    RECORDED,
    SAME,
    Batch,
    Delivered,
    GroupMessage,
    MemberLayout,
    Outcome,
    Recorded,
    RecordingCall,
)
from .sender import MAX_BYTES, Sender

#: How often a group may have changed before a message is recorded whoever is in it.
MAX_CHANGES = 3

#: Bytes that a message is taken to have on each key beside itself and the names of its channels.
OVERHEAD = 100

#: Seconds that a message waits on average for its second attempt to get a position; for each further one twice as many.
PAUSE = 0.01

#: Stands for a group whose members the script is to say.
_OTHER = GroupSnapshot([], [], 0, b"")


class RecordedGroupSender:
    """Sends to those groups of a layer that have a history. ``groups`` delivers what is only recorded."""

    def __init__(
        self,
        groups: GroupSender,
        codec: Codec,
        capacity_of: Callable[[str], int],
        stats: Stats,
        max_message_size: int | None,
        expiry: int,
    ) -> None:
        self.groups = groups
        self.expiry = expiry
        self.layout = MemberLayout(codec, max_message_size)
        self.capacity_of = capacity_of
        self.stats = stats

    async def send(self, state: CoreLoop, group: Group, stream: Stream, message: Message) -> None:
        """
        Record a message and send it to a group.

        Raises the serializer's error before anything is recorded; redis-py's errors, ``ResponseError`` where the server
        runs no scripts, and where others keep this message from getting a position (encryption, custom serializers).
        """
        body = self.layout.body(message, group.excluded, f"group {group.name}")
        queue = state.recorded_queues.get(group.key)
        if queue is None:
            queue = state.recorded_queues[group.key] = GroupQueue(self, state, group, stream)
        waiting = GroupMessage(message, body, group.excluded, state.loop.create_future())
        outcome: Delivered | Recorded = await queue.put(waiting, group)
        if isinstance(outcome, Delivered):
            self.groups.count(*outcome, group)
        else:
            position, shards, members = outcome
            await self.groups.deliver(state, group, shards, members, with_position(message, position))


class GroupQueue:
    """The messages of one event loop to one group; exists while there are any."""

    def __init__(self, sender: RecordedGroupSender, state: CoreLoop, group: Group, stream: Stream) -> None:
        self.stream = stream
        self.key = group.key
        self.where = f"group {group.name}"
        self.limit = group.limit
        self._group = group
        self._sender = sender
        self._state = state
        self._cache = state.recorded_cache
        self._way = state.commands[group.shard].at(group.key)
        #: Whether all channels of all groups are on one server.
        self._is_alone = len(state.senders) == 1 and isinstance(state.senders[0], Sender)
        self._waiting: deque[GroupMessage] = deque()
        self._is_busy = False
        #: Seconds to wait before the next call.
        self._pause = 0.0
        #: How often the group has changed since a message was recorded.
        self._changes = 0

    def put(self, message: GroupMessage, group: Group) -> asyncio.Future[Delivered | Recorded]:
        """Have a message sent after those that wait."""
        self.limit = group.limit
        self._waiting.append(message)
        if not self._is_busy:
            self._is_busy = True
            self._begin(urgent=True)
        return message.future

    # One call after the other.

    def _begin(self, urgent: bool = False) -> None:
        if self._is_alone and self._cache.find(self.key) is None:
            commands = ((b"ZREMRANGEBYSCORE", self.key, 0, self.limit), (b"ZRANGE", self.key, 0, -1))
            self._way.call(*commands, repeatable=True).add_done_callback(self._looked)
            return
        call = RecordingCall(self, self._way, self._sender.layout, self._sender.capacity_of, self._sender.expiry)
        (self._way.submit_urgent if urgent else self._way.submit)(call)

    def _looked(self, looked: asyncio.Future[list[Any]]) -> None:
        error = looked.exception()
        if isinstance(error, Exception):
            self.ended(None, error)
        else:
            self._learn(looked.result()[1])
            self._begin()

    def _learn(self, members: list[bytes]) -> list[Part]:
        """Take note of who is in the group; return it by shard."""
        shards = self._sender.groups.places(members, self._group, self._state, self._cache)
        if self._is_alone and self._cache.find(self.key) is None:
            self._cache.remember_as_other(self.key)
        return shards

    def _go_on(self) -> None:
        pause, self._pause = self._pause, 0.0
        if self._waiting and pause:
            self._state.loop.call_later(pause, self._begin)
        elif self._waiting:
            self._begin()
        else:
            self._is_busy = False
            self._state.recorded_queues.pop(self.key, None)

    # What a call asks and tells.

    def take(self) -> Batch:
        while self._waiting and self._waiting[0].future.done():
            # Its sender has given up.
            self._waiting.popleft()
        excluded = self._waiting[0].excluded if self._waiting else NOBODY
        snapshot = self._cache.find(self.key)
        if snapshot is None or not snapshot.digest or snapshot.is_refused:
            snapshot = _OTHER
        else:
            if snapshot.skips:
                self._sender.groups.skipped()
            if excluded:
                snapshot = snapshot.without(excluded)
        count = len(snapshot.keys)
        of_names = sum(map(len, snapshot.entries)) + count * OVERHEAD
        messages: list[GroupMessage] = []
        size = 0
        while self._waiting:
            message = self._waiting[0]
            if message.future.done():
                self._waiting.popleft()
                continue
            if message.excluded != excluded:
                break
            size += count * len(message.body) + of_names
            if size > MAX_BYTES or (len(messages) + 1) * count > MAX_MESSAGES:
                break
            messages.append(self._waiting.popleft())
        if self._waiting and not messages:
            return Batch(_OTHER, [self._waiting.popleft()], True)
        may_change = self._is_alone and self._changes < MAX_CHANGES and snapshot is not _OTHER
        return Batch(snapshot, messages, not may_change)

    def ended(self, batch: Batch | None, outcome: Outcome | Exception) -> None:
        if isinstance(outcome, Exception):
            self._fail(batch, outcome)
        elif batch is not None and outcome.kind not in (SAME, RECORDED):
            self._changes += 1
            if outcome.members is None:
                self._cache.remember_as_other(self.key)
            else:
                self._learn(outcome.members)
            self._put_back(batch.messages)
        elif batch is not None:
            self._settle(batch, outcome)
            if outcome.kind == RECORDED:
                # What is sent next goes behind the deliveries, which those who wait for the futures begin.
                self._state.loop.call_soon(self._go_on)
                return
        self._go_on()

    def _fail(self, batch: Batch | None, error: Exception) -> None:
        if batch is None:
            while self._waiting:
                self._waiting.popleft().fail(error)
        elif isinstance(error, NoPermissionError) and batch.snapshot.keys:
            # Redis refuses the whole call for one key that an ACL forbids. The others get the message in another way.
            self._refuse(batch.snapshot)
            self._put_back(batch.messages)
        else:
            for message in batch.messages:
                message.fail(error)

    def _refuse(self, snapshot: GroupSnapshot) -> None:
        """Remember that a group cannot be served in one call, as long as it is what a snapshot stands for."""
        known = self._cache.find(self.key)
        if known is not None and known.digest == snapshot.digest:
            known.is_refused = True

    def _settle(self, batch: Batch, outcome: Outcome) -> None:
        done, left = batch.messages[: len(outcome.results)], batch.messages[len(outcome.results) :]
        self._changes = 0
        self._sender.stats.recorded += len(done)
        shards = self._learn(outcome.members or []) if outcome.kind == RECORDED else []
        for message, result in zip(done, outcome.results, strict=True):
            if outcome.kind == RECORDED:
                message.settle(Recorded(result.decode(), shards, len(outcome.members or [])))
            elif isinstance(result, int):
                message.settle(Delivered(result, batch.snapshot.count))
            else:
                message.fail(reply_error(result.decode(errors="replace")))
        if outcome.stopped is not None:
            newest, text = outcome.stopped
            error = self._refused(left[0], newest) if not text else reply_error(text.decode(errors="replace"))
            if error is not None:
                left.pop(0).fail(error)
            self._put_back(left)

    def _refused(self, message: GroupMessage, newest: bytes) -> RedisError | None:
        """Take note of the newest ID, which is above a message's own; return what to raise, None to try again."""
        self._sender.layout.overtaken(self.stream, newest)
        message.attempts += 1
        if message.attempts < ATTEMPTS:
            # At random: of those that were overtaken together, most would be again.
            self._pause = random.uniform(0, PAUSE * 2**message.attempts)
            return None
        return ResponseError(
            f"Message for {self.where} was not sent: {ATTEMPTS} positions that were proposed for it in the group's "
            "history were taken, since others send to the group at the same time"
        )

    def _put_back(self, messages: list[GroupMessage]) -> None:
        self._waiting.extendleft(reversed(messages))
