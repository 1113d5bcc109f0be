"""
Sends to a group that has a history: a message is recorded and delivered, so that nothing is missed or received twice.

On a single server, one script does both, after checking that the group is unchanged, so on each channel positions rise
in the order in which messages arrive. If a group's channels are on several servers, or are too many for one script, the
script records the messages and returns the members of the group; then the messages are delivered. Knows what a group
means. Does not know how a message is laid out (``recorded_calls``).

Rules kept here:

- Each event loop has at most one call per group under way. Messages sent in the meantime wait, in order, and go into
  the next call: nothing overtakes a message that finds the group changed, and calls carry more messages under load.
- A script that finds the group changed either does nothing, or records the message and returns the members of that
  moment: channels that join later read the message, earlier members get it delivered.
- A recorded message stays recorded, even if its delivery fails.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from redis.exceptions import NoPermissionError

from ..connection.commands import MAX_MESSAGES
from ..connection.identity import ServerIdentity
from ..connection.replies import reply_error
from ..history import Stream
from ..history.placement import with_position
from ..history.proposals import Contest
from ..history.streams import SEEDS
from ..messages.codec import Codec, Message
from ..messages.exclusion import NOBODY
from ..stats import Stats
from . import scripts
from .group_cache import GroupSnapshot
from .groups import Group, GroupSender
from .loop import CoreLoop
from .names import Part
from .recorded_calls import (
    NOT_ITS_TURN,
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

#: How often a group may have changed before a message is recorded regardless of its members.
MAX_CHANGES = 3

#: Bytes assumed for a message on each key, in addition to its body and the names of its channels.
OVERHEAD = 100

#: Number of groups beyond which an event loop removes the queues that are empty.
MAX_QUEUES = 2_000

#: Stands for a group whose members the script should return.
_OTHER = GroupSnapshot([], [], 0, b"")


class RecordedGroupSender:
    """Sends to the groups of a layer that have a history. ``groups`` delivers messages that were only recorded."""

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
        #: The scripts for these groups.
        self.scripts = scripts.OF_FILLED if self.layout.fills else scripts.OF_PROPOSED

    async def send(self, state: CoreLoop, group: Group, stream: Stream, message: Message) -> None:
        """
        Record a message and send it to a group.

        Raises the serializer's error before anything is recorded; redis-py's errors; ``ResponseError`` if the server
        refuses scripts, or if other senders keep this message from getting a position (encryption, custom serializers).
        """
        body = self.layout.body(message, group.excluded, group.name)
        queue = state.recorded_queues.get(group.key)
        if queue is None:
            queue = self._open(state, group, stream)
        waiting = GroupMessage(message, body, group.excluded, state.loop.create_future())
        outcome: Delivered | Recorded = await queue.put(waiting, group, self)
        if isinstance(outcome, Delivered):
            self.groups.count(*outcome, group)
        else:
            position, shards, members = outcome
            await self.groups.deliver(state, group, shards, members, with_position(message, position))

    def _open(self, state: CoreLoop, group: Group, stream: Stream) -> GroupQueue:
        queues = state.recorded_queues
        if len(queues) >= MAX_QUEUES:
            for key in [key for key, queue in queues.items() if not queue.is_busy]:
                del queues[key]
        queue = queues[group.key] = GroupQueue(state, group, stream, proposes=not self.layout.fills)
        return queue


class GroupQueue:
    """
    The messages of one event loop to one group. An empty queue is kept for a while: making a new one is expensive.
    """

    #: The sender that put the messages in. Only set while there are any, because it keeps the layer alive.
    _sender: RecordedGroupSender

    def __init__(self, state: CoreLoop, group: Group, stream: Stream, proposes: bool) -> None:
        self.stream = stream
        self.key = group.key
        self.group = group.name
        self.limit = group.limit
        self.looked_at = 0
        self._group = group
        self._state = state
        self._cache = state.recorded_cache
        self._way = state.commands[group.shard].at(group.key)
        #: Whether all channels of all groups are on one server.
        self._is_alone = len(state.senders) == 1 and isinstance(state.senders[0], Sender)
        self.contest = Contest(group.name, state.loop.time) if proposes and self._is_alone else None
        #: The server's part of the arguments of calls, and the server that it belongs to.
        self._of_server: list[Any] = []
        self._server: ServerIdentity | None = None
        self._waiting: deque[GroupMessage] = deque()
        #: Whether a call is under way, or about to be.
        self.is_busy = False
        #: How often the group has changed since a message was recorded.
        self._changes = 0

    def put(
        self, message: GroupMessage, group: Group, sender: RecordedGroupSender
    ) -> asyncio.Future[Delivered | Recorded]:
        """Queue a message behind those that wait."""
        self._sender = sender
        self.limit = group.limit
        self._waiting.append(message)
        if not self.is_busy:
            self.is_busy = True
            self._begin(urgent=True)
        return message.future

    # One call at a time.

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
        """Update the cached members of the group. Return them by shard."""
        shards = self._sender.groups.places(members, self._group, self._state, self._cache)
        if self._is_alone and self._cache.find(self.key) is None:
            self._cache.remember_as_other(self.key)
        return shards

    def _go_on(self) -> None:
        pause = 0.0
        if self.contest is not None:
            pause, self.contest.pause = self.contest.pause, 0.0
        if not self._waiting:
            self.is_busy = False
            del self._sender
        elif pause:
            self._state.loop.call_later(pause, self._begin)
        else:
            self._begin()

    # Called by calls.

    def take(self) -> Batch:
        while self._waiting and self._waiting[0].future.done():
            # Its sender was cancelled.
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
        of_names = snapshot.size + count * OVERHEAD
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
            return Batch(_OTHER, [self._waiting.popleft()], True, self.limit)
        may_change = self._is_alone and self._changes < MAX_CHANGES and snapshot is not _OTHER
        return Batch(snapshot, messages, not may_change, self.limit)

    def server_arguments(self, server: ServerIdentity) -> list[Any]:
        if server is not self._server:
            self._server = server
            self._of_server = self.stream.append_arguments(server)
        # The last one is the sequence number after the milliseconds of a first entry: a different one each time.
        self._of_server[-1] = (self._of_server[-1] + 1) % SEEDS
        return self._of_server

    def delivered(self, batch: Batch, over_capacity: int) -> None:
        self._changes = 0
        self.looked_at = batch.limit
        self._sender.stats.recorded += 1
        if self.contest is not None:
            self.contest.recorded()
        batch.messages[0].settle(Delivered(over_capacity, batch.snapshot.count))
        self._go_on()

    def ended(self, batch: Batch | None, outcome: Outcome | Exception) -> None:
        if isinstance(outcome, Exception):
            self._fail(batch, outcome)
        elif batch is not None and outcome.kind == NOT_ITS_TURN:
            assert self.contest is not None
            self._try_again(batch.messages, self.contest.not_its_turn())
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
                # The next call must follow the deliveries, which the coroutines waiting for the futures begin.
                self._state.loop.call_soon(self._go_on)
                return
        self._go_on()

    def _fail(self, batch: Batch | None, error: Exception) -> None:
        if batch is None:
            while self._waiting:
                self._waiting.popleft().fail(error)
        elif isinstance(error, NoPermissionError) and batch.snapshot.keys:
            # Redis refuses the whole call because of one key that an ACL forbids. The other keys get the message
            # separately.
            self._refuse(batch.snapshot)
            self._put_back(batch.messages)
        else:
            for message in batch.messages:
                message.fail(error)

    def _refuse(self, snapshot: GroupSnapshot) -> None:
        """Remember that a group cannot be served in one call while it matches this snapshot."""
        known = self._cache.find(self.key)
        if known is not None and known.digest == snapshot.digest:
            known.is_refused = True

    def _settle(self, batch: Batch, outcome: Outcome) -> None:
        done, left = batch.messages[: len(outcome.results)], batch.messages[len(outcome.results) :]
        self._changes = 0
        if done and self.contest is not None:
            self.contest.recorded()
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
            if text:
                self._try_again(left, reply_error(text.decode(errors="replace")))
            else:
                # The proposed ID was not above the newest one.
                self._sender.layout.overtaken(self.stream, newest)
                self._try_again(left, None if self.contest is None else self.contest.overtaken())

    def _try_again(self, messages: list[GroupMessage], error: Exception | None) -> None:
        """Send messages again, except the first one if it has failed with ``error``."""
        if error is not None and messages:
            messages.pop(0).fail(error)
        self._put_back(messages)

    def _put_back(self, messages: list[GroupMessage]) -> None:
        self._waiting.extendleft(reversed(messages))
