"""A WebSocket client for a test. Its consumer ends with the test, whatever happens in between."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from channels.testing import WebsocketCommunicator

logger = logging.getLogger("channels_redis_fast")


@asynccontextmanager
async def communicator(
    application: Any,
    path: str = "/",
    *,
    headers: Iterable[tuple[bytes, bytes]] | None = None,
    subprotocols: Iterable[str] | None = None,
    scope: Mapping[str, Any] | None = None,
    connect: bool = True,
    timeout: float = 5.0,
) -> AsyncIterator[WebsocketCommunicator]:
    """
    Yield a connected client of an ASGI application (``channels.testing.WebsocketCommunicator``); then disconnect it.

    At the end, the consumer is told that the client has gone, and awaited for up to ``timeout`` seconds; a consumer
    that continues is cancelled. So a failing test leaves none behind: a synchronous consumer that waits for the test's
    event loop would block the only thread in which synchronous code of later tests runs.

    ``scope``: entries for the connection's scope, for example ``{"user": user}``. ``connect``: whether to connect,
    which has to be accepted; with False, the test itself connects.

    Raises ``AssertionError`` if the connection is refused. At the end, if nothing else was raised, raises what the
    consumer raised, or ``TimeoutError`` if it had to be cancelled.
    """
    # The import loads Django's test tools, which require settings.
    from channels.testing import WebsocketCommunicator  # noqa: PLC0415

    client = WebsocketCommunicator(
        application,
        path,
        headers=None if headers is None else list(headers),
        subprotocols=None if subprotocols is None else list(subprotocols),
    )
    client.scope.update(scope or {})
    try:
        if connect:
            is_accepted, answer = await client.connect(timeout)
            assert is_accepted, f"the connection to {path} was refused with code {answer}"
        yield client
    except BaseException:
        await _end(client, timeout)
        raise
    if not await _end(client, timeout):
        raise TimeoutError(f"the consumer of {path} did not end within {timeout:g} s after its client had left")
    consumer = _consumer_of(client)
    if consumer is not None and not consumer.cancelled():
        consumer.result()


def _consumer_of(client: WebsocketCommunicator) -> asyncio.Task[Any] | None:
    """Return the task of a client's consumer, None if nothing has been sent to it."""
    # Since asgiref 3.9, ``future`` is a property that starts the consumer.
    attributes = vars(client)
    consumer: asyncio.Task[Any] | None = attributes.get("_future", attributes.get("future"))
    return consumer


async def _end(client: WebsocketCommunicator, timeout: float) -> bool:
    """Wait for a client's consumer to end, and cancel it if needed; return whether it ended without being cancelled."""
    consumer = _consumer_of(client)
    if consumer is None:
        return True
    if not consumer.done():
        await client.send_input({"type": "websocket.disconnect", "code": 1000})
        await asyncio.wait([consumer], timeout=timeout)
    if consumer.done():
        if not consumer.cancelled():
            # Retrieved, because asyncio would otherwise report it a second time.
            consumer.exception()
        return True
    consumer.cancel()
    # Code that runs in a thread continues after that, and ends when the event loop has answered it.
    _, late = await asyncio.wait([consumer], timeout=timeout)
    if late:
        logger.error("A consumer did not end: %r", consumer)
    return False
