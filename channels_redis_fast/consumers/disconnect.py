"""
The end of a connection in Channels' generic consumers, where they hop to the database thread once more.

``websocket_disconnect`` and ``http_disconnect`` are those of Channels 4.2 and 4.3, except for when they hop
(``databases``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from channels.exceptions import InvalidChannelLayerError, StopConsumer
from channels.generic.http import AsyncHttpConsumer
from channels.generic.websocket import AsyncWebsocketConsumer

from .databases import close_stale_connections
from .sources import Message


async def websocket_disconnect(self: Any, message: Message) -> None:
    """Called when a WebSocket has closed: leave the groups, call ``disconnect``, stop."""
    try:
        for group in self.groups:
            await self.channel_layer.group_discard(group, self.channel_name)
    except AttributeError:
        raise InvalidChannelLayerError("BACKEND is unconfigured or doesn't support groups") from None
    await self.disconnect(message["code"])
    await close_stale_connections(self)
    raise StopConsumer()


async def http_disconnect(self: Any, message: Message) -> None:
    """Called when an HTTP client has gone: call ``disconnect``, stop."""
    await self.disconnect()
    await close_stale_connections(self)
    raise StopConsumer()


#: By name of the handler: Channels' function and ours.
DISCONNECTS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "websocket_disconnect": (AsyncWebsocketConsumer.websocket_disconnect, websocket_disconnect),
    "http_disconnect": (AsyncHttpConsumer.http_disconnect, http_disconnect),
}
