"""Primaries that die, change places or say nothing, under load: what is lost of what was acknowledged, and what is not.

A cluster acknowledges what a primary has, and its replica has it somewhat later: that much can be lost with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.cluster.conftest import Make
from tests.clusters import QUICK, Cluster
from tests.core.helpers import nothing_to_receive, receive_many, started, until, within
from tests.faults.load import LAST, ROOMY, Ledger, Load, key_of, load_of
from tests.places import wait_until

#: Messages that come before a fault, and after it.
SOME = 300

#: Messages of one server that a replica may not have had when it died: on one machine that is milliseconds' worth.
UNREPLICATED = 100

#: Seconds for a replica to be promoted, on a busy machine.
PROMOTION = 30.0


@pytest.fixture(scope="module")
def replicated() -> Iterator[Cluster]:
    """Three primaries, each with a replica."""
    with Cluster(3, 1, *QUICK) as cluster:
        yield cluster


@pytest.fixture
def whole(replicated: Cluster) -> Iterator[Cluster]:
    """The same, with all its nodes running before the test and after it."""
    yield replicated
    for node in replicated.nodes:
        if not node.server.running:
            replicated.revive(node)
    replicated.settle()


@contextlib.asynccontextmanager
async def load_on(cluster: Cluster, make: Make, prefix: str) -> AsyncIterator[tuple[Load, list[str]]]:
    """Two processes that receive on channels of all servers, and two that send to them."""
    async with load_of(Ledger()) as load:
        channels: list[str] = []
        for _ in range(2):
            layer = make("core", cluster.host, prefix=prefix, capacity=ROOMY)
            owners = set()
            for number in range(100):
                # Another kind is another key, so another slot.
                channel = await layer.new_channel(f"kind{number}")
                owner = cluster.owner(key_of(layer, channel))
                if owner not in owners:
                    owners.add(owner)
                    channels.append(channel)
                    await load.receive(layer, channel)
            assert len(owners) == 3, cluster.nodes[0].view()
        for number in range(2):
            layer = make("core", cluster.host, prefix=prefix, capacity=ROOMY)
            for channel in channels:
                flow = f"{number} to {channel}"
                await load.send(lambda layer=layer, channel=channel, flow=flow: load.ledger.send(layer, channel, flow))  # type: ignore[misc]
        await load.moves(SOME)
        yield load, channels
        # Whatever has happened, everybody receives again.
        await asyncio.gather(*(load.moves_at(channel, PROMOTION) for channel in channels))
        await load.moves(SOME)
        await load.stop_sending()
        layer = make("core", cluster.host, prefix=prefix, capacity=ROOMY)
        await within(asyncio.gather(*(layer.send(channel, LAST) for channel in channels)))
        await load.stop_receiving()


async def test_a_primary_is_killed(whole: Cluster, make: Make, prefix: str) -> None:
    victim = whole.primaries[0]
    async with load_on(whole, make, prefix) as (load, _):
        await asyncio.to_thread(whole.kill_primary, victim)
    load.ledger.check(lost=UNREPLICATED)


async def test_a_replica_that_has_what_was_received(whole: Cluster, make: Make, prefix: str) -> None:
    """It takes the place of a primary whose removals it has never heard of: nothing comes twice."""
    layer, sender = (make("core", whole.host, prefix=prefix) for _ in range(2))
    channel = await layer.new_channel()
    primary = whole.owner(key_of(layer, channel))
    [replica] = whole.replicas_of(primary)
    for n in range(10):
        await sender.send(channel, {"n": n})
    await asyncio.to_thread(whole.replicated)
    with replica.stalled():
        # What is under way to it would reach it all the same, so that its connection has to go first.
        primary.raw.client_kill_filter(_type="slave")
        assert await receive_many(layer, channel, 10) == [{"n": n} for n in range(10)]
        await until(lambda: not primary.raw.exists(key_of(layer, channel)))
        whole.kill(primary)
    await asyncio.to_thread(whole.until_promoted, primary, replica)
    await within(nothing_to_receive(layer, channel))


async def test_a_look_that_outlives_a_close(cluster: Cluster, make: Make, prefix: str) -> None:
    """A close that takes too long leaves a look behind, and the next receive makes another: one of them delivers."""
    layer = make("core", cluster.host, prefix=prefix)
    channel = await layer.new_channel()
    receiving = await started(layer.receive(channel))
    pump = layer._loops[asyncio.get_running_loop()].receiver.pumps[0]
    key = key_of(layer, channel).encode()
    await until(lambda: key in pump._views)
    view = pump._views[key]
    await until(lambda: pump.subscriber.subscribe(key) is None and not view.is_looking)
    # Without an announcement, so that only these two find it.
    _, key, member, _ = layer._addressed(channel, {"n": 0})
    cluster.owner(key.decode()).raw.zadd(key, {member: time.time()})
    view.look()
    pump._drop(view)
    pump._ask()
    assert view.is_looking
    assert pump._views[key] is not view
    assert pump._views[key].is_looking
    assert await within(receiving) == {"n": 0}
    await until(lambda: not view.is_looking)
    await nothing_to_receive(layer, channel)


async def test_a_planned_failover(whole: Cluster, make: Make, prefix: str) -> None:
    """Nothing is lost, doubled or disordered; and no send hears of it."""
    async with load_on(whole, make, prefix) as (load, _):
        for node in whole.primaries:
            await asyncio.to_thread(whole.failover, node)
            await load.moves(SOME)
    load.ledger.check()
    assert not load.ledger.raised, load.ledger.errors


async def test_a_primary_stalls_and_is_replaced(whole: Cluster, make: Make, prefix: str) -> None:
    """Waking it runs and acknowledges what lies in its sockets, learns that it is no primary, and throws that away."""
    victim = whole.primaries[0]
    [replica] = whole.replicas_of(victim)

    def stall() -> None:
        with victim.stalled():
            wait_until(lambda: replica.is_primary, "the replica takes its place", PROMOTION)

    async with load_on(whole, make, prefix) as (load, _):
        await asyncio.to_thread(stall)
        await asyncio.to_thread(whole.settle)
    load.ledger.check(lost=UNREPLICATED)


async def test_a_short_stall_is_waited_out(whole: Cluster, make: Make, prefix: str) -> None:
    """Nobody is replaced, and nothing is lost or raised."""
    victim = whole.primaries[0]
    async with load_on(whole, make, prefix) as (load, _):
        with victim.stalled():
            # The others go on meanwhile.
            await load.moves(SOME // 3)
    load.ledger.check(lost=UNREPLICATED)


async def test_the_jobs_of_a_general_channel(whole: Cluster, make: Make, prefix: str) -> None:
    """
    They are popped, and a replica that has not heard of that gives some again: as many as it may not have heard of.
    """
    async with load_of(Ledger()) as load:
        layers = [make("core", whole.host, prefix=prefix, capacity=ROOMY) for _ in range(3)]
        for number in range(4):
            await load.receive(layers[number % 2], "jobs", f"worker {number}")
        await load.send(lambda: load.ledger.send(layers[2], "jobs", "jobs"))
        await load.moves(SOME)
        await asyncio.to_thread(whole.kill_primary, whole.owner(f"{prefix}jobs"))
        await load.moves_at("jobs", PROMOTION)
        await load.moves(SOME)
        await load.stop_sending()
        await within(asyncio.gather(*(layers[2].send("jobs", LAST) for _ in range(4))))
        await load.stop_receiving()
    print(load.ledger)
    assert load.ledger.lost <= UNREPLICATED, str(load.ledger)
    assert load.ledger.doubled <= UNREPLICATED, str(load.ledger)
    assert load.ledger.unknown == 0
