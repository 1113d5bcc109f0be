"""
What the groups with a history of one event loop miss while they are not subscribed, and how they get it.

For each such group with members here the last message is known. When the group is subscribed again, newly published
messages are held, the stream is read from after the last message, and the members get the missed messages, then the
held ones. While a history is read for one channel (``group_resume``), only the messages for that channel are held.
Knows groups by their Redis channel, and messages by their positions. Does not know how groups are subscribed or who
receives.

Rules kept here:

- The last message of a group is known before the group is subscribed; otherwise its first recovery is not complete.
- A subscription that is acknowledged again had a gap, whatever the reason. If that happens during a recovery, the
  stream is read once more.
- The members get each message once and in order. A message that is both held and read comes once, at its place in the
  stream.
- A recovery is complete only if each part of it is, according to the server at which the group is subscribed.
- Held messages are bounded: the excess is discarded, and read from the stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

from ..connection.futures import ignore
from ..history import FIELD, Asked, Histories, History, Stream
from ..history.positions import ENTRY, Position, belongs
from ..hot import clone
from ..messages.codec import Message
from ..messages.exclusion import EXCLUDED, take_excluded
from ..messages.mailbox import MailboxLimits
from .followed_group import MAX_HELD_BYTES, FollowedGroup, GroupSubscriber, Held, HeldChannel, ReadRange
from .outages import Outages

logger = logging.getLogger("channels_redis_fast")

#: Streams that are read concurrently, and messages in one reply. They bound what a process takes in at once.
MAX_READS, PAGE = 8, 1000

#: How many messages are held for one group.
MAX_HELD = 10_000

#: How often a recovery may start holding again because too many messages came. After that, what it discards is missing.
MAX_OVERFLOWS = 5


class Groups(Protocol):
    """The groups of the event loop."""

    #: The channels of each group.
    groups: dict[str, dict[str, None]]

    def ways_to(self, group: str) -> tuple[Any, GroupSubscriber]:
        """Return the ways to the server of a group: for commands, and for its subscription."""

    def decode(self, name: str, payload: bytes) -> Message | None:
        """Return the message of a payload; None for one without a message."""

    def deliver(self, target: list[str], message: Message, sent_at: float = ...) -> None:
        """Deliver a message to channels. ``sent_at``: as in ``Mailboxes.deliver``."""


class Recovery:
    """The groups with a history in one event loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        histories: Histories,
        here: Groups,
        outages: Outages,
        limits: MailboxLimits,
    ) -> None:
        self.groups: dict[str, FollowedGroup] = {}
        self._loop = loop
        self._histories = histories
        self._here = here
        self._outages = outages
        self._limits = limits
        self._copy: Callable[[Message], Message] = limits.copy or clone
        #: Groups whose stream is to be read, and how many streams are being read.
        self._waiting: deque[FollowedGroup] = deque()
        self._reading = 0
        self._held_bytes = 0
        self._holds: dict[str, dict[str, HeldChannel]] = {}

    # Membership.

    def follow(self, name: str, stream: Stream) -> asyncio.Future[None] | None:
        """
        Called when a channel joins a group. The group is subscribed once its newest position has been read.

        Returns a future of that, or None if it is done.
        """
        followed = self.groups.get(name)
        if followed is None:
            followed = FollowedGroup(name, stream, *self._here.ways_to(name), self._loop.create_future())
            self.groups[name] = followed
            # Read before subscribing: everything that the subscription brings comes after this position.
            reading = self._histories.ask(followed.way, stream, Asked.newest(stream.digest))
            reading.add_done_callback(partial(self._start, followed))
        return None if followed.started.done() else followed.started

    def forget(self, name: str) -> None:
        """Called when a group has no members here any more."""
        followed = self.groups.pop(name, None)
        if followed is not None:
            self._throw_away(followed)
            if not followed.started.done():
                followed.started.set_result(None)

    def left(self, name: str, channel: str) -> None:
        """Called when a channel has left a group."""
        followed = self.groups.get(name)
        if followed is not None:
            followed.resumed.pop(channel, None)
        hold = self._holds.get(name, {}).get(channel)
        if hold is not None:
            hold.clear()

    def close(self) -> None:
        """Called when the event loop closes."""
        for name in list(self.groups):
            self.forget(name)
        self._waiting.clear()

    def _start(self, followed: FollowedGroup, reading: asyncio.Future[History]) -> None:
        error = reading.exception()
        if self.groups.get(followed.name) is not followed:
            return
        if error is None:
            followed.position = reading.result().position
        else:
            logger.warning(
                "The newest position of group %r could not be read, so messages that it misses before its next one "
                "will not be recovered: %s",
                followed.stream.group,
                error,
            )
        acknowledged = followed.subscriber.subscribe(followed.name.encode())
        if acknowledged is None:
            followed.subscribed()
        else:
            # Callers who joined wait for it themselves.
            acknowledged.add_done_callback(ignore)
        if not followed.started.done():
            followed.started.set_result(None)

    # Messages from the subscription.

    def acknowledged(self, name: str) -> None:
        """Called when a group is subscribed, before anything that is published from then on."""
        followed = self.groups.get(name)
        if followed is None:
            return
        had_gap = followed.is_subscribed
        followed.subscribed()
        if not had_gap:
            return
        if followed.is_recovering:
            followed.again = True
            return
        followed.is_recovering = True
        followed.is_whole = followed.position is not None
        followed.overflows = 0
        self._outages.recovering(name)
        if followed.position is None:
            self._finish(followed)
        else:
            self._read_later(followed)

    def takes(self, name: str, payload: bytes) -> bool:
        """Take a published payload if its group has a history. Return whether it does."""
        followed = self.groups.get(name)
        if followed is None:
            return False
        message = self._here.decode(name, payload)
        if message is None:
            return True
        # As in channels_redis, others may send messages that are not dicts.
        position = message.get(FIELD) if isinstance(message, dict) else None
        if not belongs(position, followed.stream.digest):
            position = None
        if followed.is_recovering:
            self._hold(followed, position, message, len(payload))
        elif position is None or not self._was_read(followed, position):
            self._give(followed, position, message)
        return True

    def _was_read(self, followed: FollowedGroup, position: str) -> bool:
        """Return whether a message had been read before it arrived."""
        read = followed.read
        if read is None:
            return False
        if read.covers(position):
            return True
        if read.is_passed(position):
            followed.read = None
        return False

    def _give(self, followed: FollowedGroup, position: str | None, message: Message, is_read: bool = False) -> None:
        """Deliver a message to the members. ``is_read``: whether it comes from the stream."""
        name = followed.name
        channels = list(self._here.groups[name])
        if isinstance(message, dict) and EXCLUDED in message:
            excluded = take_excluded(message)
            channels = [channel for channel in channels if channel not in excluded]
        if followed.resumed or name in self._holds:
            channels = [
                channel for channel in channels if self._may_have(followed, channel, position, message, is_read)
            ]
        if channels:
            # The age of a message that was read is that of the outage or of the client's absence, not its latency.
            sent_at = 0.0 if position is None or is_read else followed.sent_at(position)
            self._here.deliver(channels, message, sent_at)
        if position is not None and followed.is_behind(position):
            followed.position = position

    def _may_have(
        self, followed: FollowedGroup, channel: str, position: str | None, message: Message, is_read: bool
    ) -> bool:
        """Return whether a channel should get a message now. A message that has to wait is held."""
        read = followed.resumed.get(channel)
        if read is not None and position is not None:
            if read.covers(position) or (is_read and position[ENTRY] <= read.to[ENTRY]):
                return False
            if read.is_passed(position):
                del followed.resumed[channel]
        hold = self._holds.get(followed.name, {}).get(channel)
        if hold is None:
            return True
        try:
            capacity = max(self._limits.capacity_of(channel), 1)
            for _ in range(hold.put(position, self._copy(message), capacity)):
                self._limits.dropped(channel, capacity)
        except Exception as error:
            self._limits.undeliverable(channel, error)
        return False

    # Held messages.

    def _hold(self, followed: FollowedGroup, position: str | None, message: Message, size: int) -> None:
        followed.held_bytes += size
        self._held_bytes += size
        if position is None:
            followed.unplaced.append(message)
        else:
            followed.held.append(Held(position, message, size, followed.unplaced))
            followed.unplaced = []
        is_full = len(followed.held) + len(followed.unplaced) > MAX_HELD
        if is_full or self._held_bytes > MAX_HELD_BYTES:
            followed.overflows += 1
            if followed.overflows <= MAX_OVERFLOWS:
                followed.again = True
            else:
                followed.is_whole = False
            # All others are in the stream.
            lost = len(followed.unplaced) + sum(len(held.before) for held in followed.held)
            self._limits.stats.dropped += lost
            self._throw_away(followed)

    def _throw_away(self, followed: FollowedGroup) -> None:
        followed.held.clear()
        followed.unplaced.clear()
        self._held_bytes -= followed.held_bytes
        followed.held_bytes = 0

    def _release(self, followed: FollowedGroup, before: str | None) -> bool:
        """
        Deliver the held messages up to a position, or all of them.

        Returns whether the message at that position was held too. It is then no longer held, and was not delivered.
        """
        held = followed.held
        while held and (before is None or held[0].position <= before):
            first = held.popleft()
            for message in first.before:
                self._give(followed, None, message)
            if first.position == before:
                return True
            if not self._was_read(followed, first.position):
                self._give(followed, first.position, first.message)
        return False

    # Messages read from the stream.

    def _read_later(self, followed: FollowedGroup) -> None:
        self._waiting.append(followed)
        self._read_next()

    def _read_next(self) -> None:
        while self._waiting and self._reading < MAX_READS:
            followed = self._waiting.popleft()
            if self.groups.get(followed.name) is not followed:
                continue
            assert followed.position is not None
            self._reading += 1
            followed.again = False
            asked = Asked(Position.parse(followed.position), PAGE, True, for_many=True)
            reading = self._histories.ask(followed.way, followed.stream, asked)
            reading.add_done_callback(partial(self._came, followed, followed.position))

    def _came(self, followed: FollowedGroup, since: str, reading: asyncio.Future[History]) -> None:
        self._reading -= 1
        error = reading.exception()
        if self.groups.get(followed.name) is followed:
            if error is not None:
                followed.is_whole = False
                logger.warning("The messages that group %r missed could not be read: %s", followed.stream.group, error)
            goes_on = error is None and self._take(followed, since, reading.result())
            if goes_on or followed.again:
                self._waiting.append(followed)
            else:
                self._finish(followed)
        self._read_next()

    def _take(self, followed: FollowedGroup, since: str, history: History) -> bool:
        """Deliver what was read to the members. Return whether there may be more."""
        followed.is_whole = followed.is_whole and followed.is_proven(history)
        for message in history.messages:
            position = message[FIELD]
            if not self._release(followed, position):
                self._limits.stats.recovered += 1
            self._give(followed, position, message, is_read=True)
        self._release(followed, history.position)
        read = followed.read
        followed.read = ReadRange(since if read is None or read.to != since else read.after, history.position)
        followed.position = history.position
        is_cut = len(history.messages) >= PAGE or not history.complete
        return is_cut and history.position != since

    def _finish(self, followed: FollowedGroup) -> None:
        self._release(followed, None)
        for message in followed.unplaced:
            self._give(followed, None, message)
        followed.unplaced = []
        self._throw_away(followed)
        followed.is_recovering = False
        if not followed.is_whole:
            self._limits.stats.incomplete += 1
        self._outages.recovered(followed.name, followed.is_whole)

    # One channel.

    @contextlib.contextmanager
    def holding(self, name: str, channel: str) -> Iterator[HeldChannel]:
        """Hold a group's messages for one of its channels. In the end it gets those that were not read."""
        holds = self._holds.setdefault(name, {})
        hold = holds.setdefault(channel, HeldChannel())
        hold.users += 1
        try:
            yield hold
        finally:
            hold.users -= 1
            if not hold.users:
                del holds[channel]
                if not holds:
                    del self._holds[name]
                self._let_go(name, channel, hold)

    async def read(self, name: str, stream: Stream, asked: Asked) -> History:
        """
        Read the history of a group. It is not complete if the group is not subscribed at the server that was asked.

        Raises redis-py's errors.
        """
        way, _ = self._here.ways_to(name)
        history = await self._histories.ask(way, stream, asked)
        if not history.complete:
            return history
        followed = self.groups.get(name)
        if followed is not None and followed.is_proven(history):
            return history
        if followed is not None:
            followed.renew()
        return history._replace(complete=False)

    def _let_go(self, name: str, channel: str, hold: HeldChannel) -> None:
        followed = self.groups.get(name)
        if followed is None or channel not in self._here.groups.get(name, {}):
            return
        if hold.range is not None:
            followed.resumed[channel] = hold.range
        for position, stored in hold.messages:
            if position is None or position not in hold.read:
                self._here.deliver([channel], stored.message)
