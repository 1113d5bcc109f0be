"""
Reads the messages of one specific channel, one claim per message: like ``RedisChannelLayer.receive``, without a
coroutine.

For consumers, which wait for other things as well. Knows the layer. Does not know who reads.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import MutableMapping

from ..hot import Waiter
from ..messages.codec import Message
from ..messages.mailbox import Inbox, InboxReader, InboxRegistry
from ..stats import Stats
from .loop import CoreLoop
from .memberships import Memberships
from .receiver import Receiver


class Reader:
    """
    Reads one channel in one event loop, one message at a time: each claim is either taken or abandoned.

    ``name`` is the channel's non-local name with the ``!``, which ends with ``client_prefix``.
    """

    __slots__ = (
        "_channel",
        "_client_prefix",
        "_inbox",
        "_inboxes",
        "_loop",
        "_loops",
        "_memberships",
        "_name",
        "_readers",
        "_stats",
    )

    def __init__(
        self,
        loop: AbstractEventLoop,
        loops: MutableMapping[AbstractEventLoop, CoreLoop],
        inboxes: InboxRegistry,
        memberships: Memberships,
        stats: Stats,
        channel: str,
        name: str,
        client_prefix: str,
        readers: set[InboxReader],
    ) -> None:
        readers.add(self)
        self._readers = readers
        self._loop = loop
        self._loops = loops
        self._inboxes = inboxes
        self._memberships = memberships
        self._stats = stats
        self._channel = channel
        self._name = name
        self._client_prefix = client_prefix
        #: The inbox of the last claim; the loop that reads it may have released it since.
        self._inbox: Inbox | None = None

    def claim(self) -> Waiter[Message]:
        """Return the waiter for the next message."""
        state = self._loops[self._loop]
        receiver: Receiver = state.receiver or state.open_receiver()
        inbox = self._inbox
        if inbox is not None and inbox.receiver is receiver:
            coming: Waiter[Message] = inbox.claim(self._channel, state.waker)
            if not inbox.claimed:
                receiver.serve(inbox)
            if self._inboxes.drain is not None:
                self._inboxes.arrived(inbox, self._channel, state.waker)
            return coming
        inbox = self._inbox = self._inboxes.open(self._name, self._client_prefix)
        coming = inbox.claim(self._channel, state.waker)
        receiver.serve(inbox)
        if self._inboxes.drain is not None:
            self._inboxes.arrived(inbox, self._channel, state.waker)
        return coming

    def take(self, coming: Waiter[Message]) -> Message:
        """Return the message that arrived. Raises the error if one has ended the wait instead."""
        if not coming.has_result():
            self.abandon(coming)
            return coming.take()
        self._stats.receives += 1
        member = self._memberships.channels.get(self._channel)
        if member is not None:
            member.took()
        return coming.take()

    def abandon(self, coming: Waiter[Message]) -> None:
        """End a wait. A message that it was given but nobody took goes to the next receiver, or back."""
        assert self._inbox is not None
        self._inbox.abandon(self._channel, coming)
        self._memberships.left(self._channel)

    def abandon_later(self, coming: Waiter[Message]) -> None:
        """Like ``abandon``, for a wait that the garbage collector ends: at any point, in any thread."""
        assert self._inbox is not None
        self._inboxes.abandon_later(self._inbox, self._channel, coming)
        self._memberships.left(self._channel)

    def leave(self) -> None:
        """Called when nothing more will be read: at any point, in any thread."""
        self._readers.discard(self)
        self._memberships.left(self._channel)
        self._inboxes.left(self._channel)

    leave_later = leave

    @property
    def address(self) -> tuple[str, str]:
        """The name of the inbox, and of the channel in it."""
        return self._name, self._channel
