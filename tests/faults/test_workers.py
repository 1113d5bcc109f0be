"""Worker processes that share the jobs of a general channel: each job is done by one of them, once."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import redis
import uvloop

from channels_redis_fast.core import RedisChannelLayer
from tests.core.helpers import until, within
from tests.faults.load import LAST, ROOMY, until_empty

Make = Callable[..., Any]

WORKERS, JOBS_EACH = 4, 1_000

#: Seconds for a process to start and to import what it needs, on a machine that does other things as well.
START = 30.0


def work(pipe: Any, number: int, fleets: list[list[str]], prefix: str, on_uvloop: bool) -> None:
    """A worker process: for each fleet of servers says that it is ready, does jobs, and tells which it has done."""

    async def run(hosts: list[str]) -> None:
        layer = RedisChannelLayer(hosts=hosts, prefix=prefix, capacity=ROOMY)
        # Comes when this process runs and is connected.
        assert await layer.receive(f"worker{number}") == {"type": "begin"}
        pipe.send("ready")
        done = []
        while (message := await layer.receive("jobs")) != LAST:
            done.append(message["job"])
        await layer.close_pools()
        pipe.send(done)

    for hosts in fleets:
        loop = uvloop.new_event_loop() if on_uvloop else asyncio.new_event_loop()
        loop.run_until_complete(run(hosts))
        loop.close()


@contextlib.contextmanager
def worker_processes(fleets: list[list[str]], prefix: str) -> Iterator[list[Any]]:
    """Start the workers, on the kind of event loop that runs here; gives the pipes to them."""
    on_uvloop = isinstance(asyncio.get_running_loop(), uvloop.Loop)
    # Not forked: workers start on their own, and share nothing with this process.
    spawn = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    try:
        for number in range(WORKERS):
            mine, theirs = spawn.Pipe()
            process = spawn.Process(target=work, args=(theirs, number, fleets, prefix, on_uvloop))
            process.start()
            processes.append(process)
            pipes.append(mine)
            theirs.close()
        yield pipes
        for process in processes:
            process.join(START)
        assert [process.exitcode for process in processes] == [0] * WORKERS
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()
            process.close()
        for pipe in pipes:
            pipe.close()


async def test_jobs_of_worker_processes(make_core: Make, shard_urls: list[str], prefix: str) -> None:
    """On one server, and then on two."""
    fleets = [shard_urls[:1], shard_urls]
    with worker_processes(fleets, prefix) as pipes:
        for hosts in fleets:
            layer = make_core(hosts=hosts, capacity=ROOMY)
            for number in range(WORKERS):
                await layer.send(f"worker{number}", {"type": "begin"})
            assert [await said(pipe, START) for pipe in pipes] == ["ready"] * WORKERS
            done = await share_jobs(layer, hosts, f"{prefix}jobs", pipes)
            if len(hosts) == 1:
                # Across servers there is no order to keep.
                assert all(some == sorted(some) for some in done)


async def share_jobs(layer: Any, hosts: list[str], key: str, pipes: list[Any]) -> list[list[int]]:
    """Send jobs, see that each is done once; return who has done what."""
    jobs = range(WORKERS * JOBS_EACH)
    for start in jobs[::100]:
        await within(asyncio.gather(*(layer.send("jobs", {"job": job}) for job in jobs[start : start + 100])))
    with contextlib.ExitStack() as stack:
        raws = [stack.enter_context(redis.Redis.from_url(url)) for url in hosts]
        # When the last job is taken, each worker gets one message more: whatever else comes, comes before.
        await until_empty(raws, key)
        await within(asyncio.gather(*(layer.send("jobs", LAST) for _ in range(WORKERS))))
        done = [await said(pipe) for pipe in pipes]
        assert not any(raw.exists(key) for raw in raws), "jobs are left over"
    counted = Counter(job for some in done for job in some)
    lost, doubled = len(jobs) - len(counted), counted.total() - len(counted)
    print(f"{[len(some) for some in done]} jobs done, {lost} lost, {doubled} doubled")
    assert (lost, doubled) == (0, 0)
    assert all(done), "a worker got nothing to do"
    return done


async def said(pipe: Any, seconds: float = 15.0) -> Any:
    """What a worker says next."""
    await until(pipe.poll, seconds)
    return pipe.recv()
