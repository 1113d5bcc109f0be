"""Memory: what is sent, cancelled, dropped or flushed leaves nothing behind in the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from tests.conftest import ROOT, hosts_on
from tests.core.test_memory import growth_by_members_that_are_gone

GROWTH = 5 * 1024 * 1024

PROGRAM = """
    import asyncio, gc, json, os, sys
    from channels_redis_fast.pubsub import RedisPubSubChannelLayer

    hosts, prefix, work = sys.argv[1:]

    def resident():
        gc.collect()
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    async def settled(layer):
        "The grace time is over: nobody lives here any more."
        [state] = layer._loops.values()
        while state.channels or state.groups:
            await asyncio.sleep(0.005)

    async def leave(layer, names):
        receiving = [asyncio.ensure_future(layer.receive(name)) for name in names]
        await asyncio.sleep(0)
        for task in receiving:
            task.cancel()
        await asyncio.wait(receiving)

    async def messages(layer, count):
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        for start in range(0, count // 2, 100):
            await asyncio.gather(*(layer.send(channel, {"n": n, "text": "x" * 100}) for n in range(100)))
            await asyncio.gather(*(layer.group_send("room", {"n": n, "text": "x" * 100}) for n in range(100)))
            assert [(await layer.receive(channel))["n"] for n in range(200)] == [*range(100)] * 2
        await leave(layer, [channel])

    async def cancelled(layer, count):
        "Receives on ever new channels, cancelled while they wait."
        for start in range(0, count, 100):
            await leave(layer, [f"{prefix}general{start + n}" for n in range(100)])

    async def channels(layer, count):
        "Channels that live as long as a WebSocket: named, in groups of their own, used, left with a message inside."
        for start in range(0, count, 50):
            names = await asyncio.gather(*(layer.new_channel() for _ in range(50)))
            await asyncio.gather(*(layer.group_add(f"room{start + n}", name) for n, name in enumerate(names)))
            for name in names:
                await layer.send(name, {"text": "x" * 1000})
                assert await layer.receive(name)
            await leave(layer, names)
            for name in names:
                await layer.send(name, {"text": "x" * 1000})
            await settled(layer)

    async def flushed(layer, count):
        for start in range(0, count, 100):
            names = await asyncio.gather(*(layer.new_channel() for _ in range(100)))
            await asyncio.gather(*(layer.group_add(f"room{start + n}", name) for n, name in enumerate(names)))
            await layer.send(names[0], {"text": "x" * 1000})
            await layer.flush()

    WORK = {
        "messages": (messages, 50_000),
        "cancelled": (cancelled, 10_000),
        "channels": (channels, 10_000),
        "flushed": (flushed, 10_000),
    }

    async def main():
        run, count = WORK[work]
        layer = RedisPubSubChannelLayer(hosts=json.loads(hosts), prefix=prefix)
        layer.grace = 0.005
        await run(layer, count // 10)
        await settled(layer)
        before = resident()
        await run(layer, count)
        await settled(layer)
        print(resident() - before)
        await layer.close_pools()

    asyncio.run(asyncio.wait_for(main(), 60))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="measured in /proc")
@pytest.mark.parametrize("work", ["messages", "cancelled", "channels", "flushed"])
def test_a_process_does_not_grow(redis_server: Any, prefix: str, work: str) -> None:
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), json.dumps(hosts_on(redis_server)), prefix, work]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=90, cwd=ROOT)
    assert ended.stderr == ""
    assert int(ended.stdout) < GROWTH


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="measured in /proc")
@pytest.mark.parametrize("serializer", ["msgpack", "json"])
def test_members_that_are_gone_share_a_message(redis_server: Any, prefix: str, serializer: str) -> None:
    """Copies for each would take 60 MB; they are made when somebody receives."""
    growth = growth_by_members_that_are_gone("RedisPubSubChannelLayer", hosts_on(redis_server), prefix, serializer)
    assert growth < GROWTH


async def test_large_messages_do_not_leave_in_one_write(make_layer: Any) -> None:
    """A batch is bounded in bytes too."""
    layer = make_layer()
    channel = await layer.new_channel()
    before = layer.stats()["batches"]
    await layer.send_many([(channel, {"n": n, "text": "x" * 600_000}) for n in range(10)])
    assert layer.stats()["batches"] - before >= 5
    assert [(await layer.receive(channel))["n"] for _ in range(10)] == list(range(10))
