"""
Surveys presence in groups, for either layer: how many users, and from how many processes. Read-only; reads no names.

Recognizes the presence of a group by the key of its users.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..connection.link import Command
from ..connection.replies import REDIRECTIONS
from ..presence.keys import PresenceKeys, all_prefix, group_key_of, owners_in, presences_prefix
from .entries import note_refusal, seconds_left
from .group_keys import GroupKeySurvey
from .line import Line
from .snapshot import Picture, Presence, Shard


class PresenceSurvey(GroupKeySurvey):
    """Fills in the presence on one shard. ``group_prefix``: how the keys, or Redis channels, of groups begin."""

    def __init__(self, line: Line, shard: Shard, picture: Picture, prefix: bytes, group_prefix: bytes) -> None:
        super().__init__(line, shard, picture, prefix, group_prefix, group_key_of)
        #: The prefix of all keys of presence, and the prefix of those that are examined.
        self.start, self._users = all_prefix(prefix), presences_prefix(prefix)

    async def look_at(self, keys: Sequence[bytes]) -> None:
        """Examine keys that begin with ``start``. Raises ``redis.exceptions.ConnectionError`` naming the host."""
        # The other keys of a group's presence are covered by the key of its users.
        keys = [key for key in keys if key.startswith(self._users)]
        if not keys:
            return
        commands: list[Command] = []
        for key in keys:
            group_key = group_key_of(self._prefix, key)
            head = key if group_key is None else PresenceKeys.of(self._prefix, group_key).head
            commands += ((b"TYPE", key), (b"PTTL", key), (b"HLEN", key), (b"HKEYS", head))
        # Last, since a server may not have it.
        commands += [(b"MEMORY", b"USAGE", key) for key in keys]
        replies = await self._line.ask(*commands)
        for at, key in enumerate(keys):
            kind, lives, count, head_fields = replies[4 * at : 4 * at + 4]
            size = self._number("MEMORY USAGE", replies[4 * len(keys) + at])
            if kind == b"none" or kind.__class__ in REDIRECTIONS:
                # The key is gone, for good or to another server of the cluster.
                continue
            if not isinstance(kind, Exception) and kind != b"hash":
                self._leave(key, "not a hash", None, size)
                continue
            if isinstance(head_fields, Exception):
                note_refusal(self._shard, "HKEYS", head_fields)
            processes = len(owners_in(head_fields)) if isinstance(head_fields, list) else None
            users = self._number("HLEN", count)
            remaining = seconds_left(self._number("PTTL", lives))
            self._picture.presences.append(
                Presence(self._name(key), self._line.index, users, processes, size, remaining)
            )
