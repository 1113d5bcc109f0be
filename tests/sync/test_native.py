"""`layer.sync`: the layer's sends and groups as plain functions, from any thread without an event loop."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async

from bench.server import Server
from tests.core.helpers import within
from tests.sync.helpers import Link, in_threads

Make = Callable[..., Any]

METHODS = (
    *("send", "send_many", "group_add", "group_discard", "group_send", "group_send_many"),
    *("group_history", "group_resume", "group_forget"),
)

ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "send": ("target", {"n": 1}),
    "send_many": ([("target", {"n": 1})],),
    "group_add": ("room", "target"),
    "group_discard": ("room", "target"),
    "group_send": ("room", {"n": 1}),
    "group_send_many": ([("room", {"n": 1})],),
    "group_history": ("room",),
    "group_resume": ("room", "target", "x"),
    "group_forget": ("room",),
}

HISTORY = {"*": {"size": 10, "ttl": 60}}


def test_each_method(make: Make, place_of: Any, opened: Any, server: Server) -> None:
    layer = make(hosts=[server.url])
    place = place_of(layer, server.url)
    before = opened()
    layer.sync.send(place.channel, {"n": 1})
    layer.sync.group_send(place.group, {"n": 2})
    layer.sync.send_many([(place.channel, {"n": 3}), (place.channel, {"n": 4})])
    layer.sync.group_send_many([(place.group, {"n": 5}), (place.group, {"n": 6})])
    assert [message["n"] for message in place.heard(6)] == [1, 2, 3, 4, 5, 6]
    assert opened() - before == 1


def test_histories(make: Make, place_of: Any) -> None:
    """What they return is what the coroutines return."""
    layer = make(history=HISTORY)
    place = place_of(layer)
    start = layer.sync.group_history(place.group)
    assert (start.messages, start.complete) == ([], True)
    for n in range(4):
        layer.sync.group_send(place.group, {"n": n})
    history = layer.sync.group_history(place.group, since=start.position, limit=3)
    assert [message["n"] for message in history.messages] == [0, 1, 2]
    assert history.complete
    assert layer.sync.group_history(place.group, history.position).messages[0]["n"] == 3
    # Each is the one that was delivered, with its position.
    kept = layer.sync.group_history(place.group).messages
    assert [message["__position__"] for message in kept] == [message["__position__"] for message in place.heard(4)]
    assert layer.sync.group_forget(place.group) is None
    assert not layer.sync.group_history(place.group, since=start.position, timeout=20).complete
    with pytest.raises(RuntimeError, match="has no history"):
        make(history={"other": {"size": 1, "ttl": 1}}).sync.group_history(place.group)


@pytest.mark.parametrize("kind", ["core"], indirect=True)
def test_resuming_on_the_core_layer(make: Make, raw: Any, prefix: str) -> None:
    layer = make(history=HISTORY)
    start = layer.sync.group_history("room")
    layer.sync.group_send("room", {"n": 1})
    history = layer.sync.group_resume("room", "target", start.position)
    assert [message["n"] for message in history.messages] == [1]
    assert history.complete
    assert raw.zrange(f"{prefix}:group:room", 0, -1) == [b"target"]
    stats = layer.stats()
    assert (stats["recorded"], stats["recovered"], stats["incomplete"]) == (1, 1, 0)


@pytest.mark.parametrize("kind", ["pubsub"], indirect=True)
def test_resuming_on_the_pubsub_layer(make: Make) -> None:
    layer = make(history=HISTORY)

    async def consumer() -> Any:
        channel = await layer.new_channel()
        start = await layer.group_history("room")
        await layer.group_send("room", {"n": 1})
        return await asyncio.to_thread(layer.sync.group_resume, "room", channel, start.position)

    history = asyncio.run(within(consumer()))
    assert [message["n"] for message in history.messages] == [1]
    assert history.complete
    stats = layer.stats()
    assert (stats["recorded"], stats["recovered"], stats["incomplete"]) == (1, 1, 0)


@pytest.mark.parametrize("kind", ["core"], indirect=True)
def test_groups_on_the_core_layer(make: Make, raw: Any, prefix: str) -> None:
    layer = make()
    layer.sync.group_add("room", "target")
    layer.sync.group_add("room", "other")
    layer.sync.group_discard("room", "other")
    layer.sync.group_discard("room", "never.there")
    assert raw.zrange(f"{prefix}:group:room", 0, -1) == [b"target"]


@pytest.mark.parametrize("kind", ["pubsub"], indirect=True)
def test_groups_on_the_pubsub_layer(make: Make) -> None:
    """A channel lives in the loop of its consumer, which runs; a thread adds it and removes it."""
    layer = make()

    async def consumer() -> Any:
        channel = await layer.new_channel()
        await asyncio.to_thread(layer.sync.group_add, "room", channel)
        await asyncio.to_thread(layer.sync.group_send, "room", {"n": 1})
        first = await layer.receive(channel)
        await asyncio.to_thread(layer.sync.group_discard, "room", channel)
        await asyncio.to_thread(layer.sync.group_send, "room", {"n": 2})
        await asyncio.to_thread(layer.sync.send, channel, {"n": 3})
        return first, await layer.receive(channel)

    assert asyncio.run(within(consumer())) == ({"n": 1}, {"n": 3})
    with pytest.raises(RuntimeError, match="channels of this process only"):
        layer.sync.group_add("room", "elsewhere")


def test_fifty_threads_at_once(make: Make, place_of: Any) -> None:
    """gunicorn's gthread workers, all in the same moment."""
    layer = make()
    place = place_of(layer)
    together = threading.Barrier(50)

    def work(index: int) -> None:
        together.wait()
        for n in range(10):
            layer.sync.group_send(place.group, {"from": index, "n": n})

    assert in_threads(50, work) == [None] * 50
    heard = place.heard(500)
    assert len(heard) == 500
    for index in range(50):
        assert [message["n"] for message in heard if message["from"] == index] == list(range(10))


