"""What a cluster has to do for the core layer: evenly shared, without detours, and no more for more channels."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.exceptions import ConnectionError

from channels_redis_fast.core import RedisChannelLayer
from tests.cluster.conftest import Make
from tests.clusters import Cluster
from tests.core.helpers import receive_many, within

GROUPS = 1000


async def chat(layer: RedisChannelLayer, peer: RedisChannelLayer, groups: int) -> None:
    """So many groups with two members each: a message to each of them, and one to each member."""
    members = [(await layer.new_channel(f"kind{n}"), f"general{n}") for n in range(groups)]
    await within(asyncio.gather(*(layer.group_add(f"room{n}", name) for n in range(groups) for name in members[n])))
    await within(asyncio.gather(*(peer.group_send(f"room{n}", {"n": n}) for n in range(groups))))
    await within(asyncio.gather(*(peer.send(name, {"to": name}) for both in members for name in both)))
    got = await within(asyncio.gather(*(receive_many(layer, name, 2) for both in members for name in both)), 60)
    assert got == [[{"n": n}, {"to": name}] for n in range(groups) for name in members[n]]


async def test_a_thousand_groups_are_shared_evenly(cluster: Cluster, make: Make) -> None:
    """Names hash as they hash: these are always the same ones."""
    layer = make("core", cluster.host, prefix="even")
    try:
        await layer.group_add("warm", "up")
        cluster.forget_calls()
        await within(asyncio.gather(*(layer.group_add(f"room{n}", f"general{n}") for n in range(GROUPS))))
        await within(asyncio.gather(*(layer.group_send(f"room{n}", {"n": n}) for n in range(GROUPS))))
        # A membership, and a message.
        calls = cluster.calls("zadd")
        print(calls)
        assert sum(calls.values()) == 2 * GROUPS
        fair = 2 * GROUPS / len(cluster.primaries)
        assert all(abs(count - fair) <= 0.1 * fair for count in calls.values()), calls
    finally:
        await layer.flush()


async def test_no_detours_after_warming_up(cluster: Cluster, make: Make, prefix: str) -> None:
    layer, peer = (make("core", cluster.host, prefix=prefix, sync_hub="never") for _ in range(2))
    await chat(layer, peer, 1)
    cluster.forget_calls()
    await chat(layer, peer, 250)
    assert cluster.redirections() == 0
    assert sum(cluster.calls("cluster|slots").values()) == 0, "the map was asked for without need"


async def test_connections_are_two_for_a_server_and_loop(cluster: Cluster, make: Make, prefix: str) -> None:
    """However many groups and channels there are."""
    host = {**cluster.host, "client_name": prefix}
    layer, peer = (make("core", host, prefix=prefix, sync_hub="never") for _ in range(2))
    for groups in (20, 300):
        await chat(layer, peer, groups)
        for node in cluster.primaries:
            # Two that receive, and one of the layer that only sends.
            assert len(node.clients(prefix)) <= 3, node.clients(prefix)
    assert layer.stats()["connections_open"] <= 2 * len(cluster.primaries)
    assert peer.stats()["connections_open"] <= len(cluster.primaries)


async def test_commands_are_for_messages_and_not_for_channels(cluster: Cluster, make: Make, prefix: str) -> None:
    """Waiting costs nothing: channels that nobody sends to make no commands, however many there are."""
    layer, peer = (make("core", cluster.host, prefix=prefix, sync_hub="never") for _ in range(2))
    busy = await layer.new_channel("busy")

    async def calls_for_messages() -> int:
        cluster.forget_calls()
        for n in range(200):
            await peer.send(busy, {"n": n})
            assert await within(layer.receive(busy)) == {"n": n}
        counts = cluster.calls("evalsha", "zrange", "zrem", "zpopmin", "zadd", "spublish")
        return sum(counts.values())

    await calls_for_messages()
    before = await calls_for_messages()
    names = [await layer.new_channel(f"idle{n}") for n in range(200)]
    idle = [asyncio.ensure_future(layer.receive(name)) for name in names]
    await within(asyncio.gather(*(peer.send(name, {"n": -1}) for name in names[:100])))
    await within(asyncio.gather(*idle[:100]))
    after = await calls_for_messages()
    for task in idle:
        task.cancel()
    await asyncio.wait(idle)
    # Those that wait look for themselves now and then.
    assert after <= before * 1.2 + 200, (before, after)


CALLS: dict[str, Any] = {
    "send": lambda layer: layer.send("general", {}),
    "group_add": lambda layer: layer.group_add("room", "general"),
    "receive": lambda layer: layer.receive("general"),
}


@pytest.mark.parametrize("call", CALLS)
async def test_a_server_of_a_cluster_as_a_plain_host(cluster: Cluster, make: Make, prefix: str, call: str) -> None:
    """The error says what to write instead: at every server but the one that has the slot."""
    key = f"{prefix}:group:room" if call == "group_add" else f"{prefix}general"
    for node in cluster.primaries:
        if node is not cluster.owner(key):
            layer = make("core", node.url, prefix=prefix)
            with pytest.raises(ConnectionError, match=rf"'hosts'.*'cluster': \['redis://127.0.0.1:{node.port}'\]"):
                await within(CALLS[call](layer))
