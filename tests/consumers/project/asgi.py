"""What daphne, uvicorn and runworker serve: views, WebSockets, events and the jobs of two general channels."""

from __future__ import annotations

from channels.routing import ChannelNameRouter, ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import re_path

# Sets Django up, which what follows needs.
views = get_asgi_application()

from tests.consumers.project.consumers import AsyncJobs, SyncJobs  # noqa: E402
from tests.consumers.project.urls import events, sockets  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": URLRouter([events, re_path("", views)]),
        "websocket": sockets,
        "channel": ChannelNameRouter({"jobs.async": AsyncJobs.as_asgi(), "jobs.sync": SyncJobs.as_asgi()}),
    }
)
