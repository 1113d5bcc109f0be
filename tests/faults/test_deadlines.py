"""What counts as silence: not the time in which this process did not run, nor that in which bytes move."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis

from bench.server import Server
from channels_redis_fast.connection.dialer import KEEPALIVE
from channels_redis_fast.core import RedisChannelLayer, pump
from tests.core.helpers import started, until, within
from tests.proxy import Proxy, proxy_to

Make = Callable[..., Any]

RECEIVER = """
import asyncio, sys
from channels_redis_fast.core import RedisChannelLayer, pump

pump.BLOCK_MARGIN = 0.3

async def main(url, prefix, loop):
    layer = RedisChannelLayer(hosts=[url], prefix=prefix)
    layer.brpop_timeout = 1
    for _ in range(2):
        print((await layer.receive("general"))["n"], flush=True)
    await layer.close_pools()

url, prefix, loop = sys.argv[1:]
if loop == "uvloop":
    import uvloop
    uvloop.run(main(url, prefix, loop))
else:
    asyncio.run(main(url, prefix, loop))
"""


async def test_a_process_that_was_stopped_loses_nothing(make_core: Make, own_server: Any, prefix: str) -> None:
    """Its wait is overdue when it goes on, and its answer lies in the socket."""
    server = own_server()
    layer = make_core(hosts=[server.url])
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RECEIVER, server.url, prefix, loop, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        await within(layer.send("general", {"n": 1}))
        assert await within(process.stdout.readline()) == b"1\n"
        with redis.Redis.from_url(server.url) as raw:
            # Blocked: another wait may have been answered just now.
            await until(lambda: any("b" in client["flags"] for client in raw.client_list()))
            os.kill(process.pid, signal.SIGSTOP)
            await within(layer.send("general", {"n": 2}))
            await until(lambda: not raw.exists(f"{prefix}general"))
        # Beyond what the wait may take, which is counted from when it began.
        await asyncio.sleep(1.5)
        os.kill(process.pid, signal.SIGCONT)
        assert await within(process.stdout.readline()) == b"2\n"
        assert await within(process.wait()) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class Slow:
    """Passes bytes to a server at a certain rate, and does not take more than it passes."""

    def __init__(self, target: int, rate: int) -> None:
        self._target = target
        self._rate = rate
        self.taken = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken += 1
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            await asyncio.gather(self._pass(there, writer, None), self._pass(reader, back, self._rate))
        finally:
            for end in (writer, back):
                end.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rate: int | None) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
                if rate is not None:
                    await asyncio.sleep(len(data) / rate)
        writer.transport.abort()


@contextlib.asynccontextmanager
async def slow_link(port: int, rate: int) -> AsyncIterator[tuple[str, Slow]]:
    slow = Slow(port, rate)
    tasks: set[asyncio.Task[None]] = set()

    def taken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(slow.serve(reader, writer)))

    listener = socket.socket()
    # Inherited by its connections: little is under way, as on a link that is slow and not long.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    listener.bind(("127.0.0.1", 0))
    server = await asyncio.start_server(taken, sock=listener, limit=65536)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", slow
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_an_upload_that_takes_longer_than_an_answer_may(make_core: Make, own_server: Any) -> None:
    """Bytes flow, so the connection is alive; small sends wait their turn and arrive."""
    async with slow_link(own_server().port, 4_000_000) as (url, slow):
        layer = make_core(hosts=[{"address": url, "socket_timeout": 1}])
        await within(layer.send("general", {"n": 0}))
        before = slow.taken
        begin = time.monotonic()
        large = await started(layer.send("general", {"body": b"x" * 8_000_000}))
        await within(asyncio.gather(large, *(layer.send("other", {"n": n}) for n in range(5))))
        assert time.monotonic() - begin > 1.5
        assert slow.taken == before
        await layer.close_pools()


async def test_removals_that_take_longer_than_a_wait_may(
    make_core: Make, own_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receiver that removes what it was given over a slow link does not start over."""
    monkeypatch.setattr(pump, "BLOCK_MARGIN", 0.3)
    server = own_server()
    async with slow_link(server.port, 4_000_000) as (url, _):
        layer = make_core(hosts=[url])
        layer.brpop_timeout = 1
        peer = make_core(hosts=[server.url])
        channel = await layer.new_channel()
        for n in range(40):
            await within(peer.send(channel, {"n": n, "body": b"x" * 200_000}))
        got = [(await within(layer.receive(channel)))["n"] for _ in range(40)]
        await within(peer.send(channel, {"n": 40}))
        got.append((await within(layer.receive(channel)))["n"])
        assert got == list(range(41))
        assert layer.stats()["reconnects"] == 0
        await layer.close_pools()


def sockets_of(layer: RedisChannelLayer) -> list[Any]:
    [state] = layer._loops.values()
    return [connection.link._transport.get_extra_info("socket") for connection in state.commands]


async def test_keepalive(make_core: Make, own_server: Callable[[], Server]) -> None:
    """On, unless the host says otherwise."""
    server = own_server()
    for host, expected in (
        (server.url, True),
        ({"address": server.url, "socket_keepalive": True}, True),
        ({"address": server.url, "socket_keepalive": False}, False),
    ):
        layer = make_core(hosts=[host])
        await within(layer.send("general", {}))
        [sock] = sockets_of(layer)
        assert bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)) == expected
        if host == server.url:
            assert {name: sock.getsockopt(socket.IPPROTO_TCP, name) for name in KEEPALIVE} == KEEPALIVE
            assert sorted(KEEPALIVE.values()) == [3, 15, 60]
        await layer.close_pools()


async def test_a_stalled_link_is_still_given_up(make_core: Make, own_server: Any) -> None:
    """What lies in buffers on this side is no activity."""
    async with proxy_to(own_server().port) as proxy:
        assert isinstance(proxy, Proxy)
        layer = make_core(hosts=[{"address": proxy.url, "socket_timeout": 0.4}])
        await within(layer.send("general", {}))
        proxy.stall()
        begin = time.monotonic()
        results = await within(
            asyncio.gather(
                *(layer.send("general", {"body": b"x" * 4_000_000}) for _ in range(3)), return_exceptions=True
            )
        )
        assert all(isinstance(result, redis.ConnectionError) for result in results)
        assert time.monotonic() - begin < 4
