"""Subclasses: what a site may override on a layer, and that the fast path does not pass it by."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import redis
from channels.exceptions import ChannelFull

from channels_redis_fast.core import RedisChannelLayer
from tests.core.helpers import nothing_to_receive, within

MakeLayer = Callable[..., RedisChannelLayer]


class OwnCapacity(RedisChannelLayer):
    def get_capacity(self, channel: str) -> int:
        return 1 if channel.startswith("small") else super().get_capacity(channel)


class LastShard(RedisChannelLayer):
    def consistent_hash(self, value: str | bytes) -> int:
        return self.ring_size - 1


class Lenient(RedisChannelLayer):
    """Names with colons, as some sites have them."""

    channel_name_regex = re.compile(r"^[a-zA-Z\d\-_.:]+(\![\d\w\-_.:]*)?$")
    group_name_regex = re.compile(r"^[a-zA-Z\d\-_.:]+$")


class Long(RedisChannelLayer):
    MAX_NAME_LENGTH = 300


class Judge(RedisChannelLayer):
    """Rules of its own, which allow more in one place and less in another."""

    def require_valid_channel_name(self, name: str, receive: bool = False) -> bool:
        if name.startswith("forbidden"):
            raise TypeError("forbidden here")
        return True

    def require_valid_group_name(self, name: str) -> bool:
        if name.startswith("forbidden"):
            raise TypeError("forbidden here")
        return True


async def test_get_capacity(make_layer: MakeLayer) -> None:
    layer = make_layer(OwnCapacity, capacity=2)
    for name, capacity in (("small", 1), ("large", 2)):
        for n in range(capacity):
            await layer.send(name, {"n": n})
        with pytest.raises(ChannelFull):
            await layer.send(name, {})
        await layer.group_add("room", name)
    await layer.group_send("room", {})
    assert layer.stats()["over_capacity"] == 2
    layer.capacity = 3  # must not put the subclass out of office
    await layer.send("large", {})
    with pytest.raises(ChannelFull):
        await layer.send("small", {})


async def test_consistent_hash(
    make_layer: MakeLayer, shard_urls: list[str], raw_shards: list[redis.Redis], prefix: str
) -> None:
    layer = make_layer(LastShard, hosts=shard_urls[:3])
    channels = [await layer.new_channel(prefix=f"p{n}") for n in range(6)]
    for n, channel in enumerate(channels):
        await layer.send(channel, {"n": n})
        await layer.group_add(f"room{n}", channel)
    for raw in raw_shards[:2]:
        assert list(raw.scan_iter(f"{prefix}*")) == []
    for n, channel in enumerate(channels):
        assert await within(layer.receive(channel)) == {"n": n}


async def test_consistent_hash_decides_about_group_messages(
    make_layer: MakeLayer, shard_urls: list[str], raw_shards: list[redis.Redis], prefix: str
) -> None:
    layer = make_layer(LastShard, hosts=shard_urls[:3])
    channels = [f"p{n}.other!{n}" for n in range(12)] + [f"general{n}" for n in range(12)]
    for channel in channels:
        await layer.group_add("room", channel)
    await layer.group_send("room", {"n": 1})
    for raw in raw_shards[:2]:
        assert list(raw.scan_iter(f"{prefix}*")) == []
    assert len(list(raw_shards[2].scan_iter(f"{prefix}*"))) == 1 + len(channels)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(Lenient, "chat:room"), (Lenient, "chat:room!a:b"), (Long, "x" * 250), (Long, "x!" + "y" * 250), (Judge, "ü /é")],
)
async def test_names_that_a_subclass_allows(
    make_layer: MakeLayer, raw: Any, prefix: str, kind: type[RedisChannelLayer], name: str
) -> None:
    layer = make_layer(kind)
    plain = make_layer()
    with pytest.raises(TypeError):
        await plain.send(name, {})
    if "!" in name:
        cut = name.find("!")
        name = f"{name[:cut]}.{layer.client_prefix}{name[cut:]}"
    await layer.send(name, {"n": 1})
    assert raw.exists(prefix + layer.non_local_name(name))
    assert await within(layer.receive(name)) == {"n": 1}
    group = name.split("!")[0]
    await layer.group_add(group, name)
    await layer.group_send(group, {"n": 2})
    assert await within(layer.receive(name)) == {"n": 2}
    await layer.group_discard(group, name)
    await layer.group_send(group, {"n": 3})
    await nothing_to_receive(layer, name)


async def test_names_that_a_subclass_refuses(make_layer: MakeLayer, raw: Any, prefix: str) -> None:
    class Short(RedisChannelLayer):
        MAX_NAME_LENGTH = 10

    for layer, name in ((make_layer(Judge), "forbidden"), (make_layer(Short), "x" * 10)):
        calls = [
            layer.send(name, {}),
            layer.receive(name),
            layer.group_add(name, "general"),
            layer.group_add("room", name),
            layer.group_discard(name, "general"),
            layer.group_send(name, {}),
        ]
        for call in calls:
            with pytest.raises(TypeError):
                await within(call)
    assert list(raw.scan_iter(f"{prefix}*")) == []


async def test_new_channel(make_layer: MakeLayer) -> None:
    """A prefix of its own for the names: what counts is that they end as this process' names do."""

    class OwnNames(RedisChannelLayer):
        async def new_channel(self, prefix: str = "specific") -> str:
            return await super().new_channel(f"site.{prefix}")

    layer = make_layer(OwnNames)
    channel = await layer.new_channel()
    assert channel.startswith("site.specific.")
    await layer.send(channel, {"n": 1})
    assert await within(layer.receive(channel)) == {"n": 1}
