"""The bytes in Redis: keys, scores, members and shards, as peers of channels_redis 4.3 write and read them.

Everything is read and written here with a plain client. What our layer reads back proves nothing about peers.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
import redis
from cryptography.fernet import Fernet

from channels_redis_fast.core import RedisChannelLayer
from tests.core.helpers import nothing_to_receive, receive_many, started, within

MakeLayer = Callable[..., RedisChannelLayer]

MESSAGE = {"type": "chat.message", "text": "ü", "list": [1, None]}


def shard_of(name: str, ring_size: int) -> int:
    return int((zlib.crc32(name.encode()) & 0xFFF) / (4096 / float(ring_size)))


def only_member(raw: redis.Redis, key: str) -> bytes:
    """The one member of a sorted set, whose score must be the time of now."""
    [(member, score)] = raw.zrange(key, 0, -1, withscores=True)
    assert abs(score - time.time()) < 5
    return bytes(member)


def keys(raw: redis.Redis, prefix: str) -> set[str]:
    """All keys of the test, apart from those that only wake a receiver."""
    found = {key.decode() for key in raw.scan_iter(f"{prefix}*")}
    return {key for key in found if not key.startswith(f"{prefix}:wake:")}


def member(message: dict[Any, Any], random: bytes = b"0123456789ab") -> bytes:
    return random + bytes(msgpack.packb(message))


# What is written.


async def test_a_message_to_a_general_channel(make_layer: MakeLayer, raw: redis.Redis, prefix: str) -> None:
    await make_layer(expiry=50).send("general", MESSAGE)
    assert keys(raw, prefix) == {f"{prefix}general"}
    assert 45 <= raw.ttl(f"{prefix}general") <= 50
    assert only_member(raw, f"{prefix}general")[12:] == msgpack.packb(MESSAGE)


async def test_a_message_to_a_specific_channel(make_layer: MakeLayer, raw: redis.Redis, prefix: str) -> None:
    layer = make_layer(expiry=50)
    channel = await layer.new_channel("chat")
    await layer.send(channel, MESSAGE)
    key = f"{prefix}chat.{layer.client_prefix}!"
    assert keys(raw, prefix) == {key}
    assert 45 <= raw.ttl(key) <= 50
    assert only_member(raw, key)[12:] == msgpack.packb({**MESSAGE, "__asgi_channel__": channel})


async def test_a_group_message_is_addressed_to_a_list(make_layer: MakeLayer, raw: redis.Redis, prefix: str) -> None:
    """Once for each key, with all members on it in the group's order; also when there is one, and it is general."""
    layer, other = make_layer(), make_layer(expiry=50)
    channels = [await layer.new_channel() for _ in range(3)]
    alone = await other.new_channel()
    for name in (channels[0], "general", channels[1], alone, channels[2]):
        await layer.group_add("room", name)
    await other.group_send("room", MESSAGE)
    addressed = {
        layer.non_local_name(channels[0]): channels,
        other.non_local_name(alone): [alone],
        "general": ["general"],
    }
    assert keys(raw, prefix) == {f"{prefix}:group:room", *(prefix + name for name in addressed)}
    for name, names in addressed.items():
        body = only_member(raw, prefix + name)[12:]
        assert body == msgpack.packb({**MESSAGE, "__asgi_channel__": names})
        assert 45 <= raw.ttl(prefix + name) <= 50


@pytest.mark.parametrize("entries", [14, 15, 16])
async def test_headers_of_maps_that_grow(make_layer: MakeLayer, raw: redis.Redis, prefix: str, entries: int) -> None:
    """msgpack writes a map of 16 entries differently from one of 15, and the channel is one entry more."""
    layer = make_layer()
    message = {f"k{n}": n for n in range(entries)}
    await layer.send("x.general", message)
    await layer.send("x!local", message)
    await layer.group_add("room", "y!local")
    await layer.group_send("room", message)
    assert only_member(raw, f"{prefix}x.general")[12:] == msgpack.packb(message)
    assert only_member(raw, f"{prefix}x!")[12:] == msgpack.packb({**message, "__asgi_channel__": "x!local"})
    assert only_member(raw, f"{prefix}y!")[12:] == msgpack.packb({**message, "__asgi_channel__": ["y!local"]})


async def test_a_group_is_a_sorted_set_of_names_by_time(make_layer: MakeLayer, raw: redis.Redis, prefix: str) -> None:
    layer = make_layer(group_expiry=1000)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    assert keys(raw, prefix) == {f"{prefix}:group:room"}
    assert only_member(raw, f"{prefix}:group:room") == channel.encode()
    assert 995 <= raw.ttl(f"{prefix}:group:room") <= 1000
    await layer.group_discard("room", channel)
    assert keys(raw, prefix) == set()


