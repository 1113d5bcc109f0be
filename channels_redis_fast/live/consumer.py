"""The live page's WebSocket: one frame each second, for as long as its user has access."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

from channels.db import database_sync_to_async

from ..consumers import AsyncWebsocketConsumer
from .access import may_look
from .watch import next_frame

#: Seconds after which a socket is closed. The page opens another, and its user's access is checked again.
LIFETIME = 300.0

#: The close code that tells a page to reconnect at once.
COME_BACK = 4000


class LiveConsumer(AsyncWebsocketConsumer):
    """Sends what ``watch`` saw. Ignores what its client sends."""

    #: No layer is configured under this name, so the consumer has none: the page has to work when a layer does not.
    channel_layer_alias = "channels_redis_fast.live: none"

    _feeding: asyncio.Task[None] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            # Also when the server cancels the consumer.
            if self._feeding is not None:
                self._feeding.cancel()

    async def connect(self) -> None:
        """Accept users who may view the page; others get 403."""
        if await database_sync_to_async(may_look)(self.scope.get("user")):
            await self.accept()
            self._feeding = asyncio.create_task(self._feed())
        else:
            await self.close()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Ignore what a client sends."""

    async def _feed(self) -> None:
        ends_at = time.monotonic() + LIFETIME
        number = 0
        # Some servers raise it for a client that has gone, before they report the disconnect.
        with contextlib.suppress(OSError):
            while time.monotonic() < ends_at:
                number, text = await next_frame(after=number)
                await self.send(text_data=text)
            await self.close(COME_BACK)
