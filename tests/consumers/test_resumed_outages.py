"""Resumable consumers on servers that restart, on a ring and on a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from channels.layers import get_channel_layer
from django.test import override_settings
from redis.exceptions import ConnectionError as RedisConnectionError

from bench.server import ForeignServer, Server
from channels_redis_fast import consumers
from tests.clusters import Cluster
from tests.consumers.conftest import layers_of
from tests.consumers.feeds import HISTORY, Browser, say
from tests.consumers.test_outages import kill_and_restart
from tests.consumers.test_resumable import feed_of
from tests.consumers.ways import Way
from tests.core.helpers import until, within

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

DIRECT = Way("direct", json=consumers.AsyncJsonWebsocketConsumer)


async def say_when_possible(layer: Any, group: str, number: int) -> None:
    """A send that the outage refuses was not sent, or nobody knows: here it is sent until one is not refused."""
    while True:
        try:
            await say(layer, group, number)
        except RedisConnectionError:
            await asyncio.sleep(0.01)
        else:
            return


@pytest.mark.parametrize("data", [True, False], ids=["with its data", "without data"])
async def test_a_server_that_restarts(kind: str, own_server: Callable[..., Server], data: bool) -> None:
    """Nobody knows what it has forgotten, so who was away is told; from then on nothing is missing."""
    server = own_server(*(("--appendonly", "yes", "--appendfsync", "always") if data else ()))
    options = {"on_reconnect": "redis.back"} if kind == "pubsub" else {}
    with override_settings(CHANNEL_LAYERS=layers_of(kind, server.url, "test", history=HISTORY, **options)):
        layer = get_channel_layer()
        feed = feed_of(DIRECT, "room.a")
        away, here = await Browser(feed).visit(), await Browser(feed).visit()
        for browser in (away, here):
            await browser.resumed()
        await away.leave()
        await say(layer, "room.a", 1)
        await here.hear()
        await kill_and_restart(server)
        await say_when_possible(layer, "room.a", 2)
        frames = []
        while 2 not in here.said or (kind == "pubsub" and {"type": "back"} not in frames):
            frames.append(await here.hear())
        assert sorted(set(here.said)) == [1, 2]
        if kind == "pubsub":
            assert frames.index({"type": "missed", "group": "room.a"}) < frames.index({"type": "back"})
        await away.visit()
        assert await away.hear() == {"type": "missed", "group": "room.a"}
        assert [notice["complete"] for notice in await away.resumed()] == [False]
        assert away.said[-1] == 2
        for browser in (here, away):
            await browser.leave()
            browser.said.clear()
        await say(layer, "room.a", 3)
        for browser in (here, away):
            assert [notice["complete"] for notice in await (await browser.visit()).resumed()] == [True]
            assert browser.said == [3]
            await browser.leave()
        await layer.close_pools()


async def come_and_go(layer: Any) -> None:
    """A client of many groups is cut under traffic again and again, and gets each message of each group once."""
    groups = [f"room.{number}" for number in range(8)]

    class Feed(feed_of(DIRECT, *groups)):  # type: ignore[misc]
        async def room_said(self, event: dict[str, Any]) -> None:
            await self.send_json({"said": [event["group"], event["number"]]})

    async def talk(group: str) -> None:
        for number in range(60):
            await layer.group_send(group, {"type": "room.said", "group": group, "number": number})
            await asyncio.sleep(0.002)

    browser = await Browser(Feed).visit()
    await browser.resumed(len(groups))
    talks = asyncio.gather(*map(talk, groups))
    while not talks.done():
        await browser.hear()
        await browser.vanish()
        # What the server had sent is on its way to the client still, or is not.
        await browser.visit()
        await browser.resumed(len(groups))
    await talks
    while len(browser.said) < 60 * len(groups):
        await browser.hear()
    await browser.hears_nothing_more()
    await browser.leave()
    for group in groups:
        assert [number for name, number in browser.said if name == group] == list(range(60))


async def test_on_a_ring(kind: str, redis_server: Server | ForeignServer, second_server: Server, prefix: str) -> None:
    layers = layers_of(kind, redis_server.url, prefix, hosts=[redis_server.url, second_server.url], history=HISTORY)
    with override_settings(CHANNEL_LAYERS=layers):
        layer = get_channel_layer()
        await within(come_and_go(layer), 60)
        await layer.close_pools()


async def test_on_a_cluster(kind: str, prefix: str) -> None:
    with (
        Cluster(3) as cluster,
        override_settings(CHANNEL_LAYERS=layers_of(kind, "", prefix, hosts=[cluster.host], history=HISTORY)),
    ):
        layer = get_channel_layer()
        await within(come_and_go(layer), 60)
        await until(lambda: layer.stats()["commands_in_flight"] == 0)
        await layer.close_pools()
