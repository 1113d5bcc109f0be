"""Layers that this process watches, and users who look."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
from channels.testing import WebsocketCommunicator
from django.test import override_settings

from bench.server import ForeignServer, Server
from channels_redis_fast.live import watch

STAFF = SimpleNamespace(is_active=True, is_staff=True, is_superuser=False, is_authenticated=True)
VISITOR = SimpleNamespace(is_active=True, is_staff=False, is_superuser=False, is_authenticated=True)
STRANGER = SimpleNamespace(is_active=False, is_staff=False, is_superuser=False, is_authenticated=False)

BACKENDS = {
    "core": "channels_redis_fast.core.RedisChannelLayer",
    "pubsub": "channels_redis_fast.pubsub.RedisPubSubChannelLayer",
}


@pytest.fixture
def settings() -> Iterator[Callable[..., None]]:
    """Give this process other settings until the test ends: `settings(CHANNELS_REDIS_FAST={...})`."""
    with ExitStack() as stack:
        yield lambda **changes: stack.enter_context(override_settings(**changes))


@pytest.fixture
def site(settings: Callable[..., None], redis_server: Server | ForeignServer, prefix: str) -> Callable[..., None]:
    """Give this process layers on the shared server, or on others: `site(default="core", other="pubsub")`."""

    def configure(url: str | None = None, **kinds: str) -> None:
        config = {"hosts": [url or redis_server.url], "prefix": prefix}
        settings(
            CHANNEL_LAYERS={alias: {"BACKEND": BACKENDS[kind], "CONFIG": config} for alias, kind in kinds.items()},
            ROOT_URLCONF="tests.live.project.urls",
            ALLOWED_HOSTS=["testserver"],
        )

    return configure


def visit(user: Any, origin: str = "http://testserver") -> WebsocketCommunicator:
    """A browser that opens the page's socket; after `site`, since the hosts that may are read when it is made."""
    routing = importlib.import_module("channels_redis_fast.live.routing")
    application = importlib.reload(routing).websocket_urlpatterns[0].callback
    socket = WebsocketCommunicator(application, "/socket/", [(b"origin", origin.encode())])
    socket.scope["user"] = user
    return socket


def content(frame: watch.Frame) -> dict[str, Any]:
    """What a frame shows of each layer, by alias."""
    return {layer["alias"]: layer for layer in json.loads(frame.text)["layers"]}
