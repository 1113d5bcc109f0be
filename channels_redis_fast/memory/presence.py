"""
Who is there: the users of an in-memory layer's groups, each with one or several channels.

A user is present from the first channel that joins until ``grace`` seconds after the last one has left; coming back
meanwhile is no event. Who is told to leave, leaves at once. All channels are of this process, so that nothing
has to find out who has died.

The caller holds the layer's lock. What there is to tell is returned, in order, and not told here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import options
from ..messages.codec import Message

User = str | int

#: What the option has when it does not say so: seconds of a lease, which other layers need, and seconds.
LEASE, GRACE = 30, 5

#: Seconds below which a lease is refused.
MIN_LEASE = 3


@dataclass(frozen=True)
class PresenceRules:
    """The option ``presence``. Raises ``TypeError`` or ``ValueError`` naming the part that is wrong."""

    grace: float
    events: bool

    @classmethod
    def of(cls, option: Mapping[str, Any]) -> PresenceRules:
        """Return what the option says."""
        unknown = [name for name in option if name not in ("lease", "grace", "events")]
        if unknown:
            raise ValueError(
                f"Option 'presence' has an unknown key {unknown[0]!r}; it takes 'lease', 'grace' and 'events'."
            )
        # Of no use in one process; but what is wrong on a server is to be wrong here.
        lease = options.duration("presence['lease']", option.get("lease", LEASE))
        if lease < MIN_LEASE:
            raise ValueError(f"Option 'presence['lease']' must be at least {MIN_LEASE} seconds; it is {lease:g}.")
        given = option.get("grace", GRACE)
        # None at all is a number of seconds too.
        grace = 0.0 if given == 0 and not isinstance(given, bool) else options.duration("presence['grace']", given)
        return cls(grace, options.flag("presence['events']", option.get("events", True)))


@dataclass
class Present:
    """One user in one group. ``leaves_at``: when (monotonic) he is no longer there, None while a channel is."""

    info: Any
    channels: dict[str, None] = field(default_factory=dict)
    leaves_at: float | None = None


#: What a group is to be told, by its name.
Event = tuple[str, Message]


class Presence:
    """The users of all groups of a layer. ``look_in``: has ``leave_due`` called in so many seconds."""

    def __init__(self, rules: PresenceRules, look_in: Callable[[float], None]) -> None:
        self._rules = rules
        self._look_in = look_in
        self._groups: dict[str, dict[User, Present]] = {}
        #: By group and channel, whose channel it is.
        self._users: dict[tuple[str, str], User] = {}

    def join(self, group: str, channel: str, user: User, info: Any) -> list[Event]:
        """Have a channel of a user join; one that was another user's leaves first."""
        events = self.leave_due(group)
        former = self._users.get((group, channel))
        if former is not None and former != user:
            events += self.leave(group, channel)
        users = self._groups.setdefault(group, {})
        present = users.get(user)
        if present is None:
            present = users[user] = Present(info)
            events += self._event("presence.join", group, user, info)
        present.info = info
        present.leaves_at = None
        present.channels[channel] = None
        self._users[group, channel] = user
        return events

    def leave(self, group: str, channel: str) -> list[Event]:
        """Have a channel leave, if it is there."""
        user = self._users.pop((group, channel), None)
        if user is None:
            return []
        present = self._groups[group][user]
        present.channels.pop(channel, None)
        return [] if present.channels else self._begin_to_leave(group, user, present)

    def leave_all(self, group: str, user: User) -> list[Event]:
        """Have a user leave at once, with all channels."""
        present = self._groups.get(group, {}).get(user)
        if present is None:
            return []
        for channel in present.channels:
            self._users.pop((group, channel), None)
        return self._gone(group, user, present)

    def leave_due(self, group: str | None = None) -> list[Event]:
        """Have those leave whose time of grace is over, in a group or in all."""
        now = time.monotonic()
        events: list[Event] = []
        for name in list(self._groups) if group is None else [group]:
            users = self._groups.get(name, {})
            for user, present in list(users.items()):
                if present.leaves_at is not None and present.leaves_at <= now:
                    events += self._gone(name, user, present)
        return events

    def users(self, group: str) -> dict[User, Any]:
        """Return the users who are present, each with his info, those first who have been there for longest."""
        return {user: present.info for user, present in self._groups.get(group, {}).items()}

    def clear(self) -> None:
        """Forget everybody, without telling."""
        self._groups.clear()
        self._users.clear()

    def _begin_to_leave(self, group: str, user: User, present: Present) -> list[Event]:
        if not self._rules.grace:
            return self._gone(group, user, present)
        present.leaves_at = time.monotonic() + self._rules.grace
        self._look_in(self._rules.grace)
        return []

    def _gone(self, group: str, user: User, present: Present) -> list[Event]:
        users = self._groups[group]
        del users[user]
        if not users:
            del self._groups[group]
        return self._event("presence.leave", group, user, present.info)

    def _event(self, kind: str, group: str, user: User, info: Any) -> list[Event]:
        if not self._rules.events:
            return []
        return [(group, {"type": kind, "group": group, "user": user, "info": info})]
