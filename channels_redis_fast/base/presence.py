"""
The methods of a layer for presence in groups. ``channels_redis_fast.presence`` does the work.
"""

from __future__ import annotations

import asyncio
from typing import Any

from .. import options
from ..cluster.seeds import Seeds
from ..messages.errors import say_where
from ..names import unique_name
from ..presence import Leases, PresenceRules, Presences
from ..presence.groups import GroupPresence
from ..presence.keys import User, user_field
from ..presence.scripts import KEPT
from ..sync.routing import routed
from .limits import LimitedLayer
from .overriding import weakly

#: Seconds for which the lease of an ended process is kept if no option of the layer determines it.
DAY = 86400.0


class PresenceMethods(LimitedLayer):
    """Who is present in a layer's groups, and the leases of its processes."""

    #: None without the option ``presence``.
    _presences: Presences | None = None
    #: None if processes have no leases.
    _leases: Leases | None

    @routed
    async def presence_join(self, group: str, channel: str, user: User | None, info: Any = None) -> None:
        """
        Make a user present in a group through a channel of this process, until the channel leaves or the process ends.

        Several channels of one user are one presence. The first one sends the group a message of type
        ``presence.join``; to receive it, join the group with ``group_add``. ``info``: what others may know about the
        user; the one of the latest channel counts. A ``user`` of None is anonymous: each such channel counts as a
        separate user, and ``presence`` leaves it out.

        Raises ``RuntimeError`` without the option ``presence``, ``TypeError`` for an invalid name or a user that is
        neither a str nor an int, ``ValueError`` for a channel of another process or an int of more than 64 bits, the
        serializer's error for an info that it cannot pack, ``redis.exceptions.ConnectionError`` naming the host.
        """
        presences, found = self._presence("presence_join", group)
        if not self._is_own(channel):
            raise ValueError(
                f"presence_join() takes channels of this process only, and {channel!r} is not one of them."
            )
        field = user_field(user, channel)
        try:
            stored = presences.stored(info)
        except Exception as error:
            say_where(error, f"user {user!r} in group {group}", "info")
            raise
        if self.max_message_size is not None:
            options.check_size(stored, self.max_message_size, f"user {user!r} in group {group}")
        await presences.held()
        await presences.change(found, b"j", channel, field, stored)

    @routed
    async def presence_leave(self, group: str, channel: str | None = None, *, user: User | None = None) -> None:
        """
        End the presence of a channel in a group, or of all channels of a user. Does nothing if there is none.

        A user who was present only through this channel stays present for the ``grace`` time of the option
        ``presence``; then the group gets a message of type ``presence.leave``. With ``user``, the user leaves at once.
        Works for channels of any process; ``group_discard`` does the same.

        Raises ``RuntimeError`` without the option, ``TypeError`` for an invalid name or user, and unless exactly one of
        ``channel`` and ``user`` is given; ``redis.exceptions.ConnectionError`` naming the host. Even then, a channel of
        this process leaves as soon as possible.
        """
        presences, found = self._presence("presence_leave", group)
        if (channel is None) == (user is None):
            raise TypeError("presence_leave() takes either a channel or a user")
        if channel is None:
            field = user_field(user)
            await presences.held()
            await presences.change(found, b"u", field)
        elif self._is_own(channel):
            await presences.leave_own(found, channel)
        else:
            await presences.held()
            await presences.change(found, b"k", channel)

    @routed
    async def presence(self, group: str) -> dict[User, Any]:
        """
        Return the users who are present in a group, each with its info, except anonymous ones.

        Raises ``RuntimeError`` without the option ``presence``, ``TypeError`` for an invalid name,
        ``redis.exceptions.ConnectionError`` naming the host.
        """
        presences, found = self._presence("presence", group)
        return await presences.read(found)

    @routed
    async def presence_count(self, group: str) -> int:
        """
        Return how many users are present in a group, including anonymous ones. Raises the same errors as ``presence``.
        """
        presences, found = self._presence("presence_count", group)
        return await presences.count(found)

    def occupancy(self) -> dict[str, int]:
        """
        Return how many channels of this process are present in each group. Asks no server. Thread-safe.

        The sum over all processes counts channels: one user may have several. Empty without the option ``presence``.
        """
        return {} if self._presences is None else self._presences.occupancy()

    def _presence(self, caller: str, group: str) -> tuple[Presences, GroupPresence]:
        """Return the layer's presences and those of a group. Raises ``RuntimeError`` without the option."""
        presences = self._presences
        if presences is None:
            raise RuntimeError(f"{caller}() needs the option 'presence', which this layer does not have.")
        found = presences.find(group) if isinstance(group, str) else None
        if found is None:
            _, key = self._group(group)
            found = presences.group(group, self._group_shard(group), key)
        return presences, found

    def _end_presence(self, group: str, channel: str) -> asyncio.Future[int] | None:
        """End the presence of a channel that leaves a group; return None if it has none."""
        presences = self._presences
        if presences is None:
            return None
        found = presences.find(group)
        is_own = self._is_own(channel)
        if is_own and (found is None or not found.may_have(channel)):
            return None
        if found is None:
            found = self._presence("group_discard", group)[1]
        return presences.end(found, channel, is_own)

    def _make_presences(self, rules: PresenceRules | None) -> Presences | None:
        if rules is None or self._leases is None:
            return None
        self._ask_identities()
        presences = Presences(
            rules,
            self.prefix.encode(),
            self._leases,
            isinstance(self._dialers, Seeds),
            self._stats,
            self._keeping_codec(),
            weakly(self._way_to),
            weakly(self._send_event),
            weakly(self._member_groups),
        )
        for host in self._hosts_of_layer():
            host.on_reconnect(presences.came_back)
        return presences

    def _make_leases(self, duration: float | None, rules: PresenceRules | None) -> Leases | None:
        if duration is None:
            return None
        retention = self._named_for() if rules is None else max(self._named_for(), KEPT)
        leases = Leases(duration, self.prefix.encode(), unique_name(), retention)
        # They are on shard 0; on a cluster, on any server.
        host = self._dialers if isinstance(self._dialers, Seeds) else self._dialers[0]
        host.on_reconnect(leases.came_back)
        return leases

    def _keep_lease(self) -> None:
        """Called when this process begins to receive in the running event loop, which then renews its lease."""
        if self._leases is not None:
            self._leases.keep()
        if self._presences is not None:
            self._presences.watch()

    def _named_for(self) -> float:
        """Return for how many seconds after a process has ended its name may remain in Redis."""
        return DAY
