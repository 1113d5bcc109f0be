"""
The last mile, from the channel layer to the browser: Channels' consumers with a direct dispatch.

A site imports its base classes from here instead of from Channels, or calls ``install()``, and keeps everything else.
Works with any channel layer, and with none.
"""

from __future__ import annotations

from .activation import install, installed, uninstall
from .dispatch import DirectDispatch
from .generic import AsyncConsumer, AsyncHttpConsumer, AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer

__all__ = [
    "AsyncConsumer",
    "AsyncHttpConsumer",
    "AsyncJsonWebsocketConsumer",
    "AsyncWebsocketConsumer",
    "DirectDispatch",
    "install",
    "installed",
    "uninstall",
]
