"""A cluster and Pub/Sub layers on it, for the tests of what is different there. The suite runs with --on-cluster.

Import the fixtures that a module uses. `cluster` is the one that all tests share, which has no replicas: where a
machine is busy for long, a replica may take the place of a primary that nobody has touched.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.clusters import QUICK, Cluster, Node

DOWN, UP = {"type": "down"}, {"type": "up"}

MakeLayer = Callable[..., RedisPubSubChannelLayer]


@pytest.fixture(scope="module")
def replicated() -> Iterator[Cluster]:
    """Three primaries with a replica each, for the tests of a module, which leave it whole."""
    with Cluster(3, 1, *QUICK) as cluster:
        yield cluster


@pytest.fixture
def prefix() -> str:
    return f"test{uuid.uuid4().hex[:12]}"


@pytest.fixture
async def make_layer(cluster: Cluster, prefix: str) -> AsyncIterator[MakeLayer]:
    """Make layers on the cluster under this test's prefix; closed afterwards."""
    layers: list[RedisPubSubChannelLayer] = []

    def make(hosts: Any = None, **options: Any) -> RedisPubSubChannelLayer:
        hosts = [cluster.host] if hosts is None else hosts
        layer = RedisPubSubChannelLayer(**{"hosts": hosts, "prefix": prefix, "sync_hub": "never", **options})
        layers.append(layer)
        return layer

    yield make
    for layer in layers:
        await layer.close_pools()


def group_name(layer: RedisPubSubChannelLayer, group: str) -> str:
    """The Redis channel of a group."""
    return f"{layer.prefix}__group__{group}"


def group_at(cluster: Cluster, layer: RedisPubSubChannelLayer, node: Node) -> str:
    """A group whose Redis channel is at a node."""
    return next(name for n in range(1000) if cluster.owner(group_name(layer, name := f"room{n}")) is node)


async def channels_at(cluster: Cluster, layer: RedisPubSubChannelLayer, count: int = 1) -> dict[int, list[str]]:
    """So many new channels at each node, by its port."""
    found: dict[int, list[str]] = {node.port: [] for node in cluster.primaries}
    while any(len(names) < count for names in found.values()):
        channel = await layer.new_channel()
        found[cluster.owner(channel).port].append(channel)
    return found


def heard(cluster: Cluster, prefix: str) -> dict[str, list[int]]:
    """The names of that prefix that somebody is subscribed to, and the ports of the nodes where that is so."""
    found: dict[str, list[int]] = {}
    for node in cluster.running:
        for name in node.raw.execute_command("PUBSUB SHARDCHANNELS", f"{prefix}*"):
            found.setdefault(name.decode(), []).append(node.port)
    return found


def settled(cluster: Cluster, layer: RedisPubSubChannelLayer, *names: str) -> bool:
    """Whether exactly these names are subscribed to, each at its owner and nowhere else."""
    found = heard(cluster, layer.prefix)
    return set(found) == set(names) and all(ports == [cluster.owner(name).port] for name, ports in found.items())
