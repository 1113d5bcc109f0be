"""Flush and close_pools: a layer like new, with nobody left hanging."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.core.helpers import LIMIT, clients, named, nothing_to_receive, started, until, within
from tests.pubsub.helpers import both_kinds, ready, subscribers, subscriptions

pytestmark = both_kinds

MakeLayer = Callable[..., RedisPubSubChannelLayer]


async def test_groups_messages_and_sockets_go(make_layer: MakeLayer, raw: Any, redis_server: Any, prefix: str) -> None:
    layer, peer = make_layer(hosts=[named(redis_server.url, prefix)]), make_layer()
    channels = [await layer.new_channel() for _ in range(5)]
    for channel in channels:
        await layer.group_add("room", channel)
        await layer.send(channel, {"before": 1})
    await until(lambda: layer.stats()["deliveries"] == 5)
    await within(layer.flush())
    await until(lambda: not clients(raw, prefix))
    assert not subscriptions(raw, prefix)
    with pytest.raises(RuntimeError):
        await layer.group_add("room", channels[0])
    # Used on as if new.
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await peer.group_send("room", {"n": 1})
    assert await within(layer.receive(channel)) == {"n": 1}
    receiving = await started(layer.receive(channels[0]))
    await until(lambda: subscribers(raw, channels[0]) == 1)
    await peer.group_send("room", {"n": 2})
    await peer.send(channels[0], {"n": 3})
    assert await within(receiving) == {"n": 3}


async def test_who_waits_goes_on_waiting(make_layer: MakeLayer, raw: Any, prefix: str) -> None:
    """Its channel is subscribed again at once; its groups are gone."""
    layer, peer = make_layer(), make_layer()
    channels = [await layer.new_channel() for _ in range(5)]
    for channel in channels:
        await layer.group_add("room", channel)
    receiving = [await started(layer.receive(channel)) for channel in channels]
    for _ in range(3):
        await within(layer.flush())
    await until(lambda: subscriptions(raw, prefix) == set(channels))
    await peer.group_send("room", {"n": 1})
    for channel, task in zip(channels, receiving, strict=True):
        await peer.send(channel, {"to": channel})
        assert await within(task) == {"to": channel}


@pytest.mark.parametrize("call", ["new_channel", "group_add", "receive", "send"])
@pytest.mark.parametrize("ticks", [0, 1, 2, 4, 6, 7, 8, 9])
async def test_what_is_under_way_ends(make_layer: MakeLayer, raw: Any, prefix: str, call: str, ticks: int) -> None:
    """Calls that a flush overtakes return or raise; none hangs."""
    layer = make_layer()
    channel, general = await layer.new_channel(), f"{prefix}general"
    await ready(layer, channel)
    calls: dict[str, Callable[[], Any]] = {
        "new_channel": layer.new_channel,
        "group_add": lambda: layer.group_add("room", channel),
        "receive": lambda: layer.receive(general),
        "send": lambda: layer.send(channel, {}),
    }
    under_way = await started(calls[call]())
    for _ in range(ticks):
        await asyncio.sleep(0)
    was_done = under_way.done()
    # Not within(): its task would begin some ticks later, and what is under way could end in between.
    await layer.flush()
    if call == "receive":
        await until(lambda: subscribers(raw, general) == 1)
        await layer.send(general, {"n": 1})
        assert await within(under_way) == {"n": 1}
    else:
        await asyncio.wait([under_way], timeout=LIMIT)
        assert under_way.done(), "hangs"
        if call == "new_channel" and not was_done and under_way.exception() is None:
            # A channel that was promised to be subscribed is.
            await nothing_to_receive(layer, under_way.result())
    await nothing_to_receive(layer, await within(layer.new_channel()))


async def test_flush_tells_nobody_of_an_outage(make_layer: MakeLayer) -> None:
    layer = make_layer(on_disconnect="down", on_reconnect="up")
    channel = await layer.new_channel()
    receiving = await started(layer.receive(channel))
    await within(layer.flush())
    await within(layer.close_pools())
    await until(lambda: not receiving.done())
    assert await within(layer.new_channel())
    await layer.send(channel, {"n": 1})
    assert await within(receiving) == {"n": 1}


async def test_flush_of_an_unused_layer_opens_nothing(
    make_layer: MakeLayer, raw: Any, redis_server: Any, prefix: str
) -> None:
    layer = make_layer(hosts=[named(redis_server.url, prefix)])
    await within(layer.flush())
    await within(layer.flush())
    assert not clients(raw, prefix)


async def test_a_layer_without_histories_asks_nobody(
    make_layer: MakeLayer, raw: Any, redis_server: Any, prefix: str
) -> None:
    """Whoever may not use SCAN may flush."""
    raw.zadd(f"{prefix}:history:{{room}}", {"h": 1})
    layer = make_layer(hosts=[named(redis_server.url, prefix)])
    await within(layer.flush())
    assert not clients(raw, prefix)
    assert raw.exists(f"{prefix}:history:{{room}}")
