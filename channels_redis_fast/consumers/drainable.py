"""``Drainable``: consumers whose clients are told when to come back, before their process ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from channels.consumer import AsyncConsumer
from channels.exceptions import StopConsumer
from channels.generic.http import AsyncHttpConsumer

from ..base import RedisLayer
from .events import ResumableEvents
from .sources import Message

logger = logging.getLogger("channels_redis_fast")

#: The close code of a WebSocket whose server restarts (IANA's registry of close codes).
SERVICE_RESTART = 1012

#: Used instead if the server refuses that code, as Daphne does with all codes between 1000 and 3000.
PRIVATE_RESTART = 4012


class Drainable(AsyncConsumer):  # type: ignore[misc]
    """
    Makes a consumer's clients leave when its layer is drained: ``class Feed(Drainable, AsyncJsonWebsocketConsumer)``.

    Needs the layer's option ``on_drain``, with any type. For WebSocket consumers, including synchronous ones, and for
    ``ResumableEvents``. A consumer of any other kind is ended.
    """

    #: Whether a client is closed at once and told after how many seconds to come back. If False, it stays for that long
    #: and is closed then: for clients that do not support this, and servers that do not send close reasons.
    leaves_at_once = True

    _leaving: asyncio.Task[None] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve as the application of one connection."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            layer = getattr(self, "channel_layer", None)
            if isinstance(layer, RedisLayer) and hasattr(self, "channel_name"):
                # A consumer that ends in a handler has no receive to cancel. Without a running loop, it was
                # garbage-collected.
                with contextlib.suppress(RuntimeError):
                    layer._left(self.channel_name)
            if self._leaving is not None:
                self._leaving.cancel()

    async def dispatch(self, message: Message) -> None:
        """Call the handler of a message, or ``drain`` for a message of the type that ``on_drain`` sets."""
        kind = message.get("type")
        if kind is not None and kind == getattr(self.channel_layer, "on_drain", None):
            after = message.get("after", 0.0)
            if after > 0 and not self.leaves_at_once:
                self._leaving = self._leaving or asyncio.ensure_future(self._leave(kind, after))
                return
            message = {**message, "type": "drain"}
        await super().dispatch(message)

    def drain(self, message: Message) -> Any:
        """
        Called when the client has to leave. Can be overridden, in a synchronous consumer by a synchronous method.

        ``message["after"]`` is the number of seconds after which the client should come back. Closes a WebSocket with
        the code 1012 and these seconds as the reason. Sends these seconds to an event stream as ``retry``, and ends it.
        """
        after = float(message["after"])
        close = getattr(self, "close", None)
        if close is None:
            raise StopConsumer
        if isinstance(self, AsyncHttpConsumer):
            return self._end_events(after)
        if not self._sync:
            return self._close(close, f"{after:.3f}")
        # The server also reports a client that has gone.
        with contextlib.suppress(OSError, RuntimeError):
            try:
                close(code=SERVICE_RESTART, reason=f"{after:.3f}")
            except (OSError, RuntimeError):
                raise
            except Exception:
                close(code=PRIVATE_RESTART, reason=f"{after:.3f}")
        return None

    async def _close(self, close: Any, reason: str) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            try:
                await close(code=SERVICE_RESTART, reason=reason)
            except (OSError, RuntimeError):
                raise
            except Exception:
                await close(code=PRIVATE_RESTART, reason=reason)

    async def _end_events(self, after: float) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            if isinstance(self, ResumableEvents) and self._recovery is not None and self._recovery.is_open:
                await self.send_body(b"retry: %d\n\n" % round(1000 * after), more_body=True)
            await self.close()

    async def _leave(self, kind: str, after: float) -> None:
        await asyncio.sleep(after)
        # Through its channel, since handlers run one at a time.
        try:
            await self.channel_layer.send(self.channel_name, {"type": kind, "after": 0.0})
        except Exception as error:
            logger.warning(
                "A client could not be told to leave, and stays until its server ends: %s: %s",
                type(error).__name__,
                error,
            )
