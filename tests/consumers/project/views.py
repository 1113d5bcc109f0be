"""Views, all of them synchronous: this is where a site sends to its rooms from code that cannot await."""

from __future__ import annotations

import os

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.http import HttpRequest, HttpResponse


def process(request: HttpRequest) -> HttpResponse:
    """Say which process answers on this port, and whose child it is: a server may have workers."""
    return HttpResponse(f"{os.getpid()} {os.getppid()}")


def say(request: HttpRequest, room: str, number: int) -> HttpResponse:
    """Say something to everybody in a room."""
    async_to_sync(get_channel_layer().group_send)(room, {"type": "room.said", "by": "view", "number": number})
    return HttpResponse(status=204)
