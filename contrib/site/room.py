"""A chat room in one file, and its layer's metrics: `REDIS_URL=redis://localhost uvicorn room:application`."""

from __future__ import annotations

import os
from typing import Any

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="only for trying out",
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["channels_redis_fast"],
    CHANNELS_REDIS_FAST={"CONSUMERS": "direct"},
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "channels_redis_fast.core.RedisChannelLayer",
            "CONFIG": {"hosts": [os.environ.get("REDIS_URL", "redis://localhost:6379")]},
        }
    },
)
django.setup()

from channels.generic.websocket import AsyncJsonWebsocketConsumer  # noqa: E402
from channels.layers import get_channel_layer  # noqa: E402
from channels.routing import ProtocolTypeRouter  # noqa: E402
from prometheus_client import REGISTRY, make_asgi_app  # noqa: E402

from channels_redis_fast.prometheus import Collector  # noqa: E402

PAGE = b"""<!doctype html><title>Room</title><h1>Room</h1><form><input autofocus><button>Send</button></form><ul></ul>
<script>
  const socket = new WebSocket(`ws://${location.host}/`), input = document.querySelector("input")
  socket.onmessage = event => {
    const line = document.createElement("li")
    line.textContent = JSON.parse(event.data).text
    document.querySelector("ul").prepend(line)
  }
  document.querySelector("form").onsubmit = event => {
    event.preventDefault()
    socket.send(JSON.stringify({text: input.value}))
    input.value = ""
  }
</script>
"""


class Room(AsyncJsonWebsocketConsumer):
    """One browser: what it says goes to all of them."""

    groups = ("room",)

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await self.channel_layer.group_send("room", {"type": "room.said", "text": str(content["text"])})

    async def room_said(self, event: dict[str, Any]) -> None:
        await self.send_json({"text": event["text"]})


REGISTRY.register(Collector(get_channel_layer()))
metrics = make_asgi_app()


async def page(scope: Any, receive: Any, send: Any) -> None:
    """The room at /, the metrics at /metrics."""
    if scope["path"].startswith("/metrics"):
        await metrics(scope, receive, send)
        return
    headers = [(b"content-type", b"text/html; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": PAGE})


application = ProtocolTypeRouter({"http": page, "websocket": Room.as_asgi()})
