"""
The participants of ``bench``: this layer, channels_redis if it can be imported, Channels' in-memory layer, and a bare
PING of the same servers.

Every turn has its own layer, in its own event loop, on a scratch prefix that begins with the deployment's, so that the
same ACL permits it. Keys that a killed process leaves there have a TTL. Knows no table and no details of a case.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Protocol

from channels.layers import InMemoryChannelLayer

from ...connection.hosts import is_cluster
from ...survey.line import Line
from ...survey.scan import Sweep
from ...survey.servers import lines
from ..deployment import Deployment
from .cases import SENDERS, Subject, Turn, repeat

#: High enough that it is never reached: the layer is measured, not its back-pressure.
CAPACITY = 1_000_000

#: Seconds that messages and group memberships live in Redis.
EXPIRY = 60

#: Seconds that a turn may take in addition to those that it measures.
PATIENCE = 30.0

Work = Callable[[Subject, float], Awaitable[Turn]]


class Contender(Protocol):
    """A participant. ``key`` is its name in JSON, ``label`` its name in tables."""

    key: str
    label: str

    async def turn(self, work: Work, seconds: float) -> Turn:
        """Do the work for some seconds. May raise any error."""


class Scratch:
    """The keys of a run on a deployment's servers. After ``clean``, ``can_scan`` tells whether it could search them."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.layer = deployment.make_layer()
        self.prefix = f"{self.layer.prefix}:bench:{secrets.token_hex(6)}:"
        self.can_scan = True
        self._turns = 0

    def next_prefix(self) -> str:
        """Return a prefix for one turn."""
        self._turns += 1
        return f"{self.prefix}{self._turns}:"

    def changes(self, prefix: str) -> dict[str, Any]:
        """Return the changes to the options of a turn's layer. A site's limits are not to be measured."""
        changes: dict[str, Any] = {"prefix": prefix}
        if self.deployment.is_core:
            changes.update(capacity=CAPACITY, channel_capacity={}, expiry=EXPIRY, group_expiry=EXPIRY)
        return changes

    @contextlib.asynccontextmanager
    async def lines(self) -> AsyncIterator[list[Line]]:
        """Yield an open connection to each shard. Raises ``redis.exceptions.ConnectionError`` naming the host."""
        async with lines(self.layer, "bench") as shards:
            await asyncio.gather(*(shard.call((b"PING",)) for shard in shards))
            yield shards

    async def clean(self) -> None:
        """Remove every key of the run. Raises ``redis.exceptions.ConnectionError`` naming the host."""
        if not self.deployment.is_core:
            return
        async with self.lines() as shards:
            for shard in shards:
                sweep = Sweep(shard, self.prefix, max_keys=sys.maxsize)
                async for keys in sweep.batches():
                    await remove([shard], keys)
                self.can_scan = self.can_scan and sweep.refused is None


async def remove(shards: Sequence[Line], keys: Sequence[str | bytes]) -> None:
    """Empty keys, all of which are sorted sets, with a command that every user of a core layer may use."""
    for shard in shards:
        await shard.ask(*((b"ZREMRANGEBYRANK", key, 0, -1) for key in keys if shard.has(key)))


class LayerContender:
    """A layer on the deployment's servers; ``make`` creates one from the options that differ from the deployment's."""

    def __init__(self, key: str, label: str, scratch: Scratch, make: Callable[..., Any]) -> None:
        self.key = key
        self.label = label
        self._scratch = scratch
        self._make = make

    async def turn(self, work: Work, seconds: float) -> Turn:
        prefix = self._scratch.next_prefix()
        layer = self._make(**self._scratch.changes(prefix))
        is_core = self._scratch.deployment.is_core
        # On Pub/Sub layers, a channel's name is the name of the Redis channel, without a prefix.
        channels = [f"{'' if is_core else prefix}bench.{number}" for number in range(SENDERS)]
        keys = [prefix + channel for channel in channels]
        async with self._scratch.lines() as shards:

            async def empty() -> None:
                if is_core:
                    await remove(shards, keys)

            try:
                return await asyncio.wait_for(work(Subject(layer, channels, empty), seconds), seconds + PATIENCE)
            except asyncio.TimeoutError:
                raise TimeoutError(f"no end within {seconds + PATIENCE:.0f} s") from None
            finally:
                # Not the core layer's flush: upstream's runs KEYS, which blocks the server.
                await (layer.close_pools() if hasattr(layer, "close_pools") else layer.flush())


class MemoryContender:
    """Channels' in-memory layer: the same work, but nothing leaves the process."""

    key = "memory"
    label = "InMemoryChannelLayer"

    async def turn(self, work: Work, seconds: float) -> Turn:
        layer = InMemoryChannelLayer(capacity=CAPACITY)
        return await work(Subject(layer, [f"bench.{number}" for number in range(SENDERS)], layer.flush), seconds)


class PingContender:
    """PING and its answer, on one connection to each shard in turn: no message can make a faster round trip."""

    key = "ping"
    label = "PING"

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch

    async def turn(self, work: Work, seconds: float) -> Turn:
        async with self._scratch.lines() as shards:
            number = 0

            async def ping() -> None:
                nonlocal number
                number += 1
                await shards[number % len(shards)].call((b"PING",))

            return await repeat(ping, seconds)


def contenders(scratch: Scratch) -> tuple[list[Contender], list[str]]:
    """Return the contenders, this layer first, and a sentence about each one that cannot take part."""
    ours = LayerContender("fast", "channels_redis_fast", scratch, scratch.deployment.make_layer)
    upstream, why_not = _upstream(scratch)
    return [ours, *upstream, MemoryContender()], why_not


def _upstream(scratch: Scratch) -> tuple[list[Contender], list[str]]:
    is_core = scratch.deployment.is_core
    module, name = ("core", "RedisChannelLayer") if is_core else ("pubsub", "RedisPubSubChannelLayer")
    if is_cluster(scratch.layer.hosts[0]):
        return [], ["channels_redis does not support clusters, so it is not compared."]
    try:
        backend = getattr(importlib.import_module(f"channels_redis.{module}"), name)
    except ModuleNotFoundError as error:
        if error.name == "channels_redis":
            return [], ["channels_redis is not installed here, so it is not compared."]
        return [], [f"channels_redis cannot be imported: {error}"]
    except Exception as error:
        return [], [f"channels_redis cannot be imported: {error}"]

    def make(**changes: Any) -> Any:
        return backend(**{**scratch.deployment.options, **changes})

    try:
        make(**scratch.changes(scratch.prefix))
    except Exception as error:
        return [], [f"channels_redis does not accept these settings: {error}"]
    # Errors there are reported as a failed turn; upstream's own tracebacks would hide that.
    logging.getLogger("channels_redis").setLevel(logging.CRITICAL + 1)
    return [LayerContender("channels_redis", "channels_redis", scratch, make)], []
