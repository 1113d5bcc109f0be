"""Forked processes: each is a process of its own to Redis and to its parent, whatever was open when it was forked."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from asgiref.sync import async_to_sync

from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.core.helpers import LIMIT, clients, nothing_to_receive, receive_many, started, until, within
from tests.scenarios import fork

NewLoop = Callable[[], asyncio.AbstractEventLoop]

CHILDREN = 3

#: Equal messages that each process writes to one key: they are told apart by their random prefixes alone.
EQUAL = 40

#: Connections of both layers in one event loop: commands and a wait or subscriptions, each.
SOCKETS = 4

#: What the I/O thread of a process has open for calls from synchronous code, a socket for each layer.
HUB_SOCKETS = 2


class Child:
    """A forked process and the pipe to it, however it was forked."""

    def __init__(self, start: Callable[[Callable[[], None]], Any], work: Callable[[Any], None]) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        self._process = start(lambda: work(theirs))
        theirs.close()

    def ended(self) -> int:
        """Wait for its end, which its own alarm or time limit bounds, and return its exit code."""
        process, self._process = self._process, None
        self.pipe.close()
        if isinstance(process, int):
            return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        process.join(LIMIT)
        return int(process.exitcode)

    def kill(self) -> None:
        if isinstance(self._process, int):
            os.kill(self._process, signal.SIGKILL)
        elif self._process is not None:
            self._process.kill()
        if self._process is not None:
            self.ended()


def by_multiprocessing(work: Callable[[], None]) -> Any:
    process = multiprocessing.get_context("fork").Process(target=work)
    with warnings.catch_warnings():
        # Newer Pythons warn where threads run, as other tests' may; the child touches none of theirs.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    return process


def reported(pipe: Any) -> Any:
    assert pipe.poll(LIMIT), "the child says nothing"
    return pipe.recv()


def serve(new_loop: NewLoop, core: Any, pubsub: Any, pipe: Any) -> None:
    """What a child does: everything, on both layers; it stays until the parent has looked at it."""

    async def work() -> None:
        mine, subscribed = await core.new_channel(), await pubsub.new_channel()
        await core.group_add("room", mine)
        await pubsub.group_add("room", subscribed)
        await asyncio.gather(*(core.send("ledger", {"equal": True}) for _ in range(EQUAL)))
        await pubsub.send("nobody", {})
        pipe.send((core.client_prefix, mine, subscribed))
        pipe.send([await core.receive(mine), await pubsub.receive(subscribed)])
        await core.send("replies", {"from": mine})
        pipe.send([await core.receive(mine), await pubsub.receive(subscribed)])
        # Nothing else runs in this process: whoever waits for the parent may block.
        assert pipe.recv() == "enough"

    # Three handshakes of TLS at once may take a loaded machine seconds.
    signal.alarm(30)
    loop = new_loop()
    loop.run_until_complete(within(work(), 25))
    loop.close()
    # What the child inherited and nobody refers to must not say goodbye in the parent's name.
    gc.collect()


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, prefix: str) -> Iterator[tuple[dict[str, Any], redis.Redis]]:
    """A host whose connections carry the test's prefix as their name, and a client that sees them."""
    if request.param == "tcp":
        server = request.getfixturevalue("redis_server")
        with redis.Redis.from_url(server.url) as raw:
            yield {"address": server.url, "client_name": prefix}, raw
        return
    from tests.places import Certificates, start_tls_server

    certificates = Certificates(tmp_path)
    with start_tls_server(certificates) as server, redis.Redis.from_url(server.unix_url) as raw:
        address = f"rediss://127.0.0.1:{server.port}"
        yield {"address": address, "client_name": prefix, "ssl_ca_certs": certificates.ca}, raw


def addresses(raw: redis.Redis, name: str) -> set[str]:
    """Each connection is another address; on a unix socket, where all are one, another id."""
    return {f"{client['addr']} {client['id']}" for client in clients(raw, name)}


