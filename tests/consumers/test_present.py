"""Consumers whose users are present, on each kind of dispatch and with each layer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from channels.consumer import SyncConsumer
from channels.exceptions import InvalidChannelLayerError
from channels.testing import WebsocketCommunicator
from django.test import override_settings

from bench.server import ForeignServer, Server
from channels_redis_fast.consumers import Present, Resumable
from tests.consumers.conftest import layers_of
from tests.consumers.feeds import HISTORY
from tests.consumers.ways import NAMES, Way, way_of
from tests.core.helpers import within

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])

PRESENCE = {"lease": 30, "grace": 0.1, "events": True}


@pytest.fixture(params=NAMES)
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    """Whose dispatch."""
    with way_of(request.param) as way:
        yield way


@pytest.fixture
def layers(kind: str, redis_server: Server | ForeignServer, prefix: str) -> dict[str, Any]:
    return layers_of(kind, redis_server.url, prefix, presence=PRESENCE, history=HISTORY)


class User:
    """As much of a user as the mixin asks for."""

    is_authenticated = True

    def __init__(self, pk: Any) -> None:
        self.pk = pk


class Anonymous:
    """As much of Django's `AnonymousUser`."""

    is_authenticated = False
    pk = None


def room_of(*bases: Any) -> Any:
    class Room(*bases):  # type: ignore[misc]
        async def connect(self) -> None:
            await self.enter("room.a", info={"name": self.scope["name"]})
            await self.accept()

        async def presence_join(self, event: dict[str, Any]) -> None:
            await self.send_json({"joined": event["user"], "info": event["info"]})

        async def presence_leave(self, event: dict[str, Any]) -> None:
            await self.send_json({"left": event["user"]})

        async def receive_json(self, content: dict[str, Any], **others: Any) -> None:
            if "fail" in content:
                raise ValueError("as told")
            await self.exit("room.a")
            await self.exit("room.b")
            await self.send_json({"exited": True})

    return Room


async def client(room: Any, user: Any, name: str = "x") -> WebsocketCommunicator:
    communicator = WebsocketCommunicator(room.as_asgi(), "/")
    communicator.scope |= {"user": user, "name": name}
    connected, _ = await communicator.connect(timeout=10)
    assert connected
    return communicator


async def hear(communicator: WebsocketCommunicator) -> Any:
    return await communicator.receive_json_from(timeout=10)


async def until_present(layer: Any, *users: Any, count: int | None = None) -> None:
    async def look() -> None:
        # Nobody would set an event: it is the server that is asked.
        while True:
            named = sorted(map(str, await layer.presence("room.a")))
            counted = await layer.presence_count("room.a")
            if named == sorted(map(str, users)) and counted == (len(users) if count is None else count):
                return
            await asyncio.sleep(0.02)

    await within(look())


async def test_who_comes_and_goes(way: Way, layer: Any) -> None:
    room = room_of(Present, way.json)
    first = await client(room, User(7), "Ada")
    assert await hear(first) == {"joined": 7, "info": {"name": "Ada"}}
    second = await client(room, User("b"), "Bob")
    assert await hear(first) == {"joined": "b", "info": {"name": "Bob"}}
    assert await layer.presence("room.a") == {7: {"name": "Ada"}, "b": {"name": "Bob"}}
    await second.disconnect()
    assert await hear(first) == {"left": "b"}
    await first.send_json_to({})
    assert await hear(first) == {"exited": True}
    await until_present(layer)
    await first.disconnect()


async def test_a_consumer_that_ends_in_an_error(way: Way, layer: Any) -> None:
    """No farewell of its server: it leaves all the same."""
    failing = await client(room_of(Present, way.json), User(1))
    await until_present(layer, 1)
    await failing.send_json_to({"fail": True})
    await until_present(layer)
    with pytest.raises(ValueError, match="as told"):
        await failing.future


async def test_a_consumer_that_is_cancelled(way: Way, layer: Any) -> None:
    ending = await client(room_of(Present, way.json), User(1))
    await until_present(layer, 1)
    ending.future.cancel()
    await until_present(layer)


async def test_somebody_without_a_name(way: Way, layer: Any) -> None:
    """Is counted, each of them, and not named."""
    room = room_of(Present, way.json)
    clients = [await client(room, user) for user in (Anonymous(), Anonymous(), User(1))]
    await until_present(layer, 1, count=3)
    await clients[0].disconnect()
    await until_present(layer, 1, count=2)
    for left in clients[1:]:
        await left.disconnect()


async def test_with_resumable(way: Way, layer: Any) -> None:
    room = room_of(Present, Resumable, way.json)
    one = await client(room, User(1))
    await until_present(layer, 1)
    await one.disconnect()
    await until_present(layer)


async def test_what_has_no_presence() -> None:
    with pytest.raises(TypeError, match="is a SyncConsumer"):

        class Wrong(Present, SyncConsumer):  # type: ignore[misc]
            pass


@pytest.mark.parametrize("backend", ["channels.layers.InMemoryChannelLayer", None])
async def test_a_layer_of_another_package(way: Way, backend: str | None) -> None:
    layers = {} if backend is None else {"default": {"BACKEND": backend}}
    with override_settings(CHANNEL_LAYERS=layers):
        room = room_of(Present, way.json)
        communicator = WebsocketCommunicator(room.as_asgi(), "/")
        communicator.scope |= {"user": Anonymous(), "name": "x"}
        with pytest.raises((RuntimeError, InvalidChannelLayerError), match=r"'presence'|unconfigured"):
            await communicator.connect(timeout=10)
