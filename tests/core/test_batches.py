"""Capacity, and what happens to the many messages of one tick that leave together."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest
from channels.exceptions import ChannelFull

from channels_redis_fast.core import RedisChannelLayer
from tests.core.helpers import nothing_to_receive, receive_many, within

MakeLayer = Callable[..., RedisChannelLayer]


async def outcomes(*sends: Any) -> list[Any]:
    """For each send of one tick: None, or the class of what it raised."""
    results = await within(asyncio.gather(*sends, return_exceptions=True))
    return [None if result is None else type(result) for result in results]


@pytest.fixture(params=["specific", "general"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def channel_of(layer: RedisChannelLayer, kind: str) -> str:
    return await layer.new_channel() if kind == "specific" else "general"


async def test_a_full_channel_refuses_and_takes_again_after_a_receive(make_layer: MakeLayer, kind: str) -> None:
    layer = make_layer(capacity=3)
    channel = await channel_of(layer, kind)
    for n in range(3):
        await layer.send(channel, {"n": n})
    with pytest.raises(ChannelFull):
        await layer.send(channel, {"n": "too much"})
    assert layer.stats()["channel_full"] == 1
    assert await within(layer.receive(channel)) == {"n": 0}
    await layer.send(channel, {"n": 3})
    assert await receive_many(layer, channel, 3) == [{"n": n} for n in (1, 2, 3)]
    await nothing_to_receive(layer, channel)


async def test_channel_full_can_be_imported_from_here_too() -> None:
    from channels_redis_fast.core import layer

    assert layer.ChannelFull is ChannelFull


async def test_all_channels_of_a_process_share_the_capacity_of_their_key(make_layer: MakeLayer) -> None:
    layer = make_layer(capacity=2)
    channels = [await layer.new_channel() for _ in range(3)]
    assert await outcomes(*(layer.send(name, {}) for name in channels)) == [None, None, ChannelFull]
    assert await outcomes(layer.send("general", {})) == [None]


async def test_capacity_zero_is_always_full(make_layer: MakeLayer, raw: Any, prefix: str) -> None:
    layer = make_layer(channel_capacity={"closed": 0})
    assert await outcomes(layer.send("closed", {}), layer.send("open", {})) == [ChannelFull, None]
    assert not raw.exists(f"{prefix}closed")


async def test_globs_and_regular_expressions_in_order(make_layer: MakeLayer) -> None:
    layer = make_layer(
        capacity=7,
        channel_capacity={
            "http.request": 1,
            "http.response!*": 2,
            "http.r?spon[cs]e": 3,
            re.compile(r"^websocket.send\!.+"): 4,
            re.compile("ws|chat"): 5,
            "http.*": 6,
        },
    )
    expected = {
        "http.request": 1,
        "http.response!abc": 2,
        "http.response": 3,
        "http.requests": 6,
        "websocket.send!1": 4,
        "websocket.send": 7,
        "ws.anything": 5,  # a pattern matches at the beginning, not only in full
        "chat": 5,
        "achat": 7,
        "HTTP.request": 7,
    }
    assert {name: layer.get_capacity(name) for name in expected} == expected


async def test_the_capacity_that_is_looked_up_is_the_one_that_holds(make_layer: MakeLayer) -> None:
    layer = make_layer(capacity=4, channel_capacity={"small*": 1, re.compile("medium"): 2})
    for name, capacity in {"small": 1, "small.too": 1, "medium": 2, "large": 4}.items():
        sent = await outcomes(*(layer.send(name, {"n": n}) for n in range(capacity + 1)))
        assert sent == [None] * capacity + [ChannelFull]


async def test_each_message_of_a_batch_has_its_own_capacity(make_layer: MakeLayer) -> None:
    """Tested in order, as if they had been sent one by one."""
    layer = make_layer(capacity=4, channel_capacity={"*!small": 2, "*!none": 0})
    names = {size: f"specific.{layer.client_prefix}!{size}" for size in ("large", "small", "none")}
    plan = ["none", "large", "small", "none", "small", "large", "small", "large", "large", "small", "none"]
    refused = [True, False, False, True, True, False, True, False, True, True, True]
    sent = await outcomes(*(layer.send(names[size], {"n": n}) for n, size in enumerate(plan)))
    assert sent == [ChannelFull if no else None for no in refused]
    assert layer.stats()["batches"] == 1, "they did not go as one batch, so this has tested nothing"
    assert await receive_many(layer, names["large"], 3) == [{"n": n} for n in (1, 5, 7)]
    assert await receive_many(layer, names["small"], 1) == [{"n": 2}]
    for name in ("large", "small"):
        await nothing_to_receive(layer, names[name])


async def test_a_batch_fills_what_room_is_left(make_layer: MakeLayer, kind: str) -> None:
    layer, other = make_layer(capacity=10), make_layer(capacity=10)
    channel = await channel_of(layer, kind)
    for n in range(4):
        await other.send(channel, {"n": n})
    assert await outcomes(*(layer.send(channel, {"n": n}) for n in range(4, 14))) == [None] * 6 + [ChannelFull] * 4
    assert await receive_many(layer, channel, 10) == [{"n": n} for n in range(10)]
    await nothing_to_receive(layer, channel)


@pytest.mark.single_server("a batch is of one slot")
async def test_the_sends_of_one_tick_are_one_batch(make_layer: MakeLayer) -> None:
    layer = make_layer(capacity=1000)
    channels = [await layer.new_channel() for _ in range(4)]
    assert await outcomes(*(layer.send(channels[n % 4], {"n": n}) for n in range(100))) == [None] * 100
    assert layer.stats()["batches"] == 1
    assert await outcomes(*(layer.send(name, {}) for name in ("a", "b", "a"))) == [None] * 3
    assert layer.stats()["batches"] == 2


async def test_more_messages_in_a_tick_than_a_script_takes(make_layer: MakeLayer, kind: str) -> None:
    layer = make_layer(capacity=5000)
    channel = await channel_of(layer, kind)
    assert await outcomes(*(layer.send(channel, {"n": n}) for n in range(4500))) == [None] * 4500
    assert await receive_many(layer, channel, 4500) == [{"n": n} for n in range(4500)]


async def test_capacity_holds_across_the_batches_of_a_tick(make_layer: MakeLayer, kind: str) -> None:
    layer = make_layer(capacity=1500)
    channel = await channel_of(layer, kind)
    sent = await outcomes(*(layer.send(channel, {"n": n}) for n in range(2300)))
    assert sent == [None] * 1500 + [ChannelFull] * 800
    assert layer.stats()["channel_full"] == 800
    assert await receive_many(layer, channel, 1500) == [{"n": n} for n in range(1500)]
    await nothing_to_receive(layer, channel)


async def test_more_bytes_in_a_tick_than_a_batch_takes(make_layer: MakeLayer, kind: str) -> None:
    layer = make_layer(capacity=200)
    channel = await channel_of(layer, kind)
    sizes = [100, 300_000, 1, 900_000, 900_000, 1_500_000, 5, 200_000] * 3
    messages = [{"n": n, "data": "a" * size} for n, size in enumerate(sizes)]
    assert await outcomes(*(layer.send(channel, message) for message in messages)) == [None] * len(sizes)
    assert await receive_many(layer, channel, len(sizes)) == messages


async def test_a_send_that_is_cancelled_disturbs_no_other_of_its_batch(make_layer: MakeLayer, kind: str) -> None:
    layer = make_layer()
    channel = await channel_of(layer, kind)
    sends = [asyncio.create_task(layer.send(channel, {"n": n})) for n in range(5)]
    await asyncio.sleep(0)
    sends[2].cancel()
    results = await within(asyncio.gather(*sends, return_exceptions=True))
    assert [result for n, result in enumerate(results) if n != 2] == [None] * 4
    assert isinstance(results[2], asyncio.CancelledError)
    # Whether the cancelled one had left already is nobody's business.
    received = await receive_many(layer, channel, 4)
    if {"n": 2} in received:
        received.remove({"n": 2})
        received += await receive_many(layer, channel, 1)
    assert received == [{"n": n} for n in (0, 1, 3, 4)]


async def test_capacities_assigned_later(make_layer: MakeLayer) -> None:
    layer = make_layer()
    layer.capacity = 1
    assert layer.capacity == 1
    assert await outcomes(*(layer.send("a", {}) for _ in range(2))) == [None, ChannelFull]
    layer.channel_capacity = {"b*": 2}
    assert await outcomes(*(layer.send("b", {}) for _ in range(3))) == [None, None, ChannelFull]
    # The form in which channels_redis keeps them.
    layer.channel_capacity = layer.compile_capacities({"c*": 3})
    assert await outcomes(*(layer.send("c", {}) for _ in range(4))) == [None] * 3 + [ChannelFull]
    assert await outcomes(*(layer.send("d", {}) for _ in range(2))) == [None, ChannelFull]
    assert [(pattern.match("c1") is not None, value) for pattern, value in layer.channel_capacity] == [(True, 3)]
    layer.capacity = 2
    assert layer.get_capacity("c") == 3
    assert layer.get_capacity("d") == 2


async def test_a_mailbox_holds_no_more_than_the_capacity(
    make_layer: MakeLayer, caplog: pytest.LogCaptureFixture
) -> None:
    """A consumer that does not fetch loses its oldest messages: memory has an end, and the log says so."""
    layer, sender = make_layer(capacity=3), make_layer(capacity=100)
    slow, quick = await layer.new_channel(), await layer.new_channel()
    for n in range(10):
        await sender.send(slow, {"n": n})
    await sender.send(quick, {"n": "quick"})
    assert await within(layer.receive(quick)) == {"n": "quick"}
    assert layer.stats()["dropped"] == 7
    assert await receive_many(layer, slow, 3) == [{"n": n} for n in (7, 8, 9)]
    assert [slow in record.getMessage() for record in caplog.records] == [True], "said once, not ten times"
