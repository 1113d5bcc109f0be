"""Servers that come back without the groups: whose members are restored, and whose are not."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis
from asgiref.sync import sync_to_async

from bench.server import Server
from channels_redis_fast.core import restoration
from tests.cluster.conftest import make as make_on_cluster
from tests.clusters import QUICK, Cluster
from tests.core.helpers import end, started, until, within

__all__ = ["make_on_cluster"]

Make = Callable[..., Any]

#: What is acknowledged is on disk, so that a restart loses nothing.
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


def group_of(layer: Any, name: str = "room") -> str:
    return f"{layer.prefix}:group:{name}"


@contextlib.asynccontextmanager
async def received_on(layer: Any, channel: str) -> AsyncIterator[list[Any]]:
    """What a consumer of a channel has received."""
    received: list[Any] = []

    async def consume() -> None:
        while True:
            received.append(await layer.receive(channel))

    consumer = await started(consume())
    yield received
    await end(consumer)


async def restart(server: Server) -> None:
    await asyncio.to_thread(server.restart)


def members(server: Server, layer: Any, name: str = "room") -> set[str]:
    with redis.Redis.from_url(server.url) as raw:
        return {member.decode() for member in raw.zrange(group_of(layer, name), 0, -1)}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "came back without" in record.getMessage()]


@pytest.mark.parametrize("shards", [1, 2])
async def test_a_server_that_comes_back_empty_has_all_members_again(
    own_server: Callable[..., Server], make_core: Make, caplog: pytest.LogCaptureFixture, shards: int
) -> None:
    """Of two processes, each of which finds the group that the other has restored already or not; once each."""
    servers = [own_server() for _ in range(shards)]
    layers = [make_core(hosts=[server.url for server in servers]) for _ in range(2)]
    async with contextlib.AsyncExitStack() as stack:
        received = []
        for layer in layers:
            for _ in range(3):
                channel = await layer.new_channel()
                received.append(await stack.enter_async_context(received_on(layer, channel)))
                await layer.group_add("room", channel)
        owner = servers[layers[0].consistent_hash("room")]
        await restart(owner)
        await until(lambda: sum(len(members(owner, layer)) for layer in layers[:1]) == 6)
        await layers[0].group_send("room", {"type": "hello"})
        await until(lambda: all(len(messages) == 1 for messages in received))
        await until(lambda: len(warnings(caplog)) == 2)
    assert all("without 3 group memberships" in line for line in warnings(caplog))


async def test_groups_are_restored_before_anything_else_is_sent(
    own_server: Callable[..., Server], make_core: Make
) -> None:
    server = own_server()
    layer = make_core(hosts=[server.url])
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.close_pools()
    await restart(server)
    with redis.Redis.from_url(server.url) as raw:
        # Another process came back first: what is in the group came after the loss.
        raw.zadd(group_of(layer), {"somebody": time.time()})
    await layer.group_send("room", {"type": "hello"})
    assert await within(layer.receive(channel)) == {"type": "hello"}


@pytest.mark.parametrize("shards", [1, 2])
async def test_a_layer_that_was_closed_and_only_receives(
    own_server: Callable[..., Server], make_core: Make, shards: int
) -> None:
    """It sends nothing by which it would notice what was lost."""
    servers = [own_server() for _ in range(shards)]
    layer, peer = [make_core(hosts=[server.url for server in servers]) for _ in range(2)]
    channel = await layer.new_channel()
    owner = servers[layer.consistent_hash("room")]
    async with received_on(layer, channel) as received:
        await layer.group_add("room", channel)
        for n in range(3):
            await layer.close_pools()
            # A server that cannot be reached by the first socket after a close is an error for who receives.
            await until(lambda: layer.stats()["connections_open"] > shards)
            await restart(owner)
            await until(lambda: members(owner, layer) == {channel})
            await peer.group_send("room", {"n": n})
            await until(lambda n=n: len(received) == n + 1)  # type: ignore[misc]
    # Nobody receives: closed means closed.
    await layer.close_pools()
    await until(lambda: layer.stats()["connections_open"] == 0)


@pytest.mark.parametrize("recent", [60.0, 0.0])
async def test_only_recent_members_are_restored_in_a_group_that_has_survived(
    own_server: Callable[..., Server], make_core: Make, monkeypatch: pytest.MonkeyPatch, recent: float
) -> None:
    """What is older and not there was removed by somebody else."""
    monkeypatch.setattr(restoration, "RECENT", recent)
    server = own_server(*DURABLE)
    layer = make_core(hosts=[server.url])
    channels = [await layer.new_channel() for _ in range(2)]
    for channel in channels:
        await layer.group_add("room", channel)
    await layer.close_pools()
    with redis.Redis.from_url(server.url) as raw:
        raw.zrem(group_of(layer), channels[0])
    await restart(server)
    assert await layer.group_count("room") == (2 if recent else 1)


async def test_a_restart_that_loses_nothing_says_nothing(
    own_server: Callable[..., Server], make_core: Make, caplog: pytest.LogCaptureFixture
) -> None:
    server = own_server(*DURABLE)
    layer = make_core(hosts=[server.url])
    await layer.group_add("room", await layer.new_channel())
    await restart(server)
    assert await layer.group_count("room") == 1
    assert not warnings(caplog)


@pytest.mark.parametrize("times", [0, 2], ids=["", "connections are lost again"])
async def test_a_consumer_between_two_receives(
    own_server: Callable[..., Server], make_core: Make, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its receive was cancelled when the groups were restored, and the next one comes a moment later."""
    monkeypatch.setattr(restoration, "RETURN_TIME", 2.0)
    server = own_server()
    layer = make_core(hosts=[server.url])
    steady, between, gone = [await layer.new_channel() for _ in range(3)]
    for channel in (steady, between, gone):
        await layer.group_add("room", channel)
    for channel in (between, gone):
        await end(await started(layer.receive(channel)))
    async with received_on(layer, steady):
        await restart(server)
        await until(lambda: members(server, layer) == {steady})
        for _ in range(times):
            reconnects = layer.stats()["reconnects"]
            with redis.Redis.from_url(server.url) as raw:
                raw.client_kill_filter(_type="normal", skipme=True)
            await until(lambda reconnects=reconnects: layer.stats()["reconnects"] >= reconnects + 2)
        async with received_on(layer, between) as received:
            await until(lambda: members(server, layer) == {steady, between})
            await layer.group_send("room", {"type": "hello"})
            await until(lambda: received == [{"type": "hello"}])


