"""Leases: held by the server's clock, renewed by whichever event loop is there, acquired again whatever happens."""

from __future__ import annotations

import asyncio
import gc
import os
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import redis
import uvloop

from bench.server import Server
from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.presence import Lapse, leases
from channels_redis_fast.presence.absences import Absences
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.clusters import Cluster
from tests.core.helpers import LIMIT, started, until, within
from tests.presence.leasing import SHORT, THIRD, deadlines, overdue, run_out, server_time
from tests.scenarios import fork

Make = Callable[..., Any]
OwnServer = Callable[..., Server]
LAYERS = [RedisChannelLayer, RedisPubSubChannelLayer]


async def held(layer: Any) -> str:
    """Have a layer hold its lease, as one that has a channel does; the process' name."""
    await layer.new_channel()
    await within(layer._leases.hold())
    return str(layer._leases.process)


def lapses(layer: Any) -> list[Lapse]:
    told: list[Lapse] = []
    layer._leases.on_lapse(told.append)
    return told


# The option.


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(
    ("lease", "error", "text"),
    [
        (2.9, ValueError, "Option 'lease' must be at least 3 seconds and less than"),
        (float("inf"), ValueError, "Option 'lease' must be at least 3 seconds and less than"),
        (float("nan"), ValueError, "Option 'lease'"),
        ("soon", TypeError, "Option 'lease' must be a number of seconds, not str"),
        (True, TypeError, "Option 'lease' must be a number of seconds, not bool"),
    ],
)
def test_a_lease_that_is_none(kind: type[Any], lease: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        kind(lease=lease)
    assert kind(lease="3")._leases.duration == 3


def test_a_process_that_is_removed_from_groups_has_to_restore_them() -> None:
    with pytest.raises(ValueError, match="'lease' needs 'restore_groups'"):
        RedisChannelLayer(lease=30, restore_groups=False)


async def test_without_the_option_nothing_is_there(make: Make, raw: Any, prefix: str) -> None:
    layer = make()
    await layer.new_channel()
    await layer.group_send("room", {"type": "hello"})
    assert not raw.exists(f"{prefix}:leases")


# Holding it.


@pytest.mark.usefixtures("short_leases")
async def test_one_command_in_a_third_of_the_duration(own_server: OwnServer, make: Make, prefix: str) -> None:
    """Of a process that sends all the time, in an event loop that receives; by the server's clock, and with an end."""
    server = own_server()
    layer = make(hosts=[server.url], lease=SHORT)
    with redis.Redis.from_url(server.url) as raw:

        def calls() -> int:
            stats = raw.info("commandstats")
            return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "eval"))

        process = await held(layer)
        first = deadlines(raw, prefix)[process]
        assert 0 < first - server_time(raw) <= SHORT
        began, before = time.monotonic(), calls()
        while deadlines(raw, prefix)[process] < first + 4 * THIRD:
            await layer.group_send("nobody", {"type": "hello"})
            await asyncio.sleep(0)
        assert 1 <= calls() - before <= (time.monotonic() - began) / THIRD + 1
        assert raw.ttl(f"{prefix}:leases") > SHORT
        await until(lambda: overdue(raw, prefix) == set())


@pytest.mark.usefixtures("short_leases")
@pytest.mark.parametrize(
    ("kind", "new_loop"), list(zip(LAYERS, (asyncio.new_event_loop, uvloop.new_event_loop), strict=True))
)
def test_the_event_loops_of_a_process_share_one_lease(
    kind: type[Any], redis_server: Any, raw: Any, prefix: str, new_loop: Callable[[], Any]
) -> None:
    """One that is closed, or only stopped, is replaced by another; with the last of them it is given back."""
    layer = kind(hosts=[redis_server.url], prefix=prefix, lease=SHORT)
    closed, stopped, other = loops = [new_loop() for _ in range(3)]
    names = {loop.run_until_complete(held(layer)) for loop in loops}
    assert set(deadlines(raw, prefix)) == names
    (process,) = names
    closed.close()
    first = deadlines(raw, prefix)[process]
    # Much longer than a lease lasts.
    other.run_until_complete(until(lambda: deadlines(raw, prefix)[process] > first + 2 * SHORT))
    stopped.close()
    other.run_until_complete(until(lambda: overdue(raw, prefix) == set()))
    other.close()
    assert overdue(raw, prefix) == {process}
    # And is held again by a loop that comes later.
    last = new_loop()
    last.run_until_complete(held(layer))
    last.run_until_complete(until(lambda: overdue(raw, prefix) == set()))
    last.close()


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_that_is_collected_gives_its_lease_back(
    kind: type[Any], redis_server: Any, raw: Any, prefix: str, new_loop: Callable[[], Any]
) -> None:
    loop = new_loop()
    layer = kind(hosts=[redis_server.url], prefix=prefix, lease=30)
    process = loop.run_until_complete(held(layer))
    found = weakref.ref(layer)
    del layer
    gc.collect()
    assert found() is None
    loop.run_until_complete(until(lambda: overdue(raw, prefix) == {process}))
    loop.close()


