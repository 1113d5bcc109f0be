"""What is written at once is bounded in bytes, however much has piled up while a server stood still or was away."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from channels_redis_fast.connection.commands import MAX_BYTES_PER_WRITE
from channels_redis_fast.connection.link import Link
from channels_redis_fast.core import RedisChannelLayer
from tests.core.helpers import receive_many, started, until, within

Make = Callable[..., Any]

LARGE, COUNT = 400_000, 60


@pytest.fixture(params=["core", "pubsub"])
def make(request: pytest.FixtureRequest, make_core: Make, make_pubsub: Make) -> Make:
    return make_core if request.param == "core" else make_pubsub


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all writes."""
    sizes: list[int] = []
    write = Link.write

    def recorded(self: Link, data: bytes, requests: Any) -> None:
        sizes.append(len(data))
        write(self, data, requests)

    monkeypatch.setattr(Link, "write", recorded)
    return sizes


@pytest.mark.parametrize("server_is", ["stopped", "not there yet"])
async def test_sends_that_have_piled_up(make: Make, own_server: Any, writes: list[int], server_is: str) -> None:
    server = own_server()
    layer = make(hosts=[server.url], capacity=10 * COUNT, expiry=600)
    channel = await layer.new_channel()
    await layer.send(channel, {"n": -1})
    await layer.receive(channel)
    (state,) = layer._loops.values()
    commands = state.commands[0]
    if server_is == "stopped":
        os.kill(server.pid, signal.SIGSTOP)
    else:
        await commands.aclose()
    writes.clear()
    try:
        sends = [layer.send(channel, {"n": n, "text": "x" * LARGE}) for n in range(COUNT)]
        sending = await started(asyncio.gather(*sends))
        for _ in range(20):
            await asyncio.sleep(0)
        # The process has its messages once, and what the socket takes beside.
        if server_is == "stopped":
            buffered = commands.link._transport.get_write_buffer_size()
            assert buffered < 3 * MAX_BYTES_PER_WRITE
            assert not sending.done()
    finally:
        os.kill(server.pid, signal.SIGCONT)
    received = await within(receive_many(layer, channel, COUNT))
    await within(sending)
    assert [message["n"] for message in received] == list(range(COUNT))
    # A batch is one request, and a large message more than the bound does not make two of it.
    assert max(writes) < 2 * MAX_BYTES_PER_WRITE + LARGE


async def test_requests_of_all_kinds(make_core: Make, own_server: Any, writes: list[int]) -> None:
    """Not only sends: what was popped for somebody who has gone is put back, by as many requests as there are."""
    server = own_server()
    layer: RedisChannelLayer = make_core(hosts=[server.url])
    await layer.send("general", {})
    (state,) = layer._loops.values()
    writes.clear()
    connection = state.commands[0]
    calls = [connection.call((b"ZADD", b"key", n, b"%d" % n + b"x" * LARGE), repeatable=True) for n in range(COUNT)]
    await within(asyncio.gather(*calls))
    await until(lambda: sum(writes) > COUNT * LARGE)
    assert max(writes) < MAX_BYTES_PER_WRITE + 2 * LARGE
