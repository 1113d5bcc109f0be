"""How long messages were on their way: from the server's stamp to the receive."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from bench.server import ForeignServer, Server
from channels_redis_fast.connection.clock import RENEW, ServerClock
from channels_redis_fast.hot import Waker
from channels_redis_fast.messages.mailbox import Mailboxes, MailboxLimits
from channels_redis_fast.stats import SAMPLE_INTERVAL, SECONDS, Stats, percentile, summary
from tests.clusters import Cluster
from tests.core.helpers import started, until, within

Make = Callable[..., Any]

#: Seconds that a message of these tests is old: far from what any machine takes.
OLD = 30.0


def put(raw: Any, layer: Any, channel: str, age: float = OLD) -> None:
    """Put a message on a channel as it would lie there if it had been sent so long ago."""
    local = channel.find("!") + 1
    seconds, microseconds = raw.time()
    member = layer._codec.encode({"type": "old"}, channel if local else None)
    raw.zadd(layer.prefix + (channel[:local] or channel), {member: seconds + microseconds / 1e6 - age})


@pytest.mark.parametrize("kind", ["specific", "general"])
async def test_the_lag_of_the_core_layer(make_core: Make, raw: Any, kind: str) -> None:
    """By the server's stamp: of a message that lay there, and of one that did not."""
    layer = make_core(expiry=60)
    channel = "jobs" if kind == "general" else await layer.new_channel()
    put(raw, layer, channel)
    assert await within(layer.receive(channel)) == {"type": "old"}
    lag = layer.stats()["lag"]
    assert lag["count"] == 1
    assert OLD <= lag["p50"] <= lag["p99"] <= lag["max"] < OLD + 10
    for n in range(20):
        wait = await started(layer.receive(channel))
        await layer.send(channel, {"n": n})
        assert await within(wait) == {"n": n}
        # Messages are measured at some distance.
        await asyncio.sleep(SAMPLE_INTERVAL)
    lag = layer.stats()["lag"]
    # One or the other lies behind another when it is read.
    assert 11 <= lag["count"] <= 21
    assert 0 < lag["p50"] < 1
    assert lag["max"] > OLD


async def test_the_lag_on_a_cluster(make_core: Make, cluster: Cluster) -> None:
    layer = make_core(hosts=[cluster.host], expiry=60)
    local, general = await layer.new_channel(), "jobs"
    for channel in (local, general):
        before = layer.stats()["lag"]["count"]

        async def is_measured(channel: str = channel, before: int = before) -> None:
            # The first is not: only then is the clock of its server asked for.
            while layer.stats()["lag"]["count"] == before:
                await layer.send(channel, {})
                await layer.receive(channel)

        await within(is_measured())
    assert layer.stats()["lag"]["max"] < 10


async def test_the_lag_of_pubsub_where_there_is_a_history(make_pubsub: Make) -> None:
    layer = make_pubsub(history={"kept*": {"size": 10, "ttl": 60}})
    channel = await layer.new_channel()
    for group in ("kept", "other"):
        await layer.group_add(group, channel)
    await layer.group_send("other", {"type": "x"})
    await within(layer.receive(channel))
    assert layer.stats()["lag"]["count"] == 0
    await layer.group_send("kept", {"type": "x"})
    await within(layer.receive(channel))
    lag = layer.stats()["lag"]
    assert lag["count"] == 1
    assert lag["max"] < 10


async def test_time_in_a_mailbox_counts(make_core: Make, raw: Any) -> None:
    """A busy consumer's message is late when it is taken, and not when it has come."""
    stats = Stats()
    limits = MailboxLimits(60, lambda channel: 10, stats)
    boxes = Mailboxes(limits)
    waker = Waker(asyncio.get_running_loop())
    now = time.monotonic()
    boxes.deliver([("one", {"n": 1}), (["one", "other"], {"n": 2})], waker, now - OLD)
    assert stats.lag.count == 0
    assert [boxes.claim(name, waker).take()["n"] for name in ("one", "one", "other")] == [1, 2, 2]
    assert stats.lag.count == 3
    assert stats.lag.recent()[1] >= OLD
    # Where somebody waits it is measured at once: for one channel or for several.
    waiters = [boxes.claim(name, waker) for name in ("one", "other")]
    boxes.deliver([(["one", "other"], {"n": 3})], waker, now)
    assert all(waiter.has_result() for waiter in waiters)
    assert stats.lag.count == 4


