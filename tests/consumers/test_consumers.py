"""Consumers of every kind in this process, with Channels' own test client for a browser."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator
from django.test import override_settings

from bench.server import ForeignServer, Server
from tests.consumers.conftest import layers_of, members
from tests.consumers.project.consumers import AsyncRoom
from tests.consumers.project.urls import sockets
from tests.core.helpers import LIMIT, until


class User:
    """A browser on one of the site's WebSockets, with time enough for slow machines."""

    def __init__(self, path: str, application: Any = sockets) -> None:
        self._socket = WebsocketCommunicator(application, path)
        self.channel = ""

    async def join(self, greeted: bool = True) -> User:
        accepted, _ = await self._socket.connect(timeout=LIMIT)
        assert accepted
        if greeted:
            self.channel = (await self.hear())["channel"]
        return self

    async def say(self, **content: Any) -> None:
        await self._socket.send_json_to(content)

    async def hear(self) -> Any:
        return await self._socket.receive_json_from(timeout=LIMIT)

    async def send(self, data: str | bytes) -> None:
        await self._socket.send_to(**{"text_data" if isinstance(data, str) else "bytes_data": data})

    async def receive(self) -> str | bytes:
        data: str | bytes = await self._socket.receive_from(timeout=LIMIT)
        return data

    async def leave(self) -> None:
        await self._socket.disconnect(timeout=LIMIT)

    async def end(self) -> None:
        """Wait until the consumer ends by itself, with its error if it has one."""
        await self._socket.wait(timeout=LIMIT)


@contextlib.asynccontextmanager
async def users(*paths: str, greeted: bool = True) -> AsyncIterator[list[User]]:
    joined = [await User(path).join(greeted) for path in paths]
    yield joined
    for user in joined:
        await user.leave()


@pytest.fixture(params=["async", "sync"])
def consumer(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_room(consumer: str, layer: Any, raw: redis.Redis, kind: str, prefix: str) -> None:
    """Users join, talk, leave the room and hear no more of it, come and go."""
    async with users(*[f"/{consumer}/den"] * 3) as (ann, bob, cid):
        for number in range(3):
            await ann.say(say=number)
        for user in (ann, bob, cid):
            assert [await user.hear() for _ in range(3)] == [{"said": n, "by": ann.channel} for n in range(3)]
        await cid.say(leave=True)
        assert await cid.hear() == {"left": "den"}
        await bob.say(say=3)
        assert [await user.hear() for user in (ann, bob)] == [{"said": 3, "by": bob.channel}] * 2
        # Of the room he hears nothing more: what comes next is what is told him alone, behind all that was said.
        await bob.say(tell=4, channel=cid.channel)
        assert await cid.hear() == {"told": 4, "by": bob.channel}
        async with users(f"/{consumer}/den") as (dot,):
            await dot.say(say=5)
            assert [await user.hear() for user in (ann, dot)] == [{"said": 5, "by": dot.channel}] * 2
        await layer.group_send("den", {"type": "room.said", "by": "nobody", "number": 6})
        assert await ann.hear() == {"said": 6, "by": "nobody"}
    # Who disconnects has left: nobody is kept.
    await until(lambda: members(raw, kind, prefix, "den") == 0)


async def test_told_to_one(consumer: str, layer: Any) -> None:
    """By another consumer, and by anybody who knows the channel; nobody else hears it."""
    async with users(f"/{consumer}/den", f"/{consumer}/den", f"/{consumer}/attic") as (ann, bob, cid):
        await ann.say(tell=1, channel=cid.channel)
        assert await cid.hear() == {"told": 1, "by": ann.channel}
        await layer.send(cid.channel, {"type": "room.told", "by": "nobody", "number": 2})
        assert await cid.hear() == {"told": 2, "by": "nobody"}
        for user in (ann, bob):
            await layer.send(user.channel, {"type": "room.told", "by": "nobody", "number": 3})
            assert await user.hear() == {"told": 3, "by": "nobody"}


async def test_async_and_sync_in_one_room(layer: Any) -> None:
    async with users("/async/den", "/sync/den") as (ann, bob):
        for speaker in (ann, bob):
            await speaker.say(say=1)
            assert [await user.hear() for user in (ann, bob)] == [{"said": 1, "by": speaker.channel}] * 2


async def test_groups_attribute(consumer: str, layer: Any, raw: redis.Redis, kind: str, prefix: str) -> None:
    """Channels joins the groups when somebody connects and leaves them when he disconnects; bytes pass as well."""
    async with users(*[f"/{consumer}-lobby"] * 2, greeted=False) as (ann, bob):
        await ann.send("good morning, caf\u00e9 \U0001f600")
        assert [await user.receive() for user in (ann, bob)] == ["good morning, caf\u00e9 \U0001f600"] * 2
        await bob.send(bytes(range(256)))
        assert [await user.receive() for user in (ann, bob)] == [bytes(range(256))] * 2
        assert all(members(raw, kind, prefix, group) for group in ("lobby", "hall"))
    await until(lambda: not any(members(raw, kind, prefix, group) for group in ("lobby", "hall")))


async def test_a_consumer_that_fails(consumer: str, layer: Any) -> None:
    """A message that it has no handler for ends one consumer, with Channels' error; the others hear on."""
    async with users(f"/{consumer}/den") as (ann,):
        bob = await User(f"/{consumer}/den").join()
        await layer.send(bob.channel, {"type": "room.painted"})
        with pytest.raises(ValueError, match=r"No handler for message type room\.painted"):
            await bob.end()
        await ann.say(say=1)
        assert await ann.hear() == {"said": 1, "by": ann.channel}


async def test_two_layers_by_alias(redis_server: Server | ForeignServer, prefix: str) -> None:
    """Both layers in one site, under one prefix, and a consumer class for each."""

    class Other(AsyncRoom):
        channel_layer_alias = "other"

    layers = layers_of("core", redis_server.url, prefix)
    layers["other"] = layers_of("pubsub", redis_server.url, prefix)["default"]
    with override_settings(CHANNEL_LAYERS=layers):
        here, there = get_channel_layer(), get_channel_layer("other")
        try:
            application = _in_room("den", AsyncRoom), _in_room("den", Other)
            ann, bob = [await User("/", each).join() for each in application]
            for layer, user in ((here, ann), (there, bob)):
                await layer.group_send("den", {"type": "room.said", "by": "nobody", "number": 1})
                assert await user.hear() == {"said": 1, "by": "nobody"}
                await user.say(say=2)
                assert await user.hear() == {"said": 2, "by": user.channel}
            for user in (ann, bob):
                await user.leave()
        finally:
            for layer in (here, there):
                await layer.close_pools()


def _in_room(room: str, consumer: Any) -> Any:
    """An application that is one consumer class, in one room."""
    application = consumer.as_asgi()

    async def routed(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await application({**scope, "url_route": {"args": (), "kwargs": {"room": room}}}, receive, send)

    return routed
