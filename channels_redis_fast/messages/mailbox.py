"""
Mailboxes of channels: messages that left Redis and were not yet received, and who waits for them.

``Mailboxes`` serves both layers. An ``Inbox`` is those of one Redis key of the core layer, which all specific
channels of one kind in this process share; it belongs to the layer and not to an event loop, since loops in
several threads may receive on one key. Knows no socket and no wire format; who empties an inbox's Redis key is
the ``receiver`` it names.

Rules kept here:

- A message goes to the first waiter that can still take it, else into the channel's mailbox, in order.
- A waiter of another event loop takes it out of the mailbox itself, when its loop runs: until then it is nobody's, and
  a loop that stands still holds nothing up. Those behind it in line take it at once where that loop is stopped, and
  after ``PATIENCE`` where it is busy.
- What a waiter got and could not use, because it was cancelled, goes back to the front; of several such messages that
  of the earlier waiter comes first.
- A mailbox holds at most the channel's capacity (the oldest gives way) for at most the expiry.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from ..connection.futures import fail
from ..hot import Lock, MailboxTable, Waiter, Waker, clone
from ..stats import Stats
from .codec import Letter, Message

logger = logging.getLogger("channels_redis_fast")

#: Seconds between two warnings about mailboxes that overflow.
WARNING_INTERVAL = 60.0


#: The place of a message that nobody had before.
NEW = math.inf

#: Seconds after which a message is taken by another loop than that of the first receiver, which is busy.
PATIENCE = 0.1

#: Members that are remembered of each key after they were delivered: 2 megabytes.
REMEMBERED = 50_000


class MailboxFeeder(Protocol):
    """What empties the Redis keys of inboxes, in one event loop."""

    loop: asyncio.AbstractEventLoop
    retired: bool
    #: How often it was asked to serve a key, and came to it.
    served: int

    def serve(self, inbox: Inbox) -> None: ...
    def waits_for(self, inbox: Inbox) -> list[tuple[int, bytes]]: ...


class MailboxLimits:
    """What mailboxes have in common: a lock, the limits, the counters."""

    def __init__(self, expiry: float, capacity_of: Callable[[str], int], stats: Stats) -> None:
        self.lock = Lock()
        self.expiry = expiry
        self.capacity_of = capacity_of
        self.stats = stats
        self._warn_at = 0.0

    def undeliverable(self, channel: str, error: Exception) -> None:
        """Count and log a message that could not be given to a channel. Those behind it are."""
        self.stats.undecodable += 1
        logger.error("Skipped a message that cannot be delivered to %r: %s: %s", channel, type(error).__name__, error)

    def dropped(self, channel: str, capacity: int) -> None:
        """Count a message that gave way, and say so now and then."""
        self.stats.dropped += 1
        now = time.monotonic()
        if now >= self._warn_at:
            self._warn_at = now + WARNING_INTERVAL
            logger.warning(
                "The consumer of channel %r does not keep up: its mailbox is full (capacity %d), the oldest messages "
                "are dropped (%d so far in this process)",
                channel,
                capacity,
                self.stats.dropped,
            )


class InboxRegistry(MailboxLimits):
    """All inboxes of a core layer."""

    def __init__(self, prefix: bytes, expiry: float, capacity_of: Callable[[str], int], stats: Stats) -> None:
        super().__init__(expiry, capacity_of, stats)
        self.inboxes: dict[str, Inbox] = {}
        #: Who empties keys in each event loop.
        self.receivers: dict[asyncio.AbstractEventLoop, MailboxFeeder] = {}
        self._prefix = prefix
        #: Receives that were ended without having been heard; see ``abandon_later``.
        self.abandoned: deque[tuple[Inbox, str, Waiter[Message]]] = deque()

    def open(self, name: str, client_prefix: str) -> Inbox:
        """
        Return the inbox of a non-local channel name, up to and including the ``!``, for somebody who receives on it.

        Raises ``AssertionError`` for a new one whose name does not end with ``client_prefix``.
        """
        with self.lock:
            inbox = self.inboxes.get(name)
            if inbox is None:
                if not name.endswith(client_prefix + "!"):
                    raise AssertionError("Wrong client prefix")
                inbox = self.inboxes[name] = Inbox(self, name, self._prefix + name.encode())
            # Whoever empties it must not let it go before the receiver waits.
            inbox.claimed = True
            return inbox

    def abandon_later(self, inbox: Inbox, channel: str, waiter: Waiter[Message]) -> None:
        """
        ``Inbox.abandon``, for a receive that the garbage collector ends: perhaps while this thread has the lock.

        It is done before anything else happens to a mailbox, or in the next step of the receive's loop.
        """
        self.abandoned.append((inbox, channel, waiter))
        with contextlib.suppress(RuntimeError):
            waiter.get_loop().call_soon_threadsafe(self.clear_abandoned)

    def clear_abandoned(self) -> None:
        """Do what was put off."""
        abandoned = []
        # Another thread may be faster.
        with contextlib.suppress(IndexError):
            while self.abandoned:
                abandoned.append(self.abandoned.popleft())
        for inbox, channel, waiter in sorted(abandoned, key=lambda each: each[2].number):
            inbox.abandon(channel, waiter)

    def empty(self) -> None:
        """Throw away all stored messages."""
        with self.lock:
            for inbox in self.inboxes.values():
                inbox.stored.clear()

    def sweep(self) -> float | None:
        """Drop what has expired; return the seconds until there is more to drop, None when nothing is stored."""
        with self.lock:
            left = [inbox.drop_expired() for inbox in self.inboxes.values()]
        return min((seconds for seconds in left if seconds is not None), default=None)


class Mailboxes(MailboxTable):
    """
    The mailboxes of channels that have something in common, and the receivers that wait on them.

    ``waiting`` and ``stored`` are the table's, as ``claim`` is, with which a receiver comes. A stored message has its
    monotonic deadline beside it, and its place: the number of a receiver that had it before, or ``NEW``.
    ``name``: the channel of messages that name none.
    """

    __slots__ = ("_limits", "name")

    def __init__(self, limits: MailboxLimits, name: str = "") -> None:
        super().__init__(limits.lock)
        self._limits = limits
        self.name = name

    def abandon(self, channel: str, waiter: Waiter[Message]) -> None:
        """Called when a receiver has gone; a message that it was given and never saw goes to the next, or back."""
        with self._limits.lock:
            self.leave(channel, waiter)
            if waiter.has_result():
                self._hand_over(channel, waiter.take(), _running_loop(), waiter.number)
            else:
                self._call(channel)

    def deliver(self, letters: list[Letter], here: Waker) -> int:
        """
        Give messages to their channels, in order; return how many that were, one for each channel.

        ``here`` is the waker of the event loop that this is called in.
        """
        with self._limits.lock:
            # The usual receiver is alone, in this loop, and still there.
            left, given = self.hand_out(letters, here)
            for address, message in left:
                shared = isinstance(address, list)
                failed: tuple[str, Exception] | None = None
                for channel in address if isinstance(address, list) else [address or self.name]:
                    try:
                        self._hand_over(channel, clone(message) if shared else message, here.loop)
                        given += 1
                    except Exception as error:
                        failed = failed or (channel, error)
                if failed is not None:
                    # Once, however many channels it was for.
                    self._limits.undeliverable(*failed)
        return given

    def depth(self, channel: str) -> int:
        """Return how many messages are stored for a channel, not counting what has expired. For any thread."""
        with self._limits.lock:
            stored = self.stored.get(channel)
            # Copied in one go: the receivers of a Pub/Sub layer take from it without the lock.
            entries = () if stored is None else tuple(stored)
        now = time.monotonic()
        return sum(deadline > now for deadline, _, _ in entries)

    def drop_expired(self) -> float | None:
        """
        Drop what has expired; return the seconds until there is more to drop, None when nothing is stored.

        The caller holds the lock.
        """
        now = time.monotonic()
        next_deadline: float | None = None
        for channel, messages in list(self.stored.items()):
            while messages and messages[0][0] <= now:
                messages.popleft()
                self._limits.stats.expired += 1
            if not messages:
                del self.stored[channel]
            elif next_deadline is None or messages[0][0] < next_deadline:
                next_deadline = messages[0][0]
        return None if next_deadline is None else next_deadline - now

    def fail_waiters(self, error: Exception, channel: str | None = None) -> None:
        """Let every waiting receiver, or every one of a channel, raise ``error``."""
        with self._limits.lock:
            for name in list(self.waiting) if channel is None else [channel]:
                while (waiter := self.next_in_line(name)) is not None:
                    with contextlib.suppress(RuntimeError):
                        waiter.get_loop().call_soon_threadsafe(fail, [waiter], error)

    def drop_waiters(self, loop: asyncio.AbstractEventLoop) -> None:
        """Forget the receivers of a loop that closes: a message given to them would be lost."""
        with self._limits.lock:
            for channel in list(self.waiting):
                for waiter in self.line(channel):
                    if waiter.get_loop() is loop:
                        self.leave(channel, waiter)

    def waiting_loop(self) -> asyncio.AbstractEventLoop | None:
        """Return the event loop of one of the waiting receivers, if there is one; one that runs, if there is one."""
        with self._limits.lock:
            loops = [waiter.get_loop() for channel in self.waiting for waiter in self.line(channel)]
        return next((loop for loop in loops if loop.is_running()), loops[0] if loops else None)

    def is_awaited(self) -> bool:
        """Whether a receiver waits for more than what lies there for it."""
        if not self.stored:
            return bool(self.waiting)
        with self._limits.lock:
            return any(len(self.line(channel)) > len(self.stored.get(channel, ())) for channel in self.waiting)

    def _hand_over(
        self, channel: str, message: Message, here: asyncio.AbstractEventLoop | None, place: float = NEW
    ) -> None:
        if place < NEW or channel not in self.stored:
            for waiter in self.line(channel):
                if waiter.done():
                    continue
                if waiter.get_loop() is not here:
                    break
                self.leave(channel, waiter)
                waiter.set_result(message)
                return
        self._store(channel, message, place)
        self._call(channel)

    def _call(self, channel: str) -> None:
        """Have those who are first in line take what is stored, each in its own event loop."""
        count = len(self.stored.get(channel, ()))
        if not count or channel not in self.waiting:
            return
        loops = [waiter.get_loop() for waiter in self.line(channel) if not waiter.done()]
        # Those that are stopped take what is left when they go on.
        loops.sort(key=_stands_still)
        for loop in loops[:count]:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._collect, channel, loop)
        for loop in dict.fromkeys(loops[count:]):
            if loop not in loops[:count]:
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(loop.call_later, PATIENCE, self._collect, channel, loop)

    def _collect(self, channel: str, loop: asyncio.AbstractEventLoop) -> None:
        """Give the oldest message of a channel to the first of its receivers in this event loop."""
        with self._limits.lock:
            if channel not in self.stored:
                return
            for waiter in self.line(channel):
                if waiter.get_loop() is loop and not waiter.done():
                    message = self._take(channel)
                    if message is not None:
                        self.leave(channel, waiter)
                        waiter.set_result(message)
                    return

    def _store(self, channel: str, message: Message, place: float) -> None:
        # Asked first, since a site's own answer may be an error: then nothing is stored.
        capacity = max(self._limits.capacity_of(channel), 1) if place == NEW else 0
        if channel in self.waiting:
            # What waits for another loop to run, and would not be here if that was this one.
            capacity += len(self.line(channel))
        stored = self.stored.get(channel)
        if stored is None:
            stored = self.stored[channel] = deque()
        entry = (time.monotonic() + self._limits.expiry, message, place)
        if place < NEW:
            stored.insert(sum(1 for _ in itertools.takewhile(lambda other: other[2] < place, stored)), entry)
            return
        stored.append(entry)
        while len(stored) > capacity:
            stored.popleft()
            self._limits.dropped(channel, capacity)

    def _take(self, channel: str) -> Message | None:
        stored = self.stored[channel]
        now = time.monotonic()
        while stored:
            deadline, message, _ = stored.popleft()
            if not stored:
                del self.stored[channel]
            if deadline > now:
                return message
            self._limits.stats.expired += 1
        return None


class Inbox(Mailboxes):
    """The mailboxes of all channels that share one Redis key."""

    __slots__ = ("claimed", "delivered", "epoch", "key", "receiver", "removals", "seen")

    def __init__(self, limits: InboxRegistry, name: str, key: bytes) -> None:
        super().__init__(limits, name)
        self.key = key
        #: Who empties the Redis key, and how often that has changed hands.
        self.receiver: MailboxFeeder | None = None
        self.epoch = 0
        #: By shard, members that were delivered and are not yet known to be removed from Redis.
        self.removals: dict[int, list[bytes]] = {}
        #: Hashes of the members delivered last: a server that takes another's place may have them still.
        self.delivered: deque[int] = deque(maxlen=REMEMBERED)
        #: Whether somebody received since the pump last looked, and when (monotonic) it last saw that.
        self.claimed = False
        self.seen = 0.0

    def disarm(self) -> None:
        """Stop emptying the key on behalf of receivers that have left."""
        self.claimed = False
        self.seen = float("-inf")


def _stands_still(loop: asyncio.AbstractEventLoop) -> bool:
    return not loop.is_running()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
