"""A message that cannot be delivered costs those behind it nothing."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
import redis

from channels_redis_fast.core import RedisChannelLayer
from tests.core.helpers import receive_many, started, within

MakeLayer = Callable[..., RedisChannelLayer]

#: Too many for a copy.
LEVELS = 600


def write(raw: redis.Redis, key: str, messages: list[Any]) -> None:
    now = time.time()
    packed = [os.urandom(12) + msgpack.packb(message) for message in messages]
    raw.zadd(key, {member: now + n / 1e6 for n, member in enumerate(packed)})


async def test_those_behind_a_message_of_a_group_that_cannot_be_copied(
    make_layer: MakeLayer, caplog: pytest.LogCaptureFixture
) -> None:
    layer = make_layer()
    channels = [await layer.new_channel() for _ in range(3)]
    deep: Any = []
    for _ in range(LEVELS):
        deep = [deep]
    inbox = layer._inboxes.open(channels[0].split("!")[0] + "!", layer.client_prefix)
    receiving = [await started(layer.receive(channel)) for channel in channels]
    state = layer._loops[asyncio.get_running_loop()]
    inbox.deliver([(channels, {"deep": deep}), (channels, {"n": 1})], state.waker)
    # The first message is given uncopied, to one who can have it; the others miss it, and not what follows.
    received = [await within(task) for task in receiving]
    assert [message.get("n") for message in received[1:]] == [1, 1]
    assert len([record for record in caplog.records if "cannot be delivered" in record.getMessage()]) == 1


async def test_a_capacity_that_cannot_be_told(
    make_layer: MakeLayer, raw: redis.Redis, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Picky(RedisChannelLayer):
        def get_capacity(self, channel: str) -> int:
            if channel.endswith("!bad"):
                raise LookupError("no capacity")
            return super().get_capacity(channel)

    layer = make_layer(Picky)
    channel = await layer.new_channel()
    bad = channel.split("!")[0] + "!bad"
    messages = [{"n": n, "__asgi_channel__": bad if n % 2 else channel} for n in range(8)]
    receiving = await started(layer.receive(channel))
    write(raw, prefix + layer.non_local_name(channel), messages)
    assert (await within(receiving))["n"] == 0
    assert [message["n"] for message in await receive_many(layer, channel, 3)] == [2, 4, 6]
    assert "no capacity" in caplog.text
