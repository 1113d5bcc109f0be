"""
The present users of an in-memory layer's groups, each with one or more channels.

A user is present from the first channel that joins until ``grace`` seconds after the last one has left; returning
within that time causes no event. A user who is removed explicitly leaves at once. All channels belong to this process,
so dead processes need not be detected.

The caller holds the layer's lock. Events are returned in order; nothing here delivers them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field as made_by
from typing import Any

from ..messages.codec import Message
from ..presence.keys import User, user_field, user_of
from ..presence.rules import PresenceRules


@dataclass
class Present:
    """One user in one group. ``leaves_at``: when (monotonic) the presence ends; None while there is a channel."""

    info: Any
    channels: dict[str, None] = made_by(default_factory=dict)
    leaves_at: float | None = None


#: A message for a group, after the group's name.
Event = tuple[str, Message]


class Presence:
    """The users of all groups of a layer. ``look_in``: schedules ``leave_due`` after a number of seconds."""

    def __init__(self, rules: PresenceRules, look_in: Callable[[float], None]) -> None:
        self._rules = rules
        self._look_in = look_in
        #: By group, and by the field that stands for the user.
        self._groups: dict[str, dict[bytes, Present]] = {}
        #: The user's field, by group and channel.
        self._users: dict[tuple[str, str], bytes] = {}

    def join(self, group: str, channel: str, user: User | None, info: Any) -> list[Event]:
        """
        Add a channel of a user, None for one without a name. If the channel was another user's, that one leaves first.
        """
        field = user_field(user, channel)
        events = self.leave_due(group)
        former = self._users.get((group, channel))
        if former is not None and former != field:
            events += self.leave(group, channel)
        users = self._groups.setdefault(group, {})
        present = users.get(field)
        if present is None:
            present = users[field] = Present(info)
            events += self._event("presence.join", group, field, info)
        present.info = info
        present.leaves_at = None
        present.channels[channel] = None
        self._users[group, channel] = field
        return events

    def leave(self, group: str, channel: str) -> list[Event]:
        """Remove a channel, if it is present."""
        field = self._users.pop((group, channel), None)
        if field is None:
            return []
        present = self._groups[group][field]
        present.channels.pop(channel, None)
        return [] if present.channels else self._begin_to_leave(group, field, present)

    def leave_all(self, group: str, user: User) -> list[Event]:
        """Remove a user with all channels at once."""
        field = user_field(user)
        present = self._groups.get(group, {}).get(field)
        if present is None:
            return []
        for channel in present.channels:
            self._users.pop((group, channel), None)
        return self._gone(group, field, present)

    def leave_due(self, group: str | None = None) -> list[Event]:
        """Remove users whose grace time is over, in one group or in all."""
        now = time.monotonic()
        events: list[Event] = []
        for name in list(self._groups) if group is None else [group]:
            users = self._groups.get(name, {})
            for who, present in list(users.items()):
                if present.leaves_at is not None and present.leaves_at <= now:
                    events += self._gone(name, who, present)
        return events

    def users(self, group: str) -> dict[User, Any]:
        """Return the present users with a name, each with their info, the longest present first."""
        named = ((user_of(who), present.info) for who, present in self._groups.get(group, {}).items())
        return {user: info for user, info in named if user is not None}

    def count(self, group: str) -> int:
        """Return how many users are present, including those without a name."""
        return len(self._groups.get(group, ()))

    def occupancy(self) -> dict[str, int]:
        """Return how many channels are present, by group."""
        return dict(Counter(group for group, _ in self._users))

    def clear(self) -> None:
        """Forget all users, without events."""
        self._groups.clear()
        self._users.clear()

    def _begin_to_leave(self, group: str, field: bytes, present: Present) -> list[Event]:
        if not self._rules.grace:
            return self._gone(group, field, present)
        present.leaves_at = time.monotonic() + self._rules.grace
        self._look_in(self._rules.grace)
        return []

    def _gone(self, group: str, field: bytes, present: Present) -> list[Event]:
        users = self._groups[group]
        del users[field]
        if not users:
            del self._groups[group]
        return self._event("presence.leave", group, field, present.info)

    def _event(self, kind: str, group: str, field: bytes, info: Any) -> list[Event]:
        if not self._rules.events:
            return []
        return [(group, {"type": kind, "group": group, "user": user_of(field), "info": info})]
