"""
The site of these tests, with the line in its ``asgi.py`` that they are about: sockets that are drained and one that is
not, views, and the jobs of a worker.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from channels.routing import ChannelNameRouter, ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path, re_path

# Sets Django up, which what follows needs.
views = get_asgi_application()

from channels.consumer import AsyncConsumer, SyncConsumer  # noqa: E402

from channels_redis_fast.consumers import Drainable  # noqa: E402
from channels_redis_fast.deploy import drain_on_sigterm  # noqa: E402
from tests.consumers.project.consumers import AsyncRoom, write_down  # noqa: E402


class DrainedRoom(Drainable, AsyncRoom):
    """A room whose clients are told to go."""


class StubbornRoom(AsyncRoom):
    """A room whose clients may stay."""

    async def layer_drain(self, event: dict[str, Any]) -> None:
        await self.send_json({"drained": event["after"]})


class AsyncJobs(AsyncConsumer):
    """Does jobs that take until they are told to end, or none."""

    async def job(self, event: dict[str, Any]) -> None:
        write_down("began", event["number"])
        # Told by another process.
        while event.get("until") and not os.path.exists(event["until"]):  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.01)
        if event.get("fails"):
            raise RuntimeError("a job that fails")
        write_down("did", event["number"])


class SyncJobs(SyncConsumer):
    """The same in threads."""

    def job(self, event: dict[str, Any]) -> None:
        write_down("began", event["number"])
        while event.get("until") and not os.path.exists(event["until"]):
            time.sleep(0.01)
        write_down("did", event["number"])


application = drain_on_sigterm(
    ProtocolTypeRouter(
        {
            "http": URLRouter([re_path("", views)]),
            "websocket": URLRouter(
                [path("drained/<room>", DrainedRoom.as_asgi()), path("stubborn/<room>", StubbornRoom.as_asgi())]
            ),
            "channel": ChannelNameRouter({"jobs.async": AsyncJobs.as_asgi(), "jobs.sync": SyncJobs.as_asgi()}),
        }
    ),
    over=60.0,
)
