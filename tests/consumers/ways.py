"""
The two ways to dispatch: Channels' own, and ours. What both have to keep is tested on each.

`Ways` names the base classes of one; `Socket` is a client of one consumer in this process, without a server between.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from channels.consumer import AsyncConsumer
from channels.generic.http import AsyncHttpConsumer
from channels.generic.websocket import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer, WebsocketConsumer

from channels_redis_fast import consumers
from tests.core.helpers import LIMIT, within

NAMES = ("channels", "direct", "installed")


@dataclass
class Way:
    """One way to dispatch, and the consumer classes that have it."""

    name: str
    consumer: Any = AsyncConsumer
    http: Any = AsyncHttpConsumer
    websocket: Any = AsyncWebsocketConsumer
    json: Any = AsyncJsonWebsocketConsumer
    sync: Any = WebsocketConsumer

    @property
    def is_channels(self) -> bool:
        return self.name == "channels"


@contextlib.contextmanager
def way_of(name: str) -> Iterator[Way]:
    """Channels' own classes; ours; or Channels' classes with our dispatch installed."""
    if name == "direct":
        yield Way(
            name,
            consumers.AsyncConsumer,
            consumers.AsyncHttpConsumer,
            consumers.AsyncWebsocketConsumer,
            consumers.AsyncJsonWebsocketConsumer,
            type("WebsocketConsumer", (consumers.DirectDispatch, WebsocketConsumer), {}),
        )
    elif name == "installed":
        consumers.install()
        try:
            yield Way(name)
        finally:
            consumers.uninstall()
    else:
        yield Way(name)


class Socket:
    """The client of one consumer: what it sends comes in order, what is sent to it is in `sent`."""

    def __init__(self, application: Any, kind: str = "websocket", connects: bool = True, **scope: Any) -> None:
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        #: Cleared for a client that does not read: the server's send waits then.
        self.reads = asyncio.Event()
        self.reads.set()
        if connects:
            self.give(type="websocket.connect")
        self.task = asyncio.ensure_future(application({"type": kind, **scope}, self.receive, self.send))

    async def receive(self) -> dict[str, Any]:
        return await self.incoming.get()

    async def send(self, message: dict[str, Any]) -> None:
        await self.reads.wait()
        self.sent.put_nowait(message)

    def give(self, **message: Any) -> None:
        """Hand a message of the client to the consumer."""
        self.incoming.put_nowait(message)

    def say(self, text: str) -> None:
        self.give(type="websocket.receive", text=text)

    async def next(self) -> dict[str, Any]:
        """Return the next message to the client; if the consumer ends instead, raise what it raised."""
        message = asyncio.ensure_future(self.sent.get())
        await asyncio.wait([message, self.task], timeout=LIMIT, return_when=asyncio.FIRST_COMPLETED)
        if not message.done():
            message.cancel()
            assert self.task.done(), "nothing was sent"
            self.task.result()
            raise AssertionError("the consumer has ended")
        return message.result()

    async def text(self) -> str:
        message = await self.next()
        assert message["type"] == "websocket.send", message
        return str(message["text"])

    async def accepted(self) -> None:
        assert (await self.next())["type"] == "websocket.accept"

    def leave(self) -> None:
        self.give(type="websocket.disconnect", code=1000)

    async def end(self) -> None:
        """Wait until the consumer has ended. Raises what it raised."""
        await within(asyncio.shield(self.task))


@contextlib.asynccontextmanager
async def socket_of(consumer_class: Any, **options: Any) -> AsyncIterator[Socket]:
    """A client whose consumer has ended in good order afterwards, or is cancelled."""
    socket = Socket(consumer_class.as_asgi(), **options)
    try:
        yield socket
        socket.leave()
        if not socket.task.done():
            await socket.end()
    finally:
        socket.task.cancel()
        await asyncio.wait([socket.task])
