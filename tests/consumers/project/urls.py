"""Paths of the site, for HTTP and for WebSockets."""

from __future__ import annotations

from channels.routing import URLRouter
from django.urls import path

from tests.consumers.project import consumers, views

urlpatterns = [path("process", views.process), path("say/<room>/<int:number>", views.say)]

sockets = URLRouter(
    [
        path("async/<room>", consumers.AsyncRoom.as_asgi()),
        path("sync/<room>", consumers.SyncRoom.as_asgi()),
        path("async-lobby", consumers.AsyncLobby.as_asgi()),
        path("sync-lobby", consumers.SyncLobby.as_asgi()),
        path("resumable/<room>", consumers.ResumableRoom.as_asgi()),
    ]
)

events = path("events/<room>", consumers.RoomEvents.as_asgi())
