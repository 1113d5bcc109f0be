"""Subscriptions: acknowledged before anybody relies on them, few connections, few commands, and quick changes."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import redis
from redis.exceptions import NoPermissionError

from bench.server import Server
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.core.helpers import clients, end, named, nothing_to_receive, receive_many, started, until, within
from tests.pubsub.helpers import both_kinds, ready, subscribed, subscribers, subscribing, subscriptions

pytestmark = both_kinds

MakeLayer = Callable[..., RedisPubSubChannelLayer]
OwnServer = Callable[..., Server]


# Nothing is missed.


async def test_a_new_channel_misses_nothing(make_layer: MakeLayer) -> None:
    layer, peer = make_layer(), make_layer()
    for n in range(200):
        channel = await within(layer.new_channel())
        await peer.send(channel, {"n": n})
        assert await within(layer.receive(channel)) == {"n": n}


async def test_a_new_member_misses_nothing(make_layer: MakeLayer) -> None:
    layer, peer = make_layer(), make_layer()
    channel = await layer.new_channel()
    for n in range(200):
        await within(layer.group_add(f"room{n}", channel))
        await peer.group_send(f"room{n}", {"n": n})
        assert await within(layer.receive(channel)) == {"n": n}


async def test_the_first_receive_misses_nothing_afterwards(make_layer: MakeLayer, raw: Any, prefix: str) -> None:
    """From its subscription on, between two receives too."""
    layer, peer = make_layer(), make_layer()
    for n in range(50):
        name = f"{prefix}general{n}"
        receiving = await started(layer.receive(name))
        await until(lambda name=name: subscribers(raw, name) == 1)  # type: ignore[misc]
        for i in range(3):
            await peer.send(name, {"n": i})
        assert await within(receiving) == {"n": 0}
        assert await receive_many(layer, name, 2) == [{"n": 1}, {"n": 2}]


async def test_rejoining_misses_nothing(make_layer: MakeLayer) -> None:
    """Leave and join as quickly as can be: what is sent after the last group_add returned arrives, once."""
    layer, peer = make_layer(), make_layer()
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    for n in range(200):
        for _ in range(n % 4 + 1):
            await layer.group_discard("room", channel)
            await within(layer.group_add("room", channel))
        await peer.group_send("room", {"n": n})
        assert await within(layer.receive(channel)) == {"n": n}
    await nothing_to_receive(layer, channel)


@pytest.mark.timeout(20)
async def test_leaving_and_joining_in_one_step(make_layer: MakeLayer) -> None:
    """As a consumer does that changes rooms: one task, nothing in between that lets the loop go on."""
    layer, peer = make_layer(), make_layer()
    channel = await layer.new_channel()
    await layer.group_add("room", channel)

    async def change() -> None:
        await layer.group_discard("room", channel)
        await layer.group_add("room", channel)

    await within(change())
    await peer.group_send("room", {"n": 1})
    assert await within(layer.receive(channel)) == {"n": 1}


@pytest.mark.parametrize("ticks", [0, 1, 2, 3, 5])
async def test_joining_and_leaving_at_once(make_layer: MakeLayer, raw: Any, prefix: str, ticks: int) -> None:
    """Whatever comes of it, both calls end, and what is subscribed in the end is what the last one said."""
    layer = make_layer()
    channel = await layer.new_channel()
    joining = await started(layer.group_add("room", channel))
    for _ in range(ticks):
        await asyncio.sleep(0)
    await within(layer.group_discard("room", channel))
    await within(joining)
    await until(lambda: subscribers(raw, f"{prefix}__group__room") == 0)
    await layer.group_send("room", {"n": 1})
    await nothing_to_receive(layer, channel)


async def test_a_random_walk_ends_where_it_should(make_layer: MakeLayer, raw: Any, prefix: str) -> None:
    """Many channels joining and leaving the same few groups at once: Redis holds what the layer means."""
    layer = make_layer()
    channels = [await layer.new_channel() for _ in range(20)]

    async def walk(number: int, channel: str) -> None:
        for step in range(30):
            group = f"room{(number * 7 + step) % 5}"
            await layer.group_add(group, channel)
            if (number + step) % 3:
                await asyncio.sleep(0)
            await layer.group_discard(group, channel)
        if number % 2:
            await layer.group_add(f"room{number % 3}", channel)

    await within(asyncio.gather(*(walk(number, channel) for number, channel in enumerate(channels))))
    expected = {f"{prefix}__group__room{n}" for n in range(3)}
    await until(lambda: subscriptions(raw, prefix) == expected | set(channels))
    for n in range(5):
        await make_layer().group_send(f"room{n}", {"room": n})
    for number, channel in enumerate(channels):
        if number % 2:
            assert await within(layer.receive(channel)) == {"room": number % 3}
        await nothing_to_receive(layer, channel)


async def test_two_receivers_begin_at_once(make_layer: MakeLayer, raw: Any, prefix: str) -> None:
    """The second one's cancellation is no reason to drop the channel under the first, whose subscription comes."""
    layer, peer = make_layer(grace=0.05), make_layer()
    name = f"{prefix}general"
    first, second = await started(layer.receive(name)), await started(layer.receive(name))
    await end(second)
    await until(lambda: subscribers(raw, name) == 1)
    # Longer than the grace time: within it nothing would be seen.
    await asyncio.wait([first], timeout=0.3)
    await peer.send(name, {"n": 1})
    assert await within(first) == {"n": 1}


# Connections and commands.