@pytest.mark.parametrize("length", [0, 1, 12, 40])
async def test_the_length_of_the_random_prefix(
    make_layer: MakeLayer, raw: redis.Redis, prefix: str, length: int
) -> None:
    layer = make_layer(random_prefix_length=length)
    await layer.send("general", MESSAGE)
    assert only_member(raw, f"{prefix}general")[length:] == msgpack.packb(MESSAGE)
    assert await within(layer.receive("general")) == MESSAGE


async def test_equal_messages_are_different_members(make_layer: MakeLayer, raw: redis.Redis, prefix: str) -> None:
    layer = make_layer()
    for _ in range(20):
        await layer.send("general", MESSAGE)
    members = raw.zrange(f"{prefix}general", 0, -1)
    assert len({item[:12] for item in members}) == len(members) == 20
    assert {item[12:] for item in members} == {msgpack.packb(MESSAGE)}


async def test_json(make_layer: MakeLayer, raw: redis.Redis, prefix: str) -> None:
    layer = make_layer(serializer_format="json")
    await layer.send("general", MESSAGE)
    await layer.send("x!local", MESSAGE)
    await layer.group_add("room", "y!local")
    await layer.group_send("room", MESSAGE)
    assert only_member(raw, f"{prefix}general")[12:] == json.dumps(MESSAGE).encode()
    assert json.loads(only_member(raw, f"{prefix}x!")[12:]) == {**MESSAGE, "__asgi_channel__": "x!local"}
    assert json.loads(only_member(raw, f"{prefix}y!")[12:]) == {**MESSAGE, "__asgi_channel__": ["y!local"]}


@pytest.mark.parametrize("form", ["msgpack", "json"])
async def test_encryption_is_inside_the_random_prefix(
    make_layer: MakeLayer, raw: redis.Redis, prefix: str, form: str
) -> None:
    layer = make_layer(symmetric_encryption_keys=["first", b"second"], serializer_format=form)
    await layer.send("general", MESSAGE)
    await layer.send("x!local", MESSAGE)
    await layer.group_add("room", "y!local")
    await layer.group_send("room", MESSAGE)
    fernet = Fernet(base64.urlsafe_b64encode(hashlib.sha256(b"first").digest()))
    read: Callable[[bytes], Any] = msgpack.unpackb if form == "msgpack" else json.loads

    def body(key: str) -> Any:
        return read(fernet.decrypt(only_member(raw, prefix + key)[12:]))

    assert body("general") == MESSAGE
    assert body("x!") == {**MESSAGE, "__asgi_channel__": "x!local"}
    assert body("y!") == {**MESSAGE, "__asgi_channel__": ["y!local"]}


async def test_later_messages_have_higher_scores(make_layer: MakeLayer, raw: redis.Redis, prefix: str) -> None:
    """Peers pop the lowest score first, and have nothing else to go by."""
    layer = make_layer(capacity=1000)
    for n in range(50):
        await layer.send("general", {"n": n})
    scored = raw.zrange(f"{prefix}general", 0, -1, withscores=True)
    assert [msgpack.unpackb(item[12:])["n"] for item, _ in scored] == list(range(50))
    assert len({score for _, score in scored}) == 50


async def test_a_clock_ahead_does_not_drag_the_key_along(make_layer: MakeLayer, raw: redis.Redis, prefix: str) -> None:
    raw.zadd(f"{prefix}general", {member({"n": 2}): time.time() + 1000})
    layer = make_layer()
    await layer.send("general", {"n": 1})
    scores = [score for _, score in raw.zrange(f"{prefix}general", 0, -1, withscores=True)]
    assert abs(scores[0] - time.time()) < 5
    assert await receive_many(layer, "general", 2) == [{"n": 1}, {"n": 2}]


async def test_a_clock_that_was_set_back_reorders_nothing(make_layer: MakeLayer, raw: redis.Redis, prefix: str) -> None:
    """Not by as much as messages live."""
    raw.zadd(f"{prefix}general", {member({"n": 1}): time.time() + 50})
    layer = make_layer()
    await layer.send("general", {"n": 2})
    assert await receive_many(layer, "general", 2) == [{"n": 1}, {"n": 2}]


# What is read.


POSITIONS = ["first", "middle", "last"]


def addressed(address: Any, position: str) -> dict[str, Any]:
    entries: list[tuple[str, Any]] = list(MESSAGE.items())
    entries.insert({"first": 0, "middle": 1, "last": len(entries)}[position], ("__asgi_channel__", address))
    return dict(entries)


