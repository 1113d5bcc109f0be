"""
Caches the members of small groups as last read, so that the next message to such a group takes one round trip.

The cache is never trusted: the script that delivers reads the group itself, and delivers only if it finds exactly the
list that a ``GroupSnapshot`` stands for (``scripts``). Knows keys and names. Does not know when a group is read, or by
whom.

Rules kept here:

- The most recently used groups are kept, up to a limit. Each event loop has its own cache, so no lock is needed.
- While a message to a group is under way, no other one is sent to it in one round trip: it would overtake the first if
  that one needed two.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha1
from typing import Any

from ..hot import frames, pack
from .names import without

#: Size of a group above which checking it in the script costs the server more than a round trip. Measured.
MAX_MEMBERS = 100

#: The same for a group with a history. Its messages are delivered by the script that records them, so that they arrive
#: in the order of their positions.
MAX_RECORDED_MEMBERS = 1_000

#: Maximum number of groups cached in an event loop, and of members in all of them together: a few megabytes.
MAX_GROUPS, MAX_ALL_MEMBERS = 2_000, 20_000


class GroupSnapshot:
    """The members of one group, by the key that each is delivered to. ``digest`` is that of the whole list in Redis."""

    __slots__ = ("_entries", "_size", "channels", "count", "digest", "is_refused", "keys", "skips")

    def __init__(
        self, keys: list[bytes], channels: list[list[str]], count: int, digest: bytes, skips: bool = False
    ) -> None:
        self.keys = keys
        self.channels = channels
        self.count = count
        self.digest = digest
        #: Whether members are left out because their process is dead.
        self.skips = skips
        #: Whether the server refused to deliver in one call, for example for lack of a permission.
        self.is_refused = False
        self._entries: list[bytes] | None = None
        self._size = 0

    def without(self, excluded: frozenset[str]) -> GroupSnapshot:
        """Return a snapshot of the same list, for a message that does not go to the excluded members."""
        keys, channels = without((self.keys, self.channels), excluded)
        return GroupSnapshot(keys, channels, self.count, self.digest)

    @property
    def entries(self) -> list[bytes]:
        """For each key, the last entry of a message as msgpack: the one that names its channels."""
        if self._entries is None:
            # Everything after the header of a message without any other entry.
            self._entries = [member[1:] for member in frames(pack({}), self.channels, 0)]
            self._size = sum(map(len, self._entries))
        return self._entries

    @property
    def size(self) -> int:
        """Size of these entries in bytes."""
        return self._size if self._entries is not None else sum(map(len, self.entries))


class GroupMembershipCache:
    """
    The snapshots of one event loop, by the group's key, and how many messages to each group are under way.

    ``most`` and ``least``: the limits on the number of members of a cached group. On a cluster, no group is cached,
    because no script may access channels on other servers.
    """

    def __init__(self, most: int = MAX_MEMBERS, least: int = 1) -> None:
        self._most = most
        self._least = least
        #: Least recently used first.
        self._known: dict[bytes, GroupSnapshot] = {}
        self._members = 0
        self._under_way: dict[bytes, int] = {}

    def enter(self, key: bytes) -> GroupSnapshot | None:
        """Begin to send to a group. Return its snapshot if the message may be sent in one round trip."""
        others = self._under_way.get(key, 0)
        self._under_way[key] = others + 1
        if others:
            return None
        snapshot = self.find(key)
        return None if snapshot is None or snapshot.is_refused else snapshot

    def find(self, key: bytes) -> GroupSnapshot | None:
        """Return the snapshot of a group, if there is one."""
        snapshot = self._known.pop(key, None)
        if snapshot is not None:
            self._known[key] = snapshot
        return snapshot

    def leave(self, key: bytes) -> None:
        """Called when a message for which ``enter`` was called needs no further round trip."""
        others = self._under_way[key] - 1
        if others:
            self._under_way[key] = others
        else:
            del self._under_way[key]

    def remember(
        self,
        key: bytes,
        members: Sequence[bytes],
        keys: list[bytes],
        channels: list[list[str]],
        skips: bool = False,
    ) -> None:
        """
        Cache a group as it was read: its members in their order, all of them channel names.

        ``keys`` and ``channels``: where they are; if ``skips``, only those that are not left out.
        """
        if not self._least <= len(members) <= self._most:
            self.forget(key)
            return
        digest = digest_of(members)
        known = self._known.get(key)
        if known is None or known.digest != digest:
            self._keep(key, GroupSnapshot(keys, channels, len(members), digest, skips))

    def remember_as_other(self, key: bytes) -> None:
        """Remember that a group is not cacheable: its snapshot matches no list."""
        self._keep(key, GroupSnapshot([], [], 0, b""))

    def _keep(self, key: bytes, snapshot: GroupSnapshot) -> None:
        self.forget(key)
        self._known[key] = snapshot
        self._members += snapshot.count
        while self._members > MAX_ALL_MEMBERS or len(self._known) > MAX_GROUPS:
            self.forget(next(iter(self._known)))

    def forget_all(self) -> None:
        """Forget all groups. Messages under way stay under way."""
        self._known.clear()
        self._members = 0

    def forget(self, key: bytes) -> None:
        """Forget a group."""
        snapshot = self._known.pop(key, None)
        if snapshot is not None:
            self._members -= snapshot.count


def digest_of(members: Sequence[bytes]) -> bytes:
    """Return what the script computes for this list: the SHA-1 of the names as msgpack, in hexadecimal digits."""
    # The names as text: Lua's msgpack has no other strings.
    names: Any = [member.decode() for member in members]
    return sha1(pack(names)).hexdigest().encode()
