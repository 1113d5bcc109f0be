"""A message that was popped for a receiver that has gone, while Redis is away: it is kept until Redis is back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from bench.server import Server
from channels_redis_fast.core import general as general_channels
from tests.core.helpers import end, started, until, within


async def test_what_cannot_be_put_back_is_kept_until_the_server_returns(
    own_server: Callable[..., Server], make_core: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a worker that has only received so far: its command connection was never open."""
    monkeypatch.setattr(general_channels, "RETURN_PAUSE", 0.05)
    server = own_server()
    worker, sender = make_core(hosts=[server.url]), make_core(hosts=[server.url])
    first = await started(worker.receive("jobs"))
    await sender.send("jobs", {"type": "warm up"})
    await within(first)
    receiver = worker._loops[asyncio.get_running_loop()].receiver
    (channel,) = receiver._generals.values() if receiver._generals else (receiver.general(b"%bjobs" % receiver.prefix),)
    popped = ({"type": "job"}, receiver.pumps[0], b"0123456789ab\x81\xa4type\xa3job", b"1e12")
    await asyncio.to_thread(server.kill)
    channel.give(popped)
    refused = worker.stats()["put_back"]
    await until(lambda: worker.stats()["put_back"] > refused + 1)
    await asyncio.to_thread(server.restart)
    assert await within(sender.receive("jobs")) == {"type": "job"}
    await end()
