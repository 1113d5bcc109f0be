"""The reference twin of `_ext/mailboxes.pyx`: who waits for messages of which channel, and which messages are stored.

It knows channels by name, and messages as dicts and lists. It does not know where messages come from, nor how long they
are kept.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import Any

from channels_redis_fast.hot.codec import Delivery
from channels_redis_fast.hot.envelope import Message, clone, footprint
from channels_redis_fast.hot.histograms import Histogram
from channels_redis_fast.hot.waiters import _FINISHED, _PENDING, Waiter, Waker


class Lock:
    """The equivalent of `threading.Lock`, for a `with` statement."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def acquire(self) -> None:
        """Wait for the lock and take it."""
        self._lock.acquire()

    def release(self) -> None:
        """Release the lock. Raises `RuntimeError` if nobody holds it."""
        self._lock.release()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        self._lock.release()


#: The size in bytes of a mailbox with its channel's name, and of a stored message in addition to the message itself.
MAILBOX_BYTES, MESSAGE_BYTES = 500, 150


#: Types that a copy of a dict would still share.
_CONTAINERS = {dict, list}


class StoredMessage:
    """A message in one mailbox or, if `is_shared`, in those of several channels, where each receiver gets a copy of it.

    `deadline`: until when it is kept. `place`: the number of a receiver that was given it and has gone. `sent_at`: when
    it was sent if that is measured, otherwise 0. Times are monotonic. `holders`: how many mailboxes hold it. `size`:
    its approximate size in bytes.
    """

    __slots__ = ("deadline", "holders", "is_shared", "message", "place", "sent_at", "size")

    def __init__(
        self, message: Message, deadline: float, is_shared: bool, place: float = math.inf, sent_at: float = 0.0, /
    ) -> None:
        self.message = message
        self.deadline = deadline
        self.is_shared = is_shared
        self.place = place
        self.sent_at = sent_at
        self.holders = 0
        self.size = footprint(message) + MESSAGE_BYTES


class Mailbox:
    """The messages of a channel that nobody has received yet, oldest first.

    `last_received`: when somebody last received on the channel (monotonic); if never, when the first of these came.
    """

    __slots__ = ("_messages", "channel", "last_received")

    def __init__(self) -> None:
        self._messages: deque[StoredMessage] = deque()
        self.channel = ""
        self.last_received = 0.0

    def __len__(self) -> int:
        return len(self._messages)

    def __iter__(self) -> Iterator[StoredMessage]:
        return iter(tuple(self._messages))


