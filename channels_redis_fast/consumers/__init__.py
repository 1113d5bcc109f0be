"""Consumers as fast as the layer: Channels' consumer classes with a direct way to their handlers.

Change an import, or switch all consumers of a site at once (`install`). Works with every channel layer. `dispatch` says
what stays as it is under Channels.
"""

from .dispatch import DirectDispatch
from .generic import AsyncConsumer, AsyncHttpConsumer, AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer
from .installation import install, is_installed, uninstall

__all__ = [
    "AsyncConsumer",
    "AsyncHttpConsumer",
    "AsyncJsonWebsocketConsumer",
    "AsyncWebsocketConsumer",
    "DirectDispatch",
    "install",
    "is_installed",
    "uninstall",
]
