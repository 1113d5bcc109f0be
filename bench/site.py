"""The site that a server of the benchmarks loads: `bench.site:application`, with the room's consumers or without any.

The environment says which layer it has (`BENCH_SITE`, written by `bench.sockets`), as settings do for a real site.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

from django.conf import settings

from bench.contender import choose_twin, settings_for
from bench.dispatch import ROOM, room_consumer, split

ENVIRONMENT = "BENCH_SITE"
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Loop:
    """No consumers: one task receives from the layer and writes to one socket after the other. What no dispatch can
    beat; a socket that fails or does not read would end or hold up all others, which is the point."""

    def __init__(self) -> None:
        self._sockets: set[Send] = set()
        self._joined: asyncio.Future[None] | None = None
        self._pump: asyncio.Task[None] | None = None

    async def __call__(self, scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Send) -> None:
        if self._joined is None:
            self._joined = asyncio.get_running_loop().create_future()
            self._pump = asyncio.ensure_future(self._receive())
        await receive()
        await self._joined
        self._sockets.add(send)
        try:
            await send({"type": "websocket.accept"})
            while (await receive())["type"] != "websocket.disconnect":
                pass
        finally:
            self._sockets.discard(send)

    async def _receive(self) -> None:
        from channels.layers import get_channel_layer

        layer = get_channel_layer()
        channel = await layer.new_channel()
        await layer.group_add(ROOM, channel)
        assert self._joined is not None
        self._joined.set_result(None)
        while True:
            event = {"type": "websocket.send", "text": (await layer.receive(channel))["text"]}
            for send in tuple(self._sockets):
                await send(event)


def make_application(layer: str, url: str, prefix: str) -> Any:
    """Configure Django as a site would be, and return its ASGI application."""
    choose_twin(layer)
    settings.configure(
        SECRET_KEY="for the bench",
        CHANNEL_LAYERS={"default": settings_for(layer, url, prefix)},
        # As in a site that has a database; no consumer here uses it.
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    )
    dispatch = split(layer)[1]
    return Loop() if dispatch == "loop" else room_consumer(dispatch).as_asgi()


def __getattr__(name: str) -> Any:
    """Made when a server asks for it, and once: the module can be imported without an environment."""
    if name != "application":
        raise AttributeError(name)
    application = make_application(**json.loads(os.environ[ENVIRONMENT]))
    globals()[name] = application
    return application
