"""Event loops: none, several at once, one after another, stopped and continued, closed, forked; and an idle one."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
import redis
from asgiref.sync import async_to_sync

from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.conftest import ROOT, hosts_on
from tests.core.helpers import LIMIT, clients, named, nothing_to_receive, started, until, within
from tests.loops import NewLoop, Thread, begin_to_receive, finished, gone, run
from tests.pubsub.helpers import subscribers, subscriptions
from tests.scenarios import fork, reported


@pytest.fixture
def layer(redis_server: Any, prefix: str) -> RedisPubSubChannelLayer:
    """A layer whose loops the tests make and close: nothing else closes its sockets."""
    hosts = hosts_on(redis_server, [named(redis_server.url, prefix)])
    return RedisPubSubChannelLayer(hosts=hosts, prefix=prefix, sync_hub="never")


# One after another.


def test_loops_one_after_another(
    layer: RedisPubSubChannelLayer, raw: redis.Redis, prefix: str, new_loop: NewLoop
) -> None:
    """Each has channels of its own; a name of an earlier loop is a channel like any other."""
    name = run(new_loop, layer.new_channel())
    gone(raw, prefix)

    async def work(n: int) -> None:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.group_send("room", {"n": n})
        assert await within(layer.receive(channel)) == {"n": n}
        receiving = await started(layer.receive(name))
        await until(lambda: subscribers(raw, name) == 1)
        await layer.send(name, {"again": n})
        assert await within(receiving) == {"again": n}
        with pytest.raises(RuntimeError):
            await layer.group_add("room", "of nobody")

    for n in range(3):
        run(new_loop, work(n))
        gone(raw, prefix)


def test_a_channel_of_a_closed_loop_is_nobodys(layer: RedisPubSubChannelLayer, new_loop: NewLoop) -> None:
    name = run(new_loop, layer.new_channel())

    async def work() -> None:
        with pytest.raises(RuntimeError, match=name):
            await layer.group_add("room", name)
        await layer.group_discard("room", name)

    run(new_loop, work())


def test_async_to_sync(layer: RedisPubSubChannelLayer, raw: redis.Redis, prefix: str) -> None:
    """Each call has a loop of its own, as in a synchronous view; nothing is left behind."""
    with raw.pubsub() as pubsub:
        names = [f"{prefix}general", f"{prefix}__group__room"]
        pubsub.subscribe(*names)
        assert [pubsub.get_message(timeout=LIMIT)["type"] for _ in names] == ["subscribe"] * 2
        for n in range(3):
            async_to_sync(layer.send)(f"{prefix}general", {"n": n})
            async_to_sync(layer.group_send)("room", {"n": n})
            heard = {pubsub.get_message(timeout=LIMIT)["channel"].decode() for _ in names}
            assert heard == set(names)
    async_to_sync(layer.flush)()
    gone(raw, prefix)


# At once.


def test_groups_from_another_loop(
    layer: RedisPubSubChannelLayer, raw: redis.Redis, prefix: str, new_loop: NewLoop
) -> None:
    """group_add and group_discard find the loop that the channel lives in, as long as that runs."""
    home, other = Thread(new_loop), Thread(new_loop)
    try:
        channel = home.do(layer.new_channel())
        task = home.do(begin_to_receive(layer, channel, 1))
        other.do(layer.group_add("room", channel))
        other.do(layer.group_send("room", {"n": 1}))
        assert home.do(finished(task)) == [{"n": 1}]
        other.do(layer.group_discard("room", channel))
        other.do(until(lambda: subscriptions(raw, prefix) == {channel}))
        other.do(layer.group_send("room", {"n": 2}))
        home.do(nothing_to_receive(layer, channel))
        home.stop()
        with pytest.raises(RuntimeError, match=channel):
            other.do(layer.group_add("room", channel))
        other.do(layer.group_discard("room", channel))
        home.loop.close()
    finally:
        other.close()
        if not home.loop.is_closed():
            home.close()
    gone(raw, prefix)


# Forked.


def test_a_forked_child_has_sockets_of_its_own(
    layer: RedisPubSubChannelLayer, raw: redis.Redis, prefix: str, new_loop: NewLoop
) -> None:
    """It sends and receives, and its parent does not notice."""
    loop = new_loop()
    mine, childs = multiprocessing.Pipe()
    pid = 0

    async def prepare() -> Any:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.send(channel, {"n": 0})
        assert await within(layer.receive(channel)) == {"n": 0}
        return channel, await started(layer.receive(channel))

    async def serve() -> None:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        childs.send(channel)
        childs.send(await layer.receive(channel))
        await layer.group_send("room", {"from": "the child"})
        childs.send(await layer.receive(channel))

    try:
        channel, receiving = loop.run_until_complete(within(prepare()))
        before = {client["id"] for client in clients(raw, prefix)}
        pid = fork(lambda: run(new_loop, serve()))
        other = reported(mine)
        loop.run_until_complete(within(layer.send(other, {"to": "the child"})))
        assert reported(mine) == {"to": "the child"}
        assert reported(mine) == {"from": "the child"}
        # The child's alarm bounds this wait.
        status, pid = os.waitpid(pid, 0)[1], 0
        assert status == 0
        assert loop.run_until_complete(within(receiving)) == {"from": "the child"}
        assert before <= {client["id"] for client in clients(raw, prefix)}
        loop.run_until_complete(nothing_to_receive(layer, channel))
    finally:
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        loop.close()
    gone(raw, prefix)


# The end.

CLOSES_WHILE_AWAY = """
    import asyncio, logging, os, signal, sys
    import uvloop
    from channels_redis_fast.pubsub import RedisPubSubChannelLayer

    url, pid, kind = sys.argv[1:]
    new_loop = uvloop.new_event_loop if kind == "uvloop" else asyncio.new_event_loop
    logging.disable(logging.CRITICAL)

    async def lost(layer, steps):
        "Return some steps after the layer has begun to come back."
        [subscriber] = layer._loops[asyncio.get_running_loop()]._subscribers
        while subscriber.link is not None or not subscriber.is_opening:
            await asyncio.sleep(0)
        for _ in range(steps):
            await asyncio.sleep(0)

    loops = [(new_loop(), RedisPubSubChannelLayer(hosts=[url])) for _ in range(40)]
    for loop, layer in loops:
        loop.run_until_complete(layer.new_channel())
    os.kill(int(pid), signal.SIGKILL)
    for steps, (loop, layer) in enumerate(loops):
        loop.run_until_complete(lost(layer, steps))
        # The loop stands still, and meanwhile its attempt to connect is refused.
        loop.close()
    print("done")
