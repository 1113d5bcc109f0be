"""The layers of the site, for consumers in this process and for processes of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis
from channels.layers import channel_layers, get_channel_layer
from django.test import override_settings

from bench.contender import settings_for
from bench.server import ForeignServer, Server
from tests.pubsub.helpers import subscribers

KINDS = {"core": "fast", "pubsub": "fast-pubsub"}


def layers_of(kind: str, url: str, prefix: str, client_name: str | None = None, **options: Any) -> dict[str, Any]:
    """CHANNEL_LAYERS of a site, with room enough for any crowd here."""
    entry = settings_for(KINDS[kind], url, prefix)
    if client_name is not None:
        options["hosts"] = [{"address": url, "client_name": client_name}]
    return {"default": {**entry, "CONFIG": {**entry["CONFIG"], **options}}}


@pytest.fixture(scope="session", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Which layer."""
    return str(request.param)


@pytest.fixture
def layers(kind: str, redis_server: Server | ForeignServer, prefix: str) -> dict[str, Any]:
    """CHANNEL_LAYERS on the shared server, under this test's prefix."""
    return layers_of(kind, redis_server.url, prefix)


@pytest.fixture
def here(layers: dict[str, Any]) -> Iterator[None]:
    """Let this process have the layers of the site."""
    with override_settings(CHANNEL_LAYERS=layers):
        yield


@pytest.fixture
async def layer(here: None) -> AsyncIterator[Any]:
    """The layer that consumers in this process have, closed afterwards."""
    yield get_channel_layer()
    for each in channel_layers.backends.values():
        await each.close_pools()


def members(raw: redis.Redis, kind: str, prefix: str, group: str) -> int:
    """How many members a group has on the server; with Pub/Sub, how many processes have some."""
    if kind == "core":
        return int(raw.zcard(f"{prefix}:group:{group}"))  # type: ignore[arg-type]
    return subscribers(raw, f"{prefix}__group__{group}")
