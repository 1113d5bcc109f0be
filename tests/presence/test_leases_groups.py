"""Groups of the core layer with leases: who is dead gets nothing, leaves later, and is back as soon as it goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis
from asgiref.sync import async_to_sync

from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.presence import leases
from tests.clusters import Cluster
from tests.core.helpers import until, within
from tests.presence.leasing import SHORT, Member, deadlines, overdue, run_out, server_time

Make = Callable[..., Any]

#: Channels of processes that are not there, by what their leases say.
FOREIGN, DEAD, LATE, OLD = (f"specific.{digit * 32}!{digit * 32}" for digit in "0123")
EXPIRY = 60
HISTORY = {"recorded": {"size": 10, "ttl": 60}}


def process_in(channel: str) -> str:
    return channel.partition("!")[0].rpartition(".")[2]


def key_of(prefix: str, channel: str) -> str:
    return prefix + channel[: channel.index("!") + 1]


@pytest.fixture
def member(redis_server: Any, prefix: str) -> Iterator[Callable[[], Member]]:
    """Start processes that end with the test."""
    with ExitStack() as stack:

        def start() -> Member:
            process = Member(redis_server.url, prefix)
            stack.callback(process.kill)
            return process

        yield start


async def populate(layer: Any, raw_of: Callable[[str], Any], group: str) -> str:
    """Put a channel of the layer and those of other processes into a group; the former."""
    prefix = layer.prefix
    mine = str(await layer.new_channel())
    for channel in (FOREIGN, DEAD, LATE, OLD, "general"):
        await layer.group_add(group, channel)
    await layer.group_add(group, mine)
    raw = raw_of(f"{prefix}:leases")
    run_out(raw, prefix, process_in(DEAD), EXPIRY + 30)
    run_out(raw, prefix, process_in(LATE), EXPIRY - 10)
    run_out(raw, prefix, process_in(OLD), EXPIRY + 400)
    # It died long ago, as the scores say.
    raw_of(f"{prefix}:group:{group}").zadd(f"{prefix}:group:{group}", {OLD: time.time() - EXPIRY - 401})
    await within(layer._leases.read(0))
    return mine


async def check(layer: Any, raw_of: Callable[[str], Any], group: str) -> None:
    prefix = layer.prefix
    mine = await populate(layer, raw_of, group)

    def depth(channel: str) -> int:
        key = key_of(prefix, channel) if "!" in channel else prefix + channel
        return int(raw_of(key).zcard(key))

    # The first finds out who is in the group, those behind it know.
    for n in range(3):
        await layer.group_send(group, {"n": n})
        assert (await within(layer.receive(mine)))["n"] == n
        assert [depth(name) for name in (FOREIGN, LATE, "general", DEAD, OLD)] == [n + 1, n + 1, n + 1, 0, 0]
    group_key = f"{prefix}:group:{group}"
    left = {FOREIGN, DEAD, LATE, mine, "general"}
    await until(lambda: {name.decode() for name in raw_of(group_key).zrange(group_key, 0, -1)} == left)
    # Whoever goes on is served again.
    raw = raw_of(f"{prefix}:leases")
    raw.zadd(f"{prefix}:leases", {process_in(DEAD): server_time(raw) + 60})
    while not depth(DEAD):
        await layer.group_send(group, {"n": -1})
        await within(layer.receive(mine))


@pytest.mark.parametrize("group", ["room", "recorded"])
@pytest.mark.parametrize("shards", [1, 5])
async def test_who_is_sent_what(
    make_core: Make, shard_urls: list[str], raw_shards: list[redis.Redis], group: str, shards: int
) -> None:
    layer = make_core(hosts=shard_urls[:shards], lease=30, expiry=EXPIRY, history=HISTORY)

    def raw_of(key: str) -> redis.Redis:
        name = key.removeprefix(layer.prefix)
        if name.startswith(":group:"):
            name = name.removeprefix(":group:")
        # A general channel has the messages of any shard.
        if name == "general":
            return min(raw_shards[:shards], key=lambda raw: -raw.zcard(key))
        return raw_shards[0 if name == ":leases" else layer.consistent_hash(name)]

    await check(layer, raw_of, group)


@pytest.mark.parametrize("group", ["room", "recorded"])
async def test_who_is_sent_what_on_a_cluster(make_on_cluster: Make, cluster: Cluster, prefix: str, group: str) -> None:
    layer = make_on_cluster("core", cluster.host, prefix=prefix, lease=30, expiry=EXPIRY, history=HISTORY)
    with ExitStack() as stack:
        clients = {node.port: stack.enter_context(redis.Redis(port=node.port)) for node in cluster.nodes}
        await check(layer, lambda key: clients[cluster.owner(key).port], group)


async def test_members_that_were_added_since_stay(make_core: Make, raw: Any, prefix: str) -> None:
    """Who is about to remove them knows a reading that was true before they went on."""
    layer = make_core(lease=30, expiry=EXPIRY)
    again = OLD + "again"
    await populate(layer, lambda key: raw, "room")
    await layer.group_add("room", again)
    await layer.group_send("room", {"type": "hello"})
    await until(lambda: raw.zscore(f"{prefix}:group:room", OLD) is None)
    assert raw.zscore(f"{prefix}:group:room", again) is not None


async def test_looking_inside(make_core: Make, raw: Any) -> None:
    layer, without = make_core(lease=30, expiry=EXPIRY), make_core(expiry=EXPIRY)
    mine = await populate(layer, lambda key: raw, "room")
    assert await layer.group_count("room") == 3
    assert set(await layer.group_channels("room")) == {mine, FOREIGN, "general"}
    # Without the option everybody counts.
    assert await without.group_count("room") == len(await without.group_channels("room")) == 6


def test_synchronous_code(redis_server: Any, raw: Any, prefix: str) -> None:
    """Its calls go through the process' I/O thread, which reads the leases as any event loop does."""
    sender = RedisChannelLayer(hosts=[redis_server.url], prefix=prefix, lease=30, expiry=EXPIRY)
    sender.sync.group_add("room", DEAD)
    sender.sync.group_add("room", FOREIGN)
    run_out(raw, prefix, process_in(DEAD), EXPIRY + 1)
    sender.sync.group_send("room", {"type": "hello"})
    deadline = time.monotonic() + 10
    # The first message finds nothing read, and has it read.
    while (before := raw.zcard(key_of(prefix, DEAD))) != _sent(sender, raw, prefix):
        assert time.monotonic() < deadline
    async_to_sync(sender.group_send)("room", {"type": "hello"})
    assert raw.zcard(key_of(prefix, DEAD)) == before
    assert async_to_sync(sender.group_channels)("room") == [FOREIGN]
    # Who only sends holds none.
    assert set(deadlines(raw, prefix)) == {process_in(DEAD)}


