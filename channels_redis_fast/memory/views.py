"""
``layer.channels``: the equivalent of this attribute of Channels' in-memory layer, for tests of projects that use it.

A view: nothing is stored here. A channel exists while a message waits on it or somebody receives.
"""

from __future__ import annotations

import time
from asyncio import QueueEmpty, QueueFull
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

from ..messages.codec import Message
from .mailboxes import ChannelMailboxes

#: An item in a queue of Channels' layer: its expiry time (seconds since the epoch), and a message.
Item = tuple[float, Message]


class ChannelQueue:
    """The messages of one channel, with those methods of ``asyncio.Queue`` that need no waiting."""

    def __init__(self, channels: ChannelQueues, channel: str) -> None:
        self._channels = channels
        self._channel = channel

    @property
    def maxsize(self) -> int:
        """The maximum number of waiting messages."""
        return self._channels.capacity_of(self._channel)

    def qsize(self) -> int:
        """Return the number of waiting messages."""
        return len(self._channels.mailboxes.messages(self._channel))

    def empty(self) -> bool:
        """Return whether no message is waiting."""
        return not self.qsize()

    def full(self) -> bool:
        """Return whether there is no room for another message."""
        return self.qsize() >= self.maxsize

    def put_nowait(self, item: Item) -> None:
        """Send a message. The layer decides when it expires. Raises ``asyncio.QueueFull``."""
        if not self._channels.send(self._channel, item[1]):
            raise QueueFull

    def get_nowait(self) -> Item:
        """Take the oldest message. Raises ``asyncio.QueueEmpty``."""
        taken = self._channels.mailboxes.take(self._channel)
        if taken is None:
            raise QueueEmpty
        return self._item(*taken)

    @property
    def _queue(self) -> list[Item]:
        # A private name of asyncio's: tests peek at waiting messages without taking any.
        return [self._item(*each) for each in self._channels.mailboxes.messages(self._channel)]

    @staticmethod
    def _item(deadline: float, message: Message) -> Item:
        return time.time() + deadline - time.monotonic(), message

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._channel!r}, {self.qsize()} of {self.maxsize}>"


class ChannelQueues(MutableMapping[str, ChannelQueue]):
    """The channels of a layer by name. ``send``: sends a message to a channel, and returns whether it had room."""

    def __init__(
        self, mailboxes: ChannelMailboxes, capacity_of: Callable[[str], int], send: Callable[[str, Message], bool]
    ) -> None:
        self.mailboxes = mailboxes
        self.capacity_of = capacity_of
        self.send = send

    def __getitem__(self, channel: str) -> ChannelQueue:
        if not self.mailboxes.has(channel):
            raise KeyError(channel)
        return ChannelQueue(self, channel)

    def __setitem__(self, channel: str, queue: Any) -> None:
        raise TypeError("Channels are not set here: use send().")

    def __delitem__(self, channel: str) -> None:
        """Discard the messages of a channel, if there are any. Waiting receives keep waiting."""
        self.mailboxes.drop(channel)

    def pop(self, channel: str, *default: Any) -> Any:
        """Discard the messages of a channel. Return its queue, which is then empty."""
        if not self.mailboxes.has(channel):
            if default:
                return default[0]
            raise KeyError(channel)
        del self[channel]
        return ChannelQueue(self, channel)

    def clear(self) -> None:
        """Discard all messages."""
        self.mailboxes.empty()

    def __contains__(self, channel: object) -> bool:
        return self.mailboxes.has(channel)

    def __iter__(self) -> Iterator[str]:
        return iter(self.mailboxes.names())

    def __len__(self) -> int:
        return len(self.mailboxes.names())

    def __repr__(self) -> str:
        return repr(dict(self))
