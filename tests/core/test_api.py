"""Send and receive: what arrives, where, and in which order."""

from __future__ import annotations

import asyncio
import copy
import random
import re
from collections.abc import Callable
from typing import Any

import pytest

from channels_redis_fast.core import RedisChannelLayer
from tests.core.helpers import blocked, end, named, nothing_to_receive, receive_many, started, until, within

MakeLayer = Callable[..., RedisChannelLayer]

MESSAGES: dict[str, dict[str, Any]] = {
    "empty": {},
    "flat": {"type": "chat.message", "text": "a ü 😀 \0", "n": -1, "big": 2**63, "x": 1.5, "yes": True, "none": None},
    "bytes": {"bytes": b"\x00\xff\r\n", "empty": b"", "text": ""},
    "nested": {"list": [1, [2, {"three": [None, b"4"]}]], "dict": {"a": {"b": {}}}, "empty": [[], {}]},
    # A packed map's header grows by two bytes from 15 to 16 entries, the channel's own among them.
    "14 keys": {f"k{n}": n for n in range(14)},
    "15 keys": {f"k{n}": n for n in range(15)},
    "16 keys": {f"k{n}": n for n in range(16)},
    "bytes keys": {"type": "x", "map": {b"raw": 1}},
    "1 MB": {"type": "x", "text": "a" * 1_000_000},
    "3 MB": {"type": "x", "data": b"\n" * 3_000_000},
}


async def channel_of(layer: RedisChannelLayer, kind: str) -> str:
    return await layer.new_channel() if kind == "specific" else "general"


