"""Closing: cancelled, timed out, asked for twice, in the way of other loops. Nothing hangs and nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from asgiref.sync import async_to_sync

from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.core.helpers import clients, receive_many, started, until, within

Make = Callable[..., Any]

#: Seconds after which a caller gives up: while the server is stopped, and less than closing waits for it.
SOON = 0.3

ROUNDS = 10


@contextlib.contextmanager
def stopped(server: Any) -> Iterator[None]:
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


@pytest.fixture(params=["core", "pubsub"])
def make(request: pytest.FixtureRequest, make_core: Make, make_pubsub: Make) -> Make:
    return make_core if request.param == "core" else make_pubsub


@pytest.mark.parametrize("how", ["timed out", "flush", "all tasks cancelled"])
async def test_a_close_that_is_given_up(make: Make, own_server: Any, how: str) -> None:
    """The server stands still with a send in flight: who waited for the end of that has gone, and the layer goes on."""
    server = own_server()
    layer = make(hosts=[server.url])
    channel = await layer.new_channel()
    receiving = await started(layer.receive(channel))
    await layer.send("other", {"n": 0})
    sending: Any = None
    with stopped(server):
        sending = await started(layer.send("other", {"n": 1}))
        closing = layer.flush if how == "flush" else layer.close_pools
        if how == "all tasks cancelled":
            closed = await started(closing())
            await asyncio.sleep(SOON)
            for task in asyncio.all_tasks() - {asyncio.current_task(), receiving}:
                task.cancel()
            await asyncio.wait([closed])
        else:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(closing(), SOON)
    await asyncio.wait([sending])
    if not sending.cancelled():
        sending.exception()
    # Published messages are missed until it has subscribed again, and that is when this returns.
    await within(layer.close_pools())
    await within(layer.send(channel, {"n": 2}))
    assert await within(receiving) == {"n": 2}


async def test_a_close_that_comes_while_another_is_being_cancelled(make: Make, own_server: Any) -> None:
    """All tasks are cancelled, the closing one too: who closes after that is not, and has everything closed."""
    server = own_server()
    layer = make(hosts=[server.url])
    channel = await layer.new_channel()
    receiving = await started(layer.receive(channel))
    await layer.send("other", {"n": 0})
    with stopped(server):
        sending = await started(layer.send("other", {"n": 1}))
        closed = await started(layer.close_pools())
        for task in asyncio.all_tasks() - {asyncio.current_task(), receiving}:
            task.cancel()
        again = asyncio.ensure_future(layer.close_pools())
        await asyncio.wait([closed, sending])
    await within(again)
    await within(layer.send(channel, {"n": 2}))
    assert await within(receiving) == {"n": 2}


async def test_closes_at_once_are_one(make: Make, redis_server: Any, prefix: str) -> None:
    """One producer, one consumer, and two who close: the second does not close what the first has opened again."""
    layer = make()
    channel = await layer.new_channel()
    receiving = await started(receive_many(layer, channel, ROUNDS))
    for n in range(ROUNDS):
        await within(asyncio.gather(layer.close_pools(), layer.close_pools()))
        await within(layer.send(channel, {"n": n}))
        await until(lambda n=n: layer.stats()["receives"] > n)
    assert await within(receiving) == [{"n": n} for n in range(ROUNDS)]


@pytest.mark.parametrize("rounds", [5])
async def test_a_message_between_two_closes(make_core: Make, rounds: int) -> None:
    """What a wait pops while two close is delivered, and no close waits out its time limit for it."""
    layer = make_core()
    channel = await layer.new_channel()
    for n in range(rounds):
        receiving = await started(layer.receive(channel))
        await until(lambda: layer.stats()["connections_open"] > 0)
        sending = await started(layer.send(channel, {"n": n}))
        begin = asyncio.get_running_loop().time()
        await within(asyncio.gather(layer.close_pools(), sending, layer.close_pools()))
        assert await within(receiving) == {"n": n}
        assert asyncio.get_running_loop().time() - begin < 0.9


def test_a_close_through_the_hub_that_is_given_up(own_server: Any, prefix: str) -> None:
    """Synchronous callers of the whole process share that loop."""
    server = own_server()
    layer = RedisChannelLayer(hosts=[server.url], prefix=prefix)
    async_to_sync(layer.send)("other", {"n": 0})

    batches = layer.stats()["batches"]

    async def give_up() -> None:
        # When the send is on its way.
        await until(lambda: layer.stats()["batches"] > batches)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(layer.close_pools(), SOON)

    async def lost_or_sent() -> None:
        with contextlib.suppress(Exception):
            await layer.send("other", {"n": 1})

    with stopped(server):
        thread = threading.Thread(target=async_to_sync(lost_or_sent))
        thread.start()
        async_to_sync(give_up)()
    thread.join()
    layer.sync.send("other", {"n": 2}, timeout=10)
    async_to_sync(layer.close_pools)()


@pytest.mark.parametrize("kind", [RedisChannelLayer, RedisPubSubChannelLayer])
def test_a_loop_closed_while_another_runs(
    redis_server: Any, raw: redis.Redis, prefix: str, new_loop: Callable[[], Any], kind: Any
) -> None:
    """A thread runs one loop at a time, and still the other one is closed, with its sockets."""
    layer = kind(hosts=[{"address": redis_server.url, "client_name": prefix}], prefix=prefix, sync_hub="never")
    loop = new_loop()
    channel = loop.run_until_complete(layer.new_channel())
    receiving = loop.create_task(layer.receive(channel))
    loop.run_until_complete(within(layer.send("other", {"n": 1})))
    assert clients(raw, prefix)

    async def close() -> None:
        loop.close()

    asyncio.run(close())
    assert loop.is_closed()
    asyncio.run(until(lambda: not clients(raw, prefix)))
    assert not layer._loops
    assert not receiving.done()
    receiving._log_destroy_pending = False


def test_a_loop_that_runs_refuses_to_close_and_goes_on(redis_server: Any, raw: redis.Redis, prefix: str) -> None:
    layer = RedisChannelLayer(
        hosts=[{"address": redis_server.url, "client_name": prefix}], prefix=prefix, sync_hub="never"
    )

    async def work() -> None:
        await layer.send("other", {"n": 1})
        with pytest.raises(RuntimeError, match="running"):
            asyncio.get_running_loop().close()
        await layer.send("other", {"n": 2})
        assert layer.stats()["connections_open"] == 1

    asyncio.run(work())
    asyncio.run(until(lambda: not clients(raw, prefix)))


def test_an_error_does_not_keep_a_loop_open(
    redis_server: Any, prefix: str, new_loop: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    layer = RedisChannelLayer(hosts=[redis_server.url], prefix=prefix, sync_hub="never")
    loop = new_loop()
    loop.run_until_complete(layer.send("other", {"n": 1}))

    async def fail() -> None:
        raise LookupError("of the closing")

    monkeypatch.setattr(layer._loops[loop], "retire", fail)
    loop.close()
    assert loop.is_closed()
    assert "LookupError: of the closing" in caplog.text


class Own:
    """What a site overrides: bound methods that its loops call."""

    def serialize(self, message: Any) -> bytes:
        return super().serialize(message)  # type: ignore[misc, no-any-return]

    def deserialize(self, message: bytes) -> Any:
        return super().deserialize(message)  # type: ignore[misc]

    def get_capacity(self, channel: str) -> int:
        return super().get_capacity(channel)  # type: ignore[misc, no-any-return]

    def create_pool(self, index: int) -> Any:
        return super().create_pool(index)  # type: ignore[misc]

    def consistent_hash(self, value: Any) -> int:
        return super().consistent_hash(value)  # type: ignore[misc, no-any-return]


class OwnCore(Own, RedisChannelLayer):
    pass


class OwnPubSub(Own, RedisPubSubChannelLayer):
    pass


@pytest.mark.parametrize("kind", [RedisChannelLayer, RedisPubSubChannelLayer, OwnCore, OwnPubSub])
async def test_a_collected_layer_closes_its_sockets(
    redis_server: Any, raw: redis.Redis, prefix: str, kind: Any
) -> None:
    """Its loop runs on; nobody can receive or send by the layer any more."""
    if kind in (OwnCore, OwnPubSub) and not hasattr(redis_server, "pid"):
        pytest.skip("a pool is of one server")
    layers = []
    for _ in range(5):
        layer = kind(hosts=[{"address": redis_server.url, "client_name": prefix}], prefix=prefix, sync_hub="never")
        channel = await layer.new_channel()
        receiving = await started(layer.receive(channel))
        await within(layer.send(channel, {"n": 1}))
        assert await within(receiving) == {"n": 1}
        layers.append(weakref.ref(layer))
    assert clients(raw, prefix)
    del layer, receiving

    def are_gone() -> bool:
        gc.collect()
        return not any(found() for found in layers) and not clients(raw, prefix)

    await until(are_gone)