# Losing it.


@pytest.mark.parametrize("keeps", [False, True], ids=["empty", "with its data"])
async def test_a_server_that_restarts(
    own_server: OwnServer, make: Make, prefix: str, keeps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked at once and not in a third of the duration; and told apart by what it knows."""
    monkeypatch.setattr(leases, "RETRY", 0.05)
    server = own_server(*(("--appendonly", "yes", "--appendfsync", "always") if keeps else ()))
    layer = make(hosts=[server.url], lease=300)
    process = await held(layer)
    told = lapses(layer)
    with redis.Redis.from_url(server.url) as raw:
        before = deadlines(raw, prefix)[process]
        waits = await started(layer.receive(await layer.new_channel()))
        await asyncio.to_thread(server.restart)
        await until(lambda: deadlines(raw, prefix).get(process, 0.0) > before)
        await until(lambda: len(told) == (not keeps))
    assert [lapse.is_forgotten for lapse in told] == [True] * (not keeps)
    assert layer._leases.is_held
    waits.cancel()


async def test_a_process_that_was_taken_for_gone_is_told(make: Make, raw: Any, prefix: str) -> None:
    layer = make(lease=30)
    process = await held(layer)
    told = lapses(layer)
    run_out(raw, prefix, process, 7.0)
    await within(layer._leases.read(0))
    (lapse,) = told
    assert 7 <= lapse.overdue < 7 + LIMIT
    assert not lapse.is_forgotten
    # A layer that is gone, and a callback that fails, are in nobody's way.
    layer._leases.on_lapse(lambda lapse: 1 / 0)
    run_out(raw, prefix, process)
    await within(layer._leases.read(0))
    assert len(told) == 2
    assert overdue(raw, prefix) == set()


def test_who_is_gone_after_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was so before it, and others when each process has had the time of a lease for renewing its own."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    absences = Absences(30.0)
    before, after = {"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 8.0, "c": 9.0}
    assert absences.among(after) == after
    absences.came_back(before)
    assert absences.among(after) == {"a": 1.0}
    # Another socket, or the next outage.
    now += 29
    absences.came_back(after)
    now += 29
    assert absences.among(after) == {"a": 1.0}
    now += 1
    assert absences.among(after) == after


async def test_what_was_asked_for_before_is_no_answer(make: Make, raw: Any, prefix: str) -> None:
    """A reading that is to be of this moment is not one that the server has given already."""
    layer = make(lease=30)
    await held(layer)

    def calls() -> int:
        return int(raw.info("commandstats")["cmdstat_evalsha"]["calls"])

    before = calls()
    asked = layer._leases._ask(asyncio.get_running_loop())
    while not layer.stats()["commands_in_flight"]:  # noqa: ASYNC110
        await asyncio.sleep(0)
    # The server answers, and this loop does not read that yet.
    while calls() == before:
        time.sleep(0.01)  # noqa: ASYNC251
    run_out(raw, prefix, "other", 5.0)
    assert not asked.done()
    assert "other" in (await within(layer._leases.read(0))).deadlines


async def test_who_is_overdue(make: Make, raw: Any, prefix: str) -> None:
    """Read when it is asked for, and else at most once in a third; those that are known already are not sent again."""
    layer = make(lease=30)
    await held(layer)
    assert await layer._leases.overdue(0) == {}
    run_out(raw, prefix, "one", 50)
    assert await layer._leases.overdue() == {}
    found = await layer._leases.overdue(0)
    assert 50 <= found.pop("one") < 51
    assert not found
    reading = await layer._leases.read(0)
    assert (await layer._leases.read(0)).deadlines is reading.deadlines
    # One comes and another goes.
    run_out(raw, prefix, "two", 5)
    raw.zadd(f"{prefix}:leases", {"one": server_time(raw) + 60})
    assert set(await layer._leases.overdue(0)) == {"two"}
    raw.zrem(f"{prefix}:leases", "two")
    assert await layer._leases.overdue(0) == {}
    # What nothing can name any more is forgotten with the next renewal.
    run_out(raw, prefix, "old", 400_000)
    run_out(raw, prefix, "dead", 80_000)
    await layer._leases.read(0)
    assert set(await layer._leases.overdue(0)) == {"dead"}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_forked_child_is_a_process_of_its_own(kind: type[Any], redis_server: Any, raw: Any, prefix: str) -> None:
    layer = kind(hosts=[redis_server.url], prefix=prefix, lease=30)
    loop = asyncio.new_event_loop()
    process = loop.run_until_complete(held(layer))
    told = lapses(layer)

    def child() -> None:
        assert not told
        assert asyncio.run(held(layer)) != process
        assert not told

    assert os.waitpid(fork(child), 0)[1] == 0
    mine, childs = deadlines(raw, prefix).pop(process), overdue(raw, prefix)
    assert mine > server_time(raw)
    # Its event loop was closed.
    assert len(childs) == 1
    loop.close()
    assert overdue(raw, prefix) == {process, *childs}


async def test_a_server_that_runs_no_scripts(
    own_server: OwnServer, make_core: Make, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """There are no leases there, which is said; all else goes on."""
    server = own_server()
    with redis.Redis.from_url(server.url) as raw:
        raw.execute_command("ACL", "SETUSER", "some", "on", ">s3cret", "~*", "+@all", "-eval", "-evalsha")
    layer = make_core(hosts=[f"redis://some:s3cret@127.0.0.1:{server.port}"], lease=30)
    channel = await layer.new_channel()
    with pytest.raises(redis.ResponseError, match="refuses EVAL, which the option 'lease' needs"):
        await within(layer._leases.hold())
    await layer.group_add("room", channel)
    await layer.group_send("room", {"type": "hello"})
    assert await within(layer.receive(channel)) == {"type": "hello"}
    assert [text for text in caplog.messages if "refuses the leases of its processes" in text]


async def test_an_outage_fails_who_waits_and_nobody_else(
    own_server: OwnServer, make_core: Make, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "RETRY", 0.05)
    server = own_server()
    server.kill()
    layer = make_core(hosts=[server.url], lease=30)
    await layer.new_channel()
    with pytest.raises(redis.ConnectionError, match=str(server.port)):
        await within(layer._leases.hold())
    await asyncio.to_thread(server.restart)
    with redis.Redis.from_url(server.url) as raw:
        await until(lambda: layer._leases.process in deadlines(raw, prefix))
    assert layer._leases.is_held


@pytest.mark.parametrize("kind", ["core", "pubsub"])
async def test_on_a_cluster(make_on_cluster: Make, cluster: Cluster, prefix: str, kind: str) -> None:
    layer, other = [make_on_cluster(kind, cluster.host, prefix=prefix, lease=30) for _ in range(2)]
    processes = {await held(layer), await held(other)}
    node = cluster.owner(f"{prefix}:leases")
    with redis.Redis(port=node.port) as raw:
        assert set(deadlines(raw, prefix)) == processes
        run_out(raw, prefix, other._leases.process)
    assert set(await layer._leases.overdue(0)) == {other._leases.process}


async def test_a_flush_leaves_leases_alone(make: Make, raw: Any, prefix: str) -> None:
    """Whoever lives goes on, and would else take it for a server that has lost its data."""
    layer = make(lease=30)
    process = await held(layer)
    told = lapses(layer)
    await layer.flush()
    assert set(deadlines(raw, prefix)) == {process}
    await within(layer._leases.read(0))
    assert not told


async def test_a_reading_is_no_older_than_was_asked_for(new_loop: Callable[[], Any]) -> None:
    """Though another event loop of the process has asked since: what is under way in this one was asked before."""

    class Way:
        def __init__(self) -> None:
            self.calls: list[Any] = []

        def at(self, key: bytes) -> Way:
            return self

        def submit(self, call: Any) -> None:
            self.calls.append(call)

    found, way, other = leases.Leases(30, b"prefix", "process", 60), Way(), new_loop()
    loop = asyncio.get_running_loop()
    found.enter(loop, way)
    found.enter(other, way)
    found.look()
    asked = time.monotonic()
    await until(lambda: time.monotonic() - asked > 0.02)
    found._ask(other)
    reading = await started(found.read(0.01))
    way.calls[0]._future.set_result(leases.LeaseReading({"older": 0.0}, 1.0, 0.0))
    await until(lambda: reading.done() or len(way.calls) == 3)
    way.calls[-1]._future.set_result(leases.LeaseReading({"newer": 0.0}, 2.0, 0.0))
    assert set((await within(reading)).deadlines) == {"newer"}
    other.close()
