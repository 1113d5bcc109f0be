"""A group whose server changes while others send: what the new one has comes, in order and once, and is not proven."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.pubsub import group_name
from tests.clusters import QUICK, Cluster
from tests.core.helpers import receive_many, started, until, within
from tests.history.pubsub import (
    DOWN,
    FIELD,
    LACKING,
    UP,
    Crowd,
    MakeLayer,
    codec,
    every_codec,
    make_layer,
    member,
    sharded,
)
from tests.places import SentinelSet

__all__ = ["codec", "make_layer", "sharded"]


@pytest.fixture(scope="module")
def replicated() -> Iterator[Cluster]:
    """Three primaries with a replica each, for the tests of a module, which leave it whole."""
    with Cluster(3, 1, *QUICK) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def sentinels() -> Iterator[SentinelSet]:
    """A Sentinel set that each test leaves settled."""
    with SentinelSet() as sentinels:
        yield sentinels


def in_order(got: list[dict[str, Any]]) -> list[str]:
    """See that nothing came twice; return the positions."""
    positions = [message[FIELD] for message in got]
    assert len(set(positions)) == len(positions)
    return positions


# Sentinel.


@pytest.mark.parametrize("how", ["failover", "kill_primary"])
async def test_a_sentinel_failover(make_layer: MakeLayer, sentinels: SentinelSet, how: str) -> None:
    layer, peer = make_layer(hosts=[sentinels.host]), make_layer(hosts=[sentinels.host])
    channel, nowhere = await member(layer, "room"), await member(layer, "lobby")
    for n in range(5):
        await peer.group_send("room", {"n": n})
    first = await receive_many(layer, channel, 5)
    await asyncio.to_thread(sentinels.replicated)
    await asyncio.to_thread(getattr(sentinels, how))
    assert await within(layer.receive(channel), 30) == DOWN
    assert await within(layer.receive(channel), 30) == LACKING
    assert await receive_many(layer, nowhere, 2) == [DOWN, UP]
    for n in range(5, 10):
        await peer.group_send("room", {"n": n})
    got = await receive_many(layer, channel, 5)
    assert [message["n"] for message in got] == list(range(5, 10))
    assert [*first, *got] == (await peer.group_history("room")).messages
    assert layer.stats()["incomplete"] == 1
    await asyncio.to_thread(sentinels.settle)


# Cluster.


async def test_a_cluster_failover_under_load(make_layer: MakeLayer, replicated: Cluster) -> None:
    """A primary and its replica change places, so that nothing is lost."""
    layer, peer = make_layer(hosts=[replicated.host]), make_layer(hosts=[replicated.host])
    crowd = Crowd(layer, [peer], "room")
    await crowd.start(senders=10, pause=0.02)
    await until(lambda: crowd.sent > 50)
    node = replicated.owner(group_name(layer, "room"))
    await asyncio.to_thread(replicated.failover, node)
    sent = crowd.sent
    await until(lambda: crowd.sent > sent + 50)
    await crowd.stop()
    kept = (await peer.group_history("room")).messages
    for receiver in crowd.receivers:
        # Of one that was refused and sent again nobody can tell whether it has been recorded.
        assert receiver.messages == kept
        assert receiver.told in ([LACKING], [DOWN, LACKING])
    assert len(kept) >= crowd.sent + 1


async def test_a_killed_primary_of_a_cluster(
    make_layer: MakeLayer, replicated: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    layer, peer = make_layer(hosts=[replicated.host]), make_layer(hosts=[replicated.host])
    node = replicated.owner(group_name(layer, "room"))
    elsewhere = next(name for n in range(100) if replicated.owner(group_name(layer, name := f"room{n}")) is not node)
    channel, whole = await member(layer, "room"), await member(layer, elsewhere)
    while replicated.owner(whole) is node:
        whole = await member(layer, elsewhere)
    for n in range(5):
        await peer.group_send("room", {"n": n})
    first = await receive_many(layer, channel, 5)
    await asyncio.to_thread(replicated.replicated)
    replicated.kill(node)
    try:
        # Until both layers have noticed. What is written before fails: nobody can tell whether it was carried out.
        await until(lambda: caplog.text.count(f"127.0.0.1:{node.port} lost") == 2)
        sending = await started(peer.group_send("room", {"n": 5}))
        await peer.group_send(elsewhere, {"n": 6})
        assert (await within(layer.receive(whole)))["n"] == 6
        await within(sending, 30)
        got = await receive_many(layer, channel, 3)
        assert DOWN in got
        assert LACKING in got
        [message] = [message for message in got if FIELD in message]
        assert message["n"] == 5
        assert [*first, message] == (await peer.group_history("room")).messages
        history = await layer.group_resume("room", await member(layer), first[2][FIELD])
        assert [message["n"] for message in history.messages] == [3, 4, 5]
        assert not history.complete
    finally:
        await asyncio.to_thread(replicated.revive, node)


@every_codec
async def test_a_slot_that_moves(make_layer: MakeLayer, replicated: Cluster) -> None:
    """Under load: what is published at the new server before it is subscribed there is not missed."""
    layer, peer = make_layer(hosts=[replicated.host]), make_layer(hosts=[replicated.host])
    crowd = Crowd(layer, [peer], "room")
    await crowd.start(senders=10, pause=0.02)
    name = group_name(layer, "room")
    slot = replicated.slot(name)
    source = replicated.owner(name)
    target = next(node for node in replicated.primaries if node is not source)
    try:
        await until(lambda: crowd.sent > 50)
        await asyncio.to_thread(replicated.move_slots, source, target, [slot])
        sent = crowd.sent
        await until(lambda: crowd.sent > sent + 50)
        await crowd.stop()
        assert not crowd.errors
        await crowd.check()
        for receiver in crowd.receivers:
            # The new server does not know what the old one has had.
            assert LACKING in receiver.told
    finally:
        await asyncio.to_thread(replicated.settle)
        await asyncio.to_thread(replicated.move_slots, target, source, [slot])
        await asyncio.to_thread(replicated.settle)


async def test_killed_connections_to_a_cluster(make_layer: MakeLayer, replicated: Cluster, soon_again: None) -> None:
    """The server stays the same: all comes, and that is proven."""
    layer, peer = make_layer(hosts=[replicated.host]), make_layer(hosts=[replicated.host])
    crowd = Crowd(layer, [peer], "room")
    await crowd.start(senders=20)
    node = replicated.owner(group_name(layer, "room"))
    for _ in range(20):
        reconnects = layer.stats()["reconnects"]
        assert node.raw.client_kill_filter(_type="pubsub") >= 1
        await until(lambda reconnects=reconnects: layer.stats()["reconnects"] > reconnects)  # type: ignore[misc]
    await crowd.stop()
    assert not crowd.errors
    await crowd.check()
    for receiver in crowd.receivers:
        assert receiver.told[-1] == UP
        assert LACKING not in receiver.told
    assert layer.stats()["incomplete"] == 0
