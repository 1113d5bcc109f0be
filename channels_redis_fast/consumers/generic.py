"""Channels' asynchronous consumer classes with direct dispatch, under the same names."""

from __future__ import annotations

from channels import consumer
from channels.generic import http, websocket

from .dispatch import DirectDispatch


class AsyncConsumer(DirectDispatch, consumer.AsyncConsumer):  # type: ignore[misc]
    """``channels.consumer.AsyncConsumer``, with direct dispatch."""


class AsyncHttpConsumer(AsyncConsumer, http.AsyncHttpConsumer):  # type: ignore[misc]
    """``channels.generic.http.AsyncHttpConsumer``, with direct dispatch."""


class AsyncWebsocketConsumer(AsyncConsumer, websocket.AsyncWebsocketConsumer):  # type: ignore[misc]
    """``channels.generic.websocket.AsyncWebsocketConsumer``, with direct dispatch."""


class AsyncJsonWebsocketConsumer(AsyncWebsocketConsumer, websocket.AsyncJsonWebsocketConsumer):  # type: ignore[misc]
    """``channels.generic.websocket.AsyncJsonWebsocketConsumer``, with direct dispatch."""
