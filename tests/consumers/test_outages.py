"""Redis is killed and comes back underneath a site, while its WebSocket clients stay connected."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import redis

from bench.server import Server
from tests.consumers.clients import PATIENCE, crowd_of
from tests.consumers.conftest import layers_of
from tests.consumers.processes import site_of
from tests.core.helpers import blocked, until

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

OwnServer = Callable[..., Server]

CLIENTS, SPEAKERS, WORDS, OUTAGES = 20, 5, 3, 2

ROOMS = ("/async/den", "/sync/den")


async def kill_and_restart(server: Server) -> None:
    # It is not to be cut off in a write to disk: tests/faults/test_restart.py says why.
    await asyncio.to_thread(server.stall)
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.restart)


async def test_core(own_server: OwnServer) -> None:
    """With what the server has on disk, nobody who is in the room has to join it again."""
    server = own_server("--appendonly", "yes", "--appendfsync", "always")
    with site_of(layers_of("core", server.url, "test", client_name="site")) as site:
        ports = await asyncio.to_thread(site.serve, "uvicorn", 2)
        async with crowd_of(CLIENTS, ports, *ROOMS) as crowd:
            for _ in range(OUTAGES):
                await crowd.talk(crowd.clients[:SPEAKERS], WORDS)
                await kill_and_restart(server)
                with redis.Redis.from_url(server.url) as raw:
                    # Both processes wait for messages again, so they have seen their old connections end.
                    await until(lambda raw=raw: blocked(raw, "site") == 2, PATIENCE)  # type: ignore[misc]
            await crowd.talk(crowd.clients[:SPEAKERS], WORDS)


async def test_pubsub(own_server: OwnServer) -> None:
    """Consumers are told in their handlers, each once for each outage; from then on nothing is missed."""
    server = own_server()
    events = {"on_disconnect": "redis.lost", "on_reconnect": "redis.back"}
    with site_of(layers_of("pubsub", server.url, "test", **events)) as site:
        ports = await asyncio.to_thread(site.serve, "daphne", 2)
        async with crowd_of(CLIENTS, ports, *ROOMS) as crowd:
            for _ in range(OUTAGES):
                await crowd.talk(crowd.clients[:SPEAKERS], WORDS)
                await kill_and_restart(server)
                await crowd.hear({"redis": "back"})
                # What else would come about this outage comes before what is said now.
                await crowd.hear_the_last_of(*crowd.clients[:2])
                for client in crowd.clients:
                    assert client.frames == [{"redis": "lost"}, {"redis": "back"}]
                    client.frames.clear()
            await crowd.talk(crowd.clients[:SPEAKERS], WORDS)