"""


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_a_loop_closes_while_the_server_is_away(own_server: Callable[..., Any], kind: str) -> None:
    """Whatever an attempt to come back is about to do: in a process of its own, since a loop that hangs ends it."""
    server = own_server()
    command = [sys.executable, "-c", textwrap.dedent(CLOSES_WHILE_AWAY), server.url, str(server.pid), kind]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (ended.stdout, ended.stderr) == ("done\n", "")


# Idle.


class Counting(asyncio.SelectorEventLoop):
    """Counts how often it has something to do."""

    rounds = 0

    def _run_once(self) -> None:
        self.rounds += 1
        super()._run_once()  # type: ignore[misc]


def test_an_idle_layer_does_nothing(layer: RedisPubSubChannelLayer) -> None:
    """Nothing polls: a second in which nothing happens is one in which the loop sleeps."""

    async def idle() -> int:
        channels = [await layer.new_channel() for _ in range(50)]
        receiving = [await started(layer.receive(channel)) for channel in channels]
        await layer.send(channels[0], {"n": 1})
        assert await within(receiving[0]) == {"n": 1}
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Counting)
        before = loop.rounds
        # Not a pause for something to finish: doing nothing for a second is what is measured.
        await asyncio.sleep(1.0)
        rounds = loop.rounds - before
        for task in receiving[1:]:
            task.cancel()
        await asyncio.wait(receiving)
        return rounds

    # On a cluster what was waited for is looked after once more, and whether the loop stood still is soon looked for
    # more rarely.
    assert run(Counting, idle()) <= 10