@pytest.mark.parametrize(
    ("way", "place"),
    [("os.fork", "tcp"), ("in a coroutine", "tcp"), ("multiprocessing", "tcp"), ("os.fork", "tls")],
    indirect=["place"],
)
def test_children_of_a_process_that_waits(place: Any, prefix: str, new_loop: NewLoop, way: str) -> None:
    """The parent's loop has sockets open and receives under way; they go on, and the children have their own."""
    host, raw = place
    core = RedisChannelLayer(hosts=[host], prefix=prefix, capacity=1000)
    pubsub = RedisPubSubChannelLayer(hosts=[host], prefix=prefix)
    loop = new_loop()
    run = loop.run_until_complete
    children: list[Child] = []

    async def prepare() -> Any:
        mine, subscribed = await core.new_channel(), await pubsub.new_channel()
        await core.group_add("room", mine)
        await pubsub.group_add("room", subscribed)
        await asyncio.gather(*(core.send("ledger", {"equal": True}) for _ in range(EQUAL)))
        await pubsub.send("nobody", {})
        waits = [await started(layer.receive(name)) for layer, name in ((core, mine), (pubsub, subscribed))]
        await until(lambda: len(clients(raw, prefix)) == SOCKETS)
        return mine, subscribed, waits

    def start(work: Callable[[], None]) -> Any:
        if way == "os.fork":
            return fork(work)
        if way == "multiprocessing":
            return by_multiprocessing(work)

        async def in_a_coroutine() -> int:
            return fork(work)

        return run(in_a_coroutine())

    try:
        mine, subscribed, waits = run(within(prepare()))
        before = addresses(raw, prefix)
        for _ in range(CHILDREN):
            children.append(Child(start, lambda pipe: serve(new_loop, core, pubsub, pipe)))
        told = [reported(child.pipe) for child in children]
        assert len({core.client_prefix, *(client_prefix for client_prefix, _, _ in told)}) == 1 + CHILDREN
        # To each child by name, and its answer.
        for _, channel, name in told:
            run(within(core.send(channel, {"to": channel})))
            run(within(pubsub.send(name, {"to": name})))
        for child, (_, channel, name) in zip(children, told, strict=True):
            assert reported(child.pipe) == [{"to": channel}, {"to": name}]
        replies = run(receive_many(core, "replies", CHILDREN))
        assert {reply["from"] for reply in replies} == {channel for _, channel, _ in told}
        # What the parent waited for all the time, and all at once.
        assert not any(wait.done() for wait in waits)
        for layer in (core, pubsub):
            run(within(layer.group_send("room", {"to": "all"})))
        assert [run(within(wait)) for wait in waits] == [{"to": "all"}] * 2
        for child in children:
            assert reported(child.pipe) == [{"to": "all"}] * 2
        # All are alive now: each has its own sockets, the parent still those that it had.
        now = addresses(raw, prefix)
        assert before <= now
        assert len(now - before) == CHILDREN * SOCKETS
        # Written by four processes, none over another's.
        members = raw.zrange(f"{prefix}ledger", 0, -1)
        assert len(members) == len({member[:12] for member in members}) == EQUAL * (1 + CHILDREN)
        for child in children:
            child.pipe.send("enough")
        assert [child.ended() for child in children] == [0] * CHILDREN
        # They have gone, and took nothing of the parent's along.
        run(until(lambda: addresses(raw, prefix) == before))
        for layer, name in ((core, mine), (pubsub, subscribed)):
            run(nothing_to_receive(layer, name))
            assert layer.stats()["reconnects"] == 0
        assert addresses(raw, prefix) == before
    finally:
        for child in children:
            child.kill()
        loop.close()


