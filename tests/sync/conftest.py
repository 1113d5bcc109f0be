"""Layers of both kinds, each with a place that shows what arrives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from bench.server import ForeignServer, Server
from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.core.conftest import new_loop, soon_again
from tests.pubsub.conftest import shard_urls
from tests.sync.helpers import ROOMY, Link, Place, Published, Stored, count_opened, link_to

__all__ = ["new_loop", "shard_urls", "soon_again"]

KINDS = {"core": RedisChannelLayer, "pubsub": RedisPubSubChannelLayer}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(kind: str, redis_server: Server | ForeignServer, prefix: str) -> Iterator[Callable[..., Any]]:
    """Make layers on the shared server under this test's prefix, unless told otherwise; closed afterwards."""
    layers: list[Any] = []

    def make(base: Callable[[type], type] | None = None, **options: Any) -> Any:
        options = {"hosts": [redis_server.url], "prefix": prefix, "capacity": ROOMY, **options}
        layers.append((KINDS[kind] if base is None else base(KINDS[kind]))(**options))
        return layers[-1]

    yield make
    for layer in layers:
        asyncio.run(layer.close_pools())


@pytest.fixture
def place_of(redis_server: Server | ForeignServer) -> Iterator[Callable[..., Place]]:
    """A channel and a group of a layer, and what arrives there."""
    with ExitStack() as stack:

        def place(layer: Any, url: str = redis_server.url) -> Place:
            found = (Stored if isinstance(layer, RedisChannelLayer) else Published)(layer, url)
            stack.callback(found.close)
            return found

        yield place


@pytest.fixture
def server(own_server: Callable[..., Server]) -> Server:
    """A server of this test's own, whose connections are counted."""
    return own_server()


@pytest.fixture
def opened(server: Server) -> Iterator[Callable[[], int]]:
    """How many connections the test's own server has taken, this fixture's not among them."""
    with count_opened(server.url) as opened:
        yield opened


@pytest.fixture
def link(server: Server) -> Iterator[Link]:
    """A link to the test's own server that can be made to fail."""
    with link_to(server.port) as link:
        yield link
