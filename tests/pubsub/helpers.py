"""What the tests of the Pub/Sub layer see from outside: subscriptions, published payloads, a link that fails.

Waiting is `tests.core.helpers`' business. Knows a layer only by its public API.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import redis

from tests.core.helpers import LIMIT, clients, within


def subscribers(raw: redis.Redis, name: str) -> int:
    """How many connections are subscribed to a Redis channel."""
    [(_, count)] = raw.pubsub_numsub(name)
    return int(count)


def subscriptions(raw: redis.Redis, prefix: str) -> set[str]:
    """The Redis channels of that prefix that somebody is subscribed to."""
    return {name.decode() for name in raw.pubsub_channels(f"{prefix}*")}


def subscribing(raw: redis.Redis, name: str) -> list[dict[str, Any]]:
    """The connections with that client name that are subscribed to something."""
    return [client for client in clients(raw, name) if int(client["sub"])]


@contextlib.contextmanager
def listening(raw: redis.Redis, *names: str) -> Iterator[Any]:
    """A raw subscriber, acknowledged; read it with `payload`."""
    with raw.pubsub() as pubsub:
        pubsub.subscribe(*names)
        for _ in names:
            assert pubsub.get_message(timeout=LIMIT)["type"] == "subscribe"
        yield pubsub


def payload(pubsub: Any) -> bytes:
    """What was published next to a raw subscriber."""
    message = pubsub.get_message(timeout=LIMIT)
    assert message is not None, "nothing was published"
    assert message["type"] == "message"
    return bytes(message["data"])


async def ready(layer: Any, *channels: str) -> None:
    """See that a layer gets what is sent to these channels; everything sent before is thrown away."""
    for channel in channels:
        await layer.send(channel, {"type": "ready"})
        while await within(layer.receive(channel)) != {"type": "ready"}:
            pass


class Proxy:
    """A link to a server on this machine: passes bytes, or holds them, or hangs up."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._passing = asyncio.Event()
        self._passing.set()
        self._writers: list[asyncio.StreamWriter] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def stall(self) -> None:
        """Keep every connection, take new ones, and pass nothing."""
        self._passing.clear()

    def go_on(self) -> None:
        """Pass what was held, and all that follows."""
        self._passing.set()

    def cut(self) -> None:
        """End every connection."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers.append(back)
        await asyncio.gather(self._pass(reader, back), self._pass(there, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._passing.wait()
                writer.write(data)
        writer.transport.abort()


@contextlib.asynccontextmanager
async def proxy_to(port: int) -> AsyncIterator[Proxy]:
    proxy = Proxy(port)
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(proxy.serve(reader, writer)))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
