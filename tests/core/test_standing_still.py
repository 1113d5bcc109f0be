"""Several threads that receive, and event loops among them that stop or are busy: nobody else waits for those."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.messages import mailbox
from tests.core.helpers import LIMIT, receive_many, started, within

NewLoop = Callable[[], asyncio.AbstractEventLoop]


class Thread:
    """An event loop that runs in a thread of its own, and can be stopped and continued."""

    def __init__(self, new_loop: NewLoop) -> None:
        self.loop = new_loop()
        self.go_on()

    def go_on(self) -> None:
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self.do(asyncio.sleep(0))

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(within(work), self.loop).result(LIMIT)

    def begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
        return self.do(started(work))  # type: ignore[no-any-return]

    def end(self, task: asyncio.Future[Any]) -> Any:
        return self.do(result_of(task))

    def stop(self) -> None:
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(LIMIT)
            assert not self._thread.is_alive()

    def block(self) -> threading.Event:
        """Keep the loop busy until the event is set."""
        began, free = threading.Event(), threading.Event()

        def busy() -> None:
            began.set()
            free.wait(LIMIT)

        self.loop.call_soon_threadsafe(busy)
        assert began.wait(LIMIT)
        return free


async def result_of(task: asyncio.Future[Any]) -> Any:
    return await task


@pytest.fixture
def threads(new_loop: NewLoop) -> Iterator[Callable[[], Thread]]:
    made: list[Thread] = []

    def make() -> Thread:
        made.append(Thread(new_loop))
        return made[-1]

    yield make
    for each in made:
        each.stop()
        each.loop.close()


Threads = Callable[[], Thread]


@pytest.fixture
def layer(make_layer: Any) -> RedisChannelLayer:
    # Waits that would end by themselves prove nothing.
    layer: RedisChannelLayer = make_layer()
    layer.brpop_timeout = 60
    return layer


def waits(layer: RedisChannelLayer, each: Thread) -> Any:
    """Wait until the loop has a wait in Redis, or on a cluster has looked."""

    def is_waiting() -> bool:
        receiver = layer._loops[each.loop].receiver
        return all(bool(pump.awaited) and getattr(pump, "_blocked", True) for pump in receiver.pumps)

    limit = time.monotonic() + LIMIT
    while not is_waiting():
        assert time.monotonic() < limit
        time.sleep(0.001)


@pytest.mark.parametrize("how", ["stopped", "busy"])
def test_the_loop_that_empties_the_key_stands_still(layer: RedisChannelLayer, threads: Threads, how: str) -> None:
    """Another one takes the key, and what is sent from then on comes at once and in order."""
    first, second, sender = threads(), threads(), threads()
    mine, other = first.do(layer.new_channel()), second.do(layer.new_channel())
    waiting = first.begin(receive_many(layer, mine, 2))
    waits(layer, first)
    if how == "stopped":
        first.stop()
        free = threading.Event()
    else:
        free = first.block()
    try:
        task = second.begin(receive_many(layer, other, 20))
        (inbox,) = layer._inboxes.inboxes.values()
        owner = layer._loops[first.loop].receiver
        limit = time.monotonic() + LIMIT
        while inbox.receiver is owner:
            assert time.monotonic() < limit
            time.sleep(0.001)
        for n in range(20):
            sender.do(layer.send(other, {"n": n}))
        assert second.end(task) == [{"n": n} for n in range(20)]
        # What is for the one that stands still lies there until it goes on.
        for n in range(2):
            sender.do(layer.send(mine, {"n": n}))
    finally:
        free.set()
    if how == "stopped":
        first.go_on()
    assert first.end(waiting) == [{"n": 0}, {"n": 1}]
    # It asks the loop that has the key now.
    task = first.begin(receive_many(layer, mine, 3))
    for n in range(3):
        sender.do(layer.send(mine, {"n": n}))
    assert first.end(task) == [{"n": n} for n in range(3)]


@pytest.mark.parametrize("how", ["stopped", "busy"])
def test_a_receiver_of_a_loop_that_stands_still_takes_nothing(
    layer: RedisChannelLayer, threads: Threads, how: str
) -> None:
    """Two receive on one channel: the second gets all of it, in order."""
    first, second, sender = threads(), threads(), threads()
    channel = second.do(layer.new_channel())
    # The second loop has the key; the first is first in line.
    sender.do(layer.send(channel, {"n": "first"}))
    assert second.do(layer.receive(channel)) == {"n": "first"}
    waiting = first.begin(receive_many(layer, channel, 1))
    if how == "stopped":
        first.stop()
        free = threading.Event()
    else:
        free = first.block()
    try:
        task = second.begin(receive_many(layer, channel, 10))
        for n in range(10):
            sender.do(layer.send(channel, {"n": n}))
        assert second.end(task) == [{"n": n} for n in range(10)]
    finally:
        free.set()
    if how == "stopped":
        first.go_on()
    sender.do(layer.send(channel, {"n": "last"}))
    assert first.end(waiting) == [{"n": "last"}]


def test_messages_for_a_stopped_loop_stay_in_redis(layer: RedisChannelLayer, threads: Threads) -> None:
    """All but what its receivers wait for: the process would drop them, while Redis says that the channel is full."""
    first, second, sender = threads(), threads(), threads()
    mine, other = second.do(layer.new_channel()), first.do(layer.new_channel())
    keep = second.begin(receive_many(layer, mine, 1))
    waiting = first.begin(receive_many(layer, other, 50))
    first.stop()
    for n in range(50):
        sender.do(layer.send(other, {"n": n}))
    sender.do(layer.send(mine, {"n": 0}))
    second.end(keep)
    first.go_on()
    assert first.end(waiting) == [{"n": n} for n in range(50)]


def test_the_first_in_line_is_served_first(
    layer: RedisChannelLayer, threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever loop empties the key, where all of them run."""
    # On a busy machine a loop may stand still for longer.
    monkeypatch.setattr(mailbox, "PATIENCE", LIMIT)
    first, second, sender = threads(), threads(), threads()
    channel = second.do(layer.new_channel())
    sender.do(layer.send(channel, {"n": "first"}))
    assert second.do(layer.receive(channel)) == {"n": "first"}
    for n in range(20):
        earlier, later = (first, second) if n % 2 else (second, first)
        tasks = [(each, each.begin(layer.receive(channel))) for each in (earlier, later)]
        for k, (each, task) in enumerate(tasks):
            sender.do(layer.send(channel, {"n": k}))
            assert each.end(task) == {"n": k}
