"""`runworker` processes on general channels: what jobs each does, and what becomes of them when a worker is killed."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Callable

import pytest
import redis
from channels.layers import get_channel_layer
from django.test import override_settings

from bench.server import ForeignServer, Server
from tests.consumers.clients import PATIENCE
from tests.consumers.conftest import layers_of
from tests.consumers.processes import Process, site_of
from tests.core.helpers import blocked, clients, until, within
from tests.pubsub.helpers import subscribers

# Workers run on asyncio; this is where the jobs come from.
pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

#: General channels, and what is written down of the jobs on them.
CHANNELS = {"jobs.async": "async", "jobs.sync": "sync"}

#: How many jobs there are in each phase.
JOBS = 200


async def send_jobs(numbers: range, channel: str) -> None:
    """Send jobs with these numbers, some of them at once."""
    layer = get_channel_layer()
    for start in numbers[::20]:
        batch = range(start, min(start + 20, numbers.stop))
        await within(asyncio.gather(*(layer.send(channel, {"type": "job", "number": n}) for n in batch)), PATIENCE)


async def send_jobs_until(enough: asyncio.Event, first: int, channel: str) -> int:
    """Send one job after the other; returns the number that the next one would have had."""
    while not enough.is_set():
        await send_jobs(range(first, first + 5), channel)
        first += 5
        # The workers keep up with that.
        await asyncio.sleep(0.001)
    return first


def did(worker: Process, kind: str) -> list[int]:
    """The jobs that a worker has done, in order."""
    return [int(words[2]) for words in worker.printed if words[:2] == ["did", kind]]


def took(worker: Process) -> list[int]:
    """The jobs that Channels has been given in a worker."""
    return [int(words[1]) for words in worker.printed if words[0] == "took"]


def all_did(workers: list[Process], kind: str) -> Counter[int]:
    return Counter(job for worker in workers for job in did(worker, kind))


async def until_done(workers: list[Process], jobs: range, kind: str) -> None:
    def end() -> bool:
        return all_did(workers, kind).keys() >= set(jobs) or not all(worker.running for worker in workers)

    await until(end, PATIENCE)
    assert all(worker.running for worker in workers), "\n".join(map(str, workers))


async def nothing_comes_twice(workers: list[Process], channel: str, first: int) -> None:
    """Give each worker a job more: whatever it was given before that one it has done then."""
    kind = CHANNELS[channel]
    before = {worker: len(did(worker, kind)) for worker in workers}
    number = first
    while not all(len(did(worker, kind)) > before[worker] for worker in workers):
        await send_jobs(range(number, number + len(workers)), channel)
        await until_done(workers, range(number, number + len(workers)), kind)
        number += len(workers)


async def test_core(redis_server: Server | ForeignServer, prefix: str, raw: redis.Redis) -> None:
    """
    Each job is done once, by one of the workers; so it stays when one is killed and another comes.

    A worker of Channels takes messages ahead of the consumer: what it has in hand dies with it. What is the layer's
    to keep is the rest, but for one message on its way to the worker at the moment of the kill.
    """

    def start(name: str) -> Process:
        layers = layers_of("core", redis_server.url, prefix, client_name=f"{prefix}-{name}")
        layers["default"]["BACKEND"] = "tests.consumers.project.layers.BookkeepingLayer"
        return site.worker(*CHANNELS, layers=layers)

    def waits(name: str) -> bool:
        return blocked(raw, f"{prefix}-{name}") == 1

    layers = layers_of("core", redis_server.url, prefix)
    with override_settings(CHANNEL_LAYERS=layers), site_of(layers) as site:
        ann, bob = start("ann"), start("bob")
        await until(lambda: waits("ann") and waits("bob"), PATIENCE)

        # Both at work.
        await asyncio.gather(*(send_jobs(range(JOBS), channel) for channel in CHANNELS))
        for channel, kind in CHANNELS.items():
            await until_done([ann, bob], range(JOBS), kind)
            await nothing_comes_twice([ann, bob], channel, JOBS)
            assert set(all_did([ann, bob], kind).values()) == {1}

        assert ann.printed
        assert bob.printed

        # One is killed at work, and replaced.
        first, enough = 10 * JOBS, asyncio.Event()
        sending = asyncio.ensure_future(send_jobs_until(enough, first, "jobs.async"))
        await until(lambda: sum(job >= first for job in did(ann, "async")) >= 20, PATIENCE)
        assert await asyncio.to_thread(ann.terminate) == -signal.SIGTERM
        cid = start("cid")
        enough.set()
        last = await within(sending, PATIENCE)
        await until(lambda: not raw.exists(f"{prefix}jobs.async") and waits("cid") and waits("bob"), PATIENCE)
        await nothing_comes_twice([bob, cid], "jobs.async", last)
        done = all_did([ann, bob, cid], "async")
        assert set(done.values()) == {1}
        lost = set(range(first, last)) - done.keys()
        in_hand = lost & set(took(ann))
        assert len(lost - in_hand) <= 1, f"{sorted(lost)} were lost, of which Channels had {sorted(in_hand)} in hand"

        # One is killed while it waits: nothing is lost at all.
        assert bob.terminate() == -signal.SIGTERM
        await until(lambda: not clients(raw, f"{prefix}-bob"), PATIENCE)
        for channel, kind in CHANNELS.items():
            jobs = range(10**6, 10**6 + JOBS)
            await send_jobs(jobs, channel)
            await until_done([cid], jobs, kind)
            await nothing_comes_twice([cid], channel, jobs.stop)
            assert set(all_did([cid], kind).values()) == {1}
        await get_channel_layer().close_pools()


async def test_core_without_a_worker(redis_server: Server | ForeignServer, prefix: str) -> None:
    """Jobs wait for the first worker that comes, and are done in order."""
    layers = layers_of("core", redis_server.url, prefix)
    with override_settings(CHANNEL_LAYERS=layers), site_of(layers) as site:
        for channel in CHANNELS:
            await send_jobs(range(JOBS), channel)
        worker = site.worker(*CHANNELS)
        for kind in CHANNELS.values():
            await until_done([worker], range(JOBS), kind)
            assert did(worker, kind) == list(range(JOBS))
        await get_channel_layer().close_pools()


async def test_pubsub(own_server: Callable[..., Server]) -> None:
    """Every worker that is there does every job, in order, whoever else comes and goes."""
    # General channels of this layer have no prefix: on a shared server they would be everybody's.
    server = own_server()
    layers = layers_of("pubsub", server.url, "test")

    async def listening(count: int) -> None:
        await until(lambda: all(subscribers(raw, channel) == count for channel in CHANNELS), PATIENCE)

    async def work(jobs: range, *workers: Process) -> None:
        await asyncio.gather(*(send_jobs(jobs, channel) for channel in CHANNELS))
        for worker in workers:
            for kind in CHANNELS.values():
                await until_done([worker], jobs, kind)

    with (
        redis.Redis.from_url(server.url) as raw,
        override_settings(CHANNEL_LAYERS=layers),
        site_of(layers) as site,
    ):
        ann, bob = site.worker(*CHANNELS), site.worker(*CHANNELS)
        await listening(2)
        await work(range(JOBS), ann, bob)
        assert ann.terminate() == -signal.SIGTERM
        await listening(1)
        await work(range(JOBS, 2 * JOBS), bob)
        cid = site.worker(*CHANNELS)
        await listening(2)
        await work(range(2 * JOBS, 3 * JOBS), bob, cid)
        for kind in CHANNELS.values():
            assert did(ann, kind) == list(range(JOBS))
            assert did(bob, kind) == list(range(3 * JOBS))
            assert did(cid, kind) == list(range(2 * JOBS, 3 * JOBS))
        await get_channel_layer().close_pools()
