"""``layer.drain``: jobs stay for others, channels are told once and go on, and when it returns."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import threading
import time
from typing import Any

import pytest

from channels_redis_fast.core.general import GeneralChannel
from tests.core.helpers import end, receive_many, started, until, within
from tests.deploy.conftest import Make

#: Longer than any test takes: a drain that ends has found that nobody is left.
LONG = 60.0


async def leave(*receives: asyncio.Future[Any]) -> None:
    await end(*receives)


async def told(layer: Any, channel: str) -> float:
    message = await within(layer.receive(channel))
    assert message.pop("type") == "layer.drain"
    return float(message.pop("after"))


async def test_channels_are_told_once_and_go_on(make: Make, kind: str, hosts: list[Any]) -> None:
    layer = make(kind, hosts, on_drain="layer.drain")
    channels = [await layer.new_channel() for _ in range(20)]
    receives = [await started(layer.receive(channel)) for channel in channels]
    assert not layer.is_draining
    drain = await started(layer.drain(LONG))
    assert layer.is_draining
    shares = []
    for message in await within(asyncio.gather(*receives)):
        assert message.pop("type") == "layer.drain"
        shares.append(message.pop("after"))
        assert not message
    # Each in a twentieth of its own of the time that was left, which is at least that of the last one.
    for place, share in enumerate(sorted(shares)):
        assert place * max(shares) / 20 <= share < (place + 1) * LONG / 20
    assert shares != sorted(shares)
    # Nobody again, however often it is called.
    again = await started(layer.drain(LONG))
    for number, channel in enumerate(channels):
        await layer.send(channel, {"type": "go.on", "number": number})
        assert await receive_many(layer, channel, 1) == [{"type": "go.on", "number": number}]
    # One that comes meanwhile.
    channel = await layer.new_channel()
    assert 0 < await told(layer, channel) < LONG
    receives = [await started(layer.receive(channel)) for channel in [*channels, channel]]
    assert not drain.done()
    await leave(*receives)
    await within(asyncio.gather(drain, again))


async def test_jobs_stay_for_others(make: Make, hosts: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Receives on general channels stop; one that has just been given a job puts it back in its place."""
    layer, other = make("core", hosts), make("core", hosts)
    shards = len(hosts)
    first = [await started(layer.receive("jobs")) for _ in range(shards)]
    idle = [await started(layer.receive("more.jobs")) for _ in range(2)]
    for number in range(shards):
        await other.send("jobs", {"type": "job", "number": number})
    # On a ring each is on a shard of its own.
    assert sorted(job["number"] for job in await within(asyncio.gather(*first))) == list(range(shards))
    waiting = [await started(layer.receive("jobs")) for _ in range(3)]
    give = GeneralChannel.give

    def give_and_drain(self: GeneralChannel, popped: Any) -> None:
        give(self, popped)
        if not layer.is_draining:
            # Given, and its receive has not run yet: what drain does before it waits.
            draining = layer.drain(LONG)
            draining.send(None)
            draining.close()

    monkeypatch.setattr(GeneralChannel, "give", give_and_drain)
    await other.send("jobs", {"type": "job", "number": 7})
    await until(lambda: layer.is_draining)
    await within(layer.drain(LONG))
    assert not any(receive.done() for receive in [*waiting, *idle])
    assert layer.stats()["put_back"] >= 1
    for number in range(8, 12):
        await other.send("jobs", {"type": "job", "number": number})
    late = await started(layer.receive("new.jobs"))
    assert sorted(job["number"] for job in await receive_many(other, "jobs", 5)) == [7, 8, 9, 10, 11]
    await other.send("new.jobs", {"type": "job"})
    assert await receive_many(other, "new.jobs", 1) == [{"type": "job"}]
    # Only the layer refers to those who wait.
    gc.collect()
    assert not any(receive.done() for receive in [*waiting, *idle, late])
    await leave(*waiting, *idle, late)


