"""Send and receive: what arrives, where, and in which order; and what cannot be sent."""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Awaitable, Callable
from typing import Any

import msgpack
import pytest

from tests.both.conftest import LAYERS
from tests.core.helpers import blocked, end, named, nothing_to_receive, receive_many, started, until, within

MakeLayer = Callable[..., Any]
ChannelOf = Callable[[Any], Awaitable[str]]

MESSAGES: dict[str, dict[str, Any]] = {
    "empty": {},
    "flat": {"type": "chat.message", "text": "a ü 😀 \0", "n": -1, "big": 2**63, "x": 1.5, "yes": True, "none": None},
    "bytes": {"bytes": b"\x00\xff\r\n", "empty": b"", "text": ""},
    "nested": {"list": [1, [2, {"three": [None, b"4"]}]], "dict": {"a": {"b": {}}}, "empty": [[], {}]},
    # A packed map's header grows by two bytes from 15 to 16 entries, on core the channel's own among them.
    "14 keys": {f"k{n}": n for n in range(14)},
    "15 keys": {f"k{n}": n for n in range(15)},
    "16 keys": {f"k{n}": n for n in range(16)},
    "bytes keys": {"type": "x", "map": {b"raw": 1}},
    "1 MB": {"type": "x", "text": "a" * 1_000_000},
    "3 MB": {"type": "x", "data": b"\n" * 3_000_000},
}


@pytest.mark.parametrize("name", MESSAGES)
async def test_what_is_sent_is_received(make_layer: MakeLayer, channel_of: ChannelOf, name: str) -> None:
    layer = make_layer()
    channel = await channel_of(layer)
    message = copy.deepcopy(MESSAGES[name])
    await layer.send(channel, message)
    assert message == MESSAGES[name], "the sender's message was changed"
    received = await within(layer.receive(channel))
    assert received == message
    assert [type(value) for value in received.values()] == [type(value) for value in message.values()]


async def test_a_tuple_arrives_as_a_list(make_layer: MakeLayer, channel_of: ChannelOf) -> None:
    """As msgpack has it, and upstream with it."""
    layer = make_layer()
    channel = await channel_of(layer)
    await layer.send(channel, {"pair": (1, (2,))})
    assert await within(layer.receive(channel)) == {"pair": [1, [2]]}


async def test_receive_before_send(make_layer: MakeLayer, channel_of: ChannelOf) -> None:
    layer = make_layer()
    channel = await channel_of(layer)
    receiving = await started(layer.receive(channel))
    await make_layer().send(channel, {"type": "late"})
    assert await within(receiving) == {"type": "late"}


async def test_the_sender_may_be_another_process(make_layer: MakeLayer, channel_of: ChannelOf) -> None:
    here, there = make_layer(), make_layer()
    channel = await channel_of(here)
    for n in range(3):
        await there.send(channel, {"n": n})
    assert await receive_many(here, channel, 3) == [{"n": n} for n in range(3)]


# Order.


async def test_awaited_sends_of_several_processes_keep_their_order(
    make_layer: MakeLayer, channel_of: ChannelOf
) -> None:
    senders = [make_layer() for _ in range(3)]
    receiver = make_layer()
    channel = await channel_of(receiver)
    for n in range(60):
        await senders[n % 3].send(channel, {"n": n})
    assert await receive_many(receiver, channel, 60) == [{"n": n} for n in range(60)]


@pytest.mark.parametrize("how", ["gather", "tasks"])
async def test_sends_of_one_tick_keep_their_order(make_layer: MakeLayer, channel_of: ChannelOf, how: str) -> None:
    layer = make_layer(capacity=10_000)
    channel = await channel_of(layer)
    # The first time without a connection, then with one; the last are more than one batch takes.
    for start, stop in ((0, 200), (200, 400), (400, 2000)):
        sends = [layer.send(channel, {"n": n}) for n in range(start, stop)]
        if how == "gather":
            await within(asyncio.gather(*sends))
        else:
            for task in [asyncio.create_task(send) for send in sends]:
                await within(task)
    assert await receive_many(layer, channel, 2000) == [{"n": n} for n in range(2000)]


async def test_order_holds_while_receiving(make_layer: MakeLayer, channel_of: ChannelOf) -> None:
    """Bursts of all sizes, so that messages come popped, peeked and stored, in every mixture."""
    sender, receiver = make_layer(capacity=10_000), make_layer(capacity=10_000)
    channel = await channel_of(receiver)
    receiving = await started(receive_many(receiver, channel, 3000))
    sizes, sent = random.Random(7), 0
    while sent < 3000:
        burst = min(sizes.choice([1, 1, 2, 5, 40, 700]), 3000 - sent)
        await within(asyncio.gather(*(sender.send(channel, {"n": n}) for n in range(sent, sent + burst))))
        sent += burst
    assert await receiving == [{"n": n} for n in range(3000)]


# Several receivers.


async def test_several_receivers_of_one_channel_are_served_in_turn(
    make_layer: MakeLayer, channel_of: ChannelOf, kind: str, raw: Any, redis_server: Any, prefix: str
) -> None:
    """First come, first served, each message once; what is sent one by one, and what is sent in one tick."""
    layer = make_layer(hosts=[named(redis_server.url, prefix)])
    channel = await channel_of(layer)
    sender = make_layer()
    for gathered in (False, True):
        receivers = [await started(layer.receive(channel)) for _ in range(5)]
        if kind == "core":
            await until(lambda: blocked(raw, prefix) == 1)
        sends = [sender.send(channel, {"n": n}) for n in range(5)]
        if gathered:
            await within(asyncio.gather(*sends))
        else:
            for send in sends:
                await within(send)
        assert await within(asyncio.gather(*receivers)) == [{"n": n} for n in range(5)]
    await nothing_to_receive(layer, channel)


