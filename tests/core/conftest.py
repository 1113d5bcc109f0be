"""Layers, raw clients and shards for the tests of the core layer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis
import uvloop

from bench.server import ForeignServer, Server
from channels_redis_fast.connection import backoff, dialer, reconnecting
from channels_redis_fast.core import RedisChannelLayer
from tests.clusters import Cluster
from tests.conftest import hosts_on, remove_keys
from tests.core.helpers import LIMIT, on_database

SHARDS = 5


@pytest.fixture
def long_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let answers take longer than any wait of a test: that an answer was given up is no way for one to end well."""
    monkeypatch.setattr(dialer, "ANSWER_TIMEOUT", 2 * LIMIT)


@pytest.fixture
def soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let who loses one connection after the other not wait for the next one for long."""
    for module in (backoff, reconnecting):
        monkeypatch.setattr(module, "BACKOFF_LAST", 0.02)


@pytest.fixture
async def make_layer(redis_server: Server | ForeignServer | Cluster, prefix: str) -> AsyncIterator[Callable[..., Any]]:
    """Make layers on the shared server under this test's prefix, unless told otherwise; closed afterwards.

    Several layers are several processes, as far as Redis can tell.
    """
    layers: list[RedisChannelLayer] = []

    def make(kind: type[RedisChannelLayer] = RedisChannelLayer, hosts: Any = None, **options: Any) -> RedisChannelLayer:
        # Connections and ticks count in many tests, and are to be those of the test's loop: tests/sync has the others.
        layer = kind(**{"hosts": hosts_on(redis_server, hosts), "prefix": prefix, "sync_hub": "never", **options})
        layers.append(layer)
        return layer

    yield make
    for layer in layers:
        await layer.close_pools()


@pytest.fixture
def shard_urls(redis_server: Server | ForeignServer, prefix: str) -> Iterator[list[str]]:
    """Addresses of some shards: databases of the shared server."""
    urls = [on_database(redis_server.url, number) for number in range(SHARDS)]
    yield urls
    for url in urls:
        remove_keys(url, prefix)


@pytest.fixture
def raw_shards(shard_urls: list[str]) -> Iterator[list[redis.Redis]]:
    """A plain client of each shard."""
    with ExitStack() as stack:
        yield [stack.enter_context(redis.Redis.from_url(url)) for url in shard_urls]


@pytest.fixture(params=["asyncio", "uvloop"])
def new_loop(request: pytest.FixtureRequest) -> Callable[[], Any]:
    """What makes an event loop, for tests that run loops of their own."""
    return asyncio.new_event_loop if request.param == "asyncio" else uvloop.new_event_loop