@pytest.mark.parametrize("waiting", [True, False])
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("form", ["str", "list", "list of two"])
async def test_a_peers_message_to_a_specific_channel(
    make_layer: MakeLayer, raw: redis.Redis, prefix: str, form: str, position: str, waiting: bool
) -> None:
    layer = make_layer()
    channel, other = await layer.new_channel(), await layer.new_channel()
    address = {"str": channel, "list": [channel], "list of two": [other, channel]}[form]
    if waiting:
        receiving = await started(layer.receive(channel))
    raw.zadd(prefix + layer.non_local_name(channel), {member(addressed(address, position)): time.time()})
    if not waiting:
        receiving = await started(layer.receive(channel))
    received = await within(receiving)
    assert list(received.items()) == list(MESSAGE.items())
    if form == "list of two":
        assert await within(layer.receive(other)) == MESSAGE


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("form", ["absent", "str", "list"])
async def test_a_peers_message_to_a_general_channel(
    make_layer: MakeLayer, raw: redis.Redis, prefix: str, form: str, position: str
) -> None:
    address = {"absent": None, "str": "general", "list": ["general"]}[form]
    message = MESSAGE if address is None else addressed(address, position)
    raw.zadd(f"{prefix}general", {member(message): time.time()})
    received = await within(make_layer().receive("general"))
    assert list(received.items()) == list(MESSAGE.items())


async def test_a_peers_group_message_to_general_and_foreign_members(
    make_layer: MakeLayer, raw: redis.Redis, prefix: str
) -> None:
    """The channel that was asked for gets it, whatever list it was addressed to: the key decides on general ones."""
    raw.zadd(f"{prefix}general", {member(addressed(["general", "another"], "last")): time.time()})
    assert await within(make_layer().receive("general")) == MESSAGE


async def test_a_message_on_a_bare_specific_key(make_layer: MakeLayer, raw: redis.Redis, prefix: str) -> None:
    """A specific name may end at its `!`, and then needs no address."""
    layer = make_layer()
    name = layer.non_local_name(await layer.new_channel())
    raw.zadd(prefix + name, {member(MESSAGE): time.time()})
    assert await within(layer.receive(name)) == MESSAGE
    await layer.send(name, {"n": 1})
    assert await within(layer.receive(name)) == {"n": 1}


async def test_lowest_score_first(make_layer: MakeLayer, raw: redis.Redis, prefix: str) -> None:
    layer = make_layer()
    channel, start = await layer.new_channel(), time.time() - 10
    for key, name in ((prefix + layer.non_local_name(channel), channel), (f"{prefix}general", "general")):
        for n in (3, 1, 2, 5, 4):
            raw.zadd(key, {member({"n": n, "__asgi_channel__": name}): start + n / 1e5})
        assert await receive_many(layer, name, 5) == [{"n": n} for n in (1, 2, 3, 4, 5)]


async def test_the_backup_queue_of_upstream_is_left_alone(make_layer: MakeLayer, raw: redis.Redis, prefix: str) -> None:
    """It belongs to a peer, which puts its messages back itself."""
    raw.zadd(f"{prefix}general$inflight", {member(MESSAGE): time.time()})
    layer = make_layer()
    await nothing_to_receive(layer, "general")
    assert keys(raw, prefix) == {f"{prefix}general$inflight"}
    assert raw.zcard(f"{prefix}general$inflight") == 1


@pytest.mark.parametrize("kind", ["specific", "general"])
async def test_nothing_is_left_of_what_was_received(
    make_layer: MakeLayer, raw: redis.Redis, prefix: str, kind: str
) -> None:
    layer = make_layer()
    channel = await layer.new_channel() if kind == "specific" else "general"
    for n in range(50):
        await layer.send(channel, {"n": n})
    await receive_many(layer, channel, 50)
    await layer.close_pools()
    assert keys(raw, prefix) == set()


# Shards.


@pytest.mark.parametrize("ring_size", [2, 5])
async def test_placement_on_shards(
    make_layer: MakeLayer, shard_urls: list[str], raw_shards: list[redis.Redis], prefix: str, ring_size: int
) -> None:
    layer = make_layer(hosts=shard_urls[:ring_size])
    channels = [await layer.new_channel(prefix=f"p{n}") for n in range(12)]
    expected: list[set[str]] = [set() for _ in range(ring_size)]
    for n, channel in enumerate(channels):
        await layer.send(channel, {"n": n})
        await layer.group_add(f"group{n}", channel)
        name = layer.non_local_name(channel)
        expected[shard_of(name, ring_size)].add(prefix + name)
        expected[shard_of(f"group{n}", ring_size)].add(f"{prefix}:group:group{n}")
    assert [keys(raw, prefix) for raw in raw_shards[:ring_size]] == expected
    assert all(expected), "a shard without keys: nothing tested there"
    for n, channel in enumerate(channels):
        assert await within(layer.receive(channel)) == {"n": n}


