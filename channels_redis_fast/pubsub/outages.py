"""
Who of the channels in an event loop is told that subscriptions were lost, and that they are there again.

On a ring of servers what is lost is a shard, and every channel may hear something from it. On a cluster it is names: of
channels, and of groups, which their members hear. Knows channels and groups by name; how they are told is said to it.

Rules kept here:

- A channel is told of each loss that cuts it off from something, and once when it is cut off from nothing any more.
- Who was not cut off is told nothing, but for who has missed something for good.
- A group whose missed messages are being read is one from which its channels are cut off.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

#: A shard by its number, or a channel or a group by its Redis channel.
Lost = int | str


class Tell(Protocol):
    """Sends channels a message of a type; ``is_complete``: whether they have got all that they missed."""

    def __call__(self, channels: Iterable[str], kind: str, is_complete: bool = True, /) -> None: ...


class Outages:
    """
    What is lost now, and who knows.

    ``channels``: the groups of each channel, ``groups``: the channels of each group, both as they are at any time.
    ``tell`` sends the messages.
    """

    def __init__(
        self,
        channels: Mapping[str, set[str]],
        groups: Mapping[str, Mapping[str, None]],
        tell: Tell,
        on_disconnect: str | None,
        on_reconnect: str | None,
    ) -> None:
        self._channels = channels
        self._groups = groups
        self._tell = tell
        self._on_disconnect = on_disconnect
        self._on_reconnect = on_reconnect
        #: What is lost now. Names of a shard that is not lost are those that its server refuses.
        self._lost_shards: set[int] = set()
        self._lost_names: set[str] = set()
        #: The channels that were told that they are cut off, and not yet that they are not.
        self._told: set[str] = set()
        #: Groups whose missed messages are being read, and the channels that lack some and were not told.
        self._recovering: set[str] = set()
        self._incomplete: set[str] = set()

    def lost(self, what: Iterable[Lost]) -> None:
        """Called with the names whose subscriptions were lost, all at once."""
        what = list(what)
        for lost in what:
            if isinstance(lost, int):
                self._lost_shards.add(lost)
            else:
                self._lost_names.add(lost)
        hearers = self._hearers(what)
        self._told.update(hearers)
        if self._on_disconnect is not None:
            self._tell(hearers, self._on_disconnect)

    def back(self, what: Iterable[Lost], without: Iterable[str] = ()) -> None:
        """Called with the names that are subscribed again; ``without``: those of them that are not."""
        what = list(what)
        self._lost_names.update(without)
        self._lost_shards.difference_update(what)
        self._lost_names.difference_update(what)
        self._look(self._hearers(what))

    def recovering(self, group: str) -> None:
        """Called when a group is subscribed again, and what it has missed is to be read."""
        self._recovering.add(group)

    def recovered(self, group: str, is_complete: bool) -> None:
        """Called when the members of a group have got what they missed, or as much of it as there was."""
        self._recovering.discard(group)
        members = list(self._groups.get(group, ()))
        if not is_complete:
            self._incomplete.update(members)
            self._told.update(members)
        self._look(members)

    def ended(self, name: str) -> None:
        """Called when no receiver here wants a name any more."""
        self._recovering.discard(name)
        self._incomplete.discard(name)
        self._lost_names.discard(name)
        self._told.discard(name)

    def left(self, channel: str) -> None:
        """Called when a channel has left a group."""
        self._look((channel,))

    def _hearers(self, what: Iterable[Lost]) -> Iterable[str]:
        hearers: dict[str, None] = {}
        for lost in what:
            if isinstance(lost, int):
                return list(self._channels)
            hearers.update(dict.fromkeys((lost,) if lost in self._channels else self._groups.get(lost, ())))
        return hearers

    def _look(self, channels: Iterable[str]) -> None:
        whole = [channel for channel in channels if channel in self._told and not self._is_cut_off(channel)]
        self._told.difference_update(whole)
        lacking = [channel for channel in whole if channel in self._incomplete]
        self._incomplete.difference_update(lacking)
        if self._on_reconnect is None:
            return
        if lacking:
            self._tell(lacking, self._on_reconnect, False)
            told = set(lacking)
            whole = [channel for channel in whole if channel not in told]
        if whole:
            self._tell(whole, self._on_reconnect)

    def _is_cut_off(self, channel: str) -> bool:
        if self._lost_shards or channel in self._lost_names:
            return True
        groups = self._channels[channel]
        return any(names and not names.isdisjoint(groups) for names in (self._lost_names, self._recovering))
