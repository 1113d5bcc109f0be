"""A rolling restart under load: two processes behind a balancer, clients that come back, and what they missed.

    python -m bench.rollout                    300 clients, drained over 20 s; and without a drain
    python -m bench.rollout --clients 60 --over 4

Each process in turn is taken out of the balancer and told to end, as a cluster's orchestrator does; when all clients
are back, another takes its place. Counts what each client got, how long it was away, and how many connected in any one
second.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

from bench.rollout_site import ENVIRONMENT, ROOM, layers_of
from bench.server import HOST, free_port, server_from_environment

ROOT = Path(__file__).resolve().parent.parent

#: Seconds until a client tries again that was not let in, and those that a server has to start or to end.
RETRY, PATIENCE = 0.1, 60.0

#: What a client sees of a server that ends, or that is not there.
GONE = (OSError, EOFError, ConnectionClosed, InvalidHandshake, InvalidMessage, asyncio.TimeoutError)


class Balancer:
    """Passes TCP connections on to servers in turn, and remembers when they came."""

    def __init__(self) -> None:
        #: Ports of the servers, to be changed at any time: connections that there are stay.
        self.ports: list[int] = []
        self.connects: list[float] = []
        #: Open connections by port.
        self.open: Counter[int] = Counter()
        self._turn = 0
        self._passing: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Balancer:
        self._server = await asyncio.start_server(self._pass, HOST, 0, backlog=1000)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._passing):
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._passing.add(task)
        task.add_done_callback(self._passing.discard)
        self.connects.append(time.monotonic())
        try:
            # Cancelled at the end; asyncio's streams do not expect that.
            with contextlib.suppress(asyncio.CancelledError):
                await self._pass_on(reader, writer)
        finally:
            writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in list(self.ports):
            self._turn += 1
            with contextlib.suppress(OSError, IndexError):
                port = self.ports[self._turn % len(self.ports)]
                inner_reader, inner_writer = await asyncio.open_connection(HOST, port)
                self.open[port] += 1
                try:
                    await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))
                finally:
                    self.open[port] -= 1
                    inner_writer.transport.abort()
                return

    def peak(self, since: float, until: float) -> int:
        """How many connected in the busiest second of a time."""
        times = [moment for moment in self.connects if since <= moment <= until]
        start = most = 0
        for end, moment in enumerate(times):
            while times[start] < moment - 1.0:
                start += 1
            most = max(most, end - start + 1)
        return most


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


class Client:
    """One client of the room: it brings its position along, and comes back when it was told to."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.said: list[int] = []
        self.notices: list[dict[str, Any]] = []
        #: When it was cut off, and when it had its room again.
        self.left: list[float] = []
        self.back: list[float] = []
        self.reasons: list[str] = []
        self.is_there = False
        self._position = ""

    async def live(self) -> None:
        """Connect, and again, until it is cancelled."""
        while True:
            after = RETRY
            try:
                after = await self._visit()
            except GONE:
                pass
            finally:
                if self.is_there:
                    self.is_there = False
                    self.left.append(time.monotonic())
            await asyncio.sleep(after)

    async def _visit(self) -> float:
        url = f"ws://{HOST}:{self._port}/?{urlencode({'since': self._position} if self._position else {})}"
        async with connect(url, compression=None, ping_interval=None, open_timeout=PATIENCE, proxy=None) as socket:
            with contextlib.suppress(ConnectionClosed):
                async for text in socket:
                    self._take(json.loads(text))
            self.reasons.append(f"{socket.close_code} {socket.close_reason}")
            # What a server tells that is drained; one that just ends says nothing, and its clients come at once.
            with contextlib.suppress(ValueError):
                return float(socket.close_reason or "")
            return 0.0

    def _take(self, frame: dict[str, Any]) -> None:
        if not self.is_there:
            self.is_there = True
            self.back.append(time.monotonic())
        if "said" in frame:
            self.said.append(frame["said"])
        else:
            self.notices.append(frame)
        self._position = frame.get("position", self._position)


class Site:
    """One process of the site."""

    def __init__(self, url: str, prefix: str, over: float | None) -> None:
        self.port = free_port()
        self.over = over
        made = json.dumps({"url": url, "prefix": prefix, "over": over})
        command = [sys.executable, "-m", "uvicorn", "--host", HOST, "--port", str(self.port), "--log-level", "warning"]
        self._process = subprocess.Popen(
            [*command, "--ws-ping-timeout", "120", "bench.rollout_site:application"],
            cwd=ROOT,
            env={**os.environ, ENVIRONMENT: made},
            stdin=subprocess.DEVNULL,
        )

    async def ready(self) -> Site:
        """Wait until it takes connections."""

        def answers() -> bool:
            assert self._process.poll() is None, "a server did not start"
            with contextlib.suppress(OSError), contextlib.closing(_connected(self.port)):
                return True
            return False

        await until(answers)
        return self

    async def end(self) -> float:
        """SIGTERM; returns the seconds until it has ended."""
        start = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        await until(lambda: self._process.poll() is not None)
        return time.monotonic() - start

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


def _connected(port: int) -> Any:
    import socket

    return socket.create_connection((HOST, port), timeout=1.0)


