"""The bench counts honestly: a layer that loses, repeats or reorders messages shows it, and a sound one does not.

On a layer of tasks alone, and on the same with faults put in. How long anything takes is not looked at.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from bench import loads, workloads
from bench.contender import choose_twin
from bench.floor import PubSubFloor, SortedSetFloor, TaskFloor
from bench.meter import ServerMeter
from bench.server import ForeignServer, Server
from bench.synccalls import sync_nothing
from bench.workloads import Clock, Inbox, until_quiet

QUICK = {
    "pairs": lambda layer: workloads.pairs(layer, count=5, pairs=4),
    "send": lambda layer: workloads.send(layer, count=5, senders=4),
    "group": lambda layer: workloads.group(layer, count=5, consumers=4),
    "rooms": lambda layer: workloads.rooms(layer, count=5, rooms=2, consumers=2),
    "roundtrip": lambda layer: workloads.roundtrip(layer, count=20),
    "offered": lambda layer: loads.offered(layer, count=20, rate=2000, channels=4),
    "waiting": lambda layer: loads.waiting(layer, count=20, consumers=4, senders=2),
    "idle": lambda layer: loads.idle(layer, count=0.05, consumers=20),
}


@pytest.mark.parametrize("name", QUICK)
async def test_a_sound_layer_delivers_everything_once(name: str) -> None:
    result = await QUICK[name](TaskFloor())
    assert (result.sent, result.lost, result.repeated, result.disordered) == (20, 0, 0, 0)
    assert result.seconds > 0


class Faulty(TaskFloor):
    """Treats one message after another as it is told to: by number of the send."""

    def __init__(self, faults: dict[int, str]) -> None:
        super().__init__()
        self._faults = faults
        self._sends = 0

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        self._sends += 1
        fault = self._faults.get(self._sends)
        if fault == "lose":
            return
        await super().send(channel, message)
        if fault == "repeat":
            await super().send(channel, message)


async def test_a_lost_message_is_counted_and_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workloads, "QUIET", 0.2)
    # The first 4 sends are the warm-up.
    result = await workloads.pairs(Faulty({6: "lose"}), count=5, pairs=4)
    assert (result.sent, result.received, result.lost) == (20, 19, 1)
    assert result.as_dict()["per_second"] == pytest.approx(19 / result.seconds)


async def test_a_repeated_message_is_counted() -> None:
    result = await loads.waiting(Faulty({6: "repeat"}), count=20, consumers=4, senders=2)
    assert (result.lost, result.repeated) == (0, 1)


def test_disorder_is_counted() -> None:
    assert Inbox([1, 2, 4, 3, 5]).disordered == 1


async def test_waiting_for_what_never_comes_is_taken_off_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workloads, "QUIET", 0.2)
    clock = Clock()
    forever = asyncio.ensure_future(asyncio.Event().wait())
    with clock.measure():
        await until_quiet([forever], lambda: 0, clock)
    assert forever.cancelled()
    # Half a second passed at least; what is left is the time around the wait.
    assert clock.seconds < 0.4


def test_the_server_is_asked_around_the_measured_time(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([Counter(zadd=3, cpu_us=10), Counter(zadd=5, get=1, cpu_us=40)])
    monkeypatch.setattr(Clock, "read_server", lambda: next(answers))
    clock = Clock()
    with clock.measure():
        pass
    assert clock.server == {"zadd": 2, "get": 1, "cpu_us": 30}


def test_the_meter_counts_commands_and_connections(own_server: Any) -> None:
    import redis

    server = own_server()
    with ServerMeter([server.url]) as meter, redis.Redis.from_url(server.url) as client:
        client.ping()
        before = meter.read()
        client.set("key", "value")
        client.eval("redis.call('GET', KEYS[1]) redis.call('GET', KEYS[1])", 1, "key")
        grown = meter.read() - before
        assert {name: calls for name, calls in grown.items() if name != "cpu_us"} == {"set": 1, "eval": 1, "get": 2}
        assert meter.connections() == 1


@pytest.mark.parametrize("floor", [SortedSetFloor, PubSubFloor])
@pytest.mark.parametrize("name", ["roundtrip", "send"])
async def test_the_floors_deliver(floor: Any, name: str, redis_server: Server | ForeignServer, prefix: str) -> None:
    if not isinstance(redis_server, Server):
        pytest.skip("the floors know no passwords")
    layer = floor(redis_server.url, prefix)
    try:
        result = await QUICK[name](layer)
    finally:
        await layer.flush()
        await layer.close_pools()
    assert (result.sent, result.lost, result.repeated, result.disordered) == (20, 0, 0, 0)


def test_async_to_sync_alone() -> None:
    result = sync_nothing(count=3)
    assert (result.sent, result.lost) == (3, 0)
    assert result.p50_us is not None


def test_the_other_twin_is_never_measured_by_accident(monkeypatch: pytest.MonkeyPatch) -> None:
    from channels_redis_fast import hot

    # Put back what it sets.
    monkeypatch.setenv("CHANNELS_REDIS_FAST_PURE", "")
    monkeypatch.setattr(hot, "COMPILED", True)
    choose_twin("fast")
    choose_twin("upstream")
    with pytest.raises(RuntimeError, match="fast-pure would not be measured"):
        choose_twin("fast-pure")
    monkeypatch.setattr(hot, "COMPILED", False)
    choose_twin("fast-pubsub-pure")
    with pytest.raises(RuntimeError, match="not in use"):
        choose_twin("fast-pubsub")
