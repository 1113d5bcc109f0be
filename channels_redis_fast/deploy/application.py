"""
``drain_on_sigterm``: the ASGI application of a site whose layers are drained before its server shuts down.

The server's own handling of SIGTERM begins when the layers have been drained, or their time is over. Knows ASGI and
Channels' layers. Does not know which server it runs in, except for ``hypercorn``'s workers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from channels.layers import channel_layers

from .. import options
from ..drain import HANDLERS
from .hypercorn import hold_shutdown
from .signals import HeldSignal

logger = logging.getLogger("channels_redis_fast")

Application = Callable[[Any, Any, Any], Awaitable[None]]


def drain_on_sigterm(application: Application, over: float = 20.0) -> DrainedApplication:
    """
    Return an ASGI application whose process, on SIGTERM, drains its channel layers and then lets the server shut down.

    For ``asgi.py``: ``application = drain_on_sigterm(ProtocolTypeRouter(...))``. ``over``: the maximum number of
    seconds for draining; choose less than the time after which the sender of the signal kills the process. The server
    accepts connections in the meantime. A second SIGTERM goes to the server at once.

    Raises ``TypeError`` or ``ValueError`` if ``over`` is not a number of seconds.
    """
    return DrainedApplication(application, options.delay("over", over))


class DrainedApplication:
    """The result of ``drain_on_sigterm``; ``application`` is the wrapped application."""

    def __init__(self, application: Application, over: float) -> None:
        self.application = application
        self.over = over
        self._signal = HeldSignal(self._begin)
        self._draining: asyncio.Task[None] | None = None
        self._was_refused = False
        hold_shutdown(self._drain_for_parent)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one connection, or the lifespan of a server's process."""
        if not self._signal.watch(asyncio.get_running_loop()) and not self._was_refused:
            self._was_refused = True
            logger.info(
                "SIGTERM will not drain the channel layers: signals are delivered to the main thread, and this event "
                "loop runs in another one. Call layer.drain() when the server is about to shut down."
            )
        kind = scope["type"]
        if kind == "channel":
            await self._work(scope, receive, send)
        elif kind in ("http", "websocket"):
            HANDLERS.are_counted = True
            handler = HANDLERS.begin()
            try:
                await self.application(scope, receive, send)
            finally:
                HANDLERS.end(handler)
        else:
            await self.application(scope, receive, send)

    async def drain(self) -> None:
        """Drain all channel layers that this process uses. A second call waits until the first is done."""
        if self._draining is None or self._draining.get_loop() is not asyncio.get_running_loop():
            self._draining = asyncio.ensure_future(self._drain())
        await asyncio.shield(self._draining)

    async def _work(self, scope: Any, receive: Any, send: Any) -> None:
        """Run the application that does a worker's jobs one by one. It counts as running unless it waits for a job."""
        handler = HANDLERS.begin()

        async def receive_job() -> Any:
            HANDLERS.pause(handler)
            try:
                return await receive()
            finally:
                HANDLERS.go_on(handler)

        try:
            await self.application(scope, receive_job, send)
        finally:
            HANDLERS.end(handler)

    async def _drain_for_parent(self) -> None:
        """Called when the server shuts down without a signal."""
        self._signal.is_ending = True
        await self.drain()

    def _begin(self) -> None:
        asyncio.ensure_future(self.drain()).add_done_callback(self._drained)

    def _drained(self, draining: asyncio.Future[None]) -> None:
        # Whatever the outcome, the process has to end too.
        if not draining.cancelled() and draining.exception() is not None:
            logger.error("The channel layers were not drained", exc_info=draining.exception())
        self._signal.release()

    async def _drain(self) -> None:
        layers = {alias: layer for alias, layer in channel_layers.backends.items() if hasattr(layer, "drain")}
        logger.info("Draining the channel layers %s, for at most %g s", ", ".join(layers) or "(none)", self.over)
        outcomes = await asyncio.gather(*(layer.drain(self.over) for layer in layers.values()), return_exceptions=True)
        for alias, error in zip(layers, outcomes, strict=True):
            if isinstance(error, Exception):
                logger.error("Channel layer %r was not drained: %s: %s", alias, type(error).__name__, error)
