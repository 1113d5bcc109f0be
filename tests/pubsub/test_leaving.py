"""Receivers that leave: what a cancelled or collected receive leaves behind, for how long, and at whose cost."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from bench.server import Server
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.core.helpers import end, nothing_to_receive, receive_many, started, until, within
from tests.pubsub.helpers import both_kinds, ready, subscribers, subscriptions

MakeLayer = Callable[..., RedisPubSubChannelLayer]
OwnServer = Callable[..., Server]


async def leave(layer: RedisPubSubChannelLayer, channel: str) -> None:
    """A receive that waits and is cancelled."""
    await end(await started(layer.receive(channel)))


async def test_a_grace_time_that_ends_with_the_layer(make_layer: MakeLayer) -> None:
    """In the same turn of a loop that was busy. That the layer is gone is no error."""
    loop, errors = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda loop, context: errors.append(context))
    layers = [RedisPubSubChannelLayer(hosts=make_layer().hosts, prefix="gone", sync_hub="never")]
    layers[0].grace = 0.01
    channel = await layers[0].new_channel()
    await leave(layers[0], channel)
    (state,) = layers[0]._loops.values()
    loop.call_later(0, lambda: (layers.clear(), gc.collect()))
    assert state.leaving
    time.sleep(0.02)  # noqa: ASYNC251 - the loop is busy
    await until(lambda: not state.leaving)
    await until(lambda: not any(connection.is_open for connection in state.connections()))
    assert errors == []


# Within the grace time.


async def test_ten_seconds_by_default() -> None:
    assert RedisPubSubChannelLayer().grace == 10.0


@both_kinds
@pytest.mark.parametrize("kind", ["new_channel", "general"])
async def test_polling_loses_nothing(make_layer: MakeLayer, prefix: str, kind: str) -> None:
    """With timeouts so short that many of them fall together with a message."""
    layer, peer = make_layer(), make_layer()
    channel = await layer.new_channel() if kind == "new_channel" else f"{prefix}general"
    if kind == "general":
        receiving = await started(layer.receive(channel))
        while not receiving.done():
            await peer.send(channel, {"n": -1})
            await asyncio.wait([receiving], timeout=0.01)
    await ready(layer, channel)
    count, got, polls = 1500, [], 0
    moments = random.Random(kind)

    async def send() -> None:
        for n in range(count):
            await peer.send(channel, {"n": n})
            if n % 5 == 0:
                await asyncio.sleep(moments.uniform(0, 0.001))

    sending = asyncio.ensure_future(send())

    async def poll() -> None:
        nonlocal polls
        while len(got) < count:
            with contextlib.suppress(asyncio.TimeoutError):
                got.append((await asyncio.wait_for(layer.receive(channel), moments.uniform(0, 0.0005)))["n"])
            polls += 1

    await within(poll(), 30)
    await within(sending)
    assert got == list(range(count))
    assert polls > count, "no receive was ever cancelled"
    await nothing_to_receive(layer, channel)


async def test_a_message_given_and_not_taken_comes_first(make_layer: MakeLayer, raw: Any) -> None:
    """The receive was cancelled between the message's arrival and its own next step."""
    layer, peer = make_layer(), make_layer()
    channel = await layer.new_channel()
    for n in range(200):
        receiving = await started(layer.receive(channel))
        for i in range(2):
            await peer.send(channel, {"n": [n, i]})
        for _ in range(n % 8):
            await asyncio.sleep(0)
        receiving.cancel()
        await asyncio.wait([receiving])
        got = [] if receiving.cancelled() else [receiving.result()]
        got += await receive_many(layer, channel, 2 - len(got))
        assert got == [{"n": [n, 0]}, {"n": [n, 1]}]
    await nothing_to_receive(layer, channel)


async def test_a_cancelled_channel_keeps_its_groups(make_layer: MakeLayer, raw: Any, prefix: str) -> None:
    layer, peer = make_layer(), make_layer()
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await leave(layer, channel)
    await peer.send(channel, {"n": 1})
    await peer.group_send("room", {"n": 2})
    assert await receive_many(layer, channel, 2) == [{"n": 1}, {"n": 2}]
    assert subscriptions(raw, prefix) == {channel, f"{prefix}__group__room"}


async def test_who_comes_back_in_time_stays(make_layer: MakeLayer, raw: Any) -> None:
    """The time runs from the last cancelled receive, not from the first."""
    layer, peer = make_layer(grace=0.3), make_layer()
    channel, watch = await layer.new_channel(), await layer.new_channel()
    for n in range(6):
        await leave(layer, channel)
        await asyncio.wait([await started(layer.receive(channel))], timeout=0.1)
        assert subscribers(raw, channel) == 1, f"dropped in round {n}"
        await peer.send(channel, {"n": n})
        # The round's own receive has it.
        await until(lambda n=n: layer.stats()["receives"] == n + 1)  # type: ignore[misc]
    assert subscribers(raw, watch) == 1


@both_kinds
async def test_one_of_two_receivers_leaves(make_layer: MakeLayer, raw: Any) -> None:
    layer, peer = make_layer(grace=0.05), make_layer()
    channel, gone = await layer.new_channel(), await layer.new_channel()
    staying, leaving = await started(layer.receive(channel)), await started(layer.receive(channel))
    await end(leaving)
    await leave(layer, gone)
    # What left at the same time is gone, so the time is over.
    await until(lambda: subscribers(raw, gone) == 0)
    await peer.send(channel, {"n": 1})
    assert await within(staying) == {"n": 1}


