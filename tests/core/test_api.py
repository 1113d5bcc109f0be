"""Send and receive: keys that channels share, workers that share a channel, names and time."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest

from channels_redis_fast.core import RedisChannelLayer
from tests.core.helpers import end, nothing_to_receive, receive_many, started, until, within

MakeLayer = Callable[..., RedisChannelLayer]


async def channel_of(layer: RedisChannelLayer, kind: str) -> str:
    return await layer.new_channel() if kind == "specific" else "general"


@pytest.fixture(params=["specific", "general"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_channels_on_one_key_do_not_mix(make_layer: MakeLayer) -> None:
    layer, sender = make_layer(capacity=1000), make_layer(capacity=1000)
    channels = [await layer.new_channel() for _ in range(10)]
    receiving = await started(receive_many(layer, channels[0], 20))
    await within(asyncio.gather(*(sender.send(name, {"n": n, "to": name}) for n in range(20) for name in channels)))
    assert await receiving == [{"n": n, "to": channels[0]} for n in range(20)]
    for name in channels[1:]:
        assert await receive_many(layer, name, 20) == [{"n": n, "to": name} for n in range(20)]


# Several receivers.


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


async def test_wait_received(make_layer: MakeLayer) -> None:
    """It has nothing to wait for, and is there for who calls it on channels_redis."""
    await within(make_layer().wait_received())
