"""
The servers of a layer, and a connection to each: its shards, or the primaries of its cluster, numbered by their first
slot.

Finds the servers of a cluster the way a layer does: it asks the servers in the settings, and trusts the first that
answers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from redis.exceptions import RedisError

from ..base import RedisLayer
from ..cluster.seeds import Seeds
from ..cluster.slots import Address, owners_of
from ..connection.dialer import Dialer
from ..connection.hosts import is_cluster
from .line import Line, NodeLine


@dataclass
class Primary:
    """A server that has slots: the first and last slot of each range, and how many replicas it is said to have."""

    ranges: list[tuple[int, int]] = field(default_factory=list)
    replicas: int = 0

    @property
    def slots(self) -> int:
        """How many slots it has."""
        return sum(last - first + 1 for first, last in self.ranges)


@dataclass
class Told:
    """The answers of the servers named in the settings: the cluster's primaries, and why some gave no answer."""

    primaries: dict[Address, Primary] = field(default_factory=dict)
    errors: dict[Address, RedisError] = field(default_factory=dict)


@contextlib.asynccontextmanager
async def lines(layer: RedisLayer, role: str, told: Told | None = None) -> AsyncIterator[list[Line]]:
    """
    Yield a line to each shard of a layer, or to each primary of its cluster, and close them at the end.

    ``told``: what ``ask_cluster`` has already found out. If a cluster gives no answer, the lines lead to the servers
    named in the settings; using them raises the reason.
    """
    opened: list[Line] = []
    try:
        if is_cluster(layer.hosts[0]):
            seeds = seeds_of(layer)
            told = told or await ask_cluster(layer, role)
            primaries = told.primaries or dict.fromkeys(seeds.addresses, Primary())
            for index, (address, primary) in enumerate(primaries.items()):
                opened.append(NodeLine(seeds, address, index, role, primary.ranges))
        else:
            for index, host in enumerate(layer.hosts):
                where = f"hosts[{index}]"
                dialer = Dialer(host, where, layer.layer_name, partial(layer.create_pool, index))
                opened.append(Line(dialer, index, role, host, where))
        yield opened
    finally:
        await asyncio.gather(*(line.aclose() for line in opened))


async def ask_cluster(layer: RedisLayer, role: str) -> Told:
    """Ask each server in the settings of a layer on a cluster for that cluster's servers."""
    seeds = seeds_of(layer)
    asked = [NodeLine(seeds, address, index, role) for index, address in enumerate(dict.fromkeys(seeds.addresses))]
    told = Told()
    try:
        for line, reply in zip(asked, await asyncio.gather(*map(_ask_for_map, asked)), strict=True):
            if isinstance(reply, RedisError):
                told.errors[line.address] = reply
            elif not told.primaries:
                told.primaries = primaries_in(reply, line.address[0], seeds)
    finally:
        await asyncio.gather(*(line.aclose() for line in asked))
    return told


def seeds_of(layer: RedisLayer) -> Seeds:
    """Return the servers of a layer on a cluster that the settings name."""
    return Seeds(layer.hosts[0], "hosts[0]", layer.layer_name)


def primaries_in(reply: list[list[object]], asked: str, seeds: Seeds) -> dict[Address, Primary]:
    """Return the primaries in a CLUSTER SLOTS reply from the host ``asked``, in the order of their first slots."""
    primaries: dict[Address, Primary] = {}
    owners = zip(owners_of(reply, asked, seeds.remap), reply, strict=True)
    for (first, last, address), (_, _, _, *replicas) in sorted(owners, key=lambda pair: pair[0][0]):
        primary = primaries.setdefault(address, Primary())
        primary.ranges.append((first, last))
        primary.replicas = len(replicas)
    return primaries


async def are_current(opened: Sequence[Line]) -> bool:
    """Return whether ``lines`` would still return these lines, as far as the first of them can tell."""
    if not all(line.is_open for line in opened):
        return False
    first = opened[0]
    if not isinstance(first, NodeLine):
        return True
    reply = await _ask_for_map(first)
    now = {} if isinstance(reply, RedisError) else primaries_in(reply, first.address[0], first.seeds)
    here = {line.address: line.ranges for line in opened if isinstance(line, NodeLine)}
    return here == {address: primary.ranges for address, primary in now.items()}


async def _ask_for_map(seed: NodeLine) -> list[list[object]] | RedisError:
    try:
        (reply,) = await seed.ask((b"CLUSTER", b"SLOTS"))
    except RedisError as error:
        return error
    return reply  # type: ignore[no-any-return]
