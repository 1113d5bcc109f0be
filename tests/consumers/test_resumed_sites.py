"""Real clients of a site who are cut again and again, and of whom each gets each message once and in order."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any
from urllib.parse import urlencode

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from bench.server import HOST, ForeignServer, Server
from tests.consumers.clients import PATIENCE
from tests.consumers.conftest import layers_of
from tests.consumers.feeds import HISTORY, say
from tests.consumers.processes import SERVERS, Site, site_of
from tests.core.helpers import until, within

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

CLIENTS, MESSAGES = 8, 80

#: A message between two turns of the sender's, in seconds: so that there is traffic as long as clients come and go.
PACE = 0.005

#: What a client sees of a server that ends, or that is gone.
GONE = (OSError, EOFError, ConnectionClosed, InvalidHandshake, asyncio.IncompleteReadError)


@pytest.fixture
def layers(kind: str, redis_server: Server | ForeignServer, prefix: str) -> dict[str, Any]:
    return layers_of(kind, redis_server.url, prefix, history=HISTORY)


class Visitor:
    """A client that is cut after a few frames, stays away for a few messages, and comes back to any of the servers."""

    def __init__(self, ports: list[int], seed: int) -> None:
        self.ports = ports
        self.random = random.Random(seed)
        self.said: list[int] = []
        self.notices: list[dict[str, Any]] = []
        self.visits = 0
        self.is_there = asyncio.Event()

    async def listen(self, port: int) -> AsyncIterator[None]:
        """Connect, and yield after each frame that was taken in."""
        raise NotImplementedError
        yield

    async def live(self, sent: Callable[[], int]) -> None:
        while not self.said or self.said[-1] < MESSAGES - 1:
            frames = self.random.randrange(1, 25)
            stay = self.listen(self.random.choice(self.ports))
            try:
                self.visits += 1
                async for _ in stay:
                    self.is_there.set()
                    frames -= 1
                    if not frames or (self.said and self.said[-1] == MESSAGES - 1):
                        break
            except GONE:
                await asyncio.sleep(0.01)
            finally:
                await stay.aclose()  # type: ignore[attr-defined]
            away = min(MESSAGES, sent() + self.random.randrange(20))
            await until(lambda away=away: sent() >= away, PATIENCE)  # type: ignore[misc]


class SocketVisitor(Visitor):
    positions: dict[str, str]

    async def listen(self, port: int) -> AsyncIterator[None]:
        self.positions = getattr(self, "positions", {})
        query = urlencode([("since", position) for position in self.positions.values()])
        url = f"ws://{HOST}:{port}/resumable/room.den?{query}"
        socket = await connect(url, compression=None, ping_interval=None, open_timeout=PATIENCE, proxy=None)
        try:
            async for text in socket:
                frame = json.loads(text)
                if "said" in frame:
                    self.said.append(frame["said"])
                else:
                    self.notices.append(frame)
                self.positions[frame["position"][25:33]] = frame["position"]
                yield
            raise EOFError
        finally:
            socket.transport.abort()


class EventVisitor(Visitor):
    last_id: str = ""

    async def listen(self, port: int) -> AsyncIterator[None]:
        reader, writer = await asyncio.open_connection(HOST, port)
        try:
            head = f"GET /events/room.den HTTP/1.1\r\nHost: {HOST}\r\nLast-Event-ID: {self.last_id}\r\n\r\n"
            writer.write(head.encode())
            fields: dict[str, str] = {}
            while line := await reader.readline():
                # Among the lines of chunks and headers those of events, each of which comes in a chunk of its own.
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name in ("data", "id", "event"):
                    fields[name] = value
                elif line == b"\n" and "data" in fields:
                    self.last_id = fields.get("id", self.last_id)
                    if "event" in fields:
                        self.notices.append({"type": fields["event"], **json.loads(fields["data"])})
                    else:
                        self.said.append(int(fields["data"]))
                    fields = {}
                    yield
            raise EOFError
        finally:
            writer.transport.abort()


async def traffic(layer: Any, visitors: list[Visitor], half: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Send while the visitors come and go, and do something in the middle; fail unless each has got everything once."""
    sent = 0

    def count() -> int:
        return sent

    lives = [asyncio.ensure_future(visitor.live(count)) for visitor in visitors]
    try:
        await within(asyncio.gather(*(visitor.is_there.wait() for visitor in visitors)), PATIENCE)
        for number in range(MESSAGES):
            await say(layer, "room.den", number)
            sent += 1
            if sent == MESSAGES // 2:
                await half()
            await asyncio.sleep(PACE)
        await within(asyncio.gather(*lives), PATIENCE)
    finally:
        for life in lives:
            life.cancel()
        await asyncio.gather(*lives, return_exceptions=True)
    # What was sent before a visitor was there for the first time is not for it.
    wrong = [visitor.said for visitor in visitors if visitor.said != list(range(MESSAGES))]
    assert wrong == []
    assert all(notice["complete"] for visitor in visitors for notice in visitor.notices)
    assert sum(visitor.visits for visitor in visitors) > 3 * len(visitors)


def end_one(site: Site, ports: list[int]) -> Callable[[], Coroutine[Any, Any, None]]:
    """What kills a server: its clients go to the other one."""

    async def end() -> None:
        ports.pop(0)
        os.kill(site.processes[0].pid, signal.SIGKILL)

    return end


@pytest.mark.parametrize("dispatch", ["channels", "direct"])
async def test_sockets(layers: dict[str, Any], layer: Any, dispatch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITE_CONSUMERS", dispatch)
    with site_of(layers) as site:
        ports = await asyncio.to_thread(site.serve, "uvicorn", 2)
        visitors: list[Visitor] = [SocketVisitor(ports, seed) for seed in range(CLIENTS)]
        await traffic(layer, visitors, end_one(site, ports))


@pytest.mark.parametrize("server", SERVERS)
async def test_events(layers: dict[str, Any], layer: Any, server: str) -> None:
    with site_of(layers) as site:
        ports = await asyncio.to_thread(site.serve, server, 2)
        visitors: list[Visitor] = [EventVisitor(ports, seed) for seed in range(CLIENTS)]
        await traffic(layer, visitors, end_one(site, ports))


@pytest.mark.parametrize("server", SERVERS)
async def test_events_end_with_their_client(layers: dict[str, Any], layer: Any, server: str) -> None:
    """Without a message that could not be sent: the server tells."""
    with site_of(layers) as site:
        ports = await asyncio.to_thread(site.serve, server)
        stay = EventVisitor(ports, 0).listen(ports[0])
        await within(anext(stay))
        assert ["left", "room.den"] not in site.processes[0].printed
        await stay.aclose()  # type: ignore[attr-defined]
        await until(lambda: ["left", "room.den"] in site.processes[0].printed, PATIENCE)
