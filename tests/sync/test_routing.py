"""Which connections a call takes: those of the process' I/O thread, or of its own event loop. Counted by the server."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from bench.server import Server
from channels_redis_fast.sync import hub, routing
from tests.core.helpers import within
from tests.sync.helpers import Link, count_opened, in_threads, wait_until

Make = Callable[..., Any]
Opened = Callable[[], int]

CALLS = 60


def calls_of(layer: Any, place: Any, run: Callable[..., Any]) -> list[Callable[[], Any]]:
    """One call of each kind that synchronous code makes, each with an event loop of its own."""
    return [
        lambda: run(layer.send, place.channel, {"n": 1}),
        lambda: run(layer.group_send, place.group, {"n": 2}),
        lambda: run(layer.group_discard, "other", place.channel),
        lambda: run(layer.send_many, [(place.channel, {"n": 3})]),
        lambda: run(layer.group_send_many, [(place.group, {"n": 4})]),
    ]


def by_async_to_sync(function: Any, *args: Any) -> None:
    async_to_sync(function)(*args)


def by_asyncio_run(function: Any, *args: Any) -> None:
    asyncio.run(function(*args))


@pytest.mark.parametrize("run", [by_async_to_sync, by_asyncio_run])
def test_one_connection_for_all_calls(make: Make, server: Server, opened: Opened, place_of: Any, run: Any) -> None:
    layer = make(hosts=[server.url])
    place = place_of(layer, server.url)
    before = opened()
    for _ in range(20):
        for call in calls_of(layer, place, run):
            call()
    assert len(place.heard(80)) == 80
    assert opened() - before == 1
    assert layer.stats()["connections_open"] == 1
    # No event loop leaves anything behind.
    assert list(layer._loops) == [hub.current().loop]
    assert not layer._router._transient or all(loop.is_closed() for loop in layer._router._transient)


def test_one_connection_for_all_threads(make: Make, server: Server, opened: Opened, place_of: Any) -> None:
    layer = make(hosts=[server.url])
    place = place_of(layer, server.url)
    before = opened()

    def work(index: int) -> None:
        for _ in range(5):
            for call in calls_of(layer, place, by_async_to_sync):
                call()
        layer.sync.send(place.channel, {"n": 5})

    assert in_threads(20, work) == [None] * 20
    assert len(place.heard(20 * 21)) == 20 * 21
    assert opened() - before == 1


def test_one_connection_for_each_shard(make: Make, own_server: Any) -> None:
    servers = [own_server(), own_server()]
    layer = make(hosts=[server.url for server in servers])
    with ExitStack() as stack:
        counts = [stack.enter_context(count_opened(server.url)) for server in servers]
        for n in range(30):
            async_to_sync(layer.group_send)(f"room{n}", {"n": n})
            async_to_sync(layer.send)(f"channel{n}", {"n": n})
        assert [opened() for opened in counts] == [1, 1]


def test_a_loop_that_calls_often_gets_its_own(
    make: Make, server: Server, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A busy machine may need longer for the calls than a loop may live before it gets one.
    monkeypatch.setattr(routing, "LONG", 600.0)
    layer = make(hosts=[server.url])

    async def several() -> None:
        for n in range(routing.MANY):
            await layer.send("target", {"n": n})
        assert asyncio.get_running_loop() not in layer._loops
        await layer.send("target", {"n": routing.MANY})
        assert layer._router[asyncio.get_running_loop()] is layer._loops[asyncio.get_running_loop()]

    asyncio.run(several())
    assert opened() == 2
    assert layer.stats()["connections_open"] == 1


def test_a_loop_that_comes_back_gets_its_own(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = make()

    async def twice() -> bool:
        await layer.send("target", {"n": 1})
        monkeypatch.setattr(routing, "LONG", 0.0)
        await layer.send("target", {"n": 2})
        return asyncio.get_running_loop() in layer._loops

    assert asyncio.run(twice())


def test_a_loop_that_receives_gets_its_own(make: Make, server: Server, opened: Opened) -> None:
    layer = make(hosts=[server.url])

    async def receive() -> Any:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.group_send("room", {"n": 1})
        await layer.send(channel, {"n": 2})
        return [await layer.receive(channel), await layer.receive(channel)]

    assert asyncio.run(within(receive())) == [{"n": 1}, {"n": 2}]
    # One for commands, and one that waits or subscribes.
    assert opened() == 2
    assert layer.stats()["connections_open"] == 0


def test_always(make: Make, server: Server, opened: Opened) -> None:
    layer = make(hosts=[server.url], sync_hub="always")

    async def several() -> None:
        await asyncio.gather(*(layer.send("target", {"n": n}) for n in range(routing.MANY + 5)))
        for n in range(routing.MANY):
            await layer.send("target", {"n": n})

    asyncio.run(several())
    assert opened() == 1


def test_never(make: Make, server: Server, opened: Opened) -> None:
    layer = make(hosts=[server.url], sync_hub="never")
    for n in range(5):
        async_to_sync(layer.send)("target", {"n": n})
    assert opened() == 5
    assert layer.stats()["connections_open"] == 0
    # Who calls it asks for the I/O thread.
    layer.sync.send("target", {"n": 5})
    assert opened() == 6


@pytest.mark.parametrize("value", ["Auto", "", None, True])
def test_no_other_rule(make: Make, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="'sync_hub' must be one of 'auto', 'always', 'never'"):
        make(sync_hub=value)


def test_closing_closes_the_io_threads_too(make: Make, server: Server, opened: Opened) -> None:
    layer = make(hosts=[server.url])
    async_to_sync(layer.send)("target", {"n": 1})
    assert layer.stats()["connections_open"] == 1
    async_to_sync(layer.close_pools)()
    assert layer.stats()["connections_open"] == 0
    async_to_sync(layer.send)("target", {"n": 2})
    assert opened() == 2


# What is not used any more.


def test_idle_connections_are_closed_and_opened_again(
    make: Make, server: Server, opened: Opened, place_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls that come at the very moment of closing are carried out like others."""
    monkeypatch.setattr(routing, "IDLE", 0.002)
    layer = make(hosts=[server.url])
    place = place_of(layer, server.url)
    sent = 0
    while opened() < 20 and sent < 5_000:
        layer.sync.send(place.channel, {"n": sent})
        async_to_sync(layer.send)(place.channel, {"n": sent + 1})
        sent += 2
        if sent % 6 == 0:
            wait_until(lambda: not layer.stats()["connections_open"])
    assert opened() >= 20, "connections were not closed"
    assert [message["n"] for message in place.heard(sent)] == list(range(sent))
    wait_until(lambda: not layer.stats()["connections_open"])


