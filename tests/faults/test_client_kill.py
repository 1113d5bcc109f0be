"""CLIENT KILL of every connection that a layer has, again and again while everybody sends and receives."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from bench.server import Server
from tests.core.helpers import clients, within
from tests.faults.load import (
    LAST,
    ROOMY,
    SOON,
    Ledger,
    Load,
    channels_on_all_shards,
    key_of,
    load_of,
    until_empty,
    until_subscribed,
)

pytestmark = pytest.mark.usefixtures("long_answers", "soon_again")

Make = Callable[..., Any]
OwnServer = Callable[..., Server]

#: In each test, over all connections.
KILLS = 20

#: What a connection is for, in CLIENT LIST.
COMMANDS, RECEIVER = "channels_redis_fast:core:commands", "channels_redis_fast:core:receiver"
PUBLISHER, SUBSCRIBER = "channels_redis_fast:pubsub:commands", "channels_redis_fast:pubsub:subscriber"


@pytest.fixture(params=[1, 2], ids=["one shard", "two shards"])
def raws(request: pytest.FixtureRequest, own_server: OwnServer) -> Iterator[list[redis.Redis]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(redis.Redis.from_url(own_server().url)) for _ in range(request.param)]


def hosts_of(raws: list[redis.Redis]) -> list[tuple[str, int]]:
    return [("127.0.0.1", raw.connection_pool.connection_kwargs["port"]) for raw in raws]


async def kill_again_and_again(
    raws: list[redis.Redis], load: Load, expected: dict[str, int], kills: int = KILLS
) -> Counter[str]:
    """
    Kill connections as soon as all are back, one or more of them; see them back; return the kills by name.

    `expected` says how many connections of which name each server has.
    """
    moments = random.Random("client kill")
    killed: Counter[str] = Counter()
    dead: set[tuple[str, int, str]] = set()

    def living() -> list[tuple[str, int, str]]:
        return [
            (name, shard, client["id"])
            for shard, raw in enumerate(raws)
            for name in expected
            for client in clients(raw, name)
        ]

    def are_back() -> bool:
        connections = living()
        there = Counter((name, shard) for name, shard, _ in connections)
        return dead.isdisjoint(connections) and all(
            there[name, shard] == count for name, count in expected.items() for shard in range(len(raws))
        )

    while killed.total() < kills or set(killed) < set(expected):
        await load.until(are_back, SOON)
        await load.moves(seconds=SOON)
        targets = living()
        moments.shuffle(targets)
        for name, shard, client in targets[: moments.choice([moments.randint(1, len(targets)), len(targets)])]:
            killed[name] += raws[shard].client_kill_filter(_id=client)
            dead.add((name, shard, client))
            for _ in range(moments.randrange(5)):
                await asyncio.sleep(0)
    await load.until(are_back, SOON)
    print(dict(killed))
    return killed


async def send_to(load: Load, layer: Any, channels: list[str], sender: str = "") -> None:
    for channel in channels:
        flow = f"{sender} to {channel}"
        await load.send(lambda channel=channel, flow=flow: load.ledger.send(layer, channel, flow))  # type: ignore[misc]


async def test_core_specific_channels(raws: list[redis.Redis], make_core: Make) -> None:
    """One message at most for each receiver's connection; the rest once and in order."""
    receiving, sending = [make_core(hosts=hosts_of(raws), capacity=ROOMY) for _ in range(2)]
    async with load_of(Ledger()) as load:
        channels = await channels_on_all_shards(receiving, 3)
        for channel in channels:
            await load.receive(receiving, channel)
        for number, layer in enumerate((receiving, sending)):
            await send_to(load, layer, channels, f"from {number}")
        killed = await kill_again_and_again(raws, load, {COMMANDS: 2, RECEIVER: 1})
        await load.stop_sending()
        await within(asyncio.gather(*(sending.send(channel, LAST) for channel in channels)))
        await load.stop_receiving()
        load.ledger.check(lost=killed[RECEIVER])
        for channel in channels:
            await until_empty(raws, key_of(receiving, channel))


async def test_core_general_channel(raws: list[redis.Redis], make_core: Make) -> None:
    """The same where two processes share the messages; both receive and send."""
    layers = [make_core(hosts=hosts_of(raws), capacity=ROOMY) for _ in range(2)]
    async with load_of(Ledger()) as load:
        for number, layer in enumerate(layers):
            await load.receive(layer, "jobs", f"first of {number}")
            await load.receive(layer, "jobs", f"second of {number}")
            await load.send(lambda layer=layer, flow=str(number): load.ledger.send(layer, "jobs", flow))  # type: ignore[misc]
        killed = await kill_again_and_again(raws, load, {COMMANDS: 2, RECEIVER: 2})
        await load.stop_sending()
        await until_empty(raws, key_of(layers[0], "jobs"))
        await within(asyncio.gather(*(layers[0].send("jobs", LAST) for _ in range(4))))
        await load.stop_receiving()
        load.ledger.check(lost=killed[RECEIVER], ordered=len(raws) == 1)


async def test_pubsub(raws: list[redis.Redis], make_pubsub: Make) -> None:
    """What is published while a subscriber is away is missed. Nothing hangs, is doubled or disordered."""
    receiving, sending = [make_pubsub(hosts=hosts_of(raws)) for _ in range(2)]
    async with load_of(Ledger()) as load:
        channels = await channels_on_all_shards(receiving, 4)
        for number, channel in enumerate(channels):
            await receiving.group_add(f"room {number % 4}", channel)
            await load.receive(receiving, channel)
        await send_to(load, sending, channels)
        for number in range(4):
            await load.send(
                lambda number=number: load.ledger.group_send(  # type: ignore[misc]
                    sending, f"room {number}", f"in room {number}", channels[number::4]
                )
            )
        await kill_again_and_again(raws, load, {PUBLISHER: 1, SUBSCRIBER: 1})
        await until_subscribed(raws, receiving, channels, (f"room {number}" for number in range(4)))
        await load.stop_sending()
        # Nobody is left out: everything arrives now.
        await within(asyncio.gather(*(load.ledger.send(sending, channel, "after") for channel in channels)))
        for number in range(4):
            room = f"room {number}"
            await within(load.ledger.group_send(sending, room, f"after in {room}", channels[number::4]))
        # Of what comes from two shards either may come first, the last message of a channel too.
        flows = ["after", *(f"after in room {number}" for number in range(4))]
        await load.until(lambda: not any(load.ledger.lost_of(flow) for flow in flows))
        await within(asyncio.gather(*(sending.send(channel, LAST) for channel in channels)))
        await load.stop_receiving()
        load.ledger.check(lost=load.ledger.sent)


async def test_pubsub_publisher(raws: list[redis.Redis], make_pubsub: Make) -> None:
    """The death of a connection that only sends costs nothing of what was acknowledged."""
    receiving, sending = [make_pubsub(hosts=hosts_of(raws)) for _ in range(2)]
    async with load_of(Ledger()) as load:
        channels = await channels_on_all_shards(receiving, 4)
        for channel in channels:
            await load.receive(receiving, channel)
        await send_to(load, sending, channels)
        await kill_again_and_again(raws, load, {PUBLISHER: 1}, kills=10)
        await load.stop_sending()
        await within(asyncio.gather(*(sending.send(channel, LAST) for channel in channels)))
        await load.stop_receiving()
        load.ledger.check()
