"""
Mailboxes of channels: messages that have left Redis and were not yet received, and the receivers that wait.

``Mailboxes`` serves both layers. An ``Inbox`` holds the mailboxes of one Redis key of the core layer, which all
specific channels of one kind in this process share. It belongs to the layer and not to an event loop, since loops in
several threads may receive on one key. Knows no socket and no wire format. An inbox's ``receiver`` reads its Redis key.

Rules kept here:

- A message goes to the first waiter that can still take it, otherwise into the channel's mailbox, in order.
- A waiter of another event loop takes the message out of the mailbox itself, when its loop runs, so a stalled loop
  blocks no other receiver. Receivers behind it in line take the message at once if that loop is stopped, and after
  ``PATIENCE`` if it is busy.
- A message that a waiter got and could not use, because it was cancelled, goes back to the front. Of several such
  messages, the one of the earlier waiter comes first.
- A mailbox holds at most the channel's capacity (the oldest message is dropped) for at most the expiry.
- A message to several channels is stored once, and copied for each receiver that takes it.
- All mailboxes of the process together hold at most ``memory_limit.MAX_BYTES``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol, TypeVar

from ..connection.futures import fail
from ..drain import Drain
from ..hot import Lock, Mailbox, MailboxTable, StoredMessage, Waiter, Waker, clone
from ..stats import Stats
from . import memory_limit
from .codec import Delivery, Message
from .delivered import DeliveredMembers
from .memory_limit import PROCESS, Alive, Droppable

logger = logging.getLogger("channels_redis_fast")

#: Seconds between two warnings about overflowing mailboxes.
WARNING_INTERVAL = 60.0


#: Seconds after which another loop takes a message because the loop of the first receiver is busy.
PATIENCE = 0.1

#: A receive that the garbage collector has ended: what it received on, and as the last item its waiter.
Abandoned = TypeVar("Abandoned", bound=tuple[Any, ...])


def take_abandoned(abandoned: deque[Abandoned]) -> list[Abandoned]:
    """Remove and return the recorded receives that the garbage collector has ended, in the order of their start."""
    taken: list[Abandoned] = []
    # Another thread may empty it first.
    with contextlib.suppress(IndexError):
        while abandoned:
            taken.append(abandoned.popleft())
    return sorted(taken, key=lambda each: each[-1].number)


class MailboxFeeder(Protocol):
    """Empties the Redis keys of inboxes, in one event loop."""

    loop: asyncio.AbstractEventLoop
    retired: bool
    #: How often it was asked to serve a key and did so.
    served: int

    def serve(self, inbox: Inbox) -> None: ...
    def waits_for(self, inbox: Inbox) -> list[tuple[int, bytes]]: ...


class MailboxLimits:
    """
    The shared parts of a layer's mailboxes: a lock, the limits, the counters.

    ``copy``: copies a decoded message; None if messages consist of dicts and lists.
    """

    def __init__(
        self,
        expiry: float,
        capacity_of: Callable[[str], int],
        stats: Stats,
        copy: Callable[[Message], Message] | None = None,
    ) -> None:
        self.lock = Lock()
        self.expiry = expiry
        self.capacity_of = capacity_of
        self.stats = stats
        self.lag = stats.lag
        self.copy = copy
        self.all: Alive[Mailboxes] = Alive()
        self._warn_at = self._warn_of_memory_at = 0.0
        PROCESS.add(self)

    def undeliverable(self, channel: str, error: Exception) -> None:
        """Count and log a message that could not be given to a channel. Messages behind it still are."""
        self.stats.undecodable += 1
        logger.error("Skipped a message that cannot be delivered to %r: %s: %s", channel, type(error).__name__, error)

    def dropped(self, channel: str, capacity: int) -> None:
        """Count a message that was dropped, and log it at most once in ``WARNING_INTERVAL``."""
        self.stats.dropped += 1
        now = time.monotonic()
        if now >= self._warn_at:
            self._warn_at = now + WARNING_INTERVAL
            logger.warning(
                "The consumer of channel %r does not keep up: its mailbox is full (capacity %d), and the oldest "
                "messages are dropped (%d so far in this process)",
                channel,
                capacity,
                self.stats.dropped,
            )

    def depths(self) -> tuple[int, int]:
        """Return how many messages are stored for all channels together, and how many for the fullest channel."""
        with self.lock:
            depths = [len(mailbox) for mailboxes in self.all for mailbox in mailboxes.stored.values()]
        return sum(depths), max(depths, default=0)

    # Called by the process' memory limit.

    def held(self) -> int:
        """Return the number of bytes in all mailboxes."""
        return sum(mailboxes.held for mailboxes in self.all)

    def droppable(self) -> list[Droppable]:
        """Return all mailboxes."""
        with self.lock:
            return [
                (mailbox.last_received, partial(mailboxes.drop_oldest, mailbox))
                for mailboxes in self.all
                for mailbox in mailboxes.stored.values()
            ]

    def dropped_for_memory(self, count: int) -> None:
        """Count messages dropped because mailboxes take too much memory; log it once in ``WARNING_INTERVAL``."""
        with self.lock:
            self.stats.dropped += count
        now = time.monotonic()
        if now >= self._warn_of_memory_at:
            self._warn_of_memory_at = now + WARNING_INTERVAL
            logger.warning(
                "Messages waiting in this process take more than %d MB: the oldest are dropped, beginning with "
                "channels that nobody receives on (%d so far in this process)",
                memory_limit.MAX_BYTES // 1_000_000,
                self.stats.dropped,
            )


class InboxReader(Protocol):
    """Reads a channel without ``receive``."""

    @property
    def address(self) -> tuple[str, str]:
        """The name of the inbox that it reads, and the name of its channel there."""


class InboxRegistry(MailboxLimits):
    """All inboxes of a core layer."""

    def __init__(
        self,
        prefix: bytes,
        expiry: float,
        capacity_of: Callable[[str], int],
        stats: Stats,
        copy: Callable[[Message], Message] | None = None,
    ) -> None:
        super().__init__(expiry, capacity_of, stats, copy)
        self.inboxes: dict[str, Inbox] = {}
        #: The object that reads the keys in each event loop.
        self.receivers: dict[asyncio.AbstractEventLoop, MailboxFeeder] = {}
        self._prefix = prefix
        #: Receives that the garbage collector has ended; see ``abandon_later``.
        self.abandoned: deque[tuple[Inbox, str, Waiter[Message]]] = deque()
        #: The drain of this process, if one has begun: which of its channels were told.
        self.drain: Drain | None = None
        #: The consumers that read their channel without ``receive``.
        self.readers: set[InboxReader] = set()

    def open(self, name: str, client_prefix: str) -> Inbox:
        """
        Return the inbox of a non-local channel name, up to and including the ``!``, for a caller that receives on it.

        Raises ``AssertionError`` for a new one whose name does not end with ``client_prefix``.
        """
        with self.lock:
            inbox = self.inboxes.get(name)
            if inbox is None:
                if not name.endswith(client_prefix + "!"):
                    raise AssertionError("Wrong client prefix")
                inbox = self.inboxes[name] = Inbox(self, name, self._prefix + name.encode())
            # Its reader must not drop it before the receiver waits.
            inbox.claimed = True
            return inbox

    def arrived(self, inbox: Inbox, channel: str, here: Waker) -> None:
        """Called while this process is being drained and somebody receives. Tells the channel about the drain."""
        assert self.drain is not None
        notices = self.drain.arrived((channel,))
        if notices:
            inbox.deliver(notices, here)

    def left(self, channel: str) -> None:
        """Called when a receiver has left. It may be called at any moment and in any thread."""
        if self.drain is not None:
            self.drain.left(channel)

    def tell_all(self, here: Waker, readers: Iterable[tuple[str, str]]) -> None:
        """
        Tell all channels on which somebody receives that this process is being drained.

        ``readers``: for channels that have a reader, waiting or not, the name of their inbox and their own.
        """
        assert self.drain is not None
        channels: dict[str, Inbox] = {}
        with self.lock:
            for name, channel in readers:
                if name in self.inboxes:
                    channels[channel] = self.inboxes[name]
            for inbox in self.inboxes.values():
                channels.update(dict.fromkeys(inbox.waiting, inbox))
        by_inbox: dict[Inbox, list[Delivery]] = {}
        for notice in self.drain.arrived(channels):
            by_inbox.setdefault(channels[str(notice[0])], []).append(notice)
        for inbox, notices in by_inbox.items():
            inbox.deliver(notices, here)

    def is_received_on(self) -> bool:
        """Return whether somebody waits for a message."""
        return any(inbox.waiting for inbox in list(self.inboxes.values()))

    def ended(self, inbox: Inbox, channel: str, waiter: Waiter[Message], error: BaseException) -> None:
        """Called when a receive has raised ``error`` instead of returning a message."""
        if is_collected(error):
            self.abandon_later(inbox, channel, waiter)
        else:
            inbox.abandon(channel, waiter)
        self.left(channel)

    def abandon_later(self, inbox: Inbox, channel: str, waiter: Waiter[Message]) -> None:
        """
        Do ``Inbox.abandon`` later, for a receive that the garbage collector ends, maybe while this thread has the lock.

        It is done before anything else happens to a mailbox, or in the next iteration of the receive's loop.
        """
        self.abandoned.append((inbox, channel, waiter))
        with contextlib.suppress(RuntimeError):
            waiter.get_loop().call_soon_threadsafe(self.clear_abandoned)

    def clear_abandoned(self) -> None:
        """Handle the receives that ``abandon_later`` has recorded."""
        for inbox, channel, waiter in take_abandoned(self.abandoned):
            inbox.abandon(channel, waiter)

    def empty(self) -> None:
        """Throw away all stored messages."""
        with self.lock:
            for inbox in self.inboxes.values():
                inbox.clear()

    def sweep(self) -> float | None:
        """Drop expired messages; return the seconds until the next one expires, None if nothing is stored."""
        with self.lock:
            left = [inbox.drop_expired() for inbox in self.inboxes.values()]
        return min((seconds for seconds in left if seconds is not None), default=None)


class Mailboxes(MailboxTable):
    """
    The mailboxes of a set of channels, and the receivers that wait on them.

    ``waiting`` and ``stored`` belong to the table, and so does ``claim``, which each receiver calls first. ``name``:
    the channel of messages that name none.
    """

    __slots__ = ("__weakref__", "_copy_of", "_limits", "name")

    def __init__(self, limits: MailboxLimits, name: str = "") -> None:
        super().__init__(limits.lock, limits.copy, limits.lag)
        self._limits = limits
        self._copy_of = limits.copy or clone
        self.name = name
        limits.all.add(self)

    def abandon(self, channel: str, waiter: Waiter[Message]) -> None:
        """Called when a receiver has gone. A message that it was given and did not take goes to the next, or back."""
        with self._limits.lock:
            self.leave(channel, waiter)
            if not waiter.has_result():
                self._call(channel)
                return
            grown = self._hand_back(channel, waiter.take(), waiter.number)
        PROCESS.grew(grown)

    def deliver(self, deliveries: list[Delivery], here: Waker, sent_at: float = 0.0) -> int:
        """
        Give messages to their channels, in order; return the number of deliveries, one for each channel.

        ``here`` is the waker of the current event loop. ``sent_at``: when the messages were sent (monotonic), if that
        is to be measured.
        """
        with self._limits.lock:
            # The usual receiver is alone, in this loop, and still there.
            left, given = self.hand_out(deliveries, here)
            if sent_at and given:
                self._limits.lag.since(sent_at)
            if not left:
                return given
            before = self.held
            capacity_of = self._limits.capacity_of
            deadline = time.monotonic() + self._limits.expiry
            at = 0
            while True:
                # Messages of a busy consumer, on whose channel nobody waits at the moment.
                start, at = at, self.keep_from(left, at, self.name, capacity_of, deadline, sent_at)
                given += at - start
                if at == len(left):
                    break
                address, message = left[at]
                at += 1
                if isinstance(address, list):
                    given += self._deliver_to_several(address, message, deadline, here, sent_at)
                    continue
                channel = address or self.name
                try:
                    self._hand_over(channel, StoredMessage(message, deadline, False, math.inf, sent_at), here.loop)
                    given += 1
                except Exception as error:
                    self._limits.undeliverable(channel, error)
            grown = self.held - before
        if grown > 0:
            PROCESS.grew(grown)
        return given

    def depth(self, channel: str) -> int:
        """Return how many messages are stored for a channel, not counting expired ones. Thread-safe."""
        now = time.monotonic()
        with self._limits.lock:
            return sum(stored.deadline > now for stored in self.stored.get(channel, ()))

    def forget(self, channel: str) -> None:
        """Throw away the stored messages of a channel. The caller holds the lock."""
        while self.pop(channel) is not None:
            pass

    def drop_oldest(self, mailbox: Mailbox, spare: int) -> int | None:
        """Drop a mailbox's oldest message; return the freed bytes, None if it had no more than ``spare`` messages."""
        with self._limits.lock:
            # An empty mailbox is no longer in the table.
            if len(mailbox) <= spare or self.stored.get(mailbox.channel) is not mailbox:
                return None
            before = self.held
            self.pop(mailbox.channel)
            return before - self.held

    def drop_expired(self) -> float | None:
        """
        Drop expired messages; return the seconds until the next one expires, None if nothing is stored.

        The caller holds the lock.
        """
        now = time.monotonic()
        count, due = self.expire(now)
        self._limits.stats.expired += count
        return None if due is None else due - now

    def fail_waiters(self, error: Exception, channel: str | None = None) -> None:
        """Make every waiting receiver, or every one of a channel, raise ``error``."""
        waiters: dict[asyncio.AbstractEventLoop, list[Waiter[Message]]] = {}
        with self._limits.lock:
            for name in list(self.waiting) if channel is None else [channel]:
                while (waiter := self.next_in_line(name)) is not None:
                    waiters.setdefault(waiter.get_loop(), []).append(waiter)
        for loop, of_loop in waiters.items():
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(fail, of_loop, error)

    def drop_waiters(self, loop: asyncio.AbstractEventLoop) -> None:
        """Forget the receivers of a loop that closes: a message given to them would be lost."""
        with self._limits.lock:
            for channel in list(self.waiting):
                for waiter in self.line(channel):
                    if waiter.get_loop() is loop:
                        self.leave(channel, waiter)

    def waiting_loop(self) -> asyncio.AbstractEventLoop | None:
        """Return the event loop of a waiting receiver, preferably one that runs; None if nobody waits."""
        with self._limits.lock:
            loops = [waiter.get_loop() for channel in self.waiting for waiter in self.line(channel)]
        return next((loop for loop in loops if loop.is_running()), loops[0] if loops else None)

    def is_awaited(self) -> bool:
        """Whether a receiver waits for more than what is stored for it."""
        if not self.waiting:
            return False
        with self._limits.lock:
            return any(len(self.line(channel)) > len(self.stored.get(channel, ())) for channel in self.waiting)

    def _deliver_to_several(
        self, channels: list[str], message: Message, deadline: float, here: Waker, sent_at: float
    ) -> int:
        """Give one message to each of several channels; return how many got it."""
        given = 0
        failed: tuple[str, Exception] | None = None
        try:
            # One copy for all channels that store it: the original belongs to a receiver.
            stored = StoredMessage(self._copy_of(message), deadline, True, math.inf, sent_at)
            left = self.keep(channels, stored, self._limits.capacity_of)
            given += len(channels) - len(left)
            for channel in left:
                try:
                    self._hand_over(channel, stored, here.loop)
                    given += 1
                except Exception as error:
                    failed = failed or (channel, error)
        except Exception as error:
            failed = (channels[0], error)
        if failed is not None:
            # Logged once, however many channels it was for.
            self._limits.undeliverable(*failed)
        return given

    def _hand_over(
        self, channel: str, stored: StoredMessage, here: asyncio.AbstractEventLoop | None, first: bool = False
    ) -> None:
        if channel in self.waiting and (first or channel not in self.stored):
            for waiter in self.line(channel):
                if waiter.done():
                    continue
                if waiter.get_loop() is not here:
                    break
                # Copied before anybody leaves the line.
                message = self._copy_of(stored.message) if stored.is_shared else stored.message
                self.leave(channel, waiter)
                waiter.set_result(message)
                self._was_taken(stored)
                return
        self._store(channel, stored, first)
        self._call(channel)

    def _hand_back(self, channel: str, message: Message, place: int) -> int:
        """
        Give a message that a receiver was given and did not take to the next one, or back; return the bytes stored.

        ``place``: the number of that receiver's waiter.
        """
        before = self.held
        stored = StoredMessage(message, time.monotonic() + self._limits.expiry, False, place)
        self._hand_over(channel, stored, _running_loop(), first=True)
        return self.held - before

    def _call(self, channel: str) -> None:
        """Make the first receivers in line take what is stored, each in its own event loop."""
        count = len(self.stored.get(channel, ()))
        if not count or channel not in self.waiting:
            return
        loops = [waiter.get_loop() for waiter in self.line(channel) if not waiter.done()]
        # Receivers in stopped loops take what is left when their loops continue.
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

    def _store(self, channel: str, stored: StoredMessage, first: bool) -> None:
        # Called first, since a site's own function may raise: then nothing is stored.
        capacity = 0 if first else max(self._limits.capacity_of(channel), 1)
        if channel in self.waiting:
            # Room for messages that wait for another loop to run. In this loop they would have been delivered.
            capacity += len(self.line(channel))
        if self.put(channel, stored, first) <= capacity or first:
            return
        while len(self.stored[channel]) > capacity:
            self.pop(channel)
            self._limits.dropped(channel, capacity)

    def _take(self, channel: str) -> Message | None:
        now = time.monotonic()
        while (stored := self.pop(channel, now)) is not None:
            if stored.deadline <= now:
                self._limits.stats.expired += 1
            elif not stored.is_shared or not stored.holders:
                self._was_taken(stored)
                return stored.message
            else:
                try:
                    message = self._copy_of(stored.message)
                except Exception as error:
                    self._limits.undeliverable(channel, error)
                else:
                    self._was_taken(stored)
                    return message
        return None

    def _was_taken(self, stored: StoredMessage) -> None:
        if stored.sent_at:
            self._limits.lag.since(stored.sent_at)


