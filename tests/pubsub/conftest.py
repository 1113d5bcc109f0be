"""Layers, raw clients and shards for the tests of the Pub/Sub layer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis

from bench.server import ForeignServer, Server
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.clusters import Cluster
from tests.conftest import hosts_on
from tests.core.conftest import long_answers, new_loop, soon_again

__all__ = ["long_answers", "make_layer", "new_loop", "shard_urls", "sharded", "soon_again"]


@pytest.fixture
def sharded() -> bool:
    """Whether layers use sharded Pub/Sub; `helpers.both_kinds` has a test run both ways."""
    return False


@pytest.fixture
async def make_layer(
    redis_server: Server | ForeignServer | Cluster, prefix: str, sharded: bool
) -> AsyncIterator[Callable[..., Any]]:
    """Make layers on the shared server under this test's prefix, unless told otherwise; closed afterwards.

    Several layers are several processes, as far as Redis can tell. `grace` is not an option: it is set on the layer.
    """
    if sharded and isinstance(redis_server, Cluster):
        pytest.skip("on a cluster everything is sharded")
    if sharded:
        needs_redis_7(redis_server.url)
    layers: list[RedisPubSubChannelLayer] = []

    def make(
        kind: type[RedisPubSubChannelLayer] = RedisPubSubChannelLayer,
        hosts: Any = None,
        grace: float | None = None,
        **options: Any,
    ) -> RedisPubSubChannelLayer:
        # Connections and ticks count in many tests, and are to be those of the test's loop: tests/sync has the others.
        options = {"hosts": hosts_on(redis_server, hosts), "prefix": prefix, "sync_hub": "never", **options}
        if sharded:
            options.setdefault("sharded", True)
        layer = kind(**options)
        if grace is not None:
            layer.grace = grace
        layers.append(layer)
        return layer

    yield make
    for layer in layers:
        await layer.close_pools()


def needs_redis_7(url: str) -> None:
    with redis.Redis.from_url(url) as raw:
        if int(raw.info("server")["redis_version"].split(".")[0]) < 7:
            pytest.skip("needs Redis 7.0, which has sharded Pub/Sub")


@pytest.fixture
def shard_urls(redis_server: Server | ForeignServer, second_server: Server) -> list[str]:
    """Two shards. Servers, since Pub/Sub does not know databases."""
    return [redis_server.url, second_server.url]