async def test_a_server_that_does_not_tell_its_time(
    make_core: Make, own_server: Callable[..., Server], tmp_path: Any
) -> None:
    """Without scripts, which need it. Everything else works; the lag is not known, and it is asked once."""
    users = tmp_path / "users.acl"
    users.write_text("user default off\nuser chan on nopass ~* &* +@all -@scripting -time -info -@admin +acl\n")
    server = own_server("--aclfile", str(users))
    layer = make_core(hosts=[server.url.replace("redis://", "redis://chan:x@")])
    for n in range(20):
        await layer.send("jobs", {"n": n})
        assert await within(layer.receive("jobs")) == {"n": n}
    assert layer.stats()["lag"] == {"count": 0, "p50": None, "p99": None, "max": None}
    refused = [entry for entry in await layer.connection(0).acl_log() if entry["object"] == "time"]
    assert sum(int(entry["count"]) for entry in refused) == 1


# The clock.


def test_the_clock_of_a_server() -> None:
    clock = ServerClock()
    assert clock.began(b"5000.0") == 0.0
    assert clock.is_due(100.0)
    clock.ask(100.0)
    assert not clock.is_due(100.0 + RENEW - 1)
    assert clock.is_due(100.0 + RENEW)
    clock.read([b"5000", b"500000"], 100.0, 101.0)
    assert clock.offset == 4900.0
    assert clock.began(b"4990.25") == 90.25
    assert clock.began(b"nonsense") == 0.0
    # With more doubt, too soon: what is known is better.
    clock.read([b"9000", b"0"], 110.0, 115.0)
    assert clock.offset == 4900.0
    # With less, or after long: clocks drift.
    clock.read([b"5060", b"0"], 159.9, 160.1)
    assert clock.offset == 4900.0
    clock.read([b"5099", b"900000"], 200.0, 200.0)
    assert clock.offset == pytest.approx(4899.9)
    clock.read([b"9999", b"0"], 100_000.0, 100_000.2)
    assert clock.offset == pytest.approx(9999 - 100_000.1)
    for refusal in (ValueError("NOPERM"), None, 5, [], [b"x", b"y"], [b"1" * 400, b"0"]):
        hidden = ServerClock()
        hidden.read(refusal, 1.0, 2.0)
        assert hidden.offset is None
        assert not hidden.is_due(1e9)


# What is made of it.


def test_percentiles() -> None:
    stats = Stats()
    assert summary(stats.lag, SECONDS) == {"count": 0, "p50": None, "p99": None, "max": None}
    for n in range(1, 1001):
        stats.lag.add(n / 1000)
    found = summary(stats.lag, SECONDS)
    assert found["count"] == 1000
    assert found["p50"] == pytest.approx(0.5, rel=0.02)
    assert found["p99"] == pytest.approx(0.99, rel=0.02)
    assert found["max"] == 1.0
    # Never more than there was, nor less than there is room for.
    assert percentile([0, 0, 5], [1.0, 2.0], 2.5, 0.5) == 2.25
    assert percentile([5, 0, 0], [1.0, 2.0], 0.25, 0.99) <= 0.25


async def test_lag_does_not_go_by_the_clock_of_this_machine(
    make_core: Make, redis_server: Server | ForeignServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = make_core()
    monkeypatch.setattr(time, "time", lambda: 5.0)
    wait = await started(layer.receive("jobs"))
    await layer.send("jobs", {})
    await within(wait)
    await until(lambda: layer.stats()["lag"]["count"] == 1)
    assert layer.stats()["lag"]["max"] < 10
