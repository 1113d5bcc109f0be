"""Two hundred WebSocket clients in a room, through daphne and uvicorn as they are, by one process and by two."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from channels.layers import get_channel_layer
from django.test import RequestFactory, override_settings

from bench.server import ForeignServer, Server
from tests.conftest import remove_keys
from tests.consumers.clients import PATIENCE, Crowd, crowd_of
from tests.consumers.conftest import layers_of, members
from tests.consumers.processes import SERVERS, get, site_of
from tests.consumers.project.views import say
from tests.core.helpers import until

# The loops are the servers': daphne runs on asyncio, uvicorn on uvloop. The clients are there to be quick.
pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

CLIENTS = 200

#: How many of them talk, and how much each says without waiting for anything.
SPEAKERS, WORDS = 10, 2


@pytest.fixture(scope="module")
def prefix(redis_server: Server | ForeignServer) -> Iterator[str]:
    """One for all tests of this module, since so are the processes: they take long to start."""
    name = f"test{uuid.uuid4().hex[:12]}"
    yield name
    remove_keys(redis_server.url, name)


@pytest.fixture(scope="module")
def layers(kind: str, redis_server: Server | ForeignServer, prefix: str) -> dict[str, Any]:
    return layers_of(kind, redis_server.url, prefix)


@pytest.fixture(scope="module", params=SERVERS)
def ports(request: pytest.FixtureRequest, layers: dict[str, Any]) -> Iterator[list[int]]:
    """Two server processes of one site."""
    with site_of(layers) as site:
        yield site.serve(request.param, 2)


@pytest.fixture
def room() -> str:
    return f"room{uuid.uuid4().hex[:12]}"


@pytest.mark.parametrize("processes", [1, 2], ids=["one process", "two processes"])
async def test_everybody_hears_everything(ports: list[int], room: str, processes: int) -> None:
    async with crowd_of(CLIENTS, ports[:processes], f"/async/{room}") as crowd:
        # Neighbours are in different processes, if there are two.
        await crowd.talk(crowd.clients[:SPEAKERS], WORDS)


@pytest.mark.parametrize(("kind", "ports"), [("core", "uvicorn")], indirect=True)
async def test_everybody_talks(ports: list[int], room: str) -> None:
    """All at once: forty thousand frames."""
    async with crowd_of(CLIENTS, ports, f"/async/{room}") as crowd:
        await crowd.talk(crowd.clients, 1)


async def test_clients_that_vanish(ports: list[int], room: str, kind: str, prefix: str, raw: redis.Redis) -> None:
    """They leave the room by it, and the others hear on; also when they vanish while they are told something."""
    paths = f"/async/{room}", f"/sync/{room}"
    async with crowd_of(20, ports[:1], *paths) as crowd:
        # All who are in the second process vanish, first while nobody talks.
        async with crowd_of(20, ports[1:], *paths) as silent:
            assert members(raw, kind, prefix, room) == (40 if kind == "core" else 2)
            await asyncio.gather(*(client.vanish() for client in silent.clients))
            await until(lambda: members(raw, kind, prefix, room) == (20 if kind == "core" else 1), PATIENCE)
        async with crowd_of(20, ports[1:], *paths) as told:
            await Crowd(crowd.clients + told.clients).talk(crowd.clients[:SPEAKERS], WORDS)
            await asyncio.gather(*(client.say(number) for number, client in enumerate(crowd.clients)))
            await asyncio.gather(*(client.vanish() for client in told.clients))
        # Who of them was told something just then may be kept in the room: uvicorn raises in a consumer that sends to
        # nobody, and Channels ends it without its `disconnect`.
        await crowd.hear_the_last_of(*crowd.clients)
        words = {client.channel: [number] for number, client in enumerate(crowd.clients)}
        crowd.have_heard(words)
        await crowd.talk(crowd.clients[:SPEAKERS], WORDS)


async def test_views(ports: list[int], room: str, layers: dict[str, Any]) -> None:
    """What a synchronous view says reaches the clients of all processes, in order: one view after the other."""

    def say_here(number: int) -> None:
        # As under WSGI: in a thread of its own, where no event loop runs.
        response = say(RequestFactory().get("/"), room, number)
        assert response.status_code == 204

    async with crowd_of(20, ports, f"/async/{room}", f"/sync/{room}") as crowd:
        for number in range(10):
            assert await asyncio.to_thread(get, ports[number % 2], f"/say/{room}/{number}") == (204, "")
            await crowd.hear({"said": number, "by": "view"})
        with override_settings(CHANNEL_LAYERS=layers):
            for number in range(10, 20):
                await asyncio.to_thread(say_here, number)
                await crowd.hear({"said": number, "by": "view"})
            await get_channel_layer().close_pools()
        await crowd.hear_the_last_of(*crowd.clients[:2])
        crowd.have_heard({"view": list(range(20))})
