"""What a receiver reads ahead and removes is bounded in bytes, and nothing comes twice or out of order for that."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import msgpack
import pytest
import redis

from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.core.read_ahead import (
    EMPTY_LOOKS,
    FEWEST_MEMBERS,
    LEFT_OUT,
    MOST_MEMBERS,
    READ_BYTES,
    REMOVAL_BYTES,
    ReadAhead,
    take_removals,
)
from tests.core.helpers import nothing_to_receive, receive_many, until

MakeLayer = Callable[..., RedisChannelLayer]


def fill(raw: redis.Redis, key: str, channel: str, sizes: list[int]) -> None:
    """Let messages of these sizes wait, as if another process had sent them."""
    now = time.time()
    for n, size in enumerate(sizes):
        body = msgpack.packb({"n": n, "data": b"x" * size, "__asgi_channel__": channel})
        raw.zadd(key, {os.urandom(12) + body: now + n / 1e6})


async def test_what_follows_a_large_message_is_left_in_redis(
    make_layer: MakeLayer, raw: redis.Redis, prefix: str
) -> None:
    layer = make_layer()
    channel = await layer.new_channel()
    key, large, count = prefix + layer.non_local_name(channel), 3 * READ_BYTES, 12
    fill(raw, key, channel, [large] * count)
    assert [message["n"] for message in await receive_many(layer, channel, 1)] == [0]
    await layer.send(await layer.new_channel("other"), {})
    # What was read and not asked for lies in the process.
    assert layer.stats()["bytes_received"] < 3 * large
    assert [message["n"] for message in await receive_many(layer, channel, count - 1)] == list(range(1, count))
    await nothing_to_receive(layer, channel)
    # Nothing is read twice: each costs its own size.
    assert layer.stats()["bytes_received"] < (count + 1) * large


async def test_large_messages_among_small_ones_come_once_and_in_order(
    make_layer: MakeLayer, raw: redis.Redis, prefix: str
) -> None:
    layer = make_layer(capacity=10_000)
    channel = await layer.new_channel()
    sizes = [2 * READ_BYTES if n % 100 == 50 else 10 for n in range(600)]
    fill(raw, prefix + layer.non_local_name(channel), channel, sizes)
    received = await receive_many(layer, channel, len(sizes))
    assert [(message["n"], len(message["data"])) for message in received] == list(enumerate(sizes))
    await nothing_to_receive(layer, channel)


@pytest.mark.single_server("what one server has read is counted")
async def test_a_large_removal_goes_in_parts(make_layer: MakeLayer, raw: redis.Redis, prefix: str) -> None:
    layer = make_layer(capacity=10_000)
    channel = await layer.new_channel()
    key = prefix + layer.non_local_name(channel)
    # Small ones first, so that many of the larger ones are read at once.
    sizes = [10] * 700 + [REMOVAL_BYTES // 8] * 80
    fill(raw, key, channel, sizes)
    before = raw.info("stats")["total_net_input_bytes"]
    received = await receive_many(layer, channel, len(sizes))
    assert [message["n"] for message in received] == list(range(len(sizes)))
    await nothing_to_receive(layer, channel)
    await until(lambda: not raw.zcard(key))
    assert raw.info("stats")["total_net_input_bytes"] - before < 1.5 * sum(sizes)


def test_nothing_is_read_ahead_of_an_unknown_size_nor_behind_a_large_message() -> None:
    ahead = ReadAhead()
    assert ahead.count == 0
    ahead.popped(b"x" * 100)
    assert ahead.count == FEWEST_MEMBERS
    ahead.popped(b"x" * (READ_BYTES + 1))
    assert ahead.count == 0
    for _ in range(20):
        ahead.popped(b"x" * 100)
    assert ahead.count == FEWEST_MEMBERS


def test_the_number_read_grows_while_replies_are_full_and_is_bounded_in_bytes() -> None:
    ahead = ReadAhead()
    ahead.popped(b"x")
    for _ in range(10):
        ahead.read(ahead.count, [b"x"] * ahead.count)
    assert ahead.count == MOST_MEMBERS
    ahead.read(ahead.count, [b"x" * 10_000] * ahead.count)
    assert ahead.count == READ_BYTES // 10_000
    for _ in range(30):
        ahead.read(ahead.count, [])
        ahead.popped(b"x")
    assert ahead.count == FEWEST_MEMBERS


def test_looks_that_find_nothing_become_rare_until_one_finds_something() -> None:
    ahead = ReadAhead()
    assert ahead.count_behind() == 0
    ahead.popped(b"x")

    def looks(waits: int, found: int) -> list[bool]:
        """For each wait whether there was a look, which found so much."""
        made = []
        for _ in range(waits):
            count = ahead.count_behind()
            made.append(count > 0)
            if count:
                ahead.read(count, [b"x"] * found)
        return made

    rare = [*[False] * LEFT_OUT, True]
    assert looks(EMPTY_LOOKS + 2 * len(rare), 0) == [True] * EMPTY_LOOKS + 2 * rare
    assert looks(len(rare) + 2, 1) == [*rare, True, True]
    assert looks(EMPTY_LOOKS + 1, 0) == [True] * EMPTY_LOOKS + [False]


@pytest.mark.single_server("on a cluster each look is for many keys, and is what a key is read with")
async def test_messages_one_at_a_time_are_not_looked_behind_each_time(make_layer: MakeLayer, raw: redis.Redis) -> None:
    layer = make_layer()
    channel = await layer.new_channel()

    async def trips(count: int) -> int:
        """How many looks these were."""
        before = raw.info("commandstats").get("cmdstat_zrange", {}).get("calls", 0)
        for number in range(count):
            await layer.send(channel, {"n": number})
            assert (await layer.receive(channel))["n"] == number
        return raw.info("commandstats").get("cmdstat_zrange", {}).get("calls", 0) - before  # type: ignore[no-any-return]

    assert await trips(40) <= 20
    # Many at once all come, in order, though nobody looked.
    await layer.send_many([(channel, {"n": number}) for number in range(60)])
    assert [(await layer.receive(channel))["n"] for _ in range(60)] == [*range(60)]


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [
        ([], []),
        ([10, 20], [2]),
        ([REMOVAL_BYTES], [1]),
        ([3 * REMOVAL_BYTES, 3 * REMOVAL_BYTES, 1], [1, 1, 1]),
        ([REMOVAL_BYTES // 2] * 5, [2, 2, 1]),
    ],
)
def test_removals_are_taken_in_order_and_in_parts(sizes: list[int], parts: list[int]) -> None:
    members = [bytes(size) for size in sizes]
    removals = {0: [*members], 1: [b"of another shard"]}
    taken = []
    while part := take_removals(removals, 0):
        taken.append(part)
    assert [len(part) for part in taken] == parts
    assert [member for part in taken for member in part] == members
    assert removals == {1: [b"of another shard"]}
