"""
Calls of the script that records and delivers the messages to a group: one call takes all messages that wait for it.

Knows how messages and positions are laid out for that script, and how to read its replies. Does not know in which order
messages are sent, or what follows from a reply: that is up to the ``BatchSource``.

If messages are packed by the compiled envelope alone, each goes over the wire once, and the script makes the member of
each key from it. With any other codec, a member is made here for each key, with the proposed position.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from redis.exceptions import ResponseError

from ..connection.identity import ServerIdentity
from ..connection.replies import UnexpectedReply
from ..connection.script_call import ScriptCall, Way, no_scripts
from ..history import Stream
from ..history.placement import ENTRY, widened, with_position
from ..history.positions import WIDTH, Position, epoch_of
from ..history.proposals import Contest, Proposer
from ..hot import EnvelopeCodec, are_strings, next_prefix
from ..messages.codec import Codec, Message, prefix_length_of
from ..messages.errors import say_where
from ..messages.exclusion import entry_size, with_excluded
from ..options import check_length, check_size
from . import scripts
from .group_cache import GroupSnapshot
from .names import Part

#: The first element of the script's reply: the group has changed; it is unchanged; it has changed but the messages were
#: recorded; it is another sender's turn to record.
CHANGED, SAME, RECORDED, NOT_ITS_TURN = 0, 1, 2, 3


class Delivered(NamedTuple):
    """A message that was sent to the keys of ``members`` members, of which ``over_capacity`` were over capacity."""

    over_capacity: int
    members: int


class Recorded(NamedTuple):
    """A message that has its position, and must still be delivered to ``members`` members, given by shard."""

    position: str
    shards: list[Part]
    members: int


class GroupMessage:
    """
    One message on its way to a group. ``body``: the message as kept in the history, with the names of excluded
    channels.
    """

    __slots__ = ("body", "excluded", "future", "message")

    def __init__(
        self,
        message: Message,
        body: bytes,
        excluded: frozenset[str],
        future: asyncio.Future[Delivered | Recorded],
    ) -> None:
        self.message = message
        self.body = body
        self.excluded = excluded
        self.future = future

    def settle(self, outcome: Delivered | Recorded) -> None:
        if not self.future.done():
            self.future.set_result(outcome)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Batch(NamedTuple):
    """
    Messages for the presumed members of a group, and whether they are recorded even if the group has changed.

    All of them exclude the same channels. ``limit``: the score (seconds) up to which members have expired.
    """

    snapshot: GroupSnapshot
    messages: list[GroupMessage]
    records_anyway: bool
    limit: int


class Outcome(NamedTuple):
    """
    What the script has done: ``kind``, and the members of the group if they have changed, None if there are too many.

    ``results``: for each recorded message, the number of keys over capacity, the text of an error, or its position.
    ``stopped``: why the next message was not recorded: the stream's newest ID, if the proposed one was not above it,
    and the text of an error.
    """

    kind: int
    members: list[bytes] | None
    results: list[Any]
    stopped: tuple[bytes, bytes] | None

    @classmethod
    def of(cls, reply: Any, count: int) -> Outcome:
        """Parse the reply for ``count`` messages. Raises ``ValueError`` or ``TypeError`` for an invalid reply."""
        kind, *results = reply
        members = results.pop(0) if kind != SAME and results else None
        stopped = None
        if results and isinstance(results[-1], list):
            newest, text = results.pop()
            stopped = (newest, text)
        is_whole = len(results) == count if stopped is None else len(results) < count and are_strings([*stopped])
        if kind == NOT_ITS_TURN:
            is_right = len(reply) == 1
        elif kind == CHANGED:
            is_right = not results and (members is None or are_strings(members))
        elif kind == SAME:
            is_right = is_whole and all(isinstance(result, (int, bytes)) for result in results)
        else:
            is_right = kind == RECORDED and is_whole and are_strings(members) and are_strings(results)
        if not is_right:
            raise ValueError("no reply of the script")
        return cls(kind, members, results, stopped)


class BatchSource(Protocol):
    """The waiting messages to one group."""

    stream: Stream
    key: bytes
    #: The group's name.
    group: str
    #: The score (seconds) up to which members have expired.
    limit: int
    #: The ``limit`` at which expired members were last removed.
    looked_at: int
    #: The contest with other senders for the next position; None if there is none.
    contest: Contest | None

    def take(self) -> Batch:
        """Return what to send now. Called just before it is written."""

    def server_arguments(self, server: ServerIdentity) -> list[Any]:
        """Return the arguments of ``append`` that depend on the server."""

    def delivered(self, batch: Batch, over_capacity: int) -> None:
        """Called when a call has ended that recorded and delivered its only message."""

    def ended(self, batch: Batch | None, outcome: Outcome | Exception) -> None:
        """Called once when a call has ended. Without a batch, nothing was taken, and nothing can be."""


class MemberLayout:
    """How the messages of a layer to groups with a history are laid out for the script."""

    def __init__(self, codec: Codec, max_message_size: int | None) -> None:
        #: Whether the script makes the members.
        self.fills = isinstance(codec, EnvelopeCodec)
        #: Bytes of the random prefix.
        self._prefix_length = prefix_length_of(codec) if self.fills else 0
        self._codec = codec
        self._max_message_size = max_message_size
        self._proposer = Proposer()

    def body(self, message: Message, excluded: frozenset[str], group: str) -> bytes:
        """
        Return a message as it is kept in the history.

        Raises the serializer's error for a message that it cannot pack, ``ValueError`` for one that is larger than
        allowed.
        """
        try:
            body = self._codec.encode(with_excluded(message, excluded) if excluded else message, None)
        except Exception as error:
            say_where(error, f"group {group}")
            raise
        if self._max_message_size is not None:
            check_size(body, self._max_message_size, f"group {group}")
        return body

    def entries(self, snapshot: GroupSnapshot) -> Sequence[bytes]:
        """Return for each key the entry that names its channels; empty if the members already contain it."""
        return snapshot.entries if self.fills else [b""] * len(snapshot.keys)

    def mark(self, snapshot: GroupSnapshot) -> bytes:
        """Return what the script compares with the current list of members."""
        # A single entry names all members only if none is left out.
        is_one = self.fills and len(snapshot.keys) == 1 and len(snapshot.channels[0]) == snapshot.count
        return b"=" if is_one else snapshot.digest

    def last_byte(self, messages: Sequence[GroupMessage]) -> int:
        """
        Return the last byte up to which the messages of a batch are delivered as kept, counted from their end: -1 for
        all.
        """
        excluded = messages[0].excluded if messages and self.fills else None
        return -1 - entry_size(excluded) if excluded else -1

    def arguments(
        self, message: GroupMessage, source: BatchSource, snapshot: GroupSnapshot, server: ServerIdentity
    ) -> list[Any]:
        """
        Return the script's arguments for one message.

        Raises the serializer's error, and ``ValueError`` for a message that is larger than allowed.
        """
        if self.fills:
            return self._to_fill(message, snapshot, source.group)
        if not snapshot.keys:
            return ["", message.body, "", 0]
        milliseconds, number = self._proposer.propose(source.stream.key, server)
        position = Position(milliseconds, number, source.stream.digest, epoch_of(server))
        members = self._members(message.message, str(position), snapshot.channels, source.group)
        return [position.entry, message.body, "", 0, *members]

    def overtaken(self, stream: Stream, newest: bytes) -> None:
        """Called with the newest ID of a stream when a proposed ID was not above it."""
        self._proposer.overtaken(stream.key, newest)

    def _to_fill(self, message: GroupMessage, snapshot: GroupSnapshot, group: str) -> list[Any]:
        body, prefix_length = message.body, self._prefix_length
        # Two entries are added; the one with the names of excluded channels is removed.
        header, begin = widened(body, prefix_length, 1 if message.excluded else 2)
        if self._max_message_size is not None and snapshot.keys:
            length = len(body) + len(header) + prefix_length - begin + len(ENTRY) + WIDTH
            check_length(length + len(max(snapshot.entries, key=len)), self._max_message_size, f"group {group}")
        return ["", body, header, begin + 1, *[next_prefix(prefix_length) for _ in snapshot.keys]]

    def _members(self, message: Message, position: str, channels: list[list[str]], group: str) -> list[bytes]:
        try:
            members = self._codec.encode_group(with_position(message, position), channels)
        except Exception as error:
            say_where(error, f"group {group}")
            raise
        check_size(max(members, key=len), self._max_message_size, f"group {group}")
        return members


class RecordingCall(ScriptCall):
    """One call, with the messages that its source has when it is written."""

    __slots__ = ("_batch", "_capacity_of", "_expiry", "_is_over", "_layout", "_source")

    def __init__(
        self, source: BatchSource, way: Way, layout: MemberLayout, capacity_of: Callable[[str], int], expiry: int
    ) -> None:
        super().__init__(scripts.FILLED_GROUP_SEND if layout.fills else scripts.PROPOSED_GROUP_SEND, way)
        self._source = source
        self._layout = layout
        self._capacity_of = capacity_of
        self._expiry = expiry
        self._batch: Batch | None = None
        self._is_over = False

    def arguments(self, server: ServerIdentity) -> list[Any]:
        if self._batch is None:
            self._batch = self._source.take()
        snapshot, messages, records_anyway, limit = self._batch
        source, layout = self._source, self._layout
        of_messages: list[Any] = []
        failed = []
        for message in messages:
            try:
                of_messages += layout.arguments(message, source, snapshot, server)
            except Exception as error:
                message.fail(error)
                failed.append(message)
        for message in failed:
            messages.remove(message)
        stream, contest = source.stream, source.contest
        keys = [source.key, stream.key] if contest is None else [source.key, stream.key, stream.turn]
        return [
            len(keys) + len(snapshot.keys),
            *keys,
            *snapshot.keys,
            self._expiry,
            limit,
            layout.mark(snapshot),
            "1" if records_anyway else "0" if source.looked_at == limit else "",
            len(messages),
            "" if contest is None else contest.by,
            layout.last_byte(messages),
            *source.server_arguments(server),
            *[self._capacity_of(names[0]) for names in snapshot.channels],
            *layout.entries(snapshot),
            *of_messages,
        ]

    def done(self, reply: Any) -> None:
        if self._is_over:
            return
        batch, outcome = self._batch, reply
        if (
            reply.__class__ is list
            and len(reply) == 2
            and reply[0] == SAME
            and reply[1].__class__ is int
            and batch is not None
            and len(batch.messages) == 1
        ):
            # The usual case.
            self._is_over = True
            self._source.delivered(batch, reply[1])
            return
        if not isinstance(reply, Exception):
            try:
                outcome = Outcome.of(reply, 0 if self._batch is None else len(self._batch.messages))
            except (TypeError, ValueError):
                raise UnexpectedReply.to("the script of group_send", reply) from None
        self._end(self._batch, outcome)

    def refused(self, error: ResponseError | None) -> None:
        self._end(self._batch, no_scripts(self._way, error, "history"))

    def _end(self, batch: Batch | None, outcome: Outcome | Exception) -> None:
        self._is_over = True
        self._source.ended(batch, outcome)
