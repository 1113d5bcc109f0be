"""Memory: what is sent, received, cancelled or only named leaves nothing behind in the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from tests.conftest import ROOT, hosts_on

GROWTH = 5 * 1024 * 1024

PROGRAM = """
    import asyncio, gc, json, os, sys
    from channels_redis_fast.core import RedisChannelLayer

    hosts, prefix, work = sys.argv[1:]

    def resident():
        gc.collect()
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    async def messages(layer, count):
        "Sends and receives, in bursts, on one channel of each kind."
        for channel in (await layer.new_channel(), "general"):
            for start in range(0, count // 2, 100):
                receiving = asyncio.gather(*(layer.receive(channel) for _ in range(100)))
                await asyncio.gather(*(layer.send(channel, {"n": n, "text": "x" * 100}) for n in range(100)))
                assert [message["n"] for message in await receiving] == list(range(100))

    async def cancelled(layer, count):
        "Receives on ever new channels, cancelled while they wait."
        for start in range(0, count, 100):
            names = [await layer.new_channel() for _ in range(50)] + [f"general{start + n}" for n in range(50)]
            receiving = [asyncio.ensure_future(layer.receive(name)) for name in names]
            await asyncio.sleep(0)
            for task in receiving:
                task.cancel()
            await asyncio.wait(receiving)
            # Something goes on beside, as in every process: the pump looks at what is wanted.
            await layer.send(names[0], {})
            await layer.receive(names[0])

    async def channels(layer, count):
        "Channels that live as long as a WebSocket: named, in a group, used, gone."
        for n in range(count):
            channel = await layer.new_channel()
            await layer.group_add("room", channel)
            await layer.group_send("room", {"n": n})
            assert await layer.receive(channel) == {"n": n}
            await layer.group_discard("room", channel)

    WORK = {"messages": (messages, 100_000), "cancelled": (cancelled, 10_000), "channels": (channels, 10_000)}

    async def main():
        run, count = WORK[work]
        layer = RedisChannelLayer(hosts=json.loads(hosts), prefix=prefix, capacity=1000)
        await run(layer, count // 20)
        before = resident()
        await run(layer, count)
        print(resident() - before)
        await layer.close_pools()

    asyncio.run(main())
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="measured in /proc")
@pytest.mark.parametrize(
    "work",
    [
        "messages",
        pytest.param(
            "cancelled", marks=pytest.mark.single_server("a general channel that was waited on is kept for ten seconds")
        ),
        "channels",
    ],
)
def test_a_process_does_not_grow(redis_server: Any, prefix: str, work: str) -> None:
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), json.dumps(hosts_on(redis_server)), prefix, work]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=110, cwd=ROOT)
    assert ended.stderr == ""
    assert int(ended.stdout) < GROWTH


GONE = """
    import asyncio, gc, json, os, sys
    from channels_redis_fast.core import RedisChannelLayer
    from channels_redis_fast.pubsub import RedisPubSubChannelLayer

    hosts, prefix, kind, serializer = sys.argv[1:]

    def resident():
        gc.collect()
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    async def main():
        layer = globals()[kind](hosts=json.loads(hosts), prefix=prefix, serializer_format=serializer)
        gone = [await layer.new_channel() for _ in range(3000)]
        channel = await layer.new_channel()
        await asyncio.gather(*(layer.group_add("room", name) for name in [*gone, channel]))

        async def send(n):
            await layer.group_send("room", {"n": n, "type": "chat.message", "user": "alice", "tags": ["a", "b"]})
            assert (await layer.receive(channel))["n"] == n

        for n in range(5):
            await send(n)
        before = resident()
        for n in range(5, 55):
            await send(n)
        print(resident() - before)
        [own] = {(await layer.receive(name))["tags"].append(name) for name in gone}
        await layer.close_pools()

    asyncio.run(asyncio.wait_for(main(), 60))
"""


def growth_by_members_that_are_gone(kind: str, hosts: Any, prefix: str, serializer: str) -> int:
    """Return by how many bytes a process grows with 50 group messages to 3,000 channels that nobody receives on."""
    command = [sys.executable, "-c", textwrap.dedent(GONE), json.dumps(hosts), prefix, kind, serializer]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=110, cwd=ROOT)
    assert ended.stderr == ""
    return int(ended.stdout)


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="measured in /proc")
@pytest.mark.parametrize("serializer", ["msgpack", "json"])
def test_members_that_are_gone_share_a_message(redis_server: Any, prefix: str, serializer: str) -> None:
    """Copies for each would take 60 MB; they are made when somebody receives."""
    growth = growth_by_members_that_are_gone("RedisChannelLayer", hosts_on(redis_server), prefix, serializer)
    assert growth < GROWTH
