"""A server that has messages again that were delivered: a promoted replica that had not heard of their removal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import redis

from bench.server import Server
from tests.core.helpers import nothing_to_receive, receive_many, started, until, within
from tests.faults.load import key_of


async def test_what_was_delivered_is_not_delivered_again(
    own_server: Callable[..., Server], make_core: Callable[..., Any]
) -> None:
    server = own_server()
    layer = make_core(hosts=[server.url])
    channel = await layer.new_channel()
    key = key_of(layer, channel)
    with redis.Redis.from_url(server.url) as raw:
        await layer.send(channel, {"type": "first"})
        await layer.send(channel, {"type": "second"})
        members = raw.zrange(key, 0, -1)
        assert len(members) == 2
        assert [message["type"] for message in await receive_many(layer, channel, 2)] == ["first", "second"]
        waiting = await started(layer.receive(channel))
        await until(lambda: not raw.exists(key))
    await asyncio.to_thread(server.restart)
    with redis.Redis.from_url(server.url) as raw:
        raw.zadd(key, {member: time.time() - 1 for member in members})
        await layer.send(channel, {"type": "third"})
        assert await within(waiting) == {"type": "third"}
        await nothing_to_receive(layer, channel)
        await layer.close_pools()
        await until(lambda: not raw.exists(key))