@pytest.mark.parametrize("ring_size", [2, 5])
async def test_placement_of_group_messages(
    make_layer: MakeLayer, shard_urls: list[str], raw_shards: list[redis.Redis], prefix: str, ring_size: int
) -> None:
    """By the name without its local part; general members too."""
    layer = make_layer(hosts=shard_urls[:ring_size])
    members = [await layer.new_channel(prefix=f"p{n}") for n in range(12)] + [f"general{n}" for n in range(12)]
    expected: list[set[str]] = [set() for _ in range(ring_size)]
    for channel in members:
        await layer.group_add("room", channel)
        name = layer.non_local_name(channel)
        expected[shard_of(name, ring_size)].add(prefix + name)
    expected[shard_of("room", ring_size)].add(f"{prefix}:group:room")
    await layer.group_send("room", {"n": 1})
    assert [keys(raw, prefix) for raw in raw_shards[:ring_size]] == expected
    for channel in members:
        assert await within(layer.receive(channel)) == {"n": 1}


@pytest.mark.parametrize("ring_size", [2, 5])
async def test_general_channels_are_spread_and_received_from_everywhere(
    make_layer: MakeLayer, shard_urls: list[str], raw_shards: list[redis.Redis], prefix: str, ring_size: int
) -> None:
    layer = make_layer(hosts=shard_urls[:ring_size])
    for n in range(4 * ring_size):
        await layer.send("general", {"n": n})
    assert [raw.zcard(f"{prefix}general") for raw in raw_shards[:ring_size]] == [4] * ring_size
    got = [message["n"] for message in await receive_many(layer, "general", 4 * ring_size)]
    assert sorted(got) == list(range(4 * ring_size))
    for raw in raw_shards[:ring_size]:  # waiting on all of them, whichever is next
        receiving = await started(layer.receive("general"))
        raw.zadd(f"{prefix}general", {member({"n": 1}): time.time()})
        assert await within(receiving) == {"n": 1}


async def test_what_upstream_puts_on_the_wrong_shard_is_received(
    make_layer: MakeLayer, shard_urls: list[str], raw_shards: list[redis.Redis], prefix: str
) -> None:
    """channels_redis hashes the full name when it sends and the name without its local part when it receives."""
    layer = make_layer(hosts=shard_urls[:2])
    seen: Counter[bool] = Counter()
    while seen[True] < 5:
        channel = await layer.new_channel()
        name = layer.non_local_name(channel)
        theirs = shard_of(channel, 2)
        seen[theirs != shard_of(name, 2)] += 1
        raw_shards[theirs].zadd(prefix + name, {member({"n": 1, "__asgi_channel__": channel}): time.time()})
        assert await within(layer.receive(channel)) == {"n": 1}


async def test_two_real_servers(make_layer: MakeLayer, redis_server: Any, second_server: Any, prefix: str) -> None:
    urls = [redis_server.url, second_server.url]
    layer, peer = make_layer(hosts=urls), make_layer(hosts=urls)
    channels = [await layer.new_channel(prefix=f"p{n}") for n in range(10)]
    for channel in channels:
        await peer.group_add("room", channel)
        await peer.send(channel, {"n": 1})
    await peer.group_send("room", {"n": 2})
    for n in range(6):
        await peer.send("general", {"n": n})
    for channel in channels:
        assert await receive_many(layer, channel, 2) == [{"n": 1}, {"n": 2}]
    assert sorted(message["n"] for message in await receive_many(layer, "general", 6)) == list(range(6))
    for url in urls:
        with redis.Redis.from_url(url) as raw:
            assert keys(raw, prefix) <= {f"{prefix}:group:room"}


async def test_hosts_in_any_order_and_form_are_shards_by_position(
    make_layer: MakeLayer, shard_urls: list[str], raw_shards: list[redis.Redis], prefix: str
) -> None:
    layer = make_layer(hosts=[{"address": shard_urls[1]}, shard_urls[0]])
    await layer.group_add("room", "general")
    key = f"{prefix}:group:room"
    assert raw_shards[1 - shard_of("room", 2)].exists(key)
    assert layer.ring_size == 2
