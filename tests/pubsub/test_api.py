"""Send, receive, new channels and groups: what is particular to Pub/Sub."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from channels_redis_fast.serializers import BaseMessageSerializer, registry
from tests.core.helpers import receive_many, started, until, within
from tests.pubsub.helpers import subscribers

MakeLayer = Callable[..., RedisPubSubChannelLayer]


async def members(layer: RedisPubSubChannelLayer, count: int, group: str = "room") -> list[str]:
    """New channels, all in one group."""
    channels = [await layer.new_channel() for _ in range(count)]
    for channel in channels:
        await layer.group_add(group, channel)
    return channels


# Send and receive.


async def test_new_channels(make_layer: MakeLayer, prefix: str) -> None:
    layer = make_layer()
    names = [await layer.new_channel() for _ in range(3)] + [await layer.new_channel("other.")]
    assert len(set(names)) == 4
    for name in names[:3]:
        assert re.fullmatch(re.escape(prefix) + r"specific\.[0-9a-f]{32}", name)
    assert re.fullmatch(re.escape(prefix) + r"other\.[0-9a-f]{32}", names[3])
    assert all(layer.require_valid_channel_name(name) for name in names)


async def test_the_first_receive_subscribes(make_layer: MakeLayer, raw: Any, prefix: str) -> None:
    layer, peer = make_layer(), make_layer()
    name = f"{prefix}general"
    receiving = await started(layer.receive(name))
    await until(lambda: subscribers(raw, name) == 1)
    await peer.send(name, {"n": 1})
    assert await within(receiving) == {"n": 1}
    await peer.send(name, {"n": 2})
    assert await within(layer.receive(name)) == {"n": 2}


async def test_what_nobody_listens_to_is_gone(make_layer: MakeLayer, prefix: str) -> None:
    layer = make_layer()
    await within(layer.send(f"{prefix}nobody", {"n": 1}))
    await within(layer.group_send("nobody", {"n": 1}))


async def test_order_of_group_sends(make_layer: MakeLayer) -> None:
    """Of one after another and of gathered ones, which are more than one batch takes."""
    layer, peer = make_layer(), make_layer()
    [channel] = await members(layer, 1)
    for n in range(100):
        await peer.group_send("room", {"n": n})
    await within(asyncio.gather(*(peer.group_send("room", {"n": n}) for n in range(100, 2500))))
    assert await receive_many(layer, channel, 2500) == [{"n": n} for n in range(2500)]


@pytest.mark.single_server("a channel and its group are on two nodes, as a rule")
async def test_order_of_sends_and_group_sends(make_layer: MakeLayer) -> None:
    layer, peer = make_layer(), make_layer()
    [channel] = await members(layer, 1)
    await within(
        asyncio.gather(
            *(peer.send(channel, {"n": n}) if n % 3 else peer.group_send("room", {"n": n}) for n in range(500))
        )
    )
    assert await receive_many(layer, channel, 500) == [{"n": n} for n in range(500)]


async def test_many_producers_and_consumers(make_layer: MakeLayer) -> None:
    layer, peer = make_layer(), make_layer()
    channels = [await layer.new_channel() for _ in range(20)]
    receiving = [await started(receive_many(layer, channel, 100)) for channel in channels]

    async def produce(sender: RedisPubSubChannelLayer, channel: str) -> None:
        for n in range(100):
            await sender.send(channel, {"n": n, "to": channel})

    await within(asyncio.gather(*(produce((layer, peer)[n % 2], channel) for n, channel in enumerate(channels))))
    for channel, got in zip(channels, await within(asyncio.gather(*receiving)), strict=True):
        assert got == [{"n": n, "to": channel} for n in range(100)]


# Groups.


async def test_a_channel_of_nobody_is_refused(make_layer: MakeLayer) -> None:
    """A channel of another process is none of ours either."""
    layer, peer = make_layer(), make_layer()
    await layer.new_channel()
    for channel in ("unknown", await peer.new_channel()):
        with pytest.raises(RuntimeError, match=re.escape(channel)):
            await layer.group_add("room", channel)
    await layer.group_send("room", {"n": 1})  # and nothing is half done


# Whose a message is.


async def test_a_group_message_is_decoded_once(make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    """In each process, however many members it has; so says the issue, and a site's own serializer may be slow."""
    decoded: list[bytes] = []

    class Counting(BaseMessageSerializer):
        def as_bytes(self, message: Any, *args: Any, **kwargs: Any) -> bytes:
            return bytes(msgpack.packb(message))

        def from_bytes(self, message: bytes, *args: Any, **kwargs: Any) -> Any:
            decoded.append(message)
            return msgpack.unpackb(message)

    monkeypatch.setitem(registry._registry, "counting", Counting)
    layer = make_layer(serializer_format="counting")
    channels = await members(layer, 50)
    await layer.group_send("room", {"n": [1]})
    got = [await within(layer.receive(channel)) for channel in channels]
    assert got == [{"n": [1]}] * 50
    assert len({id(message["n"]) for message in got}) == 50, "members share one message"
    assert len(decoded) == 1


# What is refused.


@pytest.mark.parametrize("options", [{}, {"symmetric_encryption_keys": ["s3cret"]}, {"serializer_format": "json"}])
async def test_a_message_that_is_no_dict(make_layer: MakeLayer, options: dict[str, Any]) -> None:
    """As in channels_redis, Pub/Sub carries what the serializer takes; each member of a group has its own."""
    layer = make_layer(**options)
    channels = [await layer.new_channel() for _ in range(3)]
    for channel in channels:
        await layer.group_add("room", channel)
    messages: list[Any] = [[], ["list", {"nested": 1}], "text", "", 5, 0, 2.5, False]
    for message in messages:
        await layer.send(channels[0], message)
        assert await within(layer.receive(channels[0])) == message
        await layer.group_send("room", message)
        got = [await within(layer.receive(channel)) for channel in channels]
        assert got == [message] * 3
        assert not isinstance(message, list) or len({id(one) for one in got}) == 3
    await layer.send_many([(channels[0], "many")])  # type: ignore[list-item]
    assert await within(layer.receive(channels[0])) == "many"
    with pytest.raises(TypeError, match="group room"):
        await layer.group_send("room", object())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=re.escape(channels[0])):
        await layer.send(channels[0], None)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{}, {"symmetric_encryption_keys": ["s3cret"]}])
@pytest.mark.parametrize(
    "message", [{"seats": {1: "ann", 2: "bob"}}, {1: 2}, {"type": "x", "deep": [{None: {2.5: 1}}]}]
)
async def test_keys_that_are_no_text(make_layer: MakeLayer, options: dict[str, Any], message: Any) -> None:
    """What can be sent can be received."""
    layer = make_layer(**options)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.send(channel, message)
    await layer.group_send("room", message)
    assert [await within(layer.receive(channel)) for _ in range(2)] == [message] * 2


async def test_names_that_are_no_strings(make_layer: MakeLayer) -> None:
    layer = make_layer()
    for call in (layer.send(5, {}), layer.group_send(5, {})):  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="int"):
            await call


async def test_large_messages_do_not_leave_in_one_write(make_layer: Any) -> None:
    """A batch is bounded in bytes too."""
    layer = make_layer()
    channel = await layer.new_channel()
    before = layer.stats()["batches"]
    await layer.send_many([(channel, {"n": n, "text": "x" * 600_000}) for n in range(10)])
    assert layer.stats()["batches"] - before >= 5
    assert [(await layer.receive(channel))["n"] for _ in range(10)] == list(range(10))
