"""Messages of one event loop arrive in the order sent, also when the loop changes from the I/O thread to its own."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
import redis.asyncio

from bench.server import Server
from channels_redis_fast.sync import hub, routing
from tests.core.helpers import within
from tests.sync.helpers import Link, in_threads

Make = Callable[..., Any]
NewLoop = Callable[[], asyncio.AbstractEventLoop]

#: Loops, of which each changes its way once in the middle of its messages.
SWITCHES = 300


def run_on(loop: asyncio.AbstractEventLoop, main: Any) -> Any:
    try:
        return loop.run_until_complete(within(main))
    finally:
        loop.close()


async def send_some(layer: Any, channel: str, first: int, moments: random.Random) -> int:
    """Sends that are not awaited one by one, around the moment when the loop has made as many as it may."""
    sends = []
    number = first
    for _ in range(moments.randrange(1, 5)):
        for _ in range(moments.randrange(1, 6)):
            sends.append(asyncio.ensure_future(layer.send(channel, {"n": number})))
            number += 1
        for _ in range(moments.randrange(4)):
            await asyncio.sleep(0)
        if moments.random() < 0.3:
            await asyncio.wait(sends)
        if moments.random() < 0.1:
            # Who receives stays, whatever it has sent.
            await layer.new_channel()
    await asyncio.gather(*sends)
    return number


def test_loops_that_change_their_way(
    make: Make, place_of: Any, new_loop: NewLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = make()
    place = place_of(layer)
    moments = random.Random(8)
    number = changed = 0
    for _ in range(SWITCHES):
        monkeypatch.setattr(routing, "MANY", moments.randrange(1, 8))
        loop = new_loop()

        async def some(loop: asyncio.AbstractEventLoop = loop, first: int = number) -> tuple[int, bool]:
            return await send_some(layer, place.channel, first, moments), layer._router.get(loop) is not None

        number, has_changed = run_on(loop, some())
        changed += has_changed
    assert SWITCHES // 2 < changed < SWITCHES, "the moment of change was not in the middle"
    assert [message["n"] for message in place.heard(number)] == list(range(number))


def test_several_loops_at_once(make: Make, place_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "MANY", 5)
    layer = make()
    place = place_of(layer)

    async def some(index: int) -> None:
        await asyncio.gather(*(layer.group_send(place.group, {"from": index, "n": n}) for n in range(4)))
        for n in range(4, 10):
            await layer.group_send(place.group, {"from": index, "n": n})

    assert in_threads(20, lambda index: asyncio.run(within(some(index)))) == [None] * 20
    heard = place.heard(200)
    for index in range(20):
        # Group sends that are under way together read the group one after the other, and keep their order.
        assert [message["n"] for message in heard if message["from"] == index] == list(range(10))


def test_while_the_io_threads_connection_is_slow(
    make: Make, server: Server, link: Link, place_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes its own way could be there long before what was handed to the I/O thread."""
    monkeypatch.setattr(routing, "MANY", 10)

    def slow_on_the_hub(kind: Any) -> Any:
        class Slow(kind):  # type: ignore[misc]
            def create_pool(self, index: int) -> Any:
                is_slow = hub.is_hub(asyncio.get_running_loop())
                return redis.asyncio.ConnectionPool.from_url(link.url if is_slow else server.url, protocol=2)

        return Slow

    layer = make(slow_on_the_hub, hosts=[server.url])
    place = place_of(layer, server.url)
    number = 0
    for _ in range(5):

        async def several(first: int = number) -> None:
            await asyncio.gather(*(layer.send(place.channel, {"n": first + n}) for n in range(30)))

        # As long as several connections take to open.
        link.proxy.delay = 0.03
        asyncio.run(within(several()))
        number += 30
    assert [message["n"] for message in place.heard(number)] == list(range(number))


def test_callers_that_give_up_at_the_moment_of_change_let_nobody_overtake(
    make: Make, server: Server, link: Link, place_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call waits for the I/O thread's answers and is cancelled; the next one still has to wait for them."""
    monkeypatch.setattr(routing, "MANY", 3)
    layer = make(hosts=[link.url])
    place = place_of(layer, server.url)
    layer.sync.send(place.channel, {"n": -1})

    async def several() -> None:
        link.do(link.proxy.stall)
        early = [asyncio.ensure_future(layer.send(place.channel, {"n": n})) for n in range(3)]
        await asyncio.sleep(0)
        waiting = [asyncio.ensure_future(layer.send(place.channel, {"n": 100 + n})) for n in range(3)]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        late = [asyncio.ensure_future(layer.send(place.channel, {"n": 3 + n})) for n in range(3)]
        await asyncio.sleep(0)
        assert not layer._router.get(asyncio.get_running_loop())
        link.do(link.proxy.go_on)
        await asyncio.gather(*early, *late)
        assert layer._router.get(asyncio.get_running_loop())

    asyncio.run(within(several()))
    assert [message["n"] for message in place.heard(7)] == [-1, *range(6)]


def test_calls_of_one_thread_in_every_way(make: Make, place_of: Any) -> None:
    """One after the other, through loops of their own and without."""
    layer = make()
    place = place_of(layer)

    def work(index: int) -> None:
        for n in range(0, 30, 3):
            layer.sync.send(place.channel, {"from": index, "n": n})
            asyncio.run(layer.send(place.channel, {"from": index, "n": n + 1}))
            layer.sync.send_many([(place.channel, {"from": index, "n": n + 2})])

    assert in_threads(10, work) == [None] * 10
    heard = place.heard(300)
    for index in range(10):
        assert [message["n"] for message in heard if message["from"] == index] == list(range(30))