async def test_two_connections_for_500_consumers(
    make_layer: MakeLayer, raw: Any, redis_server: Any, prefix: str
) -> None:
    layer = make_layer(hosts=[named(redis_server.url, prefix)])
    channels = await within(asyncio.gather(*(layer.new_channel() for _ in range(500))))
    await within(asyncio.gather(*(layer.group_add(f"room{n % 50}", name) for n, name in enumerate(channels))))
    receiving = [await started(layer.receive(name)) for name in channels]
    await within(asyncio.gather(*(layer.send(name, {"to": name}) for name in channels)))
    assert await within(asyncio.gather(*receiving)) == [{"to": name} for name in channels]
    # For each server, that is: a cluster has three.
    connected = Counter(client.get("node") for client in clients(raw, prefix))
    listening = Counter(client.get("node") for client in subscribing(raw, prefix))
    assert set(connected.values()) == {2}
    assert listening == dict.fromkeys(connected, 1)
    assert sum(subscribed(client) for client in subscribing(raw, prefix)) == 550


async def test_two_connections_for_each_shard(make_layer: MakeLayer, shard_urls: list[str], prefix: str) -> None:
    layer = make_layer(hosts=[named(url, prefix) for url in shard_urls])
    channels = await within(asyncio.gather(*(layer.new_channel() for _ in range(100))))
    await within(asyncio.gather(*(layer.send(name, {}) for name in channels)))
    for url in shard_urls:
        with redis.Redis.from_url(url) as raw:
            assert len(clients(raw, prefix)) == 2
            assert len(subscribing(raw, prefix)) == 1


def calls(raw: redis.Redis, command: str) -> int:
    return int(raw.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"])


def reads(raw: redis.Redis) -> int:
    """How often the server has read from a socket: once for each write that was not split up."""
    return int(raw.info("stats")["total_reads_processed"])


async def test_1000_consumers_connect_with_few_commands(
    make_layer: MakeLayer, own_server: OwnServer, sharded: bool
) -> None:
    server = own_server()
    subscribe, unsubscribe = ("ssubscribe", "sunsubscribe") if sharded else ("subscribe", "unsubscribe")
    layer = make_layer(hosts=[server.url])
    await ready(layer, await layer.new_channel())
    with redis.Redis.from_url(server.url) as raw:
        commands, before = calls(raw, subscribe), reads(raw)
        channels = await within(asyncio.gather(*(layer.new_channel() for _ in range(1000))))
        await within(asyncio.gather(*(layer.group_add(f"room{n % 300}", name) for n, name in enumerate(channels))))
        assert len(subscriptions(raw)) == 1301
        assert calls(raw, subscribe) - commands <= 6
        # A server reads 16 kB at a time, so each of the two writes is a few reads.
        assert reads(raw) - before <= 30
        await within(asyncio.gather(*(layer.group_discard(f"room{n % 300}", name) for n, name in enumerate(channels))))
        await until(lambda: len(subscriptions(raw)) == 1001)
        assert calls(raw, unsubscribe) <= 4


async def test_sends_of_one_tick_leave_in_few_writes(make_layer: MakeLayer, own_server: OwnServer) -> None:
    server = own_server()
    layer = make_layer(hosts=[server.url])
    channel = await layer.new_channel()
    await ready(layer, channel)
    with redis.Redis.from_url(server.url) as raw:
        before = reads(raw)
        await within(asyncio.gather(*(layer.send(channel, {"n": n}) for n in range(1000))))
        assert reads(raw) - before <= 60
        assert await receive_many(layer, channel, 1000) == [{"n": n} for n in range(1000)]


async def test_more_names_than_one_command_takes(make_layer: MakeLayer, own_server: OwnServer) -> None:
    server = own_server()
    layer = make_layer(hosts=[server.url])
    channels = await within(asyncio.gather(*(layer.new_channel() for _ in range(3500))))
    with redis.Redis.from_url(server.url) as raw:
        assert len(subscriptions(raw)) == 3500
        for client in subscribing(raw, ""):
            raw.client_kill_filter(_id=client["id"])
        await until(lambda: len(subscriptions(raw)) == 3500)
    await within(asyncio.gather(*(layer.send(name, {"to": name}) for name in channels)))
    for name in channels:
        assert await within(layer.receive(name)) == {"to": name}


# What the server refuses.


@pytest.mark.timeout(30)
@pytest.mark.parametrize("call", ["receive", "group_add", "new_channel"])
async def test_a_name_that_the_user_may_not_subscribe_to(
    make_layer: MakeLayer, own_server: OwnServer, prefix: str, call: str, sharded: bool
) -> None:
    """The caller hears it, within a bounded time, and nobody else is disturbed."""
    server = own_server()
    with redis.Redis.from_url(server.url) as raw:
        allowed = f"&{prefix}specific.*"
        raw.execute_command("ACL", "SETUSER", "chan", "on", ">s3cret", "~*", "resetchannels", allowed, "+@all")
    url = f"redis://chan:s3cret@127.0.0.1:{server.port}"
    layer = make_layer(hosts=[{"address": url, "socket_timeout": 0.5}], on_disconnect="down")
    channel = await layer.new_channel()
    refused = {
        "receive": lambda: layer.receive("foreign"),
        "group_add": lambda: layer.group_add("room", channel),
        "new_channel": lambda: layer.new_channel("foreign."),
    }
    with pytest.raises((NoPermissionError, redis.exceptions.ConnectionError), match=re.compile("perm", re.I)):
        await within(refused[call](), 8)
    with redis.Redis.from_url(server.url) as raw:
        await until(lambda: subscriptions(raw) == {channel})
        raw.execute_command("SPUBLISH" if sharded else "PUBLISH", channel, b"\x81\xa1n\x01")
    message = await within(layer.receive(channel))
    while message == {"type": "down"}:
        message = await within(layer.receive(channel))
    assert message == {"n": 1}
