"""``Drainable``: what each kind of consumer does when its layer is drained."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from channels.exceptions import StopConsumer
from channels.generic.websocket import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer, JsonWebsocketConsumer
from channels.layers import channel_layers, get_channel_layer
from django.test import override_settings

from channels_redis_fast import consumers
from channels_redis_fast.consumers import Drainable, Resumable, ResumableEvents
from tests.consumers.conftest import layers_of
from tests.consumers.ways import Socket
from tests.core.helpers import until, within

OVER = 60.0
HISTORY = {"room.*": {"size": 10, "ttl": 60}}


class Plain(Drainable, AsyncWebsocketConsumer):
    """On Channels' own dispatch."""


class Direct(Drainable, consumers.AsyncJsonWebsocketConsumer):
    """On ours."""


class Sync(Drainable, JsonWebsocketConsumer):
    """In a thread."""


class InARoom(Drainable, Resumable, AsyncJsonWebsocketConsumer):
    groups = ("room.one",)


@pytest.fixture(params=["core", "pubsub"])
async def layer(request: pytest.FixtureRequest, redis_server: Any, prefix: str) -> Any:
    options = {"history": HISTORY, "on_drain": "layer.goodbye"}
    with override_settings(CHANNEL_LAYERS=layers_of(request.param, redis_server.url, prefix, **options)):
        yield get_channel_layer()
        for each in channel_layers.backends.values():
            await each.close_pools()


@pytest.mark.parametrize("consumer", [Plain, Direct, Sync, InARoom])
async def test_a_socket_is_closed_and_told_when_to_come_back(layer: Any, consumer: Any) -> None:
    socket = Socket(consumer.as_asgi())
    await socket.accepted()
    if consumer is InARoom:
        assert '"resumed"' in await socket.text()
    drain = asyncio.ensure_future(layer.drain(OVER))
    closed = await socket.next()
    after = float(closed.pop("reason"))
    assert closed == {"type": "websocket.close", "code": 1012}
    assert 0 <= after < OVER
    assert not drain.done()
    socket.give(type="websocket.disconnect", code=1012)
    await socket.end()
    await within(drain)


async def test_a_socket_may_stay_for_its_share(layer: Any) -> None:
    class Stays(Drainable, consumers.AsyncWebsocketConsumer):
        leaves_at_once = False

        async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
            await self.send(text_data)

    sockets = [Socket(Stays.as_asgi()) for _ in range(2)]
    for socket in sockets:
        await socket.accepted()
    # One of them for at least a quarter of a second, and goes on meanwhile; another has a client that goes.
    drain = asyncio.ensure_future(layer.drain(0.5))
    sockets[0].say("still there")
    assert await sockets[0].text() == "still there"
    sockets[1].leave()
    await sockets[1].end()
    assert await sockets[0].next() == {"type": "websocket.close", "code": 1012, "reason": "0.000"}
    sockets[0].leave()
    await sockets[0].end()
    await within(drain)


async def test_events_get_their_time_as_retry(layer: Any) -> None:
    class Feed(Drainable, ResumableEvents):
        groups = ("room.one",)

    socket = Socket(Feed.as_asgi(), kind="http", connects=False, headers=[], method="GET", path="/")
    socket.give(type="http.request")
    bodies = []
    while not any(b"resumed" in body for body in bodies):
        bodies.append((await socket.next()).get("body", b""))
    drain = asyncio.ensure_future(layer.drain(OVER))
    name, _, value = (await socket.next())["body"].decode().partition(": ")
    assert name == "retry"
    assert 0 <= int(value) <= 1000 * OVER
    assert await socket.next() == {"type": "http.response.body", "body": b"", "more_body": False}
    await socket.end()
    # Its consumer has ended in a handler, and no receive was cancelled.
    await within(drain)


async def test_a_consumer_that_ends_in_a_handler_leaves_its_channel(layer: Any) -> None:
    """With direct dispatch, drained or not: else it would be waited for, and with Pub/Sub be subscribed for good."""

    class Ends(consumers.AsyncWebsocketConsumer):
        async def enough(self, message: Any) -> None:
            raise StopConsumer

        async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
            await self.send(self.channel_name)

    layer.grace = 0.01
    socket = Socket(Ends.as_asgi())
    await socket.accepted()
    socket.say("who are you?")
    channel = await socket.text()
    await layer.send(channel, {"type": "enough"})
    await socket.end()
    await within(layer.drain(OVER))
    await until(lambda: channel not in getattr(layer, "channels", {}))


async def test_what_it_does_can_be_replaced(layer: Any) -> None:
    class Polite(Drainable, consumers.AsyncJsonWebsocketConsumer):
        async def drain(self, message: Any) -> None:
            await self.send_json({"come_back_after": message["after"]})
            await self.close(code=4000)

    socket = Socket(Polite.as_asgi())
    await socket.accepted()
    drain = asyncio.ensure_future(layer.drain(OVER))
    assert "come_back_after" in await socket.text()
    assert await socket.next() == {"type": "websocket.close", "code": 4000}
    socket.leave()
    await socket.end()
    await within(drain)
