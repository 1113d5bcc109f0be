"""
A group with a history as one event loop sees it: its place in the stream, and the messages that are held. No I/O.

Knows messages by their positions; ``recovery`` decides what happens to them, and when.
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

#: Bytes of payloads that are held for all groups of an event loop, or of messages for one channel.
MAX_HELD_BYTES = 10_000_000


class GroupSubscriber(Protocol):
    """What subscribes to a group."""

    def subscribe(self, name: bytes) -> asyncio.Future[None] | None:
        """Want a name. Returns None if that is acknowledged, else the future of it."""

    def server_of(self, name: bytes) -> ServerIdentity:
        """Return who the server is that has a name, as far as it is known."""

    def renew(self, name: bytes) -> None:
        """Open the connection anew on which a name is subscribed."""


class ReadRange(NamedTuple):
    """The part of a stream that was read: behind one position, up to another."""

    after: str
    to: str

    def covers(self, position: str) -> bool:
        """Return whether a message that was published was in it."""
        return same_epoch(position, self.to) and self.after[ENTRY] < position[ENTRY] <= self.to[ENTRY]

    def is_passed(self, position: str) -> bool:
        """Return whether none that is published after this position can be in it."""
        return same_epoch(position, self.to) and position[ENTRY] > self.to[ENTRY]


class Held(NamedTuple):
    """A message that is held, with those without a position that came before it."""

    position: str
    message: Message
    size: int
    before: list[Message]


class FollowedGroup:
    """A group with a history that has members here."""

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
        #: What leads to its server, for commands and for the subscription.
        self.way = way
        self.subscriber = subscriber
        #: Done when the newest position was read, as well as that can be.
        self.started = started
        #: That of the last message that the members have got, or could have missed nothing of.
        self.position: str | None = None
        self.is_subscribed = False
        #: That of the server where it is subscribed.
        self.epoch = NO_EPOCH
        #: Whether it is being read, whether it has to be once more, and whether nothing is missing so far.
        self.is_recovering = self.again = False
        self.is_whole = True
        self.overflows = 0
        #: What is held, and behind it what has no position and came last.
        self.held: deque[Held] = deque()
        self.unplaced: list[Message] = []
        self.held_bytes = 0
        #: What was read last, as long as it may still come from the subscription.
        self.read: ReadRange | None = None
        #: By channel, what was read for it alone.
        self.resumed: dict[str, ReadRange] = {}

    def subscribed(self) -> None:
        """Called when it is subscribed (again)."""
        self.is_subscribed = True
        self.epoch = epoch_of(self.subscriber.server_of(self.name.encode()))

    def is_proven(self, history: History) -> bool:
        """Return whether a history is complete, and that of the server that it is subscribed to."""
        return history.complete and epoch_in(history.position) == self.epoch

    def renew(self) -> None:
        """
        Have it subscribed anew where its server has become another primary since, as commands to it have noticed.

        What has been published meanwhile, by whom it followed, comes from the stream then.
        """
        name = self.name.encode()
        listened_to, asked = self.subscriber.server_of(name), self.way.identity
        if listened_to.run_id == asked.run_id and listened_to.replication_id != asked.replication_id:
            self.subscriber.renew(name)

    def sent_at(self, position: str) -> float:
        """Return when a message was sent, on the monotonic clock, to a millisecond; 0.0 if that is not known."""
        stamp = unix_time(position)
        sent_at: float = self.way.clock.began(stamp)
        if sent_at:
            return sent_at
        # Perhaps there is no socket for commands. This one was asked when it was opened.
        clock = self.subscriber.server_of(self.name.encode()).clock
        return 0.0 if clock is None else stamp - clock

    def is_behind(self, position: str) -> bool:
        """Return whether a message is a newer one than the last, and no older one that somebody has forwarded."""
        last = self.position
        if last is None or position[ENTRY] > last[ENTRY]:
            return True
        # Another server may have another clock.
        return epoch_in(position) == self.epoch != epoch_in(last)


class HeldChannel:
    """The messages of a group that one channel does not get yet, since its history is being read."""

    def __init__(self) -> None:
        self.users = 0
        self.messages: deque[tuple[str | None, StoredMessage]] = deque()
        self.bytes = 0
        #: What was read, if it was.
        self.range: ReadRange | None = None
        self.read: set[str] = set()

    def was_read(self, after: str, history: History) -> None:
        """Called with what is not to come again: what is behind a position."""
        read = ReadRange(after, history.position)
        if self.range is not None:
            # By two who resume at the same time.
            read = ReadRange(min(after, self.range.after), max(read.to, self.range.to))
        self.range = read
        self.read.update(message[FIELD] for message in history.messages)

    def put(self, position: str | None, message: Message, capacity: int) -> int:
        """Hold one more message; return how many gave way, the oldest first."""
        stored = StoredMessage(message, math.inf, False)
        self.messages.append((position, stored))
        self.bytes += stored.size
        count = 0
        while len(self.messages) > capacity or (self.bytes > MAX_HELD_BYTES and len(self.messages) > 1):
            self.bytes -= self.messages.popleft()[1].size
            count += 1
        return count

    def clear(self) -> None:
        """Throw away what is held."""
        self.messages.clear()
        self.bytes = 0
