"""
The last step, from the channel layer to the browser: Channels' consumers with direct dispatch.

A site imports its base classes from here instead of from Channels, or calls ``install()``, and keeps everything else.
Works with any channel layer, and without one. Exceptions: ``Resumable`` and ``ResumableEvents``, whose clients miss
nothing across a reconnect, need a layer of this package with the option ``history``, and ``Drainable`` needs one with
``on_drain``.
"""

from __future__ import annotations

from .activation import install, installed, uninstall
from .dispatch import DirectDispatch
from .drainable import Drainable
from .events import ResumableEvents
from .generic import AsyncConsumer, AsyncHttpConsumer, AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer
from .present import Present
from .resumable import Resumable

__all__ = [
    "AsyncConsumer",
    "AsyncHttpConsumer",
    "AsyncJsonWebsocketConsumer",
    "AsyncWebsocketConsumer",
    "DirectDispatch",
    "Drainable",
    "Present",
    "Resumable",
    "ResumableEvents",
    "install",
    "installed",
    "uninstall",
]
