"""What waits in a process for a slow consumer: bounded, expiring, counted; and payloads that nobody can read."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
import redis

from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.core.helpers import nothing_to_receive, receive_many, started, until, within
from tests.pubsub.helpers import ready

MakeLayer = Callable[..., RedisPubSubChannelLayer]


async def arrived(layer: RedisPubSubChannelLayer, deliveries: int) -> None:
    await until(lambda: layer.stats()["deliveries"] == deliveries)


async def test_the_oldest_give_way(make_layer: MakeLayer, caplog: pytest.LogCaptureFixture) -> None:
    """To `capacity` or the first pattern that fits; with one warning, whatever more is dropped and wherever."""
    layer, peer = make_layer(capacity=10, channel_capacity={"*small.*": 3}), make_layer()
    wide, small = await layer.new_channel(), await layer.new_channel("small.")
    for n in range(15):
        await peer.send(wide, {"n": n})
    await arrived(layer, 15)
    assert layer.stats()["dropped"] == 5
    for n in range(15):
        await peer.send(small, {"n": n})
    await arrived(layer, 30)
    assert layer.stats()["dropped"] == 5 + 12
    assert await receive_many(layer, wide, 10) == [{"n": n} for n in range(5, 15)]
    assert await receive_many(layer, small, 3) == [{"n": n} for n in range(12, 15)]
    await nothing_to_receive(layer, wide)
    await nothing_to_receive(layer, small)
    [record] = caplog.records
    assert (record.name, record.levelno) == ("channels_redis_fast", logging.WARNING)
    assert wide in record.getMessage()


async def test_a_capacity_set_later_is_that_of_mailboxes_already_there(make_layer: MakeLayer) -> None:
    layer, peer = make_layer(capacity=10), make_layer()
    channel = await layer.new_channel()
    for n in range(5):
        await peer.send(channel, {"n": n})
    await arrived(layer, 5)
    layer.capacity = 3
    await peer.send(channel, {"n": 5})
    await arrived(layer, 6)
    assert await receive_many(layer, channel, 3) == [{"n": n} for n in (3, 4, 5)]
    layer.channel_capacity = [(re.compile(re.escape(channel)), 1)]
    for n in range(2):
        await peer.send(channel, {"n": n})
    await arrived(layer, 8)
    assert await within(layer.receive(channel)) == {"n": 1}
    await nothing_to_receive(layer, channel)


async def test_a_slow_member_of_a_group_slows_nobody(make_layer: MakeLayer) -> None:
    layer, peer = make_layer(capacity=5), make_layer()
    slow, quick = await layer.new_channel(), await layer.new_channel()
    for channel in (slow, quick):
        await layer.group_add("room", channel)
    receiving = await started(receive_many(layer, quick, 50))
    for n in range(50):
        await peer.group_send("room", {"n": n})
    assert await within(receiving) == [{"n": n} for n in range(50)]
    assert layer.stats()["dropped"] == 45
    assert await receive_many(layer, slow, 5) == [{"n": n} for n in range(45, 50)]


async def test_a_generous_bound_by_default(make_layer: MakeLayer) -> None:
    layer, peer = make_layer(), make_layer()
    channel = await layer.new_channel()
    for start in range(0, 10_500, 500):
        await within(asyncio.gather(*(peer.send(channel, {"n": start + n}) for n in range(500))))
    await arrived(layer, 10_500)
    assert layer.stats()["dropped"] == 500
    assert await receive_many(layer, channel, 10_000) == [{"n": n} for n in range(500, 10_500)]


async def test_what_is_received_at_once_is_not_bounded(make_layer: MakeLayer) -> None:
    layer, peer = make_layer(capacity=1), make_layer()
    channel = await layer.new_channel()
    receiving = [await started(layer.receive(channel)) for _ in range(100)]
    await within(asyncio.gather(*(peer.send(channel, {"n": n}) for n in range(100))))
    assert await within(asyncio.gather(*receiving)) == [{"n": n} for n in range(100)]
    assert layer.stats()["dropped"] == 0


async def test_messages_expire(make_layer: MakeLayer) -> None:
    """Counted from their arrival; gone from memory though nobody comes to look."""
    layer, peer = make_layer(expiry=3), make_layer()
    channel, other = await layer.new_channel(), await layer.new_channel()
    marker = f"expires {channel}"
    for name in (channel, channel, other):
        await peer.send(name, {marker: ["a list, which the collector tracks"]})
    await arrived(layer, 3)

    def in_memory() -> int:
        return sum(type(found) is dict and marker in found for found in gc.get_objects())

    assert in_memory() == 3
    await until(lambda: in_memory() == 0)
    assert layer.stats()["expired"] == 3
    await nothing_to_receive(layer, channel)


async def test_without_expiry_nothing_expires(make_layer: MakeLayer) -> None:
    expiring, keeping, peer = make_layer(expiry=1), make_layer(), make_layer()
    gone, kept = await expiring.new_channel(), await keeping.new_channel()
    for name in (kept, gone):
        await peer.send(name, {"n": 1})
    # When the one is over, the other is as old.
    await until(lambda: expiring.stats()["expired"] == 1)
    assert await within(keeping.receive(kept)) == {"n": 1}


UNREADABLE = {
    "nothing": b"",
    "no msgpack": b"\xc1",
    "cut off": msgpack.packb({"text": "cut off"})[:-1],
    "too long": msgpack.packb({"n": 1}) + b"x",
    "no UTF-8": b"\x81\xa1n\xa2\xff\xfe",
    "unhashable": b"\x81\x90\x01",
}


@pytest.mark.parametrize("options", [{}, {"serializer_format": "json"}, {"symmetric_encryption_keys": ["s3cret"]}])
async def test_unreadable_payloads_are_skipped(
    make_layer: MakeLayer, raw: redis.Redis, prefix: str, caplog: pytest.LogCaptureFixture, options: Any
) -> None:
    """On a channel and on a group's: logged with the name, counted, and what follows is delivered."""
    layer = make_layer(**options)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    receiving = await started(layer.receive(channel))
    for name in (channel, f"{prefix}__group__room"):
        caplog.clear()
        before = layer.stats()["undecodable"]
        for payload in UNREADABLE.values():
            assert raw.publish(name, payload) == 1
        await until(lambda before=before: layer.stats()["undecodable"] == before + len(UNREADABLE))  # type: ignore[misc]
        lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert len(lines) == len(UNREADABLE)
        assert all(name in line for line in lines)
        assert not any("s3cret" in line for line in lines)
        await layer.send(channel, {"after": name})
        assert await within(receiving) == {"after": name}
        receiving = await started(layer.receive(channel))
    receiving.cancel()


async def test_a_serializer_that_raises_anything(make_layer: MakeLayer) -> None:
    class Broken(RedisPubSubChannelLayer):
        def deserialize(self, message: bytes) -> Any:
            decoded = super().deserialize(message)
            if decoded.get("bad"):
                raise RuntimeError("no")
            return decoded

    layer = make_layer(Broken)
    channel = await layer.new_channel()
    await ready(layer, channel)
    for n in range(3):
        await layer.send(channel, {"bad": True})
        await layer.send(channel, {"n": n})
        assert await within(layer.receive(channel)) == {"n": n}
    assert layer.stats()["undecodable"] == 3


async def test_a_name_of_nobody_here(make_layer: MakeLayer, raw: redis.Redis) -> None:
    """A message that was on its way when its channel was dropped: nobody's, and no error."""
    layer = make_layer(grace=0.0)
    channel, other = await layer.new_channel(), await layer.new_channel()
    receiving = await started(layer.receive(channel))
    receiving.cancel()
    for _ in range(20):
        await layer.send(channel, {"n": 1})
    await nothing_to_receive(layer, other)
    assert layer.stats()["undecodable"] == 0
