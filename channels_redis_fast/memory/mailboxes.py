"""
The mailboxes of all channels of an in-memory layer, which contain all of its messages.

Rules kept here:

- A message without room on its channel is refused, and never displaces an accepted one. Only the memory limit of the
  process drops messages, as in all mailboxes.
- Expired messages are removed when somebody receives, and when many messages are sent that nobody receives.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from math import inf

from ..hot import StoredMessage, Waiter, Waker
from ..messages.codec import Message
from ..messages.mailbox import Mailboxes, MailboxLimits, is_collected, take_abandoned
from ..messages.memory_limit import PROCESS

#: Seconds of delay after which a send removes expired messages of all channels, if nobody has received meanwhile.
LATE = 1.0

#: Bytes that are stored before the memory limit of the process is updated and the time is checked.
BATCH = 50_000

#: Minimum time between checks of all mailboxes, as a fraction of the expiry.
PAUSE = 1 / 20


class ChannelIsFull(Exception):
    """There is no room on a channel."""


class ChannelMailboxes(Mailboxes):
    """The mailboxes of all channels, general and specific, each by its full name."""

    __slots__ = ("_grown", "abandoned", "due")

    def __init__(self, limits: MailboxLimits) -> None:
        super().__init__(limits)
        #: When (monotonic) the next stored message expires, or later: not every message causes a check of all
        #: mailboxes.
        self.due = inf
        self._grown = 0
        #: Receives that the garbage collector has ended; see ``abandon_later``.
        self.abandoned: deque[tuple[str, Waiter[Message]]] = deque()

    # Sending.

    def offer(self, channel: str, message: Message, here: Waker) -> bool:
        """
        Give a message to a channel. Return whether it had room. The message then belongs to the receiver.

        ``here``: the waker of the running event loop. Raises what the capacity's function raises.
        """
        if self.abandoned:
            self.clear_abandoned()
        limits = self._limits
        grown = self.hand_in(channel, message, here, limits.capacity_of, limits.expiry)
        if grown < 0:
            with limits.lock:
                before = self.held
                now = time.monotonic()
                stored = StoredMessage(message, now + limits.expiry, False, inf, now)
                try:
                    self._hand_over(channel, stored, here.loop)
                except ChannelIsFull:
                    return False
                grown = self.held - before
        limits.stats.deliveries += 1
        if grown:
            self._grown += grown
            if self._grown >= BATCH or self.due == inf:
                self._account()
        return True

    def offer_to_all(self, channels: list[str], message: Message, here: Waker) -> int:
        """Give a message to each of several channels. Return how many had no room for it."""
        if self.abandoned:
            self.clear_abandoned()
        limits = self._limits
        with limits.lock:
            left, given = self.hand_out([(channels, message)], here)
            if given:
                limits.lag.add(0.0)
            if not left:
                limits.stats.deliveries += given
                return 0
            before = self.held
            names: list[str] = []
            for address, _ in left:
                if isinstance(address, list):
                    names += address
                elif address is not None:
                    names.append(address)
            full, failed = self._keep_for(names, message, given > 0, here)
            limits.stats.deliveries += given + len(names) - full - failed
            grown = self.held - before
        if grown > 0:
            self._grown += grown
            if self._grown >= BATCH or self.due == inf:
                self._account()
        return full

    def _keep_for(self, channels: list[str], message: Message, is_taken: bool, here: Waker) -> tuple[int, int]:
        """
        Store a message once for several channels. Return how many of them were full, and how many failed.

        ``is_taken``: whether the message already belongs to a receiver. The caller holds the lock.
        """
        limits = self._limits
        full = failed = 0
        try:
            copy = self._copy_of(message) if is_taken else message
            now = time.monotonic()
            stored = StoredMessage(copy, now + limits.expiry, True, inf, now)
        except Exception as error:
            limits.undeliverable(channels[0], error)
            return 0, len(channels)
        for channel in self.keep(channels, stored, limits.capacity_of):
            try:
                self._hand_over(channel, stored, here.loop)
            except ChannelIsFull:
                full += 1
            except Exception as error:
                failed += 1
                if failed == 1:
                    limits.undeliverable(channel, error)
        return full, failed

    def _account(self) -> None:
        """Called from time to time after something was stored. The caller does not hold the lock."""
        grown, self._grown = self._grown, 0
        PROCESS.grew(grown)
        now = time.monotonic()
        if self.due == inf:
            # Everything stored before has gone; what comes next expires later.
            self.due = now + self._limits.expiry
        elif self.due + LATE <= now:
            self.sweep(now)

    def _store(self, channel: str, stored: StoredMessage, first: bool) -> None:
        if not first:
            # An application's own capacity function may raise: then nothing is stored.
            capacity = self._limits.capacity_of(channel)
            mailbox = self.stored.get(channel)
            # There is room for one message whatever the capacity is, as in all mailboxes.
            if mailbox is not None:
                # A message that waits for another loop to run would not be stored here if that were this loop.
                capacity += len(self.line(channel))
                if len(mailbox) >= capacity and self._expire_first(channel) >= capacity:
                    raise ChannelIsFull
        self.due = min(self.due, stored.deadline)
        self.put(channel, stored, first)

    def _expire_first(self, channel: str) -> int:
        """Remove expired messages of a channel. Return how many messages are left."""
        now = time.monotonic()
        while (mailbox := self.stored.get(channel)) is not None:
            if next(iter(mailbox)).deadline > now:
                return len(mailbox)
            self.pop(channel)
            self._limits.stats.expired += 1
        return 0

    # Receiving.

    def sweep(self, now: float) -> None:
        """Remove expired messages of all channels."""
        with self._limits.lock:
            left = self.drop_expired()
            self.due = inf if left is None else now + max(left, self._limits.expiry * PAUSE)

    def ended(self, channel: str, waiter: Waiter[Message], error: BaseException) -> None:
        """Called when a receive has raised ``error`` instead of returning a message."""
        if is_collected(error):
            self.abandon_later(channel, waiter)
        else:
            self.abandon(channel, waiter)

    def abandon_later(self, channel: str, waiter: Waiter[Message]) -> None:
        """
        ``abandon``, for a receive that the garbage collector ends: perhaps while this thread has the lock.

        It is processed before anything else happens to a mailbox, or in the next iteration of the receive's loop.
        """
        self.abandoned.append((channel, waiter))
        with contextlib.suppress(RuntimeError):
            waiter.get_loop().call_soon_threadsafe(self.clear_abandoned)

    def clear_abandoned(self) -> None:
        """Process the receives that ``abandon_later`` has recorded."""
        for channel, waiter in take_abandoned(self.abandoned):
            self.abandon(channel, waiter)

    # Introspection.

    def names(self) -> list[str]:
        """Return the channels on which a message is stored or a receiver waits. Thread-safe."""
        with self._limits.lock:
            return list(dict.fromkeys([*self.stored, *self.waiting]))

    def has(self, channel: object) -> bool:
        """Return whether a message is stored on a channel, or a receiver waits. Thread-safe."""
        with self._limits.lock:
            return channel in self.stored or channel in self.waiting

    def messages(self, channel: str) -> list[tuple[float, Message]]:
        """Return the messages of a channel, the oldest first, each with its deadline (monotonic). Thread-safe."""
        with self._limits.lock:
            return [(stored.deadline, stored.message) for stored in self.stored.get(channel, ())]

    def take(self, channel: str) -> tuple[float, Message] | None:
        """Take the oldest message of a channel, with its deadline (monotonic); None if there is none."""
        with self._limits.lock:
            mailbox = self.stored.get(channel)
            if mailbox is None:
                return None
            deadline = next(iter(mailbox)).deadline
            message = self._take(channel)
        return None if message is None else (deadline, message)

    def drop(self, channel: str) -> None:
        """Discard the messages of a channel. Thread-safe."""
        with self._limits.lock:
            self.forget(channel)

    def empty(self) -> None:
        """Discard all messages. Thread-safe."""
        with self._limits.lock:
            self.clear()
            self.due = inf

    def awaited_messages(self) -> list[str]:
        """
        Return the channels on which a message is stored although a receiver waits: it is on its way to a receiver.
        """
        if self.abandoned:
            self.clear_abandoned()
        with self._limits.lock:
            return [channel for channel in self.stored if any(not waiter.done() for waiter in self.line(channel))]
