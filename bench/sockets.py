"""Whole sites: a server with real WebSocket clients in one room, and this process that broadcasts to them.

The server (uvicorn, daphne, granian) and the clients have processes of their own. Knows how to start the servers and
how to time a broadcast; what runs on them is in `bench.site`, who listens in `bench.clients`.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from bench.crowd import Member
from bench.dispatch import ROOM, frame
from bench.server import HOST, free_port
from bench.site import ENVIRONMENT
from bench.workloads import QUIET, SETTLE, WAIT, Clock, Inbox, Result, percentile, result_of

APPLICATION = "bench.site:application"
WARM_UP = 5
TERM_TIMEOUT = 5.0
# One process, no log of requests, the event loop that was asked for; everything else as it comes.
SERVERS: dict[str, Callable[[int, str], list[str]]] = {
    "uvicorn": lambda port, loop: [
        *("uvicorn", APPLICATION, "--host", HOST, "--port", str(port), "--loop", loop),
        *("--lifespan", "off", "--log-level", "warning", "--no-access-log"),
    ],
    # Its reactor is Twisted's, on asyncio: it takes no other loop.
    "daphne": lambda port, loop: ["daphne", "-b", HOST, "-p", str(port), "-v", "0", APPLICATION],
    "granian": lambda port, loop: [
        *("granian", APPLICATION, "--interface", "asginl", "--host", HOST, "--port", str(port), "--loop", loop),
        *("--workers", "1", "--log-level", "warning"),
    ],
}


def cpu_of(pid: int) -> float:
    """Processor seconds of a process and of those that it started; 0 where the system does not tell."""
    try:
        # Behind the name, which may hold anything: utime and stime are fields 14 and 15.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0.0
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return own + sum(cpu_of(int(child)) for child in children)


async def until_open(port: int, process: Process) -> None:
    """Wait until the server takes connections. Raises RuntimeError when it ended instead."""
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        if process.returncode is not None:
            raise RuntimeError(f"the server ended with code {process.returncode} before it took a connection")
        try:
            _, writer = await asyncio.open_connection(HOST, port)
        except OSError:
            await asyncio.sleep(0.05)
            continue
        writer.close()
        return
    raise RuntimeError(f"the server took no connection within {WAIT:g} s")


def one(processors: list[int]) -> list[int]:
    """The processor that the server has for itself."""
    return processors[:1]


def the_others(processors: list[int]) -> list[int]:
    """What the clients have. A scheduler may leave them beside the server, and another processor idle."""
    return processors[1:]


@contextmanager
def on(chosen: Callable[[list[int]], list[int]]) -> Iterator[None]:
    """A process that is started here runs on the chosen ones of the processors that this one has.

    Nothing is chosen with a single processor, or where the system does not let us.
    """
    own = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(own) < 2:
        yield
        return
    os.sched_setaffinity(0, chosen(own))
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


@asynccontextmanager
async def site(server: str, context: dict[str, Any], loop: str) -> AsyncIterator[tuple[Process, int]]:
    """A server with the site on a free port. It is ended in any case."""
    port = free_port()
    command = [sys.executable, "-m", *SERVERS[server](port, loop)]
    environment = {**os.environ, ENVIRONMENT: json.dumps(context)}
    with on(one):
        process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=sys.stderr)
    try:
        await until_open(port, process)
        yield process, port
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), TERM_TIMEOUT)
            except asyncio.TimeoutError:
                process.kill()
                await process.wait()


@asynccontextmanager
async def listeners(port: int, clients: int) -> AsyncIterator[Member]:
    """The clients, all connected and in the room. Their numbers are known when the block has ended."""
    command = [sys.executable, "-m", "bench.clients", "--url", f"ws://{HOST}:{port}/", "--clients", str(clients)]
    # The result is one long line.
    with on(the_others):
        clients_process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, limit=1 << 26)
    member = Member(clients_process)
    try:
        await asyncio.wait_for(member.ready.wait(), WAIT)
        yield member
    finally:
        await member.end()


async def broadcast(layer: Any, member: Member, number: int) -> float:
    """Seconds from the call of `group_send` to the moment at which the last client had the frame."""
    began = time.monotonic()
    await layer.group_send(ROOM, frame(number))
    await asyncio.wait_for(member.until_heard(number + 1), QUIET)
    return member.heard_at - began


async def rooms(layer: Any, *, context: dict[str, Any], loop: str, count: int, server: str, clients: int) -> Result:
    """`count` broadcasts to a room of so many sockets, each when the last is with every client.

    The measured time is that of the broadcasts. The clients' report of the last frame is not part of it.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The server inherits it; upstream needs a connection to Redis for each socket too.
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    clock = Clock()
    times: list[float] = []
    async with site(server, context, loop) as (process, port), listeners(port, clients) as member:
        member.tell("start")
        # Upstream's Pub/Sub layer does not wait for its subscriptions.
        await asyncio.sleep(SETTLE)
        for number in range(WARM_UP):
            await broadcast(layer, member, number)
        before = cpu_of(process.pid)
        with clock.measure():
            try:
                for number in range(WARM_UP, WARM_UP + count):
                    times.append(await broadcast(layer, member, number))
            except asyncio.TimeoutError:
                pass
        spent = cpu_of(process.pid) - before
    boxes = [Inbox([number for number in numbers if number >= WARM_UP]) for numbers in member.numbers]
    result = result_of(clients * count, boxes, clock)
    wall, result.seconds = result.seconds, sum(times) or result.seconds
    result.cpu_seconds += spent
    if times:
        result.p50_us, result.p99_us = percentile(times, 0.50) * 1e6, percentile(times, 0.99) * 1e6
    result.extra = {
        "cpu_per_frame_us": spent / max(1, result.received) * 1e6,
        # Of a core, over the whole run. Near 1, the clients and not the site would be measured.
        "clients_busy": member.cpu_seconds / wall,
    }
    return result
