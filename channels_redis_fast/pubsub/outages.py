"""
Which channels of an event loop are notified when subscriptions are lost, and when they are acknowledged again.

On a ring of servers a whole shard is lost, which affects every channel. On a cluster single names are lost: channels,
and groups, whose members are then affected. Knows channels and groups by name. The caller passes in how to notify them.

Rules kept here:

- A channel is notified of each loss that affects it, and once when none of its subscriptions is lost any more.
- A channel that was not affected is not notified, unless it has missed something permanently.
- A group whose missed messages are being read counts as lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

#: A shard by its number, or a channel or a group by its Redis channel.
Lost = int | str


class Notify(Protocol):
    """Sends channels a message of a type. ``is_complete``: whether they have got everything that they missed."""

    def __call__(self, channels: Iterable[str], kind: str, is_complete: bool = True, /) -> None: ...


class Outages:
    """
    What is lost at present, and which channels have been notified.

    ``channels``: the groups of each channel. ``groups``: the channels of each group. Both are live. ``notify`` sends
    the messages.
    """

    def __init__(
        self,
        channels: Mapping[str, set[str]],
        groups: Mapping[str, Mapping[str, None]],
        notify: Notify,
        on_disconnect: str | None,
        on_reconnect: str | None,
    ) -> None:
        self._channels = channels
        self._groups = groups
        self._notify = notify
        self._on_disconnect = on_disconnect
        self._on_reconnect = on_reconnect
        #: What is lost at present. A lost name on a shard that is not lost is one that its server refuses.
        self._lost_shards: set[int] = set()
        self._lost_names: set[str] = set()
        #: Channels that were notified of a loss, but not yet of its end.
        self._notified: set[str] = set()
        #: Groups whose missed messages are being read; channels that lack some and were not notified of that yet.
        self._recovering: set[str] = set()
        self._incomplete: set[str] = set()

    def lost(self, what: Iterable[Lost]) -> None:
        """Called with the names whose subscriptions were lost at the same time."""
        what = list(what)
        for lost in what:
            if isinstance(lost, int):
                self._lost_shards.add(lost)
            else:
                self._lost_names.add(lost)
        affected = self._affected(what)
        self._notified.update(affected)
        if self._on_disconnect is not None:
            self._notify(affected, self._on_disconnect)

    def back(self, what: Iterable[Lost], without: Iterable[str] = ()) -> None:
        """Called with the names that are subscribed again. ``without``: names among them that are not."""
        what = list(what)
        self._lost_names.update(without)
        self._lost_shards.difference_update(what)
        self._lost_names.difference_update(what)
        self._look(self._affected(what))

    def recovering(self, group: str) -> None:
        """Called when a group is subscribed again, before its missed messages are read."""
        self._recovering.add(group)

    def recovered(self, group: str, is_complete: bool) -> None:
        """Called when the members of a group have got the messages that they missed, as far as these were available."""
        self._recovering.discard(group)
        members = list(self._groups.get(group, ()))
        if not is_complete:
            self._incomplete.update(members)
            self._notified.update(members)
        self._look(members)

    def ended(self, name: str) -> None:
        """Called when no receiver in this loop wants a name any more."""
        self._recovering.discard(name)
        self._incomplete.discard(name)
        self._lost_names.discard(name)
        self._notified.discard(name)

    def left(self, channel: str) -> None:
        """Called when a channel has left a group."""
        self._look((channel,))

    def _affected(self, what: Iterable[Lost]) -> Iterable[str]:
        affected: dict[str, None] = {}
        for lost in what:
            if isinstance(lost, int):
                return list(self._channels)
            affected.update(dict.fromkeys((lost,) if lost in self._channels else self._groups.get(lost, ())))
        return affected

    def _look(self, channels: Iterable[str]) -> None:
        whole = [channel for channel in channels if channel in self._notified and not self._is_cut_off(channel)]
        self._notified.difference_update(whole)
        lacking = [channel for channel in whole if channel in self._incomplete]
        self._incomplete.difference_update(lacking)
        if self._on_reconnect is None:
            return
        if lacking:
            self._notify(lacking, self._on_reconnect, False)
            done = set(lacking)
            whole = [channel for channel in whole if channel not in done]
        if whole:
            self._notify(whole, self._on_reconnect)

    def _is_cut_off(self, channel: str) -> bool:
        if self._lost_shards or channel in self._lost_names:
            return True
        groups = self._channels[channel]
        return any(names and not names.isdisjoint(groups) for names in (self._lost_names, self._recovering))