async def test_pubsub_receives_what_it_has(make: Make, hosts: list[Any], prefix: str) -> None:
    """On a general channel of Pub/Sub: what is there already, since nobody else would get it; then nothing."""
    layer, other = make("pubsub", hosts, on_drain="layer.drain"), make("pubsub", hosts)
    jobs = f"{prefix}.jobs"
    ready = await started(layer.receive(jobs))
    channel = await layer.new_channel()

    async def send_until_received() -> None:
        while not ready.done():
            await other.send(jobs, {"type": "job", "number": 0})
            await asyncio.sleep(0.01)

    await within(send_until_received())
    await other.send(jobs, {"type": "job", "number": 1})
    while (await receive_many(layer, jobs, 1))[0]["number"] != 1:
        pass
    await other.send(jobs, {"type": "job", "number": 2})
    await until(lambda: layer.channels[jobs].qsize() == 1)
    receive = await started(layer.receive(channel))
    drain = await started(layer.drain(LONG))
    assert (await within(receive))["type"] == "layer.drain"
    assert await receive_many(layer, jobs, 1) == [{"type": "job", "number": 2}]
    waiting, new = await started(layer.receive(jobs)), await started(layer.receive(f"{prefix}.other.jobs"))
    for name in (jobs, f"{prefix}.other.jobs"):
        await other.send(name, {"type": "job", "number": 3})
    # Behind it on the same connection, or another.
    await other.send(channel, {"type": "last"})
    assert await receive_many(layer, channel, 1) == [{"type": "last"}]
    gc.collect()
    assert not waiting.done()
    assert not new.done()
    gone = await started(layer.receive(channel))
    await leave(gone)
    await within(drain)
    await leave(waiting, new)


async def test_it_returns_when_its_time_is_over(make: Make, kind: str, redis_server: Any) -> None:
    layer = make(kind, [redis_server.url])
    channel = await layer.new_channel()
    receive = await started(layer.receive(channel))
    before = time.monotonic()
    await layer.drain(0.2)
    assert time.monotonic() - before >= 0.2
    # Nobody is told anything without the option.
    assert not receive.done()
    # The waiting is cancelled, not the drain.
    drain = await started(layer.drain(LONG))
    await end(drain)
    assert layer.is_draining
    await layer.drain(0)
    await leave(receive)
    await within(layer.drain(LONG))


async def test_a_busy_receiver_is_told_when_it_comes_back(make: Make, kind: str, redis_server: Any) -> None:
    """And is waited for, while it handles what it was told."""
    layer = make(kind, [redis_server.url], on_drain="layer.drain")
    channel, other = await layer.new_channel(), await layer.new_channel()
    await layer.send(channel, {"type": "first"})
    assert await receive_many(layer, channel, 1) == [{"type": "first"}]
    receive = await started(layer.receive(other))
    drain = await started(layer.drain(LONG))
    await within(receive)
    assert 0 < await told(layer, channel) < LONG
    # Both handle it.
    await asyncio.sleep(0.2)
    assert not drain.done()
    await leave(await started(layer.receive(channel)), await started(layer.receive(other)))
    await within(drain)


async def test_other_threads_and_synchronous_code(make: Make, kind: str, redis_server: Any) -> None:
    """Channels of other event loops are told as well, and waited for."""
    layer = make(kind, [redis_server.url], on_drain="layer.drain", sync_timeout=0.1)
    came, go = threading.Event(), threading.Event()
    heard: list[Any] = []

    async def elsewhere() -> None:
        channel = await layer.new_channel()
        receive = await started(layer.receive(channel))
        jobs = await started(layer.receive("elsewhere.jobs"))
        came.set()
        heard.append(await receive)
        receive = await started(layer.receive(channel))
        while not go.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await leave(receive, jobs)

    thread = threading.Thread(target=asyncio.run, args=(elsewhere(),))
    thread.start()
    await asyncio.to_thread(came.wait)
    # Longer than the timeout of other calls.
    drain = asyncio.ensure_future(asyncio.to_thread(layer.sync.drain, LONG))
    await until(lambda: bool(heard))
    assert heard[0]["type"] == "layer.drain"
    assert not drain.done()
    go.set()
    await within(drain)
    await asyncio.to_thread(thread.join)


def _in_child(layer: Any, told: Any) -> None:
    async def drain() -> None:
        assert not layer.is_draining
        channel = await layer.new_channel()
        receive = await started(layer.receive(channel))
        draining = await started(layer.drain(LONG))
        told.send((await within(receive))["type"])
        await leave(await started(layer.receive(channel)))
        await within(draining)
        told.send(layer.is_draining)

    asyncio.run(drain())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_a_child_is_drained_by_itself(make: Make, kind: str, redis_server: Any) -> None:
    layer = make(kind, [redis_server.url], on_drain="layer.drain")
    await layer.drain(0)
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_in_child, args=(layer, there))
    child.start()
    there.close()
    try:
        assert await asyncio.to_thread(here.recv) == "layer.drain"
        assert await asyncio.to_thread(here.recv) is True
    finally:
        child.terminate()
        await asyncio.to_thread(child.join)


@pytest.mark.parametrize("over", [-1, float("nan"), float("inf"), "20", None, True])
async def test_what_is_no_time_is_refused(make: Make, kind: str, over: Any) -> None:
    layer = make(kind, ["redis://127.0.0.1:1"])
    with pytest.raises((TypeError, ValueError), match="'over'"):
        await layer.drain(over)
    assert not layer.is_draining
