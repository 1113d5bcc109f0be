"""Callers of the I/O thread that give up, at every moment: the next call works, and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any

import pytest

from bench.server import Server
from channels_redis_fast.sync import hub
from tests.core.helpers import within
from tests.sync.helpers import Link, wait_until

Make = Callable[..., Any]

WORKS = ("send", "group_send", "send_many", "group_send_many", "group_add")


def call(layer: Any, work: str, place: Any, n: int) -> Any:
    """One call, and whether it brings a message."""
    arguments = {
        "send": (place.channel, {"n": n}),
        "group_send": (place.group, {"n": n}),
        "send_many": ([(place.channel, {"n": n})],),
        "group_send_many": ([(place.group, {"n": n})],),
        "group_add": (place.group, place.channel),
    }[work]
    return getattr(layer, work)(*arguments)


@pytest.mark.parametrize("work", ["send", "group_send", "group_send_many"])
def test_cancelled_after_each_tick(make: Make, place_of: Any, work: str) -> None:
    """Each of the steps that a call takes in its loop is once the last one."""
    layer = make()
    place = place_of(layer)

    async def cancelled_after(ticks: int, n: int) -> bool:
        task = asyncio.ensure_future(call(layer, work, place, n))
        for _ in range(ticks):
            await asyncio.sleep(0)
        has_ended = not task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return has_ended

    for ticks in range(12):
        for n in range(3):
            asyncio.run(within(cancelled_after(ticks, n)))
    # What follows comes after all of that, and is the last.
    asyncio.run(call(layer, work, place, 100))
    layer.sync.send(place.channel, {"n": 101})
    heard = [message["n"] for message in place.heard(2)]
    wait_until(lambda: [message["n"] for message in place.messages()][-2:] == [100, 101])
    assert len(heard) <= 38


@pytest.mark.parametrize("work", ["send", "group_send"])
def test_cancelled_at_random_moments(make: Make, place_of: Any, work: str) -> None:
    layer = make()
    place = place_of(layer)
    moments = random.Random(4)
    acknowledged = []

    async def hurried(n: int) -> None:
        await asyncio.wait_for(call(layer, work, place, n), moments.uniform(0, 0.002))
        acknowledged.append(n)

    for n in range(200):
        with contextlib.suppress(asyncio.TimeoutError):
            asyncio.run(hurried(n))
    layer.sync.send(place.channel, {"n": 1000})
    wait_until(lambda: bool(place.messages()) and place.messages()[-1]["n"] == 1000)
    heard = [message["n"] for message in place.messages()]
    assert set(acknowledged) <= set(heard), "acknowledged and not there"
    assert len(heard) == len(set(heard)), "there twice"
    assert heard == sorted(heard)


def test_loops_closed_with_calls_under_way(make: Make, server: Server, link: Link, place_of: Any) -> None:
    """A loop that is closed takes its calls along; the I/O thread goes on."""
    layer = make(hosts=[link.url])
    place = place_of(layer, server.url)
    layer.sync.send(place.channel, {"n": -1})
    link.do(link.proxy.stall)
    for n in range(5):
        loop = asyncio.new_event_loop()
        tasks = [loop.create_task(call(layer, work, place, n)) for work in WORKS if work != "group_add"]
        for _ in range(3):
            loop.run_until_complete(asyncio.sleep(0))
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.wait(tasks))
        loop.close()
    link.do(link.proxy.go_on)
    layer.sync.send(place.channel, {"n": 100})
    assert place.heard(2)[0] == {"n": -1}
    wait_until(lambda: place.messages()[-1] == {"n": 100})
    wait_until(lambda: layer.stats()["commands_in_flight"] == 0)
    assert list(layer._loops) == [hub.current().loop]


def test_coroutines_that_are_dropped(make: Make, place_of: Any) -> None:
    """The garbage collector ends a call in the middle: neither it nor the I/O thread says a word."""
    layer = make()
    place = place_of(layer)
    loop = asyncio.new_event_loop()

    async def begin() -> Any:
        coroutine = layer.send(place.channel, {"n": 1})
        coroutine.send(None)
        return coroutine

    coroutine = loop.run_until_complete(begin())
    loop.close()
    coroutine.close()
    del coroutine
    layer.sync.send(place.channel, {"n": 2})
    wait_until(lambda: place.messages()[-1:] == [{"n": 2}])
