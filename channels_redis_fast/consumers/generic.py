"""Channels' asynchronous consumer classes with direct dispatch: change the import, and nothing else.

Each is a subclass of Channels' class of the same name. Only the end of a connection differs: there too, the hop for
database connections happens where it has something to do (`database`).
"""

from __future__ import annotations

from typing import Any

import channels.consumer
import channels.generic.http
import channels.generic.websocket
from channels.exceptions import InvalidChannelLayerError, StopConsumer

from .dispatch import DirectDispatch, Message, close_stale_connections


class AsyncConsumer(DirectDispatch, channels.consumer.AsyncConsumer):  # type: ignore[misc]
    """``channels.consumer.AsyncConsumer`` with direct dispatch."""


class AsyncHttpConsumer(DirectDispatch, channels.generic.http.AsyncHttpConsumer):  # type: ignore[misc]
    """``channels.generic.http.AsyncHttpConsumer`` with direct dispatch."""

    async def http_disconnect(self, message: Message) -> None:
        """Called when the client has closed the connection before the response was complete."""
        await self.disconnect()
        await close_stale_connections(self)
        raise StopConsumer


class AsyncWebsocketConsumer(DirectDispatch, channels.generic.websocket.AsyncWebsocketConsumer):  # type: ignore[misc]
    """``channels.generic.websocket.AsyncWebsocketConsumer`` with direct dispatch."""

    async def websocket_disconnect(self, message: Any) -> None:
        """Called when the connection is closed, by whichever side."""
        try:
            for group in self.groups:
                await self.channel_layer.group_discard(group, self.channel_name)
        except AttributeError:
            raise InvalidChannelLayerError("BACKEND is unconfigured or doesn't support groups") from None
        await self.disconnect(message["code"])
        await close_stale_connections(self)
        raise StopConsumer


class AsyncJsonWebsocketConsumer(AsyncWebsocketConsumer, channels.generic.websocket.AsyncJsonWebsocketConsumer):  # type: ignore[misc]
    """``channels.generic.websocket.AsyncJsonWebsocketConsumer`` with direct dispatch."""
