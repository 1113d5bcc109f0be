"""Round trips, batches, mailboxes, event loops that stand still, and servers that were restarted."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from bench.server import ForeignServer, Server
from channels_redis_fast.stats import MAX_SERVERS, MESSAGES, SAMPLE_INTERVAL, SECONDS, Stats
from tests.clusters import Cluster
from tests.core.helpers import LIMIT, end, started, until, within

Make = Callable[..., Any]


async def test_round_trips_and_batches(make: Make, redis_server: Server | ForeignServer) -> None:
    layer = make(capacity=1000)
    await layer.send("one", {})
    for n in range(20):
        await asyncio.gather(*(layer.send("one", {"n": n}) for _ in range(10)))
        # Round trips are timed at some distance.
        await asyncio.sleep(SAMPLE_INTERVAL)
    stats = layer.stats()
    [(server, round_trips)] = stats["round_trips"].items()
    assert redis_server.url.endswith(server)
    assert 10 <= round_trips["count"] <= 22
    assert 0 < round_trips["p50"] <= round_trips["p99"] <= round_trips["max"] < 10
    batches = stats["batch_messages"]
    # The first after the lone one goes alone as well.
    assert batches["count"] == stats["batches"] == 22
    assert 5 < batches["p50"] <= batches["max"] == 10


async def test_round_trips_on_a_cluster_are_told_apart(make_core: Make, cluster: Cluster) -> None:
    layer = make_core(hosts=[cluster.host])
    await within(asyncio.gather(*(layer.send(f"c{n}", {}) for n in range(50))))
    found = layer.stats()["round_trips"]
    assert {f"{host}:{port}" for host, port in cluster.addresses} >= set(found)
    assert len(found) == 3


def test_servers_that_come_and_go_take_no_more_memory() -> None:
    stats = Stats()
    first = stats.round_trips_to("s0")
    assert stats.round_trips_to("s0") is first
    for n in range(2 * MAX_SERVERS):
        stats.round_trips_to(f"s{n}")
    assert len(stats.round_trips) == MAX_SERVERS
    assert f"s{2 * MAX_SERVERS - 1}" in stats.round_trips


async def test_mailboxes(make_pubsub: Make) -> None:
    layer = make_pubsub()
    channels = [await layer.new_channel() for _ in range(3)]
    for channel in channels:
        await layer.group_add("room", channel)
    for n in range(4):
        await layer.group_send("room", {"n": n})
    await layer.send(channels[1], {"n": 4})
    await until(lambda: layer.stats()["deliveries"] == 13)
    stats = layer.stats()
    assert (stats["mailbox_messages"], stats["mailbox_deepest"]) == (13, 5)
    assert stats["mailbox_bytes"] > 13 * 50
    await layer.flush()
    assert [layer.stats()[f"mailbox_{what}"] for what in ("messages", "deepest", "bytes")] == [0, 0, 0]


async def test_a_loop_that_stands_still(make: Make) -> None:
    layer = make()
    await layer.send("one", {})
    # The machine may hold up the loop as well.
    before = layer.stats()["loop_stalls"]["count"]
    time.sleep(0.35)  # noqa: ASYNC251 - what is looked for
    await until(lambda: layer.stats()["loop_stalls"]["count"] > before)
    assert 0.1 <= layer.stats()["loop_stalls"]["max"] < LIMIT


async def test_a_server_that_was_restarted(make: Make, own_server: Callable[..., Server]) -> None:
    """And no other loss of a connection is one. Who only receives sees it as well."""
    server = own_server()
    layer = make(hosts=[server.url])
    channel = await layer.new_channel()
    wait = await started(layer.receive(channel))
    await until(lambda: layer.stats()["connections_open"] > 0)
    for restarts in range(3):
        reconnects = layer.stats()["reconnects"]
        if restarts:
            await asyncio.to_thread(server.restart)
        else:
            with redis.Redis.from_url(server.url) as raw:
                raw.client_kill_filter(_type="pubsub" if layer.layer_name == "pubsub" else "normal", skipme=True)
        await until(lambda reconnects=reconnects: layer.stats()["reconnects"] > reconnects)  # type: ignore[misc]
        assert layer.stats()["server_restarts"] == restarts
    await end(wait)


async def test_a_socket_keeps_its_attributes_inline(make_core: Make) -> None:
    """An object of more than 30 attributes has a dict, and CPython reads each of them through that."""
    layer = make_core()
    await layer.send("one", {})
    (connection,) = layer._loops[asyncio.get_running_loop()].commands
    for kept in (connection, connection.link, connection.dialer):
        assert len(vars(kept)) <= 30


def test_bounds_of_buckets() -> None:
    for bounds in (SECONDS, MESSAGES):
        assert all(low < high for low, high in itertools.pairwise(bounds))
    assert (SECONDS[0], SECONDS[-1]) == (1e-5, 1000.0)
    assert (MESSAGES[0], MESSAGES[-1]) == (1.0, 1000.0)


@pytest.mark.parametrize("kind", ["core", "pubsub"])
async def test_nothing_keeps_a_loop_awake_when_it_is_closed(make_core: Make, make_pubsub: Make, kind: str) -> None:
    """The timer that looks for stalls ends with the layer's part in the loop."""
    layer = (make_core if kind == "core" else make_pubsub)()
    await layer.send("one", {})
    state = layer._loops[asyncio.get_running_loop()]
    await state.retire()
    assert state._stalls._timer.cancelled()