def _sent(sender: Any, raw: Any, prefix: str) -> int:
    sender.sync.group_send("room", {"type": "hello"})
    return int(raw.zcard(key_of(prefix, DEAD)))


# Processes that stop and are killed.


@pytest.mark.usefixtures("short_leases")
async def test_processes_that_are_stopped_and_killed(
    make_core: Make, raw: Any, prefix: str, member: Callable[[], Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "REFRESH", 0.05)
    layer = make_core(lease=SHORT, expiry=1)
    stopped, killed = await asyncio.to_thread(member), await asyncio.to_thread(member)
    await until(lambda: overdue(raw, prefix) == set())
    members = {stopped.channel, killed.channel}

    async def said(n: int) -> None:
        for process in (stopped, killed):
            if process.channel in members:
                assert await asyncio.to_thread(process.report) == {"n": n}

    await layer.group_send("room", {"n": 0})
    await said(0)
    # Stopped for longer than its lease, and not by the expiry of what it was sent.
    stopped.stop()
    await until(lambda: stopped.name in overdue(raw, prefix))
    await layer.group_send("room", {"n": 1})
    assert set(await layer.group_channels("room")) == {killed.channel}
    stopped.go_on()
    await said(1)
    await until(lambda: overdue(raw, prefix) == set())

    # Killed: sent nothing when its lease is overdue by the expiry, and out of the group ten leases later.
    killed.kill()
    members.remove(killed.channel)
    await until(lambda: server_time(raw) - deadlines(raw, prefix)[killed.name] > 1)
    await layer._leases.read(0)
    raw.delete(key_of(prefix, killed.channel))
    await layer.group_send("room", {"n": 2})
    assert not raw.exists(key_of(prefix, killed.channel))
    await said(2)
    assert raw.zcard(f"{prefix}:group:room") == 2
    run_out(raw, prefix, killed.name)
    age(raw, prefix, killed.channel)

    async def others_send() -> set[str]:
        await layer.group_send("room", {"n": 3})
        return {name.decode() for name in raw.zrange(f"{prefix}:group:room", 0, -1)}

    while await others_send() != members:
        await said(3)
    await said(3)

    # Stopped for so long that it is out of the group: it is back with the first thing that it does.
    stopped.stop()
    run_out(raw, prefix, stopped.name)
    age(raw, prefix, stopped.channel)
    while await others_send():
        await asyncio.to_thread(raw.ping)
    raw.delete(key_of(prefix, stopped.channel))
    stopped.go_on()
    await until(lambda: raw.zscore(f"{prefix}:group:room", stopped.channel) is not None)
    await layer._leases.read(0)
    await layer.group_send("room", {"n": 4})
    # What it had been sent before it was found to be gone has not expired yet.
    while await asyncio.to_thread(stopped.report) != {"n": 4}:
        pass


def age(raw: Any, prefix: str, channel: str) -> None:
    """Let a member look as if it had been added before its process died, where that is said to be long ago."""
    raw.zadd(f"{prefix}:group:room", {channel: time.time() - 150}, xx=True)