async def test_who_counts_as_receiving(own_server: Callable[..., Server], make_core: Make) -> None:
    """A consumer in its handler does; one whose receive was cancelled does not, unless another came after it."""
    server = own_server()
    layer = make_core(hosts=[server.url])
    handling, gone, replaced, discarded = [await layer.new_channel() for _ in range(4)]
    for channel in (handling, gone, replaced, discarded):
        await layer.group_add("room", channel)
    await layer.send(handling, {"type": "work"})
    await within(layer.receive(handling))
    for channel in (gone, replaced):
        await end(await started(layer.receive(channel)))
    await layer.group_discard("room", discarded)
    async with received_on(layer, replaced):
        await restart(server)
        await until(lambda: members(server, layer) == {handling, replaced})
        assert sorted(await layer.group_channels("room")) == sorted([handling, replaced])


async def test_deleting_everything_is_no_restart(own_server: Callable[..., Server], make_core: Make) -> None:
    server = own_server()
    layer = make_core(hosts=[server.url])
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    with redis.Redis.from_url(server.url) as raw:
        raw.flushall()
        raw.client_kill_filter(_type="normal", skipme=True)
    assert await layer.group_count("room") == 0
    await layer.group_add("room", channel)
    await layer.flush()
    await restart(server)
    assert await layer.group_count("room") == 0


async def test_without_the_option_nothing_is_restored(own_server: Callable[..., Server], make_core: Make) -> None:
    server = own_server()
    layer = make_core(hosts=[server.url], restore_groups=False)
    await layer.group_add("room", await layer.new_channel())
    await restart(server)
    assert await layer.group_count("room") == 0
    with pytest.raises(TypeError, match="restore_groups"):
        make_core(hosts=[server.url], restore_groups="yes")


@pytest.mark.parametrize("is_lost", [True, False])
async def test_a_marker_decides_where_the_run_id_cannot_be_read(
    own_server: Callable[..., Server], make_core: Make, is_lost: bool
) -> None:
    server = own_server("--rename-command", "INFO", "", *(() if is_lost else DURABLE))
    layer = make_core(hosts=[server.url])
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.close_pools()
    if not is_lost:
        with redis.Redis.from_url(server.url) as raw:
            raw.zrem(group_of(layer), channel)
    await restart(server)
    assert await layer.group_count("room") == is_lost


async def test_memberships_made_by_synchronous_code(own_server: Callable[..., Server], make_core: Make) -> None:
    server = own_server()
    layer = make_core(hosts=[server.url], sync_hub="auto")
    channel = await layer.new_channel()
    async with received_on(layer, channel) as received:
        await sync_to_async(layer.sync.group_add)("room", channel)
        assert threading.active_count() > 1
        await restart(server)
        await until(lambda: members(server, layer) == {channel})
        await sync_to_async(layer.sync.group_send)("room", {"type": "hello"})
        await until(lambda: received == [{"type": "hello"}])


async def test_members_that_are_received_on_do_not_expire(own_server: Callable[..., Server], make_core: Make) -> None:
    """And one that somebody else removed stays away."""
    server = own_server()
    layer = make_core(hosts=[server.url], group_expiry=2)
    staying, removed, idle = [await layer.new_channel() for _ in range(3)]
    async with received_on(layer, staying), received_on(layer, removed):
        for channel in (staying, removed, idle):
            await layer.group_add("room", channel)
        with redis.Redis.from_url(server.url) as raw:
            raw.zrem(group_of(layer), removed)

            def age() -> float:
                return time.time() - raw.zscore(group_of(layer), idle)

            # From the servers' point of view: the one that nobody receives on goes, the other's score moves on.
            await until(lambda: age() > 3.1)
        assert await layer.group_channels("room") == [staying]


async def test_a_primary_of_a_cluster_that_comes_back_empty(
    make_on_cluster: Make, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Cluster(3, 0, *QUICK) as cluster:
        layer = make_on_cluster("core", cluster.host, prefix=prefix)
        channel = await layer.new_channel()
        async with received_on(layer, channel) as received:
            groups = [f"room{number}" for number in range(12)]
            for group in groups:
                await layer.group_add(group, channel)
            node = cluster.owner(group_of(layer, groups[0]))
            await asyncio.to_thread(node.server.restart)
            await until(lambda: bool(warnings(caplog)), 30)
            for group in groups:
                await layer.group_send(group, {"type": group})
            await until(lambda: len(received) == len(groups), 30)