async def until(condition: Callable[[], bool]) -> None:
    """Return as soon as the condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE:g} s"
        await asyncio.sleep(0.02)


@dataclass
class Restart:
    """What became of one restart."""

    clients: int
    #: Seconds from the signal until each client was back, and that each was away.
    back: list[float] = field(default_factory=list)
    away: list[float] = field(default_factory=list)
    peak: int = 0
    ended: float = 0.0

    @property
    def back_95(self) -> float:
        """Seconds until 95 % of the clients were back."""
        return sorted(self.back)[max(0, -(-95 * len(self.back) // 100) - 1)]


class Rollout:
    """Two processes, the clients, and one who talks all the time."""

    def __init__(self, url: str, prefix: str, clients: int, pace: float) -> None:
        self._url, self._prefix, self._pace = url, prefix, pace
        self._count = clients
        self.sent = 0
        self.sites: list[Site] = []
        self.clients: list[Client] = []

    @contextlib.asynccontextmanager
    async def running(self, *overs: float | None) -> AsyncIterator[Rollout]:
        """Begin: a process for each of these times of its drain, all clients connected, the room talking."""
        from channels_redis_fast.core import RedisChannelLayer

        layer = RedisChannelLayer(**layers_of(self._url, self._prefix)["default"]["CONFIG"])
        tasks: list[asyncio.Task[Any]] = []
        try:
            async with Balancer() as self.balancer:
                self.sites = [Site(self._url, self._prefix, over) for over in overs]
                self.balancer.ports += [(await site.ready()).port for site in self.sites]
                self.clients = [Client(self.balancer.port) for _ in range(self._count)]
                for client in self.clients:
                    tasks.append(asyncio.create_task(client.live()))
                    await asyncio.sleep(0.005)
                await self.all_there()
                enough = asyncio.Event()
                talk = asyncio.create_task(self._talk(layer, enough))
                tasks.append(talk)
                yield self
                # Not cancelled: what it is sending may arrive.
                enough.set()
                await talk
                last = self.sent - 1
                await until(lambda: all(client.said and client.said[-1] == last for client in self.clients))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for site in self.sites:
                site.kill()
            await layer.flush()

    async def all_there(self) -> None:
        await until(lambda: all(client.is_there for client in self.clients))

    async def restart(self, index: int, replace: bool = True) -> Restart:
        """Have a process end, and replace it by one like it, as an orchestrator does."""
        site = self.sites[index]
        new = Site(self._url, self._prefix, site.over) if replace else None
        if new is not None:
            self.sites.append(new)
        if len(self.balancer.ports) > 1:
            self.balancer.ports.remove(site.port)
        visits = {client: len(client.back) for client in self.clients}
        moved = self.balancer.open[site.port]
        start = time.monotonic()
        ended = await site.end()

        def have_moved() -> list[Client]:
            return [client for client in self.clients if client.is_there and len(client.back) > visits[client]]

        await until(lambda: len(have_moved()) >= moved)
        await self.all_there()
        done = time.monotonic()
        gone = have_moved()
        if new is not None:
            self.sites[index] = await new.ready()
            self.balancer.ports.append(new.port)
        return Restart(
            len(gone),
            [client.back[-1] - start for client in gone],
            [client.back[-1] - client.left[-1] for client in gone],
            self.balancer.peak(start, done),
            ended,
        )

    def missing(self) -> int:
        """How many messages the clients lack, have twice, or may lack without knowing."""
        wrong = sum(client.said != list(range(self.sent)) for client in self.clients)
        return wrong + sum(not notice["complete"] for client in self.clients for notice in client.notices)

    async def _talk(self, layer: Any, enough: asyncio.Event) -> None:
        while not enough.is_set():
            await layer.group_send(ROOM, {"type": "room.said", "number": self.sent})
            self.sent += 1
            await asyncio.sleep(self._pace)


async def measure(url: str, clients: int, over: float | None, pace: float) -> list[Restart]:
    """Restart both processes, one after the other. Raises ``SystemExit`` if anybody missed anything."""
    rollout = Rollout(url, f"rollout{uuid.uuid4().hex[:12]}", clients, pace)
    async with rollout.running(over, over):
        restarts = [await rollout.restart(index) for index in range(2)]
    if rollout.missing():
        raise SystemExit(f"{rollout.missing()} of {clients} clients missed something")
    return restarts


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.rollout", description="A rolling restart under load.")
    parser.add_argument("--clients", type=int, default=300)
    parser.add_argument("--over", type=float, default=20.0, help="seconds of the drain")
    parser.add_argument("--pace", type=float, default=0.1, help="seconds between two messages to the room")
    options = parser.parse_args()
    print(f"{options.clients} clients, two processes, a message each {options.pace:g} s: nobody missed anything")
    print(
        "| restart | clients moved | most connects in a second | 95 % back after | away, median | process ended after |"
    )
    print("|---|---|---|---|---|---|")
    with server_from_environment() as server:
        for name, over in (("without a drain", None), (f"drained over {options.over:g} s", options.over)):
            for number, done in enumerate(asyncio.run(measure(server.url, options.clients, over, options.pace)), 1):
                away = statistics.median(done.away)
                print(
                    f"| {name}, process {number} | {done.clients} | {done.peak} | {done.back_95:.1f} s | {away:.1f} s "
                    f"| {done.ended:.1f} s |"
                )


if __name__ == "__main__":
    main()
