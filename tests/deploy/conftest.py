"""Layers that are drained, each kind on each kind of hosts; they are new for each test, since a drain is for good."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from bench.server import ForeignServer, Server
from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.clusters import Cluster
from tests.core.helpers import on_database

LAYERS = {"core": RedisChannelLayer, "pubsub": RedisPubSubChannelLayer}

Make = Callable[..., Any]


@pytest.fixture(scope="session")
def cluster() -> Any:
    """Three primaries without replicas."""
    with Cluster(3) as cluster:
        yield cluster


@pytest.fixture(params=["core", "pubsub"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which layer."""
    return str(request.param)


@pytest.fixture(params=["server", "ring", "cluster"])
def hosts(request: pytest.FixtureRequest, redis_server: Server | ForeignServer) -> list[Any]:
    """One server; two shards, of one server; a cluster."""
    if request.param == "cluster":
        return [request.getfixturevalue("cluster").host]
    return [redis_server.url] if request.param == "server" else [redis_server.url, on_database(redis_server.url, 1)]


@pytest.fixture
async def make(prefix: str) -> AsyncIterator[Make]:
    """Make layers of a kind on hosts; they are closed at the end."""
    made = []

    def make(kind: str, hosts: Any, **options: Any) -> Any:
        layer = LAYERS[kind](hosts=hosts, prefix=prefix, **options)
        made.append(layer)
        return layer

    yield make
    for layer in made:
        await layer.close_pools()
