"""Groups: who belongs to one, for how long, and what its members get."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest

from channels_redis_fast.core import RedisChannelLayer
from tests.core.helpers import nothing_to_receive, receive_many, within

MakeLayer = Callable[..., RedisChannelLayer]


async def test_order_among_sends_and_group_sends(make_layer: MakeLayer) -> None:
    layer, sender = make_layer(), make_layer()
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    for n in range(0, 30, 2):
        await sender.send(channel, {"n": n})
        await sender.group_send("room", {"n": n + 1})
    assert await receive_many(layer, channel, 30) == [{"n": n} for n in range(30)]


async def test_a_membership_ends_after_group_expiry(make_layer: MakeLayer, raw: Any, prefix: str) -> None:
    layer = make_layer(group_expiry=100)
    old, young, renewed = [await layer.new_channel() for _ in range(3)]
    for channel in (old, young, renewed):
        await layer.group_add("room", channel)
    key = f"{prefix}:group:room"
    assert 95 <= raw.ttl(key) <= 100
    raw.zadd(key, {old: time.time() - 102, young: time.time() - 90, renewed: time.time() - 102})
    await layer.group_add("room", renewed)
    await layer.group_send("room", {"n": 1})
    for channel in (young, renewed):
        assert await within(layer.receive(channel)) == {"n": 1}
    await nothing_to_receive(layer, old)
    assert sorted(raw.zrange(key, 0, -1)) == sorted(name.encode() for name in (young, renewed))


async def test_a_member_that_is_no_text_is_skipped_and_logged(
    make_layer: MakeLayer, raw: Any, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    layer = make_layer()
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    raw.zadd(f"{prefix}:group:room", {b"\xff\xfe": time.time()})
    await layer.group_send("room", {"n": 1})
    assert await within(layer.receive(channel)) == {"n": 1}
    assert [record.levelno for record in caplog.records if "room" in record.getMessage()] == [logging.ERROR]


# Full members.


async def test_full_members_are_skipped_counted_and_logged(
    make_layer: MakeLayer, caplog: pytest.LogCaptureFixture
) -> None:
    """The line is that of channels_redis, letter by letter: sites look for it in their logs."""
    layer = make_layer(capacity=1)
    for name in ("one", "two", "three"):
        await layer.group_add("room", name)
    with caplog.at_level(logging.INFO, "channels_redis_fast"):
        await layer.group_send("room", {"n": 1})
        assert caplog.records == []
        assert await within(layer.receive("two")) == {"n": 1}
        await layer.group_send("room", {"n": 2})
    [record] = caplog.records
    assert record.levelno == logging.INFO
    assert record.getMessage() == "2 of 3 channels over capacity in group room"
    assert record.msg == "%s of %s channels over capacity in group %s"
    assert layer.stats()["over_capacity"] == 2
    assert await within(layer.receive("two")) == {"n": 2}
    for name in ("one", "three"):
        assert await within(layer.receive(name)) == {"n": 1}
        await nothing_to_receive(layer, name)


async def test_a_full_key_counts_once_whatever_the_number_of_its_members(
    make_layer: MakeLayer, caplog: pytest.LogCaptureFixture
) -> None:
    layer = make_layer(capacity=1)
    for _ in range(3):
        await layer.group_add("room", await layer.new_channel())
    with caplog.at_level(logging.INFO, "channels_redis_fast"):
        for n in range(2):
            await layer.group_send("room", {"n": n})
    said = [record.getMessage() for record in caplog.records if record.name == "channels_redis_fast"]
    assert said == ["1 of 3 channels over capacity in group room"]


async def test_capacity_is_that_of_the_first_member_on_the_key(
    make_layer: MakeLayer, caplog: pytest.LogCaptureFixture
) -> None:
    layer = make_layer(capacity=1, channel_capacity={"*!large": 3})
    key = f"specific.{layer.client_prefix}!"
    for name in ("large", "small"):  # the group is in the order of joining
        await layer.group_add("room", key + name)
    with caplog.at_level(logging.INFO, "channels_redis_fast"):
        for n in range(4):
            await layer.group_send("room", {"n": n})
    said = [record.getMessage() for record in caplog.records if record.name == "channels_redis_fast"]
    assert said == ["1 of 2 channels over capacity in group room"]
    assert await receive_many(layer, key + "large", 3) == [{"n": n} for n in range(3)]


# Size.


async def test_a_group_of_thousands_of_keys(make_layer: MakeLayer, raw: Any, prefix: str) -> None:
    """More than one script can take: none is forgotten, none gets it twice."""
    layer = make_layer()
    names = [f"member{n}" for n in range(2500)]
    await within(asyncio.gather(*(layer.group_add("room", name) for name in names)))
    await within(layer.group_send("room", {"n": 1}))
    counts = raw.pipeline(transaction=False)
    for name in names:
        counts.zcard(prefix + name)
    assert counts.execute() == [1] * len(names)
    assert await within(layer.receive(names[0])) == {"n": 1}
    assert await within(layer.receive(names[-1])) == {"n": 1}


async def test_a_large_message_to_many_keys(make_layer: MakeLayer) -> None:
    """Several megabytes in all."""
    layer = make_layer()
    names = [f"member{n}" for n in range(25)]
    for name in names:
        await layer.group_add("room", name)
    message = {"type": "x", "data": "a" * 200_000}
    await within(layer.group_send("room", message))
    for name in names:
        assert await within(layer.receive(name)) == message
