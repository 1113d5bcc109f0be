"""
A group with a history, as one event loop sees it: its position in the stream and the messages that are held. No I/O.

Knows messages by their positions. ``recovery`` decides what happens to them, and when.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import Any, NamedTuple, Protocol

from ..connection.identity import ServerIdentity
from ..history import FIELD, History, Stream
from ..history.positions import ENTRY, NO_EPOCH, epoch_in, epoch_of, same_epoch, unix_time
from ..hot import StoredMessage
from ..messages.codec import Message

#: Limit of held payloads in bytes: for all groups of an event loop, and for the messages held for one channel.
MAX_HELD_BYTES = 10_000_000


class GroupSubscriber(Protocol):
    """Subscribes to groups."""

    def subscribe(self, name: bytes) -> asyncio.Future[None] | None:
        """Request a subscription. Returns None if it is already acknowledged, else a future of the acknowledgement."""

    def server_of(self, name: bytes) -> ServerIdentity:
        """Return the identity of the server at which a name is subscribed, as far as it is known."""

    def renew(self, name: bytes) -> None:
        """Reopen the connection on which a name is subscribed."""


class ReadRange(NamedTuple):
    """The part of a stream that was read: after one position, up to and including another."""

    after: str
    to: str

    def covers(self, position: str) -> bool:
        """Return whether a published message was in the range."""
        return same_epoch(position, self.to) and self.after[ENTRY] < position[ENTRY] <= self.to[ENTRY]

    def is_passed(self, position: str) -> bool:
        """Return whether nothing published after this position can be in the range."""
        return same_epoch(position, self.to) and position[ENTRY] > self.to[ENTRY]


class Held(NamedTuple):
    """A held message, together with the messages without a position that came before it."""

    position: str
    message: Message
    size: int
    before: list[Message]


class FollowedGroup:
    """A group with a history that has members in this event loop."""

    __slots__ = (
        "again",
        "epoch",
        "held",
        "held_bytes",
        "is_recovering",
        "is_subscribed",
        "is_whole",
        "name",
        "overflows",
        "position",
        "read",
        "resumed",
        "started",
        "stream",
        "subscriber",
        "unplaced",
        "way",
    )

    def __init__(
        self, name: str, stream: Stream, way: Any, subscriber: GroupSubscriber, started: asyncio.Future[None]
    ) -> None:
        self.name = name
        self.stream = stream
        #: The way to its server, for commands and for the subscription.
        self.way = way
        self.subscriber = subscriber
        #: Done when the newest position has been read, or reading it has failed.
        self.started = started
        #: Position of the last message up to which the members have missed nothing.
        self.position: str | None = None
        self.is_subscribed = False
        #: Epoch of the server at which it is subscribed.
        self.epoch = NO_EPOCH
        #: Whether its stream is being read, whether it has to be read again, and whether nothing is missing so far.
        self.is_recovering = self.again = False
        self.is_whole = True
        self.overflows = 0
        #: Held messages with a position, and the messages without one that came after all of these.
        self.held: deque[Held] = deque()
        self.unplaced: list[Message] = []
        self.held_bytes = 0
        #: The range that was read last, while its messages may still arrive on the subscription.
        self.read: ReadRange | None = None
        #: By channel: the range that was read for this channel alone.
        self.resumed: dict[str, ReadRange] = {}

    def subscribed(self) -> None:
        """Called when the group is subscribed (again)."""
        self.is_subscribed = True
        self.epoch = epoch_of(self.subscriber.server_of(self.name.encode()))

    def is_proven(self, history: History) -> bool:
        """Return whether a history is complete and comes from the server at which the group is subscribed."""
        return history.complete and epoch_in(history.position) == self.epoch

    def renew(self) -> None:
        """
        Subscribe again if the server has since become a different primary, as commands to it have noticed.

        What the server that it followed has published meanwhile is then read from the stream.
        """
        name = self.name.encode()
        listened_to, asked = self.subscriber.server_of(name), self.way.identity
        if listened_to.run_id == asked.run_id and listened_to.replication_id != asked.replication_id:
            self.subscriber.renew(name)

    def sent_at(self, position: str) -> float:
        """Return when a message was sent, on the monotonic clock, to the millisecond; 0.0 if that is unknown."""
        stamp = unix_time(position)
        sent_at: float = self.way.clock.began(stamp)
        if sent_at:
            return sent_at
        # There may be no socket for commands. The subscribing socket asked for the clock when it was opened.
        clock = self.subscriber.server_of(self.name.encode()).clock
        return 0.0 if clock is None else stamp - clock

    def is_behind(self, position: str) -> bool:
        """Return whether a message is newer than the last one, rather than an older one that somebody has forwarded."""
        last = self.position
        if last is None or position[ENTRY] > last[ENTRY]:
            return True
        # Another server may have a different clock.
        return epoch_in(position) == self.epoch != epoch_in(last)


class HeldChannel:
    """Messages of a group that are withheld from one channel while its history is being read."""

    def __init__(self) -> None:
        self.users = 0
        self.messages: deque[tuple[str | None, StoredMessage]] = deque()
        self.bytes = 0
        #: What was read, if anything.
        self.range: ReadRange | None = None
        self.read: set[str] = set()

    def was_read(self, after: str, history: History) -> None:
        """Called with the history after a position: its messages must not be delivered again."""
        read = ReadRange(after, history.position)
        if self.range is not None:
            # Two callers resume at the same time.
            read = ReadRange(min(after, self.range.after), max(read.to, self.range.to))
        self.range = read
        self.read.update(message[FIELD] for message in history.messages)

    def put(self, position: str | None, message: Message, capacity: int) -> int:
        """Hold one more message. Returns how many were dropped for it, the oldest first."""
        stored = StoredMessage(message, math.inf, False)
        self.messages.append((position, stored))
        self.bytes += stored.size
        count = 0
        while len(self.messages) > capacity or (self.bytes > MAX_HELD_BYTES and len(self.messages) > 1):
            self.bytes -= self.messages.popleft()[1].size
            count += 1
        return count

    def clear(self) -> None:
        """Discard all held messages."""
        self.messages.clear()
        self.bytes = 0
