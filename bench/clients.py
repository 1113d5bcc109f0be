"""Many WebSocket clients in a process of their own, with a client library that does not saturate before a server does.

Says in lines of JSON when all are connected, the moment at which a broadcast was with the last of them, and, when its
input ends, every number that each of them got. Knows no layer, no server and no Channels.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import resource
import sys
import time
from collections import Counter
from typing import Any

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from bench.crowd import cpu_until_end, say
from bench.dispatch import number_of

BATCH = 50
# Seconds. Channels' dispatch answers slowly when a machine has other work.
HANDSHAKE_TIMEOUT = 60.0


class Crowd:
    """What all clients of this process have heard."""

    def __init__(self, clients: int) -> None:
        self._clients = clients
        self._heard: Counter[int] = Counter()
        self._closed = 0

    def heard(self, number: int) -> None:
        self._heard[number] += 1
        if self._heard[number] == self._clients:
            say({"heard": number + 1, "at": time.monotonic()})


class Client(WSListener):  # type: ignore[misc]
    def __init__(self, crowd: Crowd) -> None:
        super().__init__()
        self.numbers: list[int] = []
        self._crowd = crowd

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type is WSMsgType.TEXT or frame.msg_type == WSMsgType.TEXT:
            number = number_of(frame.get_payload_as_bytes())
            self.numbers.append(number)
            self._crowd.heard(number)
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()


async def listen(url: str, clients: int) -> None:
    crowd = Crowd(clients)
    connected: list[tuple[Any, Any]] = []
    for start in range(0, clients, BATCH):
        attempts = (
            ws_connect(lambda: Client(crowd), url, websocket_handshake_timeout=HANDSHAKE_TIMEOUT)
            for _ in range(min(BATCH, clients - start))
        )
        connected += await asyncio.gather(*attempts)
    gc.collect()
    gc.freeze()
    cpu = await cpu_until_end()
    for transport, _ in connected:
        transport.send_close()
        transport.disconnect()
    say({"numbers": [listener.numbers for _, listener in connected], "cpu_seconds": cpu, "last": time.monotonic()})


def main() -> int:
    from bench.contender import run

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--clients", type=int, required=True)
    arguments = parser.parse_args()
    # Their own files, and some for the rest.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    run(listen(arguments.url, arguments.clients), "uvloop")
    return 0


if __name__ == "__main__":
    sys.exit(main())