# Where it cannot wait.


@pytest.mark.parametrize("method", METHODS)
def test_on_the_thread_of_a_running_loop(make: Make, method: str) -> None:
    """Jupyter, an async view: it would hold up the loop, and says what to use."""
    layer = make()

    async def cell() -> None:
        with pytest.raises(RuntimeError, match=rf"use await layer\.{method}\(\) here"):
            getattr(layer.sync, method)(*ARGUMENTS[method])

    asyncio.run(cell())


def test_from_another_thread_of_a_notebook(make: Make, place_of: Any) -> None:
    """The main thread's loop runs; worker threads may wait, in any of the ways to get there."""
    layer = make()
    place = place_of(layer)

    async def notebook() -> None:
        await asyncio.to_thread(layer.sync.send, place.channel, {"n": 1})
        await sync_to_async(layer.sync.send)(place.channel, {"n": 2})
        await sync_to_async(async_to_sync(layer.send))(place.channel, {"n": 3})
        await asyncio.to_thread(async_to_sync(layer.send), place.channel, {"n": 4})
        await layer.send(place.channel, {"n": 5})

    asyncio.run(within(notebook()))
    assert [message["n"] for message in place.heard(5)] == [1, 2, 3, 4, 5]


# How long it waits.


def stalled(link: Link, layer: Any) -> None:
    layer.sync.send("target", {"n": 0})
    link.do(link.proxy.stall)


@pytest.mark.parametrize("method", METHODS)
def test_a_server_that_says_nothing(make: Make, link: Link, kind: str, method: str) -> None:
    if kind == "pubsub" and method in ("group_add", "group_discard", "group_resume"):
        pytest.skip("on Pub/Sub they are for channels of this process")
    layer = make(hosts=[link.url], history=HISTORY)
    stalled(link, layer)
    with pytest.raises(TimeoutError, match=rf"^{method}.* did not finish within 0\.05 s; it may .* happened"):
        getattr(layer.sync, method)(*ARGUMENTS[method], timeout=0.05)
    link.do(link.proxy.go_on)
    getattr(layer.sync, method)(*ARGUMENTS[method])


