"""
Takes the picture of a deployment on the core layer: channels, groups, histories and leftovers. Read-only.

What a key means follows from its name and the layer's options; its contents are requested in batches. Knows nothing of
tables.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from redis.exceptions import RedisError

from ..connection.link import Command
from ..connection.replies import REDIRECTIONS
from ..core import RedisChannelLayer
from ..messages.codec import CHANNEL_FIELD
from .entries import Entry, by_size, note_failure, note_refusal, seconds_left
from .histories import HistorySurvey
from .leases import survey_leases
from .line import Line
from .presences import PresenceSurvey
from .scan import Sweep
from .server_facts import ask_facts, nameless_receivers, own_connections
from .snapshot import Channel, Group, Leftover, Picture, Shard, printable

INFLIGHT = b"$inflight"


async def survey_core(layer: RedisChannelLayer, lines: Sequence[Line], picture: Picture, max_keys: int) -> None:
    """Fill a picture. A shard that could not be examined is in it with its error."""
    surveys = [_ShardSurvey(layer, line, picture, max_keys) for line in lines]
    await asyncio.gather(*(survey.run() for survey in surveys))
    picture.shards += [survey.shard for survey in surveys]


async def describe_shard(line: Line, shard: Shard) -> None:
    """Fill in what a server reports about itself. Raises ``redis.exceptions.ConnectionError`` naming the host."""
    facts = await ask_facts(line)
    shard.host = line.label
    shard.slots = line.slots
    shard.server, shard.version, shard.role = facts.server, facts.version, facts.info.get("role")
    shard.memory, shard.max_memory = facts.number("used_memory"), facts.number("maxmemory")
    shard.operations_per_second = facts.number("instantaneous_ops_per_sec")
    shard.cpu_seconds = facts.cpu_seconds
    shard.clients = facts.number("connected_clients")
    shard.keys = facts.keys
    shard.refused += facts.refused
    if facts.clients is not None:
        shard.connections = own_connections(facts.clients, line.host)
        shard.nameless_receivers = nameless_receivers(facts.clients)


class _ShardSurvey:
    """What has been learned about one shard."""

    def __init__(self, layer: RedisChannelLayer, line: Line, picture: Picture, max_keys: int) -> None:
        self.shard = Shard(line.index, line.label)
        self._layer = layer
        self._line = line
        self._picture = picture
        self._max_keys = max_keys
        self._prefix = layer.prefix.encode()
        group_prefix = self._prefix + b":group:"
        self._histories = HistorySurvey(line, self.shard, picture, self._prefix, group_prefix)
        self._presences = PresenceSurvey(line, self.shard, picture, self._prefix, group_prefix)

    async def run(self) -> None:
        try:
            await describe_shard(self._line, self.shard)
            await survey_leases(self._layer, self._line, self.shard, self._picture)
            sweep = Sweep(self._line, self._layer.prefix, self._max_keys)
            async for keys in sweep.batches():
                special = self._histories.start, self._presences.start
                streams, presences = ([key for key in keys if key.startswith(start)] for start in special)
                others = [key for key in keys if not key.startswith(special)]
                await self._histories.look_at(streams)
                await self._presences.look_at(presences)
                if others:
                    await self._look_at(others)
        except RedisError as error:
            note_failure(self.shard, error)
            return
        if sweep.refused is not None:
            note_refusal(self.shard, "SCAN", sweep.refused)
        self.shard.complete = sweep.is_complete
        known = self.shard.keys
        self.shard.keys_examined = sweep.examined if known is None else min(known, sweep.examined)

    async def _look_at(self, keys: list[bytes]) -> None:
        commands: list[Command] = []
        for key in keys:
            commands += ((b"TYPE", key), (b"PTTL", key), (b"ZCARD", key))
        # Last, since a server may not have it.
        commands += [(b"MEMORY", b"USAGE", key) for key in keys]
        clock, *replies = await self._line.ask((b"TIME",), *commands)
        now = time.time() if isinstance(clock, Exception) else int(clock[0]) + int(clock[1]) / 1e6
        channels: list[Entry] = []
        groups: list[Entry] = []
        for at, key in enumerate(keys):
            kind, lives, count = replies[3 * at : 3 * at + 3]
            size = self._number("MEMORY USAGE", replies[3 * len(keys) + at])
            if kind == b"none" or kind.__class__ in REDIRECTIONS:
                # The key is gone, for good or to another server of the cluster.
                continue
            name = key[len(self._prefix) :]
            if name.startswith((b":wake:", b":epoch", b":leases")):
                continue
            members = self._number("ZCARD", count)
            remaining = self._number("PTTL", lives)
            entry = Entry(key, members, size, seconds_left(remaining))
            if name.endswith(INFLIGHT):
                self._leave(key, "inflight", members, size)
                continue
            is_group = name.startswith(b":group:")
            if not is_group and not self._is_channel(name):
                self._leave(key, "foreign", members, size)
                continue
            if not isinstance(kind, Exception) and kind != b"zset":
                self._leave(key, "not a sorted set", None, size)
                continue
            if remaining == -1:
                self._leave(key, "no expiry", members, size)
            (groups if is_group else channels).append(entry)
        if groups:
            await self._look_at_groups(groups, now)
        for some in by_size(channels):
            await self._look_at_channels(some, now)

    async def _look_at_groups(self, groups: list[Entry], now: float) -> None:
        expired_before = int(now) - self._layer.group_expiry
        replies = await self._line.ask(*((b"ZCOUNT", key, b"-inf", expired_before) for key, _, _, _ in groups))
        for (key, members, size, remaining), reply in zip(groups, replies, strict=True):
            name = printable(key[len(self._prefix) + len(b":group:") :])
            expired = self._number("ZCOUNT", reply) or 0
            self._picture.groups.append(Group(name, self._line.index, members or 0, expired, size, remaining))

    async def _look_at_channels(self, channels: list[Entry], now: float) -> None:
        expired_before = int(now) - self._layer.expiry
        counts = [(b"ZCOUNT", key, b"-inf", expired_before) for key, _, _, _ in channels]
        peeks = [(b"ZRANGE", key, 0, 0, b"WITHSCORES") for key, _, _, _ in channels]
        replies = await self._line.ask(*counts, *peeks)
        for at, (key, depth, size, remaining) in enumerate(channels):
            oldest = replies[len(channels) + at]
            if isinstance(oldest, Exception):
                note_refusal(self.shard, "ZRANGE", oldest)
                oldest = []
            expired = self._number("ZCOUNT", replies[at]) or 0
            age = max(0.0, now - float(oldest[1])) if oldest else None
            name = key[len(self._prefix) :].decode()
            full_name, readable = self._read(name, oldest[0]) if oldest else (name, None)
            if age is not None and age > self._layer.expiry and not readable:
                # Its age may be the reason why it cannot be read: a token expires too.
                readable = None
            capacity = self._layer.get_capacity(full_name)
            fill = max((depth or 0) - expired, 0) / capacity if capacity else 1.0
            self._picture.channels.append(
                Channel(name, self._line.index, depth or 0, expired, age, size, capacity, fill, readable, remaining)
            )

    def _read(self, name: str, member: bytes) -> tuple[str, bool]:
        """Return the full name that a key's message is for, which decides its capacity, and whether it is readable."""
        try:
            address = self._layer.deserialize(member).get(CHANNEL_FIELD)
        except Exception:
            # Whatever a serializer raises.
            return name, False
        first = address[0] if isinstance(address, list) and address else address
        return (first if isinstance(first, str) else name), True

    def _is_channel(self, name: bytes) -> bool:
        try:
            self._layer.require_valid_channel_name(name.decode())
        except (TypeError, UnicodeDecodeError):
            return False
        # A name with a `!` in the middle is not the key of a channel.
        return b"!" not in name[:-1]

    def _leave(self, key: bytes, kind: str, members: int | None, size: int | None) -> None:
        self._picture.leftovers.append(Leftover(printable(key), self._line.index, kind, members, size))

    def _number(self, command: str, reply: Any) -> int | None:
        if isinstance(reply, Exception):
            note_refusal(self.shard, command, reply)
            return None
        return reply if isinstance(reply, int) else None
