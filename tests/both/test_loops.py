"""Event loops: one layer in several at once, from threads, and what is left when one is closed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import subprocess
import sys
import textwrap
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from asgiref.sync import async_to_sync

from tests.both.conftest import LAYERS
from tests.clusters import Cluster
from tests.conftest import ROOT, hosts_on
from tests.core.helpers import LIMIT, blocked, clients, named, nothing_to_receive, receive_many, started, until, within
from tests.loops import NewLoop, Thread, gone, run
from tests.pubsub.helpers import subscribers

ChannelOf = Callable[[Any], Awaitable[str]]


async def test_async_to_sync_from_a_thread_of_a_running_loop(make_layer: Any) -> None:
    layer = make_layer()
    channel = await layer.new_channel()
    receiving = await started(layer.receive(channel))

    def view() -> None:
        async_to_sync(layer.send)(channel, {"n": 1})
        async_to_sync(layer.group_add)("room", channel)
        async_to_sync(layer.group_send)("room", {"n": 2})

    await within(asyncio.to_thread(view))
    assert await within(receiving) == {"n": 1}
    assert await within(layer.receive(channel)) == {"n": 2}
    await within(asyncio.to_thread(async_to_sync(layer.group_discard), "room", channel))
    await layer.group_send("room", {"n": 3})
    await nothing_to_receive(layer, channel)


async def test_layers_in_one_loop_do_not_mix(make_layer: Any, kind: str, prefix: str) -> None:
    """Their groups have the same name, and on core a general channel has."""
    layers = [make_layer(prefix=f"{prefix}{n}") for n in range(3)] + [make_layer(prefix=f"{prefix}0")]
    channels = [await each.new_channel() for each in layers]
    receiving = [await started(each.receive(channel)) for each, channel in zip(layers, channels, strict=True)]
    for each, channel in zip(layers, channels, strict=True):
        await each.group_add("room", channel)
    if kind == "core":
        for n, each in enumerate(layers):
            await each.send("general", {"n": n})
    for n, each in enumerate(layers[:3]):
        await each.group_send("room", {"n": n})
    assert await within(asyncio.gather(*receiving)) == [{"n": 0}, {"n": 1}, {"n": 2}, {"n": 0}]
    if kind == "core":
        assert [await within(each.receive("general")) for each in layers] == [{"n": n} for n in range(4)]
    for each, channel in zip(layers, channels, strict=True):
        await nothing_to_receive(each, channel)


def test_a_loop_stopped_and_continued(
    layer: Any, kind: str, channel_of: ChannelOf, redis_server: Any, raw: redis.Redis, prefix: str, new_loop: NewLoop
) -> None:
    """As synchronous test clients do it: what was sent while it stood still is there, in order.

    To a receiver that waits all that time, and with nobody there.
    """
    peer = LAYERS[kind](hosts=hosts_on(redis_server), prefix=prefix, sync_hub="never")
    loop = new_loop()

    async def begin() -> tuple[str, Any]:
        channel = await channel_of(layer)
        await layer.group_add("room", channel)
        task = await started(receive_many(layer, channel, 20))
        if kind == "core":
            await until(lambda: blocked(raw, prefix) == 1)
        return channel, task

    async def send(channel: str, start: int) -> None:
        for n in range(start, start + 10):
            # On a cluster a channel and its group are on two nodes: they take turns when all of the other is received.
            await (peer.group_send("room", {"n": n}) if start == 20 else peer.send(channel, {"n": n}))

    try:
        channel, task = loop.run_until_complete(within(begin()))
        for start in (0, 10):
            run(new_loop, send(channel, start))
            loop.run_until_complete(layer.group_discard("another", channel))  # a short step between
        assert loop.run_until_complete(within(task)) == [{"n": n} for n in range(20)]
        for start in (20, 30):
            run(new_loop, send(channel, start))
            expected = [{"n": n} for n in range(start, start + 10)]
            assert loop.run_until_complete(receive_many(layer, channel, 10)) == expected
    finally:
        loop.close()
    gone(raw, prefix)


def test_loops_at_once(layer: Any, kind: str, raw: redis.Redis, prefix: str, new_loop: NewLoop) -> None:
    """Each of several threads receives on its own channels, sent to by the one before, and in a common group.

    All arrives, in the order of each sender.
    """
    threads, count = 4, 200
    meet = threading.Barrier(threads, timeout=LIMIT)
    names: list[list[str]] = [[] for _ in range(threads)]

    async def work(index: int) -> Any:
        own, member = await layer.new_channel(), await layer.new_channel()
        # On core a general channel, whose messages are not this process's until they are popped, is another matter.
        names[index] = [own, f"general{index}"] if kind == "core" else [own]
        await layer.group_add("room", member)
        receiving = [await started(receive_many(layer, name, count)) for name in names[index]]
        receiving.append(await started(receive_many(layer, member, threads * count)))
        await asyncio.to_thread(meet.wait)
        for n in range(count):
            for name in names[(index + 1) % threads]:
                await layer.send(name, {"n": n, "from": index})
            await layer.group_send("room", {"n": n, "from": index})
        got = await asyncio.gather(*receiving)
        # A member that has gone would not be told from one that gets nothing.
        await asyncio.to_thread(meet.wait)
        return got

    with ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(lambda index: run(new_loop, work(index)), range(threads)))
    for index, (*owned, member) in enumerate(results):
        for own in owned:
            assert own == [{"n": n, "from": (index - 1) % threads} for n in range(count)]
        for sender in range(threads):
            assert [m["n"] for m in member if m["from"] == sender] == list(range(count))
    gone(raw, prefix)


@pytest.mark.single_server("it counts connections, of which a cluster's servers have as many as are needed")
def test_close_pools_closes_those_of_other_loops_too(
    layer: Any, kind: str, raw: redis.Redis, prefix: str, new_loop: NewLoop
) -> None:
    """And what lives in the other loop goes on, on connections that are new."""
    first, second = Thread(new_loop), Thread(new_loop)
    try:
        channel = second.do(layer.new_channel())
        for each in (first, second):
            each.do(layer.send("general", {}))
        before = {client["id"] for client in clients(raw, prefix)}
        assert len(before) == (2 if kind == "core" else 3)
        first.do(layer.close_pools())
        first.do(until(lambda: not before & {client["id"] for client in clients(raw, prefix)}))
        if kind == "pubsub":
            first.do(until(lambda: subscribers(raw, channel) == 1))
        first.do(layer.send(channel, {"n": 1}))
        assert second.do(receive_many(layer, channel, 1)) == [{"n": 1}]
    finally:
        first.close()
        second.close()


# The end.


def test_what_a_loop_does_while_it_closes_leaves_nothing(layer: Any, raw: redis.Redis, prefix: str) -> None:
    """A task or a timer that uses the layer between two steps of closing opens no socket that nobody closes."""
    loop = asyncio.new_event_loop()

    async def go_on() -> None:
        while True:
            with contextlib.suppress(redis.RedisError):
                await layer.send("general", {})

    async def work() -> asyncio.Task[None]:
        await layer.send("general", {})
        return asyncio.ensure_future(go_on())

    task = loop.run_until_complete(within(work()))
    loop.close()
    assert not layer._loops
    gone(raw, prefix)
    assert not task.done()
    # Its loop is closed, so it never ends; asyncio would log that when it is collected.
    task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_a_layer_that_is_collected_just_before_its_loop_closes(
    layer: Any, kind: str, redis_server: Any, raw: redis.Redis, prefix: str
) -> None:
    """It closes by itself meanwhile, and no other layer of the loop is forgotten for that."""
    loop = asyncio.new_event_loop()

    async def use(used: Any) -> None:
        channel = await used.new_channel()
        await used.group_add("room", channel)

    async def work() -> None:
        hosts = hosts_on(redis_server, [named(redis_server.url, prefix)])
        collected = LAYERS[kind](hosts=hosts, prefix=prefix, sync_hub="never")
        await use(collected)
        await use(layer)
        del collected
        gc.collect()

    loop.run_until_complete(within(work()))
    loop.close()
    gone(raw, prefix)


LEAVES_NOTHING = """
    import asyncio, gc, json, logging, os, sys
    import redis, uvloop
    from channels_redis_fast.core import RedisChannelLayer
    from channels_redis_fast.pubsub import RedisPubSubChannelLayer

    hosts, urls, prefix, kind, style = sys.argv[1:]
    hosts, urls = json.loads(hosts), json.loads(urls)
    LAYERS = {"core": RedisChannelLayer, "pubsub": RedisPubSubChannelLayer}
    logging.disable(logging.WARNING)

    def connections():
        found = []
        for url in urls:
            with redis.Redis.from_url(url) as raw:
                found += [(url, client["id"]) for client in raw.client_list() if client["name"] == prefix]
        return found

    async def work(layer):
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        receiving = asyncio.ensure_future(layer.receive(channel))
        general = asyncio.ensure_future(layer.receive("general"))
        await layer.group_send("room", {"type": "x"})
        assert await receiving == {"type": "x"}
        if kind == "core":
            await layer.send("general", {})
            assert await general == {}
        if style == "flush":
            await layer.flush()
        elif style == "waiting":
            waiting = [asyncio.ensure_future(layer.receive(name)) for name in (channel, "other")]
            await asyncio.sleep(0)
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
            await layer.send(channel, {})
        elif style == "reconnecting":
            # The loop is closed in the middle of what follows.
            for url, number in connections():
                with redis.Redis.from_url(url) as raw:
                    raw.client_kill_filter(_id=number)
            while layer.stats()["reconnects"] == 0:
                await asyncio.sleep(0)
        general.cancel()
        await asyncio.wait([general])

    def once(new_loop):
        layer = LAYERS[kind](hosts=hosts, prefix=prefix, expiry=60)
        loop = new_loop()
        loop.slow_callback_duration = 60
        loop.run_until_complete(asyncio.wait_for(work(layer), 30))
        loop.close()
        assert loop.is_closed()
        assert not asyncio.all_tasks(loop), asyncio.all_tasks(loop)

    for new_loop in (asyncio.new_event_loop, uvloop.new_event_loop):
        once(new_loop)
        gc.collect()
        before = len(os.listdir("/dev/fd"))
        for _ in range(3):
            once(new_loop)
        gc.collect()
        assert len(os.listdir("/dev/fd")) == before, (new_loop, before, len(os.listdir("/dev/fd")))
        for _ in range(1000):
            left = connections()
            if not left:
                break
        assert not left, (new_loop, left)
    print("done")
"""


@pytest.mark.parametrize("style", ["plain", "waiting", "flush", "reconnecting"])
def test_a_closed_loop_leaves_nothing(redis_server: Any, prefix: str, kind: str, style: str) -> None:
    """No socket, no task, no warning: all of them would be on standard error in development mode."""
    command = [sys.executable, "-X", "dev", "-W", "error::ResourceWarning", "-c", textwrap.dedent(LEAVES_NOTHING)]
    hosts = hosts_on(redis_server, [named(redis_server.url, prefix)])
    urls = redis_server.urls if isinstance(redis_server, Cluster) else [redis_server.url]
    ended = subprocess.run(
        [*command, json.dumps(hosts), json.dumps(urls), prefix, kind, style],
        check=False,
        capture_output=True,
        text=True,
        timeout=110,
        cwd=ROOT,
    )
    assert ended.stderr == ""
    assert ended.stdout == "done\n"
    assert ended.returncode == 0