async def test_a_cancelled_receive_takes_nothing_along(make_layer: MakeLayer, channel_of: ChannelOf) -> None:
    layer, sender = make_layer(), make_layer()
    channel = await channel_of(layer)
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
async def test_a_cancelled_receive_leaves_its_message_to_the_next_in_order(
    make_layer: MakeLayer, channel_of: ChannelOf
) -> None:
    """Cancelled when the message is already its own: the message goes back to the front."""
    layer = make_layer()
    channel = await channel_of(layer)
    first = await started(layer.receive(channel))
    second = await started(layer.receive(channel))
    await asyncio.gather(*(layer.send(channel, {"n": n}) for n in range(3)))
    first.cancel()
    await asyncio.wait([first])
    expected = [{"n": n} for n in range(3)]
    if not first.cancelled():
        assert first.result() == expected.pop(0)
    assert [await within(second), *await receive_many(layer, channel, len(expected) - 1)] == expected


# What cannot be sent.


class Deep(list[Any]):
    """Deeper than msgpack goes."""

    def __init__(self) -> None:
        super().__init__()
        inner: list[Any] = self
        for _ in range(2000):
            inner.append([])
            inner = inner[0]


UNPACKABLE: dict[str, tuple[Any, type[Exception]]] = {
    "object": (object(), TypeError),
    "set": ({1}, TypeError),
    "nested": ({"a": [object()]}, TypeError),
    "large number": (2**64, OverflowError),
    "lone surrogate": ("\ud800", UnicodeEncodeError),
    "deep": (Deep(), ValueError),
}


@pytest.mark.parametrize("name", UNPACKABLE)
async def test_a_value_that_cannot_be_packed(make_layer: MakeLayer, channel_of: ChannelOf, name: str) -> None:
    """The serializer's own error, and where the message was going: in a log nothing else tells."""
    value, error = UNPACKABLE[name]
    layer = make_layer()
    assert type_of_error(value) is error
    channel = await channel_of(layer)
    good = asyncio.gather(*(layer.send(channel, {"n": n}) for n in range(3)))
    with pytest.raises(error) as raised:
        await layer.send(channel, {"type": "x", "value": value})
    assert type(raised.value) is error
    assert channel in str(raised.value)
    await good
    assert await receive_many(layer, channel, 3) == [{"n": n} for n in range(3)]
    await nothing_to_receive(layer, channel)
    await layer.group_add("some.room", channel)
    with pytest.raises(error, match=r"some\.room") as raised:
        await layer.group_send("some.room", {"type": "x", "value": value})
    assert type(raised.value) is error
    await nothing_to_receive(layer, channel)


def type_of_error(value: Any) -> type[Exception]:
    try:
        msgpack.packb({"type": "x", "value": value})
    except Exception as error:
        return type(error)
    raise AssertionError("msgpack packs it")


@pytest.mark.parametrize("options", [{"serializer_format": "json"}, {"symmetric_encryption_keys": ["k"]}], ids=str)
async def test_what_another_serializer_cannot_pack(make_layer: MakeLayer, options: dict[str, Any]) -> None:
    layer = make_layer(**options)
    channel = await layer.new_channel("some")
    await layer.group_add("some.room", channel)
    with pytest.raises(TypeError, match=channel):
        await layer.send(channel, {"value": object()})
    with pytest.raises(TypeError, match=r"some\.room"):
        await layer.group_send("some.room", {"value": object()})
    await nothing_to_receive(layer, channel)


# The rest of the interface.


async def test_extensions(make_layer: MakeLayer) -> None:
    layer = make_layer()
    assert hasattr(layer, "extensions")
    assert set(layer.extensions) == {"groups", "flush"}


def test_the_text_of_a_layer_has_hosts_and_no_password(kind: str) -> None:
    hosts: list[Any] = [
        "redis://user:s3cret@example.org:7000/1",
        {"host": "other", "port": 7001, "password": "s3cret"},
        ("third", 7002),
        "unix://:s3cret@/run/redis.sock",
        {"address": "redis://fourth", "password": "s3cret"},
    ]
    layer = LAYERS[kind](hosts=hosts)
    places = ("example.org:7000", "other:7001", "third:7002", "/run/redis.sock", "fourth:6379")
    for part in (LAYERS[kind].__name__, *places):
        assert part in str(layer)
    assert LAYERS[kind].__name__ in repr(layer)
    for text in (str(layer), repr(layer)):
        assert "s3cret" not in text


async def test_counters(make_layer: MakeLayer) -> None:
    layer = make_layer()
    first, second = await layer.new_channel(), await layer.new_channel()
    for channel in (first, second):
        await layer.group_add("room", channel)
    await layer.send(first, {})
    await layer.group_send("room", {})
    await receive_many(layer, first, 2)
    await receive_many(layer, second, 1)
    stats = layer.stats()
    assert (stats["sends"], stats["group_sends"], stats["receives"], stats["deliveries"]) == (1, 1, 3, 3)
    assert stats["undecodable"] == stats["dropped"] == stats["channel_full"] == 0
    # One that gets nothing is none.
    await end(await started(layer.receive(first)))
    assert layer.stats()["receives"] == 3
