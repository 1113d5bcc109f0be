"""Memory: what is sent, received, cancelled, dropped, flushed or only named leaves nothing behind in the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from tests.conftest import ROOT, hosts_on

#: Bytes that a process may grow by: 50 for each message, 500 for each channel of those below.
GROWTH = 1024 * 1024

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="measured in /proc")

#: Begins each program. Its arguments are `hosts` and `prefix`, and two more.
BEGINNING = """
    import asyncio, gc, json, os, sys
    from channels_redis_fast.core import RedisChannelLayer
    from channels_redis_fast.pubsub import RedisPubSubChannelLayer

    LAYERS = {"core": RedisChannelLayer, "pubsub": RedisPubSubChannelLayer}
    hosts, prefix, kind, work = json.loads(sys.argv[1]), *sys.argv[2:]

    def resident():
        gc.collect()
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")

"""

WORK = """
    async def core_messages(layer, count):
        "Sends and receives, in bursts, on one channel of each kind."
        for channel in (await layer.new_channel(), "general"):
            for start in range(0, count // 2, 100):
                receiving = asyncio.gather(*(layer.receive(channel) for _ in range(100)))
                await asyncio.gather(*(layer.send(channel, {"n": n, "text": "x" * 100}) for n in range(100)))
                assert [message["n"] for message in await receiving] == list(range(100))

    async def core_cancelled(layer, count):
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

    async def core_channels(layer, count):
        "Channels that live as long as a WebSocket: named, in a group, used, gone."
        for n in range(count):
            channel = await layer.new_channel()
            await layer.group_add("room", channel)
            await layer.group_send("room", {"n": n})
            assert await layer.receive(channel) == {"n": n}
            await layer.group_discard("room", channel)

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

    async def pubsub_messages(layer, count):
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        for start in range(0, count // 2, 100):
            await asyncio.gather(*(layer.send(channel, {"n": n, "text": "x" * 100}) for n in range(100)))
            await asyncio.gather(*(layer.group_send("room", {"n": n, "text": "x" * 100}) for n in range(100)))
            # On a cluster those to the group come from another server than those to the channel.
            came = [(await layer.receive(channel))["n"] for n in range(200)]
            assert sorted(came) == sorted([*range(100)] * 2)
        await leave(layer, [channel])

    async def pubsub_cancelled(layer, count):
        "Receives on ever new channels, cancelled while they wait."
        for start in range(0, count, 100):
            await leave(layer, [f"{prefix}general{start + n}" for n in range(100)])

    async def pubsub_channels(layer, count):
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

    async def pubsub_flushed(layer, count):
        for start in range(0, count, 100):
            names = await asyncio.gather(*(layer.new_channel() for _ in range(100)))
            await asyncio.gather(*(layer.group_add(f"room{start + n}", name) for n, name in enumerate(names)))
            await layer.send(names[0], {"text": "x" * 1000})
            await layer.flush()

    WORK = {
        ("core", "messages"): (core_messages, 20_000),
        ("core", "cancelled"): (core_cancelled, 2_000),
        ("core", "channels"): (core_channels, 2_000),
        ("pubsub", "messages"): (pubsub_messages, 20_000),
        ("pubsub", "cancelled"): (pubsub_cancelled, 2_000),
        ("pubsub", "channels"): (pubsub_channels, 2_000),
        ("pubsub", "flushed"): (pubsub_flushed, 2_000),
    }

    async def main():
        run, count = WORK[kind, work]
        layer = LAYERS[kind](hosts=hosts, prefix=prefix, capacity=1000)
        if kind == "pubsub":
            layer.grace = 0.005
        sizes = []
        for number in (count // 4, count):
            await run(layer, number)
            if kind == "pubsub":
                await settled(layer)
            sizes.append(resident())
        print(sizes[1] - sizes[0])
        await layer.close_pools()

    asyncio.run(asyncio.wait_for(main(), 100))
"""


def growth(program: str, *arguments: str) -> int:
    """Return by how many bytes a process grows that runs a program."""
    command = [sys.executable, "-c", textwrap.dedent(BEGINNING + program), *arguments]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=110, cwd=ROOT)
    assert ended.stderr == ""
    return int(ended.stdout)


KEPT = pytest.mark.single_server("a general channel that was waited on is kept for ten seconds")


@pytest.mark.parametrize(
    ("kind", "work"),
    [
        ("core", "messages"),
        pytest.param("core", "cancelled", marks=KEPT),
        ("core", "channels"),
        *(("pubsub", work) for work in ("messages", "cancelled", "channels", "flushed")),
    ],
)
def test_a_process_does_not_grow(redis_server: Any, prefix: str, kind: str, work: str) -> None:
    assert growth(WORK, json.dumps(hosts_on(redis_server)), prefix, kind, work) < GROWTH


GONE = """
    async def main():
        layer = LAYERS[kind](hosts=hosts, prefix=prefix, serializer_format=work)
        gone = [await layer.new_channel() for _ in range(1000)]
        channel = await layer.new_channel()
        await asyncio.gather(*(layer.group_add("room", name) for name in [*gone, channel]))

        async def send(n):
            await layer.group_send("room", {"n": n, "type": "chat.message", "user": "alice", "tags": ["a", "b"]})
            assert (await layer.receive(channel))["n"] == n

        for n in range(5):
            await send(n)
        before = resident()
        for n in range(5, 45):
            await send(n)
        print(resident() - before)
        [own] = {(await layer.receive(name))["tags"].append(name) for name in gone}
        await layer.close_pools()

    asyncio.run(asyncio.wait_for(main(), 60))
"""


@pytest.mark.parametrize("serializer", ["msgpack", "json"])
@pytest.mark.parametrize("kind", ["core", "pubsub"])
def test_members_that_are_gone_share_a_message(redis_server: Any, prefix: str, kind: str, serializer: str) -> None:
    """
    40 messages to a group of 1,000 channels that nobody receives on.

    Copies for each would take 16 MB; they are made when somebody receives.
    """
    assert growth(GONE, json.dumps(hosts_on(redis_server)), prefix, kind, serializer) < 5 * GROWTH
