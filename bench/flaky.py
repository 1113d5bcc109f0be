"""Many WebSocket clients in a process of their own, each of which loses its connection again and again.

What a client has not seen when it is cut, it asks for when it comes back, if its frames carry positions. Says in lines
of JSON when all are connected and, when its input ends, what each of them got and when. Knows no layer, no server and
no Channels.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import resource
import sys
import time
from dataclasses import dataclass
from typing import Any

from picows import WSError, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from bench.crowd import input_lines, say
from bench.dispatch import number_of

BATCH = 50
# Seconds. Channels' dispatch answers slowly when a machine has other work.
HANDSHAKE_TIMEOUT = 30.0
# Seconds until a client tries again whose connection the server ended or refused.
RETRY = 0.2
POSITION = b'"position": "'
WIDTH = 41


@dataclass
class Arrival:
    """A frame: its number, when it came, and when the client had begun to connect for this visit (monotonic clock)."""

    number: int
    at: float
    began: float


class Visit(WSListener):  # type: ignore[misc]
    """One connection of a client."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._client = client
        self._began = time.monotonic()
        self.ended = asyncio.get_running_loop().create_future()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            self._client.take(frame.get_payload_as_bytes(), self._began)
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


class Client:
    def __init__(self, url: str, every: float, away: float, seed: int) -> None:
        self._url, self._every, self._away = url, every, away
        self._random = random.Random(seed)
        self._position = ""
        self.arrivals: list[Arrival] = []
        #: Connections that were cut here, that the server ended, and that it refused.
        self.cuts = self.lost = self.refused = 0
        self.connected = asyncio.Event()

    def take(self, text: bytes, began: float) -> None:
        """Take in a frame: the position first after that, as docs/resuming.md has it."""
        if text.startswith(b'{"number": '):
            self.arrivals.append(Arrival(number_of(text), time.monotonic(), began))
        at = text.find(POSITION)
        if at >= 0:
            at += len(POSITION)
            self._position = text[at : at + WIDTH].decode()

    async def live(self, entrance: asyncio.Semaphore, stop: asyncio.Event) -> None:
        """Connect, and be cut and come back until told to stop."""
        async with entrance:
            transport, visit = await self._connect()
        stopping = asyncio.ensure_future(stop.wait())
        try:
            while True:
                # About `every` seconds from cut to cut.
                stay = self._random.uniform(0.5, 1.5) * self._every - self._away
                await asyncio.wait([stopping, visit.ended], timeout=stay, return_when=asyncio.FIRST_COMPLETED)
                if visit.ended.done():
                    self.lost += 1
                    pause = RETRY
                elif stop.is_set():
                    return
                else:
                    self.cuts += 1
                    pause = self._away
                self.connected.clear()
                transport.disconnect(graceful=False)
                await asyncio.sleep(pause)
                transport, visit = await self._connect()
        finally:
            stopping.cancel()

    async def _connect(self) -> tuple[WSTransport, Visit]:
        query = f"?since={self._position}" if self._position else ""
        while True:
            try:
                transport, visit = await ws_connect(
                    lambda: Visit(self), self._url + query, websocket_handshake_timeout=HANDSHAKE_TIMEOUT
                )
            except (OSError, WSError, asyncio.TimeoutError):
                self.refused += 1
                await asyncio.sleep(RETRY)
                continue
            self.connected.set()
            return transport, visit


async def visit(arguments: argparse.Namespace) -> None:
    clients = [
        Client(arguments.url, arguments.every, arguments.away, arguments.seed + number)
        for number in range(arguments.clients)
    ]
    stop, entrance = asyncio.Event(), asyncio.Semaphore(BATCH)
    lives = [asyncio.ensure_future(client.live(entrance, stop)) for client in clients]
    try:
        await asyncio.gather(*(client.connected.wait() for client in clients))
        gc.collect()
        gc.freeze()
        before = time.process_time()
        say({"ready": True})
        lines = await input_lines()
        # One line: nobody is cut any more, and who is away comes back.
        await lines.readline()
        stop.set()
        await asyncio.gather(*(client.connected.wait() for client in clients))
        await lines.read()
        spent = time.process_time() - before
    finally:
        for life in lives:
            life.cancel()
        await asyncio.gather(*lives, return_exceptions=True)
    result: dict[str, Any] = {
        name: sum(getattr(client, name) for client in clients) for name in ("cuts", "lost", "refused")
    }
    arrivals = [[[one.number, one.at, one.began] for one in client.arrivals] for client in clients]
    say({**result, "cpu_seconds": spent, "arrivals": arrivals})


def main() -> int:
    from bench.contender import run

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--every", type=float, required=True, help="seconds from cut to cut, on the average")
    parser.add_argument("--away", type=float, required=True, help="seconds that a client stays away")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    # Their own files, and some for the rest.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    run(visit(arguments), "uvloop")
    return 0


if __name__ == "__main__":
    sys.exit(main())