def test_the_default_is_an_option(make: Make, link: Link) -> None:
    layer = make(hosts=[link.url], sync_timeout=0.05)
    layer.sync.send("target", {"n": 0}, timeout=30)
    link.do(link.proxy.stall)
    with pytest.raises(TimeoutError, match=r"within 0\.05 s"):
        layer.sync.send("target", {"n": 1})
    with pytest.raises(TimeoutError, match=r"within 0\.01 s"):
        layer.sync.send("target", {"n": 1}, timeout=0.01)
    link.do(link.proxy.go_on)
    layer.sync.send("target", {"n": 2}, timeout=None)


def test_without_a_timeout_the_layers_own_counts(make: Make, link: Link) -> None:
    """An answer may take as long as the host's `socket_timeout` says."""
    layer = make(hosts=[{"address": link.url, "socket_timeout": 0.1}])
    stalled(link, layer)
    with pytest.raises(Exception, match=r"127\.0\.0\.1:\d+") as raised:
        layer.sync.send("target", {"n": 1})
    assert type(raised.value).__name__ == "ConnectionError"
    link.do(link.proxy.go_on)


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), 10**12])
def test_odd_timeouts(make: Make, link: Link, timeout: float) -> None:
    layer = make(hosts=[link.url])
    stalled(link, layer)
    if timeout > 0:
        link.do(link.proxy.go_on)
        layer.sync.send("target", {"n": 1}, timeout=timeout)
    else:
        with pytest.raises(TimeoutError):
            layer.sync.send("target", {"n": 1}, timeout=timeout)


@pytest.mark.parametrize("value", [0, -1, "soon", True, float("nan")])
def test_wrong_defaults(make: Make, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="'sync_timeout'"):
        make(sync_timeout=value)


@pytest.mark.parametrize("way", ["sync", "async_to_sync"])
def test_after_ctrl_c(make: Make, link: Link, way: str) -> None:
    """It ends the wait at once, and nothing else: the next call works."""
    layer = make(hosts=[link.url])
    stalled(link, layer)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupting = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    interrupting.start()
    began = time.monotonic()
    send = layer.sync.send if way == "sync" else lambda *message: asyncio.run(layer.send(*message))
    try:
        with pytest.raises(KeyboardInterrupt):
            send("target", {"n": 1})
    finally:
        interrupting.join()
        signal.signal(signal.SIGINT, before)
    # Far below the ten seconds that an answer may take.
    assert time.monotonic() - began < 8
    link.do(link.proxy.go_on)
    layer.sync.send("target", {"n": 2})
    async_to_sync(layer.send)("target", {"n": 3})


def test_a_signal_handler_that_calls_in_the_middle_of_calls(make: Make, place_of: Any) -> None:
    """A handler runs between any two steps of the main thread, also those of a call."""
    layer = make()
    place = place_of(layer)
    from_handler = 0
    is_over = False

    def handler(*_: Any) -> None:
        nonlocal from_handler
        from_handler += 1
        layer.sync.send(place.channel, {"from": "handler", "n": from_handler})
        if not is_over:
            # Not by an interval: where a call takes longer than that, handlers would interrupt handlers without end.
            signal.setitimer(signal.ITIMER_REAL, 0.0013)

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    calls = 0
    deadline = time.monotonic() + 20
    try:
        while from_handler < 100 and time.monotonic() < deadline:
            layer.sync.send(place.channel, {"from": "main", "n": calls})
            calls += 1
    finally:
        is_over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert from_handler >= 100
    heard = place.heard(calls + from_handler)
    assert [message["n"] for message in heard if message["from"] == "main"] == list(range(calls))
    assert sorted(message["n"] for message in heard if message["from"] == "handler") == list(range(1, from_handler + 1))
