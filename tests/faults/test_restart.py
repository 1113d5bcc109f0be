"""A server that is killed and comes back with what it had written, again and again, under load."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis

from bench.server import Server
from tests.core.helpers import within
from tests.faults.load import LAST, ROOMY, SOON, Ledger, Load, key_of, load_of, until_empty, until_subscribed

pytestmark = pytest.mark.usefixtures("long_answers", "soon_again")

Make = Callable[..., Any]
OwnServer = Callable[..., Server]

#: What is acknowledged is on disk, so that a kill loses nothing that the server has promised.
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")

#: Of each server, and how many messages come between two of them.
KILLS, BETWEEN = 4, 100


@pytest.fixture(params=[1, 2], ids=["one shard", "two shards"])
def servers(request: pytest.FixtureRequest, own_server: OwnServer) -> list[Server]:
    return [own_server(*DURABLE) for _ in range(request.param)]


@contextlib.contextmanager
def raw_of(servers: list[Server]) -> Any:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(redis.Redis.from_url(server.url)) for server in servers]


async def kill_and_restart(servers: list[Server], load: Load, places: list[str]) -> None:
    """
    Kill each server in turn while messages move; see all places receive again.

    The servers are stopped and started in threads: the layers live through the outage here. They stand still before
    they die: of a write to disk that is cut off, a server keeps half a transaction, takes what comes next for the rest
    of it, and has another past the next time (valkey-io/valkey#4342).
    """
    for turn in range(KILLS * len(servers)):
        server = servers[turn % len(servers)]
        await load.moves(BETWEEN)
        await asyncio.to_thread(server.stall)
        await load.until(lambda: load.ledger.sent > load.ledger.acknowledged + load.ledger.raised)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.restart)
        accepting = time.monotonic()
        await asyncio.gather(*(load.moves_at(place) for place in places))
        assert time.monotonic() - accepting < SOON


async def send_from_two(make: Make, load: Load, channels: list[str]) -> None:
    for number in range(2):
        layer = make()
        for channel in channels:
            flow = f"{number} to {channel}"
            await load.send(lambda layer=layer, channel=channel, flow=flow: load.ledger.send(layer, channel, flow))  # type: ignore[misc]


async def test_core_specific_channels(servers: list[Server], make_core: Make) -> None:
    """One message at most for each blocking connection that died; the rest once and in order."""

    def make() -> Any:
        return make_core(hosts=[server.url for server in servers], capacity=ROOMY)

    receiving = [make(), make()]
    async with load_of(Ledger()) as load:
        channels = []
        for layer in receiving:
            for _ in range(3):
                channels.append(await layer.new_channel())
                await load.receive(layer, channels[-1])
        await send_from_two(make, load, channels)
        await kill_and_restart(servers, load, channels)
        await load.stop_sending()
        # Behind everything else in the order of each channel.
        await within(asyncio.gather(*(make().send(channel, LAST) for channel in channels)))
        await load.stop_receiving()
        # Each server has one blocking connection of each receiving layer.
        load.ledger.check(lost=KILLS * len(servers) * len(receiving))
        assert load.ledger.raised, "no send was under way when the server died"
        with raw_of(servers) as raws:
            for layer, channel in ((receiving[0], channels[0]), (receiving[1], channels[3])):
                await until_empty(raws, key_of(layer, channel))


async def test_core_general_channel(servers: list[Server], make_core: Make) -> None:
    """The same where two processes share the messages. Order is kept on one shard: on several nobody could."""

    def make() -> Any:
        return make_core(hosts=[server.url for server in servers], capacity=ROOMY)

    receiving = [make(), make()]
    async with load_of(Ledger()) as load:
        for layer in receiving:
            for number in range(2):
                await load.receive(layer, "jobs", f"{id(layer)} {number}")
        await send_from_two(make, load, ["jobs"])
        await kill_and_restart(servers, load, ["jobs"])
        await load.stop_sending()
        with raw_of(servers) as raws:
            await until_empty(raws, key_of(receiving[0], "jobs"))
        layer = make()
        await within(asyncio.gather(*(layer.send("jobs", LAST) for _ in range(4))))
        await load.stop_receiving()
        load.ledger.check(lost=KILLS * len(servers) * len(receiving), ordered=len(servers) == 1)
        assert load.ledger.raised, "no send was under way when the server died"


async def test_core_members_of_a_group(servers: list[Server], make_core: Make) -> None:
    """Membership is on disk too; what a group is sent comes once, or not at all for a connection that died."""
    hosts = [server.url for server in servers]
    layer, sender = make_core(hosts=hosts, capacity=ROOMY), make_core(hosts=hosts, capacity=ROOMY)
    async with load_of(Ledger()) as load:
        # Of different kinds, so of different keys, and with several shards on all of them.
        channels = [await layer.new_channel(f"kind{number}") for number in range(4)]
        for channel in channels:
            await layer.group_add("room", channel)
            await load.receive(layer, channel)
        await load.send(lambda: load.ledger.group_send(sender, "room", "room", channels))
        await kill_and_restart(servers, load, channels)
        await load.stop_sending()
        await within(sender.group_send("room", LAST))
        await load.stop_receiving()
        load.ledger.check(lost=KILLS * len(servers))


@contextlib.asynccontextmanager
async def pubsub_load(make: Make) -> AsyncIterator[tuple[Load, list[str]]]:
    """Receivers of their own channels and of a group, in two processes, and senders in both."""
    layers = [make(), make()]
    async with load_of(Ledger()) as load:
        channels = []
        for layer in layers:
            for _ in range(3):
                channels.append(await layer.new_channel())
                await layer.group_add("room", channels[-1])
        for number, channel in enumerate(channels):
            await load.receive(layers[number // 3], channel)
        await send_from_two(make, load, channels)
        for number, layer in enumerate(layers):
            await load.send(
                lambda layer=layer, flow=f"room {number}": load.ledger.group_send(layer, "room", flow, channels),  # type: ignore[misc]
                at_once=1,
            )
        yield load, channels
        await load.stop_sending()


async def test_pubsub(servers: list[Server], make_pubsub: Make) -> None:
    """What nobody hears during the outage is missed, as Pub/Sub has it. Nothing hangs, is doubled or disordered."""

    def make() -> Any:
        return make_pubsub(hosts=[server.url for server in servers])

    async with pubsub_load(make) as (load, channels):
        await kill_and_restart(servers, load, channels)
        await load.stop_sending()
        # Once everybody is subscribed again, to its channel and to the group, nothing is missed.
        layer = make()
        with raw_of(servers) as raws:
            await until_subscribed(raws, layer, channels, ["room"], processes=2)
        for flow in ("after", "again"):
            await within(asyncio.gather(*(load.ledger.send(layer, channel, flow) for channel in channels)))
        await within(load.ledger.group_send(layer, "room", "after all", channels))
        # Of what comes from two shards either may come first, the last message of a channel too.
        await load.until(lambda: not any(load.ledger.lost_of(flow) for flow in ("after", "again", "after all")))
        await within(asyncio.gather(*(layer.send(channel, LAST) for channel in channels)))
        await load.stop_receiving()
        load.ledger.check(lost=load.ledger.sent)
