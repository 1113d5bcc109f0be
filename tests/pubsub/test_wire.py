"""Names and payloads in Redis, as processes with channels_redis 4.3 write and read them.

Everything is read and written here with a plain client: what our layer reads back proves nothing about peers.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
import redis
from cryptography.fernet import Fernet

from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.core.helpers import LIMIT, nothing_to_receive, receive_many, started, until, within
from tests.pubsub.helpers import listening, payload, subscribers, subscriptions

MakeLayer = Callable[..., RedisPubSubChannelLayer]

MESSAGE = {"type": "chat.message", "text": "ü", "list": [1, None]}


def fernet(key: str) -> Fernet:
    return Fernet(base64.urlsafe_b64encode(hashlib.sha256(key.encode()).digest()))


def shard_of(name: str, ring_size: int) -> int:
    return int((zlib.crc32(name.encode()) & 0xFFF) / (4096 / float(ring_size)))


# Written by us.


async def test_names(make_layer: MakeLayer, raw: redis.Redis, prefix: str) -> None:
    """A channel is subscribed to by its name and nothing else; a group by prefix and name."""
    layer = make_layer()
    channel = await layer.new_channel()
    assert subscriptions(raw, prefix) == {channel}
    await layer.group_add("room", channel)
    assert subscriptions(raw, prefix) == {channel, f"{prefix}__group__room"}
    receiving = await started(layer.receive(f"{prefix}general"))
    await until(lambda: subscribers(raw, f"{prefix}general") == 1)
    await layer.send(f"{prefix}general", {})
    await within(receiving)


@pytest.mark.parametrize("kind", ["channel", "group"])
async def test_payloads(make_layer: MakeLayer, raw: redis.Redis, prefix: str, kind: str) -> None:
    """The body alone: no random prefix, no channel."""
    name = f"{prefix}general" if kind == "channel" else f"{prefix}__group__general"

    async def send(layer: RedisPubSubChannelLayer) -> None:
        await (layer.send(name, MESSAGE) if kind == "channel" else layer.group_send("general", MESSAGE))

    with listening(raw, name) as pubsub:
        await send(make_layer())
        assert payload(pubsub) == msgpack.packb(MESSAGE)
        await send(make_layer(serializer_format="json"))
        assert payload(pubsub) == json.dumps(MESSAGE).encode()
        await send(make_layer(symmetric_encryption_keys=["one", "two"]))
        assert msgpack.unpackb(fernet("one").decrypt(payload(pubsub))) == MESSAGE
        await send(make_layer(symmetric_encryption_keys=["one"], serializer_format="json"))
        assert json.loads(fernet("one").decrypt(payload(pubsub))) == MESSAGE
        # The core layer's options change nothing here.
        await send(make_layer(random_prefix_length=5, expiry=5))
        assert payload(pubsub) == msgpack.packb(MESSAGE)


async def test_nothing_is_kept_in_redis(make_layer: MakeLayer, raw: redis.Redis, prefix: str) -> None:
    layer = make_layer()
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.send(channel, {})
    await layer.group_send("room", {})
    await receive_many(layer, channel, 2)
    assert not list(raw.scan_iter(f"{prefix}*"))


# Written by others.


@pytest.mark.parametrize("format", ["msgpack", "json"])
async def test_a_foreign_publish_is_received(make_layer: MakeLayer, raw: redis.Redis, prefix: str, format: str) -> None:
    layer = make_layer(serializer_format=format)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    body = msgpack.packb(MESSAGE) if format == "msgpack" else json.dumps(MESSAGE).encode()
    for name in (channel, f"{prefix}__group__room"):
        assert raw.publish(name, body) == 1
        assert await within(layer.receive(channel)) == MESSAGE


@pytest.mark.parametrize("age", [0, 10**6])
async def test_tokens_of_any_age_are_read(make_layer: MakeLayer, raw: redis.Redis, age: int) -> None:
    """Of every key; there is no ttl here, whatever the expiry says."""
    layer = make_layer(symmetric_encryption_keys=["one", "two"], expiry=1)
    channel = await layer.new_channel()
    for key in ("one", "two"):
        raw.publish(channel, fernet(key).encrypt_at_time(msgpack.packb(MESSAGE), 1_700_000_000 - age))
        assert await within(layer.receive(channel)) == MESSAGE
    raw.publish(channel, fernet("three").encrypt(msgpack.packb(MESSAGE)))
    await nothing_to_receive(layer, channel)
    assert layer.stats()["undecodable"] == 1


@pytest.mark.parametrize("value", ["a.channel", ["a", "b"], "", [], 5, None, {"a": 1}, [1]], ids=repr)
@pytest.mark.parametrize("format", ["msgpack", "json"])
async def test_the_core_layers_field_is_a_field_like_any_other(make_layer: MakeLayer, format: str, value: Any) -> None:
    """Whatever is in it, and for every member of a group."""
    layer = make_layer(serializer_format=format)
    channels = [await layer.new_channel() for _ in range(3)]
    message = {"type": "x", "__asgi_channel__": value}
    await layer.send(channels[0], message)
    await layer.send(channels[0], {"type": "end"})
    assert await within(layer.receive(channels[0])) == message
    assert await within(layer.receive(channels[0])) == {"type": "end"}
    for channel in channels:
        await layer.group_add("room", channel)
    await layer.group_send("room", message)
    assert [await within(layer.receive(channel)) for channel in channels] == [message] * 3


# Shards.


async def test_shards_by_the_whole_name(make_layer: MakeLayer, shard_urls: list[str], prefix: str) -> None:
    """Of a channel with a local part too, and of a group with prefix and all."""
    layer = make_layer(hosts=shard_urls)
    names = [await layer.new_channel() for _ in range(20)] + [f"{prefix}general{n}!local{n}" for n in range(20)]
    receiving = [await started(layer.receive(name)) for name in names[20:]]
    groups = [f"{prefix}__group__room{n}" for n in range(20)]
    for n in range(20):
        await layer.group_add(f"room{n}", names[n])
    assert {shard_of(name, 2) for name in names[20:]} == {shard_of(name, 2) for name in groups} == {0, 1}
    raws = [redis.Redis.from_url(url) for url in shard_urls]
    try:
        await until(lambda: sum(len(subscriptions(raw, prefix)) for raw in raws) == 60)
        for number, raw in enumerate(raws):
            assert subscriptions(raw, prefix) == {name for name in names + groups if shard_of(name, 2) == number}
            for name in names:
                if shard_of(name, 2) == number:
                    assert raw.publish(name, msgpack.packb({"to": name})) == 1
        got = [await within(layer.receive(name)) for name in names[:20]] + [await within(task) for task in receiving]
        assert got == [{"to": name} for name in names]
    finally:
        for raw in raws:
            raw.close()


async def test_sends_go_to_the_shard_of_the_name(make_layer: MakeLayer, shard_urls: list[str], prefix: str) -> None:
    layer = make_layer(hosts=shard_urls)
    channels = [f"{prefix}c{n}!x" for n in range(10)]
    groups = [f"room{n}" for n in range(10)]
    for number, url in enumerate(shard_urls):
        with redis.Redis.from_url(url) as raw, raw.pubsub() as pubsub:
            pubsub.psubscribe(f"{prefix}*")
            assert pubsub.get_message(timeout=LIMIT)["type"] == "psubscribe"
            expected = []
            for channel, group in zip(channels, groups, strict=True):
                await layer.send(channel, {})
                await layer.group_send(group, {})
                names = (channel, f"{prefix}__group__{group}")
                expected += [name for name in names if shard_of(name, 2) == number]
            got = [pubsub.get_message(timeout=LIMIT)["channel"].decode() for _ in expected]
            # Batches of two shards are independent; on one they keep the order.
            assert got == expected
            assert pubsub.get_message(timeout=0) is None


async def test_three_shards_end_to_end(make_layer: MakeLayer, shard_urls: list[str]) -> None:
    """More entries than servers is unusual, but a ring of three all the same."""
    hosts = [*shard_urls, shard_urls[0]]
    layer, peer = make_layer(hosts=hosts), make_layer(hosts=hosts)
    channels = [await layer.new_channel() for _ in range(30)]
    assert {layer.consistent_hash(channel) for channel in channels} == {0, 1, 2}
    for n, channel in enumerate(channels):
        await layer.group_add(f"room{n % 5}", channel)
    await within(_gather_sends(peer, channels))
    for n, channel in enumerate(channels):
        got = await receive_many(layer, channel, 2)
        assert sorted(got, key=str) == sorted([{"to": channel}, {"to": f"room{n % 5}"}], key=str)


async def _gather_sends(peer: RedisPubSubChannelLayer, channels: list[str]) -> None:
    for channel in channels:
        await peer.send(channel, {"to": channel})
    for n in range(5):
        await peer.group_send(f"room{n}", {"to": f"room{n}"})


async def test_an_overridden_hash_is_asked(make_layer: MakeLayer, shard_urls: list[str], prefix: str) -> None:
    class Last(RedisPubSubChannelLayer):
        def consistent_hash(self, value: str | bytes) -> int:
            return self.ring_size - 1

    layer = make_layer(Last, hosts=shard_urls)
    channels = [await layer.new_channel() for _ in range(10)]
    with redis.Redis.from_url(shard_urls[-1]) as raw:
        assert subscriptions(raw, prefix) == set(channels)
    await nothing_to_receive(layer, channels[0])


async def test_an_overridden_serializer_is_called(make_layer: MakeLayer, raw: redis.Redis, prefix: str) -> None:
    class Own(RedisPubSubChannelLayer):
        def serialize(self, message: Any) -> bytes:
            return b"own" + super().serialize(message)

        def deserialize(self, message: bytes) -> Any:
            return super().deserialize(message[3:])

    layer = make_layer(Own)
    channel = await layer.new_channel()
    with listening(raw, channel) as pubsub:
        await layer.send(channel, MESSAGE)
        assert payload(pubsub) == b"own" + msgpack.packb(MESSAGE)
    assert await within(layer.receive(channel)) == MESSAGE