@pytest.fixture(params=["specific", "general"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("name", MESSAGES)
async def test_what_is_sent_is_received(make_layer: MakeLayer, kind: str, name: str) -> None:
    layer = make_layer()
    channel = await channel_of(layer, kind)
    message = copy.deepcopy(MESSAGES[name])
    await layer.send(channel, message)
    assert message == MESSAGES[name], "the sender's message was changed"
    received = await within(layer.receive(channel))
    assert received == message
    assert [type(value) for value in received.values()] == [type(value) for value in message.values()]


async def test_a_tuple_arrives_as_a_list(make_layer: MakeLayer, kind: str) -> None:
    """As msgpack has it, and upstream with it."""
    layer = make_layer()
    channel = await channel_of(layer, kind)
    await layer.send(channel, {"pair": (1, (2,))})
    assert await within(layer.receive(channel)) == {"pair": [1, [2]]}


async def test_receive_before_send(make_layer: MakeLayer, kind: str) -> None:
    layer = make_layer()
    channel = await channel_of(layer, kind)
    receiving = await started(layer.receive(channel))
    await make_layer().send(channel, {"type": "late"})
    assert await within(receiving) == {"type": "late"}


async def test_the_sender_may_be_another_process(make_layer: MakeLayer, kind: str) -> None:
    here, there = make_layer(), make_layer()
    channel = await channel_of(here, kind)
    for n in range(3):
        await there.send(channel, {"n": n})
    assert await receive_many(here, channel, 3) == [{"n": n} for n in range(3)]


# Order.


async def test_awaited_sends_of_several_processes_keep_their_order(make_layer: MakeLayer, kind: str) -> None:
    senders = [make_layer() for _ in range(3)]
    receiver = make_layer()
    channel = await channel_of(receiver, kind)
    for n in range(60):
        await senders[n % 3].send(channel, {"n": n})
    assert await receive_many(receiver, channel, 60) == [{"n": n} for n in range(60)]


@pytest.mark.parametrize("how", ["gather", "tasks"])
async def test_sends_of_one_tick_keep_their_order(make_layer: MakeLayer, kind: str, how: str) -> None:
    layer = make_layer(capacity=1000)
    channel = await channel_of(layer, kind)
    for start in (0, 200):  # the first time without a connection, then with one
        sends = [layer.send(channel, {"n": n}) for n in range(start, start + 200)]
        if how == "gather":
            await within(asyncio.gather(*sends))
        else:
            for task in [asyncio.create_task(send) for send in sends]:
                await within(task)
    assert await receive_many(layer, channel, 400) == [{"n": n} for n in range(400)]


async def test_order_holds_while_receiving(make_layer: MakeLayer, kind: str) -> None:
    """Bursts of all sizes, so that messages come popped, peeked and stored, in every mixture."""
    sender, receiver = make_layer(capacity=10_000), make_layer(capacity=10_000)
    channel = await channel_of(receiver, kind)
    receiving = await started(receive_many(receiver, channel, 3000))
    sizes, sent = random.Random(7), 0
    while sent < 3000:
        burst = min(sizes.choice([1, 1, 2, 5, 40, 700]), 3000 - sent)
        await within(asyncio.gather(*(sender.send(channel, {"n": n}) for n in range(sent, sent + burst))))
        sent += burst
    assert await receiving == [{"n": n} for n in range(3000)]


async def test_channels_on_one_key_do_not_mix(make_layer: MakeLayer) -> None:
    layer, sender = make_layer(capacity=1000), make_layer(capacity=1000)
    channels = [await layer.new_channel() for _ in range(10)]
    receiving = await started(receive_many(layer, channels[0], 20))
    await within(asyncio.gather(*(sender.send(name, {"n": n, "to": name}) for n in range(20) for name in channels)))
    assert await receiving == [{"n": n, "to": channels[0]} for n in range(20)]
    for name in channels[1:]:
        assert await receive_many(layer, name, 20) == [{"n": n, "to": name} for n in range(20)]


# Several receivers.


async def test_several_receivers_of_one_channel_are_served_in_turn(
    make_layer: MakeLayer, raw: Any, redis_server: Any, prefix: str, kind: str
) -> None:
    layer = make_layer(hosts=[named(redis_server.url, prefix)])
    channel = await channel_of(layer, kind)
    receivers = [await started(layer.receive(channel)) for _ in range(5)]
    await until(lambda: blocked(raw, prefix) == 1)
    sender = make_layer()
    for n in range(5):
        await sender.send(channel, {"n": n})
    assert await within(asyncio.gather(*receivers)) == [{"n": n} for n in range(5)]


async def test_a_general_channel_is_shared_out_among_processes(make_layer: MakeLayer) -> None:
    """Nothing twice, nothing lost, and every process gets some."""
    layers = [make_layer() for _ in range(3)]
    got: list[list[int]] = [[] for _ in layers]

    async def work(index: int) -> None:
        while True:
            got[index].append((await layers[index].receive("jobs"))["n"])

    workers = [await started(work(index)) for index in range(3) for _ in range(2)]
    sender = make_layer(capacity=1000)
    for start in range(0, 300, 10):
        await asyncio.gather(*(sender.send("jobs", {"n": n}) for n in range(start, start + 10)))
    await until(lambda: sum(map(len, got)) >= 300)
    await nothing_more(sender, got)
    await end(*workers)
    assert sorted(n for each in got for n in each) == [*range(300), 1000]
    assert all(got)


async def nothing_more(sender: RedisChannelLayer, got: list[list[int]]) -> None:
    # General channels are first in, first out: what was sent last comes after every duplicate.
    await sender.send("jobs", {"n": 1000})
    await until(lambda: any(1000 in each for each in got))


async def test_a_cancelled_receive_takes_nothing_along(make_layer: MakeLayer, kind: str) -> None:
    layer, sender = make_layer(), make_layer()
    channel = await channel_of(layer, kind)
    for n in range(20):
        receiving = await started(layer.receive(channel))
        sending = asyncio.create_task(sender.send(channel, {"n": n}))
        for _ in range(n):  # at another moment each time
            await asyncio.sleep(0)
        receiving.cancel()
        await sending
        try:
            message = await receiving
        except asyncio.CancelledError:
            message = await within(layer.receive(channel))
        assert message == {"n": n}
    await nothing_to_receive(layer, channel)


@pytest.mark.single_server("there the same answer may serve the second receiver, before the first is cancelled")
async def test_a_cancelled_receive_leaves_its_message_to_the_next_in_order(make_layer: MakeLayer, kind: str) -> None:
    """Cancelled when the message is already its own: the message goes back to the front."""
    layer = make_layer()
    channel = await channel_of(layer, kind)
    first = await started(layer.receive(channel))
    second = await started(layer.receive(channel))
    await asyncio.gather(*(layer.send(channel, {"n": n}) for n in range(3)))
    first.cancel()
    await asyncio.wait([first])
    expected = [{"n": n} for n in range(3)]
    if not first.cancelled():
        assert first.result() == expected.pop(0)
    assert [await within(second), *await receive_many(layer, channel, len(expected) - 1)] == expected


# Names.


async def test_new_channel_names(make_layer: MakeLayer) -> None:
    layer, other = make_layer(), make_layer()
    names = [await layer.new_channel() for _ in range(100)]
    assert len(set(names)) == 100
    assert all(re.fullmatch(r"specific\.[0-9a-f]{32}![0-9a-f]{32}", name) for name in names)
    assert len({layer.non_local_name(name) for name in names}) == 1
    assert (await layer.new_channel("chat")).startswith("chat.")
    assert (await layer.new_channel(prefix="chat")).startswith("chat.")
    assert layer.non_local_name(await other.new_channel()) != layer.non_local_name(names[0])
    assert all(layer.require_valid_channel_name(name) for name in names)


async def test_every_prefix_of_new_channel_is_served(make_layer: MakeLayer) -> None:
    """One waits and is served, whichever others wait on other keys."""
    layer, sender = make_layer(), make_layer()
    channels = [await layer.new_channel(prefix=f"p{n}") for n in range(5)]
    receiving = [await started(layer.receive(name)) for name in channels]
    for name in reversed(channels):
        await sender.send(name, {"to": name})
    assert await within(asyncio.gather(*receiving)) == [{"to": name} for name in channels]


async def test_a_specific_channel_of_another_process_cannot_be_received_on(make_layer: MakeLayer) -> None:
    layer, other = make_layer(), make_layer()
    with pytest.raises(AssertionError, match="Wrong client prefix"):
        await within(layer.receive(await other.new_channel()))


@pytest.mark.parametrize("name", ["x" * 99, "a-b_c.D9", "chat٣", "chat\n"])
async def test_every_name_that_channels_allows_works(make_layer: MakeLayer, name: str) -> None:
    """Digits of all scripts and one final newline are allowed, if only by Channels' regular expression."""
    layer = make_layer()
    await layer.send(name, {"to": name})
    assert await within(layer.receive(name)) == {"to": name}
    await layer.group_add("g", name)
    await layer.group_send("g", {"group": 1})
    assert await within(layer.receive(name)) == {"group": 1}


# Time.


async def test_what_has_expired_in_redis_is_not_received(
    make_layer: MakeLayer, raw: Any, prefix: str, kind: str
) -> None:
    """Expired messages go when the next one is sent; the key itself lives on as long as it is sent to."""
    layer = make_layer(expiry=60)
    channel = await channel_of(layer, kind)
    await layer.send(channel, {"n": 1})
    key = prefix + layer.non_local_name(channel)
    [(member, score)] = raw.zrange(key, 0, -1, withscores=True)
    raw.zadd(key, {member: score - 62})
    await layer.send(channel, {"n": 2})
    assert raw.zcard(key) == 1
    assert await within(layer.receive(channel)) == {"n": 2}


async def test_what_nobody_fetches_from_its_mailbox_expires(make_layer: MakeLayer) -> None:
    """Fetched from Redis along with a neighbour's messages, and never asked for."""
    layer, sender = make_layer(expiry=1), make_layer()
    forgotten, other = await layer.new_channel(), await layer.new_channel()
    await sender.send(forgotten, {"n": 1})
    await sender.send(other, {"n": 2})
    assert await within(layer.receive(other)) == {"n": 2}
    await until(lambda: layer.stats()["expired"] == 1)
    await nothing_to_receive(layer, forgotten)


# The rest of the interface.


async def test_extensions_and_what_else_a_layer_has(make_layer: MakeLayer) -> None:
    layer = make_layer()
    assert set(layer.extensions) == {"groups", "flush"}
    await within(layer.wait_received())


def test_the_text_of_a_layer_has_hosts_and_no_password() -> None:
    hosts: list[Any] = [
        "redis://user:s3cret@example.org:7000/1",
        {"host": "other", "port": 7001, "password": "s3cret"},
        ("third", 7002),
        "unix://:s3cret@/run/redis.sock",
        {"address": "redis://fourth", "password": "s3cret"},
    ]
    text = str(RedisChannelLayer(hosts=hosts))
    for part in ("RedisChannelLayer", "example.org:7000", "other:7001", "third:7002", "/run/redis.sock", "fourth:6379"):
        assert part in text
    assert "s3cret" not in text


async def test_counters(make_layer: MakeLayer) -> None:
    layer = make_layer()
    channel = await layer.new_channel()
    await layer.send(channel, {})
    await layer.group_add("g", channel)
    await layer.group_send("g", {})
    await receive_many(layer, channel, 2)
    stats = layer.stats()
    assert (stats["sends"], stats["group_sends"], stats["receives"]) == (1, 1, 2)
    assert stats["undecodable"] == stats["dropped"] == stats["channel_full"] == 0