def test_under_load_from_threads_idle_closing_loses_nothing(
    make: Make, place_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "IDLE", 0.0)
    layer = make()
    place = place_of(layer)

    def work(index: int) -> None:
        for n in range(CALLS):
            layer.sync.send(place.channel, {"from": index, "n": n})

    assert in_threads(5, work) == [None] * 5
    heard = place.heard(5 * CALLS)
    for index in range(5):
        assert [message["n"] for message in heard if message["from"] == index] == list(range(CALLS))


@pytest.mark.parametrize("own_pools", [False, True])
def test_a_layer_that_is_dropped_closes_its_connections(
    kind: str, make: Make, server: Server, monkeypatch: pytest.MonkeyPatch, own_pools: bool
) -> None:
    """A site that makes a layer for each task must not fill the server."""
    import redis

    from tests.sync.conftest import KINDS

    class OwnPools(KINDS[kind]):  # type: ignore[misc]
        def create_pool(self, index: int) -> Any:
            return super().create_pool(index)

    if own_pools:
        # Its sockets know it, so that it stays as long as they are in use.
        monkeypatch.setattr(routing, "IDLE", 0.01)
    with redis.Redis.from_url(server.url) as raw:
        for n in range(3):
            layer = (OwnPools if own_pools else KINDS[kind])(hosts=[{"address": server.url, "client_name": "dropped"}])
            layer.sync.send("target", {"n": n})
            dropped = weakref.ref(layer)
            del layer

            def is_gone(dropped: weakref.ref[Any] = dropped) -> bool:
                gc.collect()
                return dropped() is None and not [c for c in raw.client_list() if c["name"] == "dropped"]

            wait_until(is_gone)


# Loops that are gone.


def test_loops_that_were_closed_during_a_call_leave_nothing(make: Make, server: Server, link: Link) -> None:
    """The answer comes when nobody is there any more."""
    layer = make(hosts=[link.url])
    layer.sync.send("target", {"n": 0})
    link.do(link.proxy.stall)
    loops = []
    for n in range(10):
        loop = asyncio.new_event_loop()
        with pytest.raises(asyncio.TimeoutError):
            loop.run_until_complete(asyncio.wait_for(layer.send("target", {"n": n}), 0.01))
        loop.close()
        loops.append(weakref.ref(loop))
    del loop
    link.do(link.proxy.go_on)
    layer.sync.send("target", {"n": 11})

    def are_gone() -> bool:
        gc.collect()
        return not any(loop() for loop in loops)

    wait_until(are_gone)
    assert list(layer._loops) == [hub.current().loop]