class MailboxTable:
    """The waiting receivers and the stored messages, by channel.

    `waiting` has the receiver of a channel, or a list of several in order of arrival, which their `number` also tells.
    `stored` has its mailbox. A channel is in either one only while there is something. `held` is the approximate number
    of bytes that are stored. All of them change only under the `lock`. `copy` copies a message to several channels for
    each of them; without it, `clone` does. `lag` counts the time between sending and taking of messages for which it is
    known.
    """

    __slots__ = ("_claims", "_copy", "_lag", "_lock", "held", "stored", "waiting")

    def __init__(
        self, lock: Lock, copy: Callable[[Message], Message] | None = None, lag: Histogram | None = None, /
    ) -> None:
        self._lock = lock
        self._lag = lag
        self._claims = 0
        self._copy = copy or clone
        self.waiting: dict[str, Waiter[Message] | list[Waiter[Message]]] = {}
        self.stored: dict[str, Mailbox] = {}
        self.held = 0

    def claim(self, channel: str, waker: Waker, /) -> Waiter[Message]:
        """Return the waiter for a channel's next message; it already has the oldest stored message, if there is one.

        The subclass takes messages that have expired, or have to be copied, in `_take`.
        """
        waiter: Waiter[Message] = Waiter(waker)
        with self._lock:
            self._claims += 1
            waiter.number = self._claims
            if channel in self.stored:
                message = self._take_stored(channel)
                if message is not None:
                    waiter._finish(_FINISHED, message)
                    return waiter
            found = self.waiting.get(channel)
            if found is None:
                self.waiting[channel] = waiter
            elif isinstance(found, list):
                found.append(waiter)
            else:
                self.waiting[channel] = [found, waiter]
        return waiter

    def _take_stored(self, channel: str) -> Message | None:
        mailbox = self.stored[channel]
        if not mailbox:
            # Somebody else made this one.
            raise IndexError("an empty mailbox")
        stored = mailbox._messages[0]
        now = time.monotonic()
        if stored.deadline > now and (not stored.is_shared or stored.holders == 1):
            self.pop(channel, now)
            if stored.sent_at and self._lag is not None:
                self._lag.since(stored.sent_at)
            return stored.message
        return self._take(channel)

    def keep(self, channels: list[str], stored: StoredMessage, capacity_of: Callable[[str], int], /) -> list[str]:
        """Put a message into each mailbox that has room and on which nobody waits; return the other channels.

        A mailbox has room for one message whatever its capacity is. If the capacity cannot be determined, there is no
        room. A channel that is returned would be returned again as long as the lock is held, so the order is kept. The
        caller holds the lock.
        """
        left: list[str] = []
        for channel in channels:
            try:
                has_room = self._has_room(channel, capacity_of)
            except Exception:
                # The caller asks again, and reports the error.
                has_room = False
            if has_room:
                self.put(channel, stored, False)
            else:
                left.append(channel)
        return left

    def keep_from(
        self,
        deliveries: list[Delivery],
        at: int,
        name: str,
        capacity_of: Callable[[str], int],
        deadline: float,
        sent_at: float,
        /,
    ) -> int:
        """Put deliveries into their mailboxes, from a position on; return the position of the first that is left.

        It stops at a delivery to several channels, and at one that `keep` would leave. Stopping there keeps the order
        of each channel. `name` is the channel of deliveries that name none. The caller holds the lock.
        """
        if at < 0:
            raise IndexError("a position is not negative")
        while at < len(deliveries):
            delivery = deliveries[at]
            if type(delivery) is not tuple or len(delivery) != 2:
                raise TypeError("a delivery is a tuple of an address and a message")
            address, message = delivery
            if isinstance(address, list):
                break
            channel = address or name
            try:
                has_room = self._has_room(channel, capacity_of)
            except Exception:
                # The caller asks again, and reports the error.
                break
            if not has_room:
                break
            self.put(channel, StoredMessage(message, deadline, False, math.inf, sent_at), False)
            at += 1
        return at

    def _has_room(self, channel: str, capacity_of: Callable[[str], int]) -> bool:
        if channel in self.waiting:
            return False
        capacity = capacity_of(channel)
        mailbox = self.stored.get(channel)
        return not mailbox or len(mailbox) < capacity

    def hand_in(
        self,
        channel: str,
        message: Message,
        here: Waker,
        capacity_of: Callable[[str], int],
        lifetime: float,
        is_measured: bool = True,
        /,
    ) -> int:
        """Give a message to a channel's only receiver, in this loop, or store it if nobody waits and there is room.

        As in `keep`, there is room for at least one message. Takes the lock.

        Returns the bytes that were stored, 0 if a receiver has it, -1 if it is left to the caller. `here` is the waker
        of the current event loop. A stored message is kept for `lifetime` seconds. `is_measured`: whether the message
        is being sent now, so that its lag is measured from here. Raises what `capacity_of` does.
        """
        with self._lock:
            if self._give(channel, _same, message, here):
                if is_measured and self._lag is not None:
                    self._lag.add(0.0)
                return 0
            if channel in self.waiting:
                return -1
            mailbox = self.stored.get(channel)
            if mailbox is not None and len(mailbox) >= capacity_of(channel):
                return -1
            before = self.held
            now = time.monotonic()
            sent_at = now if is_measured else 0.0
            self.put(channel, StoredMessage(message, now + lifetime, False, math.inf, sent_at), False)
            return self.held - before

    def put(self, channel: str, stored: StoredMessage, first: bool, /) -> int:
        """Put a message into the mailbox of a channel, at its end or `first`; return how many are in it then.

        Only messages that an earlier receiver was given stay in front of it. The caller holds the lock.
        """
        mailbox = self.stored.get(channel)
        if mailbox is None:
            mailbox = self.stored[channel] = Mailbox()
            mailbox.channel = channel
            mailbox.last_received = time.monotonic()
            self.held += MAILBOX_BYTES
        if first:
            ahead = takewhile(lambda other: other.place < stored.place, mailbox._messages)
            mailbox._messages.insert(sum(1 for _ in ahead), stored)
        else:
            mailbox._messages.append(stored)
        if not stored.holders:
            self.held += stored.size
        stored.holders += 1
        return len(mailbox)

    def pop(self, channel: str, received_at: float = 0.0, /) -> StoredMessage | None:
        """Remove and return the oldest message of a channel, or return None. The caller holds the lock.

        `received_at`: the current time (monotonic) if this is done for a receiver.
        """
        mailbox = self.stored.get(channel)
        if mailbox is None:
            return None
        if received_at > 0:
            mailbox.last_received = received_at
        if not mailbox:
            # Somebody else made this one.
            raise IndexError("an empty mailbox")
        stored = mailbox._messages.popleft()
        stored.holders -= 1
        if not stored.holders:
            self.held -= stored.size
        if not mailbox:
            del self.stored[channel]
            self.held -= MAILBOX_BYTES
        return stored

    def expire(self, now: float, /) -> tuple[int, float | None]:
        """Throw away messages whose deadline has passed; return how many, and when the next one is due, or None.

        The caller holds the lock.
        """
        count = 0
        due: float | None = None
        for channel, mailbox in list(self.stored.items()):
            while mailbox:
                deadline = mailbox._messages[0].deadline
                if deadline > now:
                    due = deadline if due is None else min(due, deadline)
                    break
                self.pop(channel)
                count += 1
        return count, due

    def clear(self) -> None:
        """Throw away all messages. The caller holds the lock."""
        self.stored.clear()
        self.held = 0

    def line(self, channel: str, /) -> list[Waiter[Message]]:
        """Return the receivers of a channel, in order of arrival. The caller holds the lock."""
        found = self.waiting.get(channel)
        return list(found) if isinstance(found, list) else [] if found is None else [found]

    def next_in_line(self, channel: str, /) -> Waiter[Message] | None:
        """Remove and return the first receiver of a channel; None if nobody waits. The caller holds the lock."""
        found = self.waiting.get(channel)
        if found is None:
            return None
        first = found[0] if isinstance(found, list) else found
        self.leave(channel, first)
        return first

    def leave(self, channel: str, waiter: Waiter[Message], /) -> None:
        """Remove a receiver from the line of a channel, if it is there. The caller holds the lock."""
        found = self.waiting.get(channel)
        if found is waiter:
            del self.waiting[channel]
        elif isinstance(found, list) and waiter in found:
            found.remove(waiter)
            if len(found) == 1:
                self.waiting[channel] = found[0]

    def hand_out(self, deliveries: list[Delivery], here: Waker, /) -> tuple[list[Delivery], int]:
        """Give each delivery to the receiver that waits alone on its channel, in this loop; return the others.

        For a delivery to several channels, the first channel gets the message itself and each other one a copy. The
        channels that could not be served are returned with it. The second value is how many were given. `here` is the
        waker of the current event loop. The caller holds the lock. Once a delivery of a channel is left, so are its
        later ones, so the order is kept.
        """
        left: list[Delivery] = []
        given = 0
        for address, message in deliveries:
            channel = address
            if isinstance(address, list):
                names = self._give_to_others(address[1:], message, here)
                given += max(len(address) - 1, 0) - len(names)
                if names:
                    left.append((names, message))
                if not address:
                    continue
                channel = address[0]
            # The original comes last: nobody may change it while it is being copied.
            if self._give(channel, _same, message, here):
                given += 1
            else:
                left.append((channel, message))
        return left, given

    def _give_to_others(self, channels: list[str], message: Message, here: Waker) -> list[str]:
        """Give a copy of a message to each channel; return the channels that could not be served."""
        if (
            channels
            and self._copy is clone
            and type(message) is dict
            and not _CONTAINERS & set(map(type, message.values()))
        ):
            # The message itself belongs to another receiver.
            shared = message.copy()
            return [name for name in channels if not self._give(name, None, shared, here)]
        return [name for name in channels if not self._give(name, self._copy, message, here)]

    def _give(self, channel: Any, copy: Any, message: Message, here: Waker) -> bool:
        waiter = self.waiting.get(channel) if type(channel) is str else None
        if type(waiter) is not Waiter or waiter._waker is not here or waiter._state != _PENDING:
            return False
        if channel in self.stored:
            # It will be called to take the stored message, which comes first.
            return False
        if copy is None:
            # The waiter copies it when it is taken.
            del self.waiting[channel]
            waiter._share(message)
            return True
        try:
            message = copy(message)
        except Exception:
            # Nested too deeply, for example. The caller reports it with what is left; later deliveries are still given.
            return False
        del self.waiting[channel]
        waiter._finish(_FINISHED, message)
        return True

    def _take(self, channel: str) -> Message | None:
        raise NotImplementedError


def _same(message: Message) -> Message:
    return message
