"""
The messages of one specific channel, with one claim for each: the equivalent of ``receive`` without a coroutine.

For consumers, which wait for other things as well.
"""

from __future__ import annotations

from time import monotonic

from ..hot import Waiter, Waker
from ..messages.codec import Message
from ..stats import Stats
from .mailboxes import ChannelMailboxes


class Reader:
    """Reads one channel in one event loop, a message at a time: each claim is either taken or abandoned."""

    __slots__ = ("_channel", "_mailboxes", "_stats", "_waker")

    def __init__(self, mailboxes: ChannelMailboxes, stats: Stats, channel: str, waker: Waker) -> None:
        self._mailboxes = mailboxes
        self._stats = stats
        self._channel = channel
        self._waker = waker

    def claim(self) -> Waiter[Message]:
        """Return the waiter for the next message."""
        mailboxes = self._mailboxes
        if mailboxes.abandoned:
            mailboxes.clear_abandoned()
        now = monotonic()
        if mailboxes.due <= now:
            mailboxes.sweep(now)
        return mailboxes.claim(self._channel, self._waker)

    def take(self, coming: Waiter[Message]) -> Message:
        """Return the message that came, or raise what ended the wait."""
        if not coming.has_result():
            self.abandon(coming)
            return coming.take()
        self._stats.receives += 1
        return coming.take()

    def abandon(self, coming: Waiter[Message]) -> None:
        """End a wait. A message that was given to it and not taken goes to the next receiver, or back."""
        self._mailboxes.abandon(self._channel, coming)

    def abandon_later(self, coming: Waiter[Message]) -> None:
        """``abandon``, for a wait that the garbage collector ends: at any point in the code, in any thread."""
        self._mailboxes.abandon_later(self._channel, coming)

    def leave(self) -> None:
        """Called when no more messages will be read. A mailbox without a receiver disappears by itself."""

    leave_later = leave