async def test_a_channel_that_was_received_on_stays(make_layer: MakeLayer, raw: Any) -> None:
    """Between two receives a consumer works: only a cancelled receive is a sign of leaving."""
    layer, peer = make_layer(grace=2.0), make_layer()
    channel, gone = await layer.new_channel(), await layer.new_channel()
    await leave(layer, channel)
    await peer.send(channel, {"n": 1})
    assert await within(layer.receive(channel)) == {"n": 1}
    await leave(layer, gone)
    await until(lambda: subscribers(raw, gone) == 0)
    assert subscribers(raw, channel) == 1


# After it.


@both_kinds
async def test_everything_is_dropped(make_layer: MakeLayer, raw: Any, prefix: str) -> None:
    """Channel, memberships and the subscriptions of groups without another member here."""
    layer, peer = make_layer(grace=0.05), make_layer()
    channel, other = await layer.new_channel(), await layer.new_channel()
    for group, members in (("mine", [channel]), ("ours", [channel, other])):
        for member in members:
            await layer.group_add(group, member)
    await peer.send(channel, {"too": "late"})
    await ready(layer, other)
    assert await within(layer.receive(channel)) == {"too": "late"}
    await leave(layer, channel)
    await until(lambda: subscriptions(raw, prefix) == {other, f"{prefix}__group__ours"})
    with pytest.raises(RuntimeError):
        await layer.group_add("ours", channel)
    await peer.group_send("ours", {"n": 1})
    assert await within(layer.receive(other)) == {"n": 1}
    # Received on again it is a channel like any other: what was sent between is gone, what follows comes.
    receiving = await started(layer.receive(channel))
    await until(lambda: subscribers(raw, channel) == 1)
    await peer.group_send("ours", {"n": 2})
    await peer.send(channel, {"n": 3})
    assert await within(receiving) == {"n": 3}


async def test_stored_messages_go_with_the_channel(make_layer: MakeLayer, raw: Any) -> None:
    layer, peer = make_layer(grace=2.0), make_layer()
    channel = await layer.new_channel()
    await leave(layer, channel)
    marker = f"for nobody {channel}"
    await peer.send(channel, {marker: ["a list, which the collector tracks"]})

    def in_memory() -> bool:
        return any(type(found) is dict and marker in found for found in gc.get_objects())

    await until(lambda: layer.stats()["deliveries"] == 1)
    await until(lambda: subscribers(raw, channel) == 0)
    assert not in_memory()


async def test_a_cancelled_first_receive_is_dropped_too(make_layer: MakeLayer, raw: Any, prefix: str) -> None:
    """Cancelled before, while and after its subscription is acknowledged."""
    layer = make_layer(grace=0.05)
    await ready(layer, await layer.new_channel())
    before = subscriptions(raw, prefix)
    for ticks in range(12):
        receiving = await started(layer.receive(f"{prefix}general{ticks}"))
        for _ in range(ticks):
            await asyncio.sleep(0)
        await end(receiving)
    await until(lambda: subscriptions(raw, prefix) == before)


@both_kinds
async def test_a_cancelled_new_channel_is_dropped(make_layer: MakeLayer, raw: Any, prefix: str) -> None:
    layer = make_layer(grace=0.05)
    await ready(layer, await layer.new_channel())
    before = subscriptions(raw, prefix)
    for ticks in range(3):
        making = await started(layer.new_channel())
        for _ in range(ticks):
            await asyncio.sleep(0)
        making.cancel()
        await asyncio.wait([making])
        if not making.cancelled():  # it was there already
            before.add(making.result())
    await until(lambda: subscriptions(raw, prefix) == before)


async def test_leaving_waits_for_nobody(make_layer: MakeLayer, own_server: OwnServer) -> None:
    """The server is stopped, so a round trip would be seen."""
    server = own_server()
    layer = make_layer(hosts=[server.url], grace=0.01)
    channel = await layer.new_channel()
    for n in range(3):
        await layer.group_add(f"room{n}", channel)
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    try:
        receiving = await started(layer.receive(channel))
        await within(end(receiving), 8)
        await within(layer.group_discard("room0", channel), 8)

        async def forgotten() -> None:
            while layer.stats is not None:
                try:
                    joining = await started(layer.group_add("room1", channel))
                except RuntimeError:
                    return
                if joining.done() and isinstance(joining.exception(), RuntimeError):
                    return
                await asyncio.sleep(0.005)

        await within(forgotten(), 8)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    with redis.Redis.from_url(server.url) as raw:
        await until(lambda: not subscriptions(raw))


# Collected.


@both_kinds
async def test_a_collected_receive(make_layer: MakeLayer, raw: Any, prefix: str) -> None:
    """Closed in the middle, as the garbage collector does it: within the grace time nothing is lost, then all goes."""
    layer, peer = make_layer(), make_layer()
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    for n in range(3):
        receiving = layer.receive(channel)
        receiving.send(None)
        receiving.close()
        await peer.send(channel, {"n": n})
        assert await within(layer.receive(channel)) == {"n": n}
    layer._loops[asyncio.get_running_loop()]._grace = 0.05
    receiving = layer.receive(channel)
    receiving.send(None)
    receiving.close()
    await until(lambda: not subscriptions(raw, prefix))


async def test_a_collected_first_receive(make_layer: MakeLayer, raw: Any, prefix: str) -> None:
    layer = make_layer(grace=0.05)
    name = f"{prefix}general"
    receiving = layer.receive(name)
    receiving.send(None)
    await until(lambda: subscribers(raw, name) == 1)
    receiving.close()
    await until(lambda: subscribers(raw, name) == 0)