class Inbox(Mailboxes):
    """The mailboxes of all channels that share one Redis key."""

    __slots__ = ("claimed", "delivered", "epoch", "key", "receiver", "removals", "seen")

    def __init__(self, limits: InboxRegistry, name: str, key: bytes) -> None:
        super().__init__(limits, name)
        self.key = key
        #: The feeder that empties the Redis key, and how often it has changed.
        self.receiver: MailboxFeeder | None = None
        self.epoch = 0
        #: By shard, members that were delivered and are not yet known to be removed from Redis.
        self.removals: dict[int, list[bytes]] = {}
        self.delivered = DeliveredMembers()
        #: Whether somebody has received since the pump last looked, and when it last saw that (monotonic).
        self.claimed = False
        self.seen = 0.0

    def disarm(self) -> None:
        """Stop emptying the key on behalf of receivers that have left."""
        self.claimed = False
        self.seen = float("-inf")


def is_collected(error: BaseException) -> bool:
    """
    Return whether ``error`` is how the garbage collector ends a coroutine that nobody awaits any more.

    It does so at any moment and in any thread, perhaps in one that holds a lock, so handling the coroutine has to be
    deferred.
    """
    return isinstance(error, GeneratorExit)


def _stands_still(loop: asyncio.AbstractEventLoop) -> bool:
    return not loop.is_running()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
