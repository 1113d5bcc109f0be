"""A layer of either kind, by the fixture `kind`; each test here has one of both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bench.server import ForeignServer, Server
from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.clusters import Cluster
from tests.conftest import hosts_on
from tests.core.conftest import make_layer as make_core
from tests.core.conftest import new_loop
from tests.core.helpers import end, named, started, until
from tests.pubsub.conftest import make_layer as make_pubsub
from tests.pubsub.conftest import shard_urls, sharded
from tests.pubsub.helpers import subscribers

__all__ = ["make_core", "make_pubsub", "new_loop", "shard_urls", "sharded"]

LAYERS: dict[str, type[Any]] = {"core": RedisChannelLayer, "pubsub": RedisPubSubChannelLayer}

#: For tests of what goes another way on sharded Pub/Sub: that is then a third layer.
sharded_too = pytest.mark.parametrize(
    ("kind", "sharded"),
    [("core", False), ("pubsub", False), ("pubsub", True)],
    ids=["core", "pubsub", "sharded"],
)


@pytest.fixture(params=LAYERS)
def kind(request: pytest.FixtureRequest) -> str:
    """Which layer."""
    return str(request.param)


@pytest.fixture
def make_layer(kind: str, make_core: Callable[..., Any], make_pubsub: Callable[..., Any]) -> Callable[..., Any]:
    """Make layers of that kind on the shared server, or of a subclass; closed afterwards."""
    return {"core": make_core, "pubsub": make_pubsub}[kind]


@pytest.fixture(params=["specific", "general"])
def channel_of(request: pytest.FixtureRequest, raw: Any, prefix: str) -> Callable[[Any], Awaitable[str]]:
    """Make a layer a channel of its own, or give it a general one; on Pub/Sub it has begun to listen to that."""

    async def make(layer: Any) -> str:
        if request.param == "specific":
            return str(await layer.new_channel())
        name = f"{prefix}general"
        if isinstance(layer, RedisPubSubChannelLayer):
            receiving = await started(layer.receive(name))
            await until(lambda: subscribers(raw, name) == 1)
            await end(receiving)
        return name

    return make


@pytest.fixture
def layer(kind: str, redis_server: Server | ForeignServer | Cluster, prefix: str) -> Any:
    """A layer whose loops the tests make and close: nothing else closes its sockets, and none are the hub's."""
    hosts = hosts_on(redis_server, [named(redis_server.url, prefix)])
    return LAYERS[kind](hosts=hosts, prefix=prefix, capacity=10_000, sync_hub="never")
