"""A layer of either kind, by the fixture `kind`; each test here has one of both."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from bench.server import ForeignServer, Server
from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.clusters import Cluster
from tests.conftest import hosts_on
from tests.core.conftest import make_layer as make_kind
from tests.core.conftest import new_loop
from tests.core.helpers import named

__all__ = ["make_kind", "new_loop"]

LAYERS: dict[str, type[Any]] = {"core": RedisChannelLayer, "pubsub": RedisPubSubChannelLayer}


@pytest.fixture(params=LAYERS)
def kind(request: pytest.FixtureRequest) -> str:
    """Which layer."""
    return str(request.param)


@pytest.fixture
def make_layer(kind: str, make_kind: Callable[..., Any]) -> Callable[..., Any]:
    """Make layers of that kind on the shared server; closed afterwards."""
    return partial(make_kind, LAYERS[kind])


@pytest.fixture
def layer(kind: str, redis_server: Server | ForeignServer | Cluster, prefix: str) -> Any:
    """A layer whose loops the tests make and close: nothing else closes its sockets, and none are the hub's."""
    hosts = hosts_on(redis_server, [named(redis_server.url, prefix)])
    return LAYERS[kind](hosts=hosts, prefix=prefix, capacity=10_000, sync_hub="never")
