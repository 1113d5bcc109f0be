"""``manage.py channels_worker``: jobs at once, and what becomes of them when it is told to end."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from channels.exceptions import StopConsumer
from channels.layers import InMemoryChannelLayer
from channels.routing import ChannelNameRouter
from django.core.management import CommandError, call_command
from django.test import override_settings

from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.deploy import Worker
from channels_redis_fast.management.commands.channels_worker import Command
from tests.consumers.clients import PATIENCE
from tests.consumers.conftest import layers_of
from tests.consumers.processes import Process
from tests.core.helpers import started, until, within

#: Jobs at once of each channel.
CONCURRENCY = 3

StartWorker = Callable[..., Process]


@pytest.fixture
def start(redis_server: Any, prefix: str) -> Iterator[StartWorker]:
    processes = []

    def start(*arguments: str) -> Process:
        layers = layers_of("core", redis_server.url, prefix, on_drain="layer.drain")
        processes.append(Process(["django", "channels_worker", *arguments], layers, settings="tests.deploy.settings"))
        return processes[-1]

    yield start
    for process in processes:
        print(process)
        process.end()


def words(process: Process, first: str) -> list[int]:
    return sorted(int(line[1]) for line in process.printed if line[0] == first)


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_sigterm_loses_no_job(start: StartWorker, redis_server: Any, prefix: str, tmp_path: Path) -> None:
    """Those that have begun end, at once on both channels; the others are in Redis, in order, for the next worker."""
    layer = RedisChannelLayer(hosts=[redis_server.url], prefix=prefix)
    signs = {channel: tmp_path / channel for channel in ("jobs.async", "jobs.sync")}
    for channel, sign in signs.items():
        for number in range(10):
            offset = 100 * (channel == "jobs.sync")
            await layer.send(channel, {"type": "job", "number": offset + number, "until": str(sign)})
    first = start("jobs.async", "jobs.sync", "--concurrency", str(CONCURRENCY))
    began = [*range(CONCURRENCY), *range(100, 100 + CONCURRENCY)]
    await until(lambda: words(first, "began") == began, PATIENCE)
    os.kill(first.pid, signal.SIGTERM)
    await until(lambda: "Stopping" in first.log, PATIENCE)
    signs["jobs.async"].touch()
    await until(lambda: words(first, "did") == began[:CONCURRENCY], PATIENCE)
    assert first.running
    signs["jobs.sync"].touch()
    await until(lambda: not first.running, PATIENCE)
    assert first.code == 0, str(first)
    assert words(first, "did") == words(first, "began") == began
    assert "Traceback" not in first.log
    assert "ResourceWarning" not in first.log
    # A job that fails is one job.
    await layer.send("jobs.async", {"type": "job", "number": 50, "fails": True})
    await layer.send("jobs.async", {"type": "job", "number": 51})
    second = start("jobs.async", "jobs.sync")
    rest = [*range(CONCURRENCY, 10), 51, *range(100 + CONCURRENCY, 110)]
    await until(lambda: words(second, "did") == rest, PATIENCE)
    done = [int(line[1]) for line in second.printed if line[0] == "did"]
    # One at a time, each channel in order.
    assert [job for job in done if job < 100] == [*range(CONCURRENCY, 10), 51]
    assert [job for job in done if job >= 100] == list(range(100 + CONCURRENCY, 110))
    assert "a job that fails" in second.log
    os.kill(second.pid, signal.SIGTERM)
    await until(lambda: not second.running, PATIENCE)
    assert second.code == 0
    await layer.close_pools()


#: Of a site that does no jobs.
routes = ChannelNameRouter({})


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["jobs"], "No jobs can be done: ValueError: .*'jobs'"),
        (["jobs", "--layer", "other"], "CHANNEL_LAYERS has no 'other'"),
        (["jobs", "--concurrency", "0"], "'0' is no number of jobs"),
        (["jobs", "--timeout", "-1"], "'-1' is no number of seconds"),
    ],
)
def test_a_worker_that_cannot_work_says_why(arguments: list[str], error: str) -> None:
    layers = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    site = override_settings(CHANNEL_LAYERS=layers, ASGI_APPLICATION="tests.deploy.test_worker.routes")
    with site, pytest.raises(CommandError, match=error):
        call_command(Command(), *arguments)


class Numbers:
    """An application that is no consumer: it keeps the numbers of its jobs."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.running = self.most = 0
        self.go = asyncio.Event()
        self.stopped = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope == {"type": "channel", "channel": "jobs"}
        try:
            while True:
                job = await receive()
                self.running += 1
                self.most = max(self.most, self.running)
                await self.go.wait()
                self.running -= 1
                self.done.append(job["number"])
        except StopConsumer:
            self.stopped += 1
            raise


@pytest.mark.parametrize("kind", ["core", "memory"])
async def test_any_application_and_any_layer(kind: str, redis_server: Any, prefix: str) -> None:
    """A job that was popped in the very moment in which the worker is stopped goes back too."""
    layer: Any = (
        RedisChannelLayer(hosts=[redis_server.url], prefix=prefix) if kind == "core" else InMemoryChannelLayer()
    )
    numbers = Numbers()
    worker = Worker(numbers, ["jobs"], layer, 4)
    running = await started(worker.run())
    for number in range(3):
        await layer.send("jobs", {"type": "job", "number": number})
    await until(lambda: numbers.running == 3)
    await layer.send("jobs", {"type": "job", "number": 3})
    worker.stop()
    numbers.go.set()
    await within(running)
    assert numbers.stopped == 4
    assert numbers.most <= 4
    if len(numbers.done) == 3:
        assert await within(layer.receive("jobs")) == {"type": "job", "number": 3}
    else:
        assert sorted(numbers.done) == [0, 1, 2, 3]
    if kind == "core":
        await layer.close_pools()


async def test_jobs_that_take_too_long_are_cancelled() -> None:
    layer = InMemoryChannelLayer()
    numbers = Numbers()
    worker = Worker(numbers, ["jobs"], layer, 1, timeout=0.05)
    running = await started(worker.run())
    await layer.send("jobs", {"type": "job", "number": 0})
    await until(lambda: numbers.running == 1)
    worker.stop()
    await within(running)
    assert numbers.done == []
