"""flush and close_pools: what goes, what stays, and that both can be survived."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import redis

from channels_redis_fast.core import RedisChannelLayer
from tests.core.helpers import clients, named, nothing_to_receive, receive_many, started, until, within

MakeLayer = Callable[..., RedisChannelLayer]


@pytest.fixture(params=["specific", "general"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def channel_of(layer: RedisChannelLayer, kind: str) -> str:
    return await layer.new_channel() if kind == "specific" else "general"


async def test_flush_removes_messages_and_groups_of_all_shards(
    make_layer: MakeLayer, shard_urls: list[str], raw_shards: list[redis.Redis], prefix: str
) -> None:
    layer = make_layer(hosts=shard_urls)
    channels = [await layer.new_channel(prefix=f"p{n}") for n in range(10)]
    for n, channel in enumerate(channels):
        await layer.send(channel, {"n": 1})
        await layer.send("general", {"n": 1})
        await layer.group_add(f"group{n}", channel)
    assert all(list(raw.scan_iter(f"{prefix}*")) for raw in raw_shards)
    await within(layer.flush())
    assert [list(raw.scan_iter(f"{prefix}*")) for raw in raw_shards] == [[]] * len(raw_shards)
    for n, channel in enumerate(channels):
        await layer.group_send(f"group{n}", {"n": 2})
        await nothing_to_receive(layer, channel)


async def test_flush_leaves_what_is_not_its_own(make_layer: MakeLayer, raw: Any, prefix: str) -> None:
    """Also when the prefix means something to Redis' pattern matching."""
    mine, other = make_layer(prefix=f"{prefix}[a]*?\\"), make_layer(prefix=f"{prefix}axx")
    await mine.send("general", {"n": 1})
    await other.send("general", {"n": 2})
    await within(mine.flush())
    assert await within(other.receive("general")) == {"n": 2}
    assert not raw.exists(f"{prefix}[a]*?\\general")


async def test_flush_of_thousands_of_keys(make_layer: MakeLayer, raw: Any, prefix: str) -> None:
    layer = make_layer()
    await within(asyncio.gather(*(layer.send(f"c{n}", {}) for n in range(3000))))
    await within(layer.flush())
    assert list(raw.scan_iter(f"{prefix}*", count=1000)) == []


async def test_flush_empties_mailboxes(make_layer: MakeLayer) -> None:
    layer = make_layer()
    first, second = await layer.new_channel(), await layer.new_channel()
    await layer.send(first, {"n": 1})
    await layer.send(second, {"n": 2})
    assert await within(layer.receive(second)) == {"n": 2}  # and the first's message came along
    await within(layer.flush())
    await nothing_to_receive(layer, first)


async def test_flush_among_sends_and_receives(make_layer: MakeLayer, kind: str) -> None:
    """Whatever was under way: every send comes to an end, and the layer works afterwards."""
    layer = make_layer(capacity=1000)
    channel = await channel_of(layer, kind)
    for _ in range(5):
        receiving = [await started(layer.receive(channel)) for _ in range(3)]
        sends = [asyncio.create_task(layer.send(channel, {"n": n})) for n in range(50)]
        await asyncio.sleep(0)
        await within(layer.flush())
        await within(asyncio.gather(*sends))
        for task in receiving:
            task.cancel()
        await asyncio.gather(*receiving, return_exceptions=True)
    await within(layer.flush())
    await nothing_to_receive(layer, channel)


async def test_close_pools_loses_nothing(make_layer: MakeLayer, kind: str) -> None:
    """Closed again and again while messages come in: each arrives, once and in order."""
    layer, sender = make_layer(), make_layer(capacity=1000)
    channel = await channel_of(layer, kind)
    receiving = await started(receive_many(layer, channel, 300))
    for n in range(300):
        await sender.send(channel, {"n": n})
        if n % 10 == 0:
            await within(layer.close_pools())
    assert await receiving == [{"n": n} for n in range(300)]


async def test_close_pools_closes_every_socket(
    make_layer: MakeLayer, raw: Any, redis_server: Any, prefix: str, kind: str
) -> None:
    layer = make_layer(hosts=[named(redis_server.url, prefix)])
    channel = await channel_of(layer, kind)
    await layer.send(channel, {"n": 1})
    assert await within(layer.receive(channel)) == {"n": 1}
    # One connection for commands, one that waits.
    await until(lambda: len(clients(raw, prefix)) >= 2)
    for _ in range(2):
        await within(layer.close_pools())
        await until(lambda: not clients(raw, prefix))
    assert len(asyncio.all_tasks()) == 1
    await layer.send(channel, {"n": 2})
    assert await within(layer.receive(channel)) == {"n": 2}
