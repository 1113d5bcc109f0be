"""
What a survey finds, as data: one ``Picture`` of a deployment, and the shape of its JSON. Knows no server and no table.

Names from Redis are text here, whatever bytes they were: bytes that are not UTF-8, or not printable, are escaped.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

#: The version of the JSON's shape. Fields may be added under the same number, but none changes its meaning.
SHAPE = 1


@dataclass
class Shard:
    """
    One server, a shard or a primary of a cluster, as far as it can be examined.

    None means that the server does not report the value, or not to this user.
    """

    shard: int
    host: str
    #: Why it could not be examined; the rest is None then.
    error: str | None = None
    #: The same in a word or two, such as ``not reachable`` or ``password required``.
    reason: str | None = None
    server: str | None = None
    version: str | None = None
    role: str | None = None
    #: For a server of a cluster: how many slots it has.
    slots: int | None = None
    #: Bytes.
    memory: int | None = None
    #: Bytes; 0: no limit.
    max_memory: int | None = None
    operations_per_second: int | None = None
    #: Seconds of processor time that the server has used since it started.
    cpu_seconds: float | None = None
    clients: int | None = None
    #: Connections of this package to the shard's database, by layer and role.
    connections: dict[str, int] | None = None
    #: Nameless connections that wait in BZPOPMIN, as those of channels_redis do.
    nameless_receivers: int | None = None
    #: The number of keys in the database, and how many of them were examined.
    keys: int | None = None
    keys_examined: int | None = None
    #: Whether everything was examined.
    complete: bool = True
    #: Commands that the server, or its ACL, refused.
    refused: list[str] = field(default_factory=list)


@dataclass
class Channel:
    """The key of one channel, or of all specific channels of one process (its name ends with ``!``)."""

    channel: str
    shard: int
    #: Messages, including those past their expiry.
    depth: int
    #: Messages that are past their expiry, which the next send removes.
    expired: int
    oldest_seconds: float | None
    bytes: int | None
    capacity: int
    #: Unexpired messages divided by capacity: 1.0 is full.
    fill: float
    #: Whether the oldest message can be read with these settings; None if that could not be determined.
    readable: bool | None
    expires_in_seconds: float | None


@dataclass
class Group:
    """A group of the core layer."""

    group: str
    shard: int
    members: int
    #: Members that were added longer than ``group_expiry`` ago, which the next group_send removes.
    expired: int
    bytes: int | None
    expires_in_seconds: float | None


@dataclass
class History:
    """The history of a group: a stream. None means that the server does not report the value, or not to this user."""

    #: The group's name, or the key if it does not match this layer's names.
    group: str
    shard: int
    #: Entries: messages, and a mark for each request for a position in a stream that had none.
    length: int | None
    bytes: int | None
    oldest_seconds: float | None
    expires_in_seconds: float | None


@dataclass
class Presence:
    """Who is present in a group. None means that the server does not report the value, or not to this user."""

    #: The group's name, or the key if it does not match this layer's names.
    group: str
    shard: int
    #: Users, including those that are counted but not named.
    users: int | None
    #: Processes with users in it. A process that has come back after a lapse may be counted twice for a while.
    processes: int | None
    bytes: int | None
    expires_in_seconds: float | None


@dataclass
class Leases:
    """The leases of the layer's processes: ``held`` by live processes, ``overdue`` from processes that are gone."""

    shard: int
    held: int
    overdue: int


@dataclass
class Leftover:
    """
    A key under the prefix that no layer of this package needs.

    ``kind``: ``inflight`` (a backup queue of channels_redis), ``no expiry`` (a channel, group or history that will
    never expire), ``not a sorted set`` (under the name of a channel or group), ``not a stream`` (under the name of a
    history), ``not a hash`` (under the name of a group's presence), ``foreign`` (not a name of this layer, but perhaps
    of another layer whose prefix begins with this one).
    """

    key: str
    shard: int
    kind: str
    members: int | None
    bytes: int | None


@dataclass
class Subscription:
    """A Redis channel of the Pub/Sub layer, for a group or one channel, and how many connections subscribe to it."""

    name: str
    shard: int
    subscribers: int | None


@dataclass
class Picture:
    """A deployment at one moment. ``channels``, ``groups`` and ``leftovers`` are empty on Pub/Sub."""

    deployment: str
    layer: str
    prefix: str
    #: Seconds since 1970, by this host's clock.
    at: float
    shards: list[Shard] = field(default_factory=list)
    channels: list[Channel] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    histories: list[History] = field(default_factory=list)
    presences: list[Presence] = field(default_factory=list)
    #: One entry for the layer; empty if no process has a lease.
    leases: list[Leases] = field(default_factory=list)
    leftovers: list[Leftover] = field(default_factory=list)
    subscribed_groups: list[Subscription] = field(default_factory=list)
    subscribed_channels: list[Subscription] = field(default_factory=list)

    @property
    def has_failed(self) -> bool:
        """Whether a shard could not be examined."""
        return any(shard.error is not None for shard in self.shards)

    def as_dict(self) -> dict[str, Any]:
        """Return what ``inspect --json`` prints."""
        return {"shape": SHAPE, **asdict(self)}


def printable(name: bytes) -> str:
    """Return a name from Redis as text that is safe for a terminal."""
    text = name.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