@pytest.mark.parametrize("place", ["tcp", "tls"], indirect=True)
def test_children_of_a_preloaded_site(place: Any, prefix: str, new_loop: NewLoop) -> None:
    """gunicorn --preload: the site's one layer is used while it is loaded, then workers are forked that share it."""
    host, raw = place
    core = RedisChannelLayer(hosts=[host], prefix=prefix, capacity=1000)
    pubsub = RedisPubSubChannelLayer(hosts=[host], prefix=prefix)
    children: list[Child] = []

    async def at_load() -> Any:
        await core.group_add("room", "at.load")
        await core.send("at.load", {"n": 1})
        await pubsub.group_send("room", {"n": 1})
        await asyncio.gather(*(core.send("ledger", {"equal": True}) for _ in range(EQUAL)))
        return await within(core.receive("at.load"))

    async def to_each(told: list[Any]) -> None:
        await asyncio.gather(*(core.send(channel, {"to": channel}) for _, channel, _ in told))
        await asyncio.gather(*(pubsub.send(name, {"to": name}) for _, _, name in told))

    async def to_all() -> None:
        for layer in (core, pubsub):
            await layer.group_send("room", {"to": "all"})

    try:
        assert async_to_sync(at_load)() == {"n": 1}
        for _ in range(CHILDREN):
            children.append(Child(fork, lambda pipe: serve(new_loop, core, pubsub, pipe)))
        told = [reported(child.pipe) for child in children]
        assert len({core.client_prefix, *(client_prefix for client_prefix, _, _ in told)}) == 1 + CHILDREN
        # A view in one worker reaches the consumers in all; here the arbiter does, which may as well.
        async_to_sync(to_each)(told)
        for child, (_, channel, name) in zip(children, told, strict=True):
            assert reported(child.pipe) == [{"to": channel}, {"to": name}]
        replies = async_to_sync(receive_many)(core, "replies", CHILDREN)
        assert {reply["from"] for reply in replies} == {channel for _, channel, _ in told}
        async_to_sync(to_all)()
        for child in children:
            assert reported(child.pipe) == [{"to": "all"}] * 2
        members = raw.zrange(f"{prefix}ledger", 0, -1)
        assert len(members) == len({member[:12] for member in members}) == EQUAL * (1 + CHILDREN)
        async_to_sync(until)(lambda: len(addresses(raw, prefix)) == CHILDREN * SOCKETS + HUB_SOCKETS)
        # One dies without a word; the others live on.
        children.pop().kill()
        for child in children:
            child.pipe.send("enough")
        assert [child.ended() for child in children] == [0] * (CHILDREN - 1)
        async_to_sync(until)(lambda: len(addresses(raw, prefix)) == HUB_SOCKETS)
        assert async_to_sync(core.receive)("at.load") == {"to": "all"}
    finally:
        for child in children:
            child.kill()


def test_a_grandchild(redis_server: Any, prefix: str, new_loop: NewLoop) -> None:
    """A forked process that used the layer forks again: what is inherited twice is forgotten twice."""
    host = {"address": redis_server.url, "client_name": prefix}
    core = RedisChannelLayer(hosts=[host], prefix=prefix, capacity=1000)
    pubsub = RedisPubSubChannelLayer(hosts=[host], prefix=prefix)
    async_to_sync(core.send)("ledger", {"equal": True})

    def first(pipe: Any) -> None:
        signal.alarm(30)
        loop = new_loop()
        channel = loop.run_until_complete(within(core.new_channel()))
        receiving = loop.create_task(core.receive(channel))
        loop.run_until_complete(within(core.send("ledger", {"equal": True})))
        second = Child(fork, lambda theirs: serve(new_loop, core, pubsub, theirs))
        told = reported(second.pipe)
        _, other, name = told
        loop.run_until_complete(within(core.send(other, {"n": 1})))
        loop.run_until_complete(within(pubsub.send(name, {"n": 1})))
        assert reported(second.pipe) == [{"n": 1}] * 2
        assert not receiving.done()
        for layer in (core, pubsub):
            loop.run_until_complete(within(layer.group_send("room", {"n": 2})))
        assert reported(second.pipe) == [{"n": 2}] * 2
        second.pipe.send("enough")
        assert second.ended() == 0
        loop.run_until_complete(within(core.send(channel, {"n": 3})))
        assert loop.run_until_complete(within(receiving)) == {"n": 3}
        loop.close()
        pipe.send((told[0], core.client_prefix))

    child = Child(fork, first)
    try:
        assert len({*reported(child.pipe), core.client_prefix}) == 3
        assert child.ended() == 0
    finally:
        child.kill()
    members = []
    with redis.Redis.from_url(redis_server.url) as raw:
        members = raw.zrange(f"{prefix}ledger", 0, -1)
    assert len(members) == len({member[:12] for member in members}) == EQUAL + 2
