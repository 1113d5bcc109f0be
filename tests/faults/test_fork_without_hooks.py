"""Processes forked by C code, which runs no hooks of Python's, as uWSGI forks its workers: nobody tells them."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import pytest
import redis
from asgiref.sync import async_to_sync

from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.core.helpers import within
from tests.forks import fork_in_c

WORKERS = 2

EQUAL = 20


def fork(work: Callable[[Any], None]) -> tuple[int, Any]:
    """Fork like C does; the child does its work and is gone. Return its process id and the pipe from it."""
    ours, theirs = multiprocessing.Pipe()
    child = fork_in_c()
    if child:
        return child, ours
    status = 1
    try:
        signal.alarm(20)
        work(theirs)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def finished(children: list[tuple[int, Any]]) -> list[Any]:
    told = [pipe.recv() if pipe.poll(20) else None for _, pipe in children]
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child, _ in children] == [0] * len(children)
    return told


@pytest.mark.parametrize("sync_hub", ["auto", "never"])
def test_workers(redis_server: Any, raw: redis.Redis, prefix: str, sync_hub: str) -> None:
    """The master has sent before; its workers call, receive, and are told apart."""
    core = RedisChannelLayer(hosts=[redis_server.url], prefix=prefix, sync_hub=sync_hub, capacity=1000)
    pubsub = RedisPubSubChannelLayer(hosts=[redis_server.url], prefix=prefix, sync_hub=sync_hub)
    async_to_sync(core.send)("ledger", {"equal": True})
    async_to_sync(pubsub.group_send)("room", {"n": 0})

    def work(pipe: Any) -> None:
        name = core.client_prefix
        for _ in range(EQUAL):
            async_to_sync(core.send)("ledger", {"equal": True})
        core.sync.send("ledger", {"equal": True})
        async_to_sync(pubsub.group_send)("room", {"n": 1})

        async def reply() -> None:
            for layer in (core, pubsub):
                channel = await layer.new_channel()
                await layer.group_add("mine", channel)
                await layer.send(channel, {"to": channel})
                assert await layer.receive(channel) == {"to": channel}

        asyncio.run(within(reply(), 10))
        pipe.send((name, core.client_prefix))

    told = finished([fork(work) for _ in range(WORKERS)])
    # The same in all of a worker's life, and another in each.
    assert all(first == last for first, last in told)
    assert len({core.client_prefix, *(first for first, _ in told)}) == 1 + WORKERS
    assert raw.zcard(f"{prefix}ledger") == 1 + WORKERS * (EQUAL + 1)
    # The master's own connections are as they were.
    async_to_sync(core.send)("ledger", {"equal": True})
    for layer in (core, pubsub):
        assert layer.stats()["reconnects"] == 0
        async_to_sync(layer.close_pools)()


def test_replies_in_the_names_of_the_master(redis_server: Any, prefix: str) -> None:
    """A receive in a worker that has called nothing else finds its own prefix, and no key of the master's."""
    layer = RedisChannelLayer(hosts=[redis_server.url], prefix=prefix)

    async def receive_here() -> str:
        channel = await layer.new_channel()
        await layer.send(channel, {"n": 1})
        assert await layer.receive(channel) == {"n": 1}
        return str(channel)

    inherited = asyncio.run(receive_here())

    def work(pipe: Any) -> None:
        with pytest.raises(AssertionError):
            asyncio.run(within(layer.receive(inherited), 10))
        pipe.send(asyncio.run(within(receive_here(), 10)))

    [name] = finished([fork(work)])
    assert name.partition("!")[0] != inherited.partition("!")[0]


def test_the_end_of_a_worker_that_calls_nothing(redis_server: Any, prefix: str) -> None:
    """It does not wait for the thread of the master's hub."""
    from channels_redis_fast.sync import hub

    layer = RedisChannelLayer(hosts=[redis_server.url], prefix=prefix)
    layer.sync.send("ledger", {"n": 0})

    def work(pipe: Any) -> None:
        begin = time.monotonic()
        hub._stop()
        pipe.send(time.monotonic() - begin)

    [seconds] = finished([fork(work)])
    assert seconds < hub.STOP_TIMEOUT
    layer.sync.send("ledger", {"n": 1})


@pytest.mark.parametrize("hooks", [True, False], ids=["hooks", "no hooks"])
@pytest.mark.parametrize("kind", [RedisChannelLayer, RedisPubSubChannelLayer])
def test_a_lock_that_a_thread_of_the_parent_holds(redis_server: Any, prefix: str, kind: Any, hooks: bool) -> None:
    """The mailboxes' lock is taken while the process forks: nobody in the child will ever release it."""
    layer = kind(hosts=[redis_server.url], prefix=prefix)
    room = layer._inboxes if kind is RedisChannelLayer else layer._limits
    is_held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with room.lock:
            is_held.set()
            release.wait(20)

    async def exchange() -> None:
        channel = await layer.new_channel()
        receiving = asyncio.ensure_future(layer.receive(channel))
        await asyncio.sleep(0)
        await layer.send(channel, {"n": 1})
        assert await receiving == {"n": 1}

    def work(pipe: Any) -> None:
        asyncio.run(within(exchange(), 10))
        pipe.send("done")

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert is_held.wait(20)
        if hooks:
            from tests.scenarios import fork as fork_with_hooks

            ours, theirs = multiprocessing.Pipe()

            def in_child() -> None:
                signal.alarm(20)
                work(theirs)

            child = fork_with_hooks(in_child), ours
        else:
            child = fork(work)
        assert finished([child]) == ["done"]
    finally:
        release.set()
        thread.join()


@pytest.mark.parametrize("kind", [RedisChannelLayer, RedisPubSubChannelLayer])
def test_an_event_loop_of_the_master_that_goes_on_in_a_worker(redis_server: Any, prefix: str, kind: Any) -> None:
    """Its sockets are the master's: each call says so, none hangs, and the master hears nothing of it."""
    layer = kind(hosts=[redis_server.url], prefix=prefix, sync_hub="never")
    loop = asyncio.new_event_loop()

    async def use(n: int) -> str:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        receiving = asyncio.ensure_future(layer.receive(channel))
        await asyncio.sleep(0)
        await layer.group_send("room", {"n": n})
        assert await receiving == {"n": n}
        return str(channel)

    channel = loop.run_until_complete(within(use(0)))

    def work(pipe: Any) -> None:
        async def error_of(call: Any) -> str:
            with pytest.raises(redis.exceptions.ConnectionError) as raised:
                await within(call, 5)
            return str(raised.value)

        async def calls() -> list[str]:
            made = [layer.send("general", {}), layer.group_send("room", {}), layer.group_add("room", channel)]
            return [await error_of(call) for call in (*made, layer.receive(channel), layer.receive("general"))]

        told = loop.run_until_complete(calls())
        # A loop of its own is another matter.
        asyncio.run(within(use(1), 10))
        pipe.send(told)

    [told] = finished([fork(work)])
    assert len(told) == 5
    assert all("was forked from one that runs this event loop" in text for text in told)
    loop.run_until_complete(within(use(2)))
    assert layer.stats()["reconnects"] == 0
    loop.close()
