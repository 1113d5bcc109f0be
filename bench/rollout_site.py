"""The site of `bench.rollout`: one room with a history, whose clients miss nothing, and which is drained or not.

`uvicorn bench.rollout_site:application`; the environment says which layer it has, and how long a drain lasts
(`ROLLOUT_SITE`). Without a time SIGTERM is the server's alone, as it was before.
"""

from __future__ import annotations

import json
import os
from typing import Any

import django
from channels.routing import ProtocolTypeRouter
from django.conf import settings

from channels_redis_fast.consumers import AsyncJsonWebsocketConsumer, Drainable, Resumable
from channels_redis_fast.deploy import drain_on_sigterm

ENVIRONMENT = "ROLLOUT_SITE"
ROOM = "room.rollout"


class Feed(Drainable, Resumable, AsyncJsonWebsocketConsumer):
    """What a site would write."""

    groups = (ROOM,)

    async def room_said(self, event: dict[str, Any]) -> None:
        await self.send_json({"said": event["number"]})


def layers_of(url: str, prefix: str) -> dict[str, Any]:
    """CHANNEL_LAYERS, for the site and for who talks to its room."""
    config = {"hosts": [url], "prefix": prefix, "capacity": 10_000, "on_drain": "layer.drain"}
    config["history"] = {ROOM: {"size": 10_000, "ttl": 600}}
    return {"default": {"BACKEND": "channels_redis_fast.core.RedisChannelLayer", "CONFIG": config}}


def make_application(url: str, prefix: str, over: float | None) -> Any:
    """Configure Django as a site would be, and return its ASGI application."""
    settings.configure(SECRET_KEY="for the bench", CHANNEL_LAYERS=layers_of(url, prefix))
    django.setup()
    application = ProtocolTypeRouter({"websocket": Feed.as_asgi()})
    return application if over is None else drain_on_sigterm(application, over)


def __getattr__(name: str) -> Any:
    """Made when a server asks for it, and once: the module can be imported without an environment."""
    if name != "application":
        raise AttributeError(name)
    application = make_application(**json.loads(os.environ[ENVIRONMENT]))
    globals()[name] = application
    return application
