"""The contents of an event loop, for code that counts with `layer.groups` and `layer.channels` as on channels_redis.

Live and read-only. Knows names and the number of waiting messages. Does not know messages or sockets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, KeysView, Mapping


class GroupsView(Mapping[str, KeysView[str]]):
    """The groups with members in this event loop, by Redis channel (``asgi__group__NAME``), and their channels."""

    def __init__(self, groups: Mapping[str, Mapping[str, None]]) -> None:
        self._groups = groups

    def __getitem__(self, name: str) -> KeysView[str]:
        return self._groups[name].keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)


class WaitingMessages:
    """How many messages wait for the receiver of one channel: the read-only part of ``asyncio.Queue``."""

    def __init__(self, depth: Callable[[str], int], channel: str) -> None:
        self._depth = depth
        self._channel = channel

    def qsize(self) -> int:
        """Return the number of waiting messages, not counting expired ones."""
        return self._depth(self._channel)

    def empty(self) -> bool:
        """Return whether no message is waiting."""
        return not self.qsize()


class ChannelsView(Mapping[str, WaitingMessages]):
    """The channels that live in this event loop, and the number of messages that wait for each receiver."""

    def __init__(self, channels: Mapping[str, object], depth: Callable[[str], int]) -> None:
        self._channels = channels
        self._depth = depth

    def __getitem__(self, name: str) -> WaitingMessages:
        if name not in self._channels:
            raise KeyError(name)
        return WaitingMessages(self._depth, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._channels)

    def __len__(self) -> int:
        return len(self._channels)
