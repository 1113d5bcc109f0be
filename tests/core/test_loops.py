"""Event loops: several layers in one, one layer in several, one after another and at once; and their end."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from asgiref.sync import async_to_sync

from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.core import pump as pump_module
from channels_redis_fast.core.pump import Pump
from tests.conftest import hosts_on
from tests.core.helpers import LIMIT, blocked, named, nothing_to_receive, receive_many, started, until, within
from tests.loops import NewLoop, Thread, begin_to_receive, finished, gone, run


@pytest.fixture
def layer(redis_server: Any, prefix: str) -> RedisChannelLayer:
    """A layer whose loops the tests make and close: nothing else closes its sockets, and none are the hub's."""
    hosts = hosts_on(redis_server, [named(redis_server.url, prefix)])
    return RedisChannelLayer(hosts=hosts, prefix=prefix, capacity=10_000, sync_hub="never")


# One after another.


@pytest.mark.parametrize("kind", ["specific", "general"])
def test_loops_one_after_another(
    layer: RedisChannelLayer, raw: redis.Redis, prefix: str, new_loop: NewLoop, kind: str
) -> None:
    """What one loop leaves behind the next one receives, in order."""
    channel = run(new_loop, layer.new_channel()) if kind == "specific" else "general"
    for n in range(0, 40, 8):

        async def work(n: int = n) -> list[Any]:
            await asyncio.gather(*(layer.send(channel, {"n": i}) for i in range(n, n + 8)))
            return await receive_many(layer, channel, 4)

        start = n // 2
        assert run(new_loop, work()) == [{"n": i} for i in range(start, start + 4)]
    assert run(new_loop, receive_many(layer, channel, 20)) == [{"n": i} for i in range(20, 40)]
    run(new_loop, nothing_to_receive(layer, channel))
    gone(raw, prefix)


def test_asyncio_run_twice(layer: RedisChannelLayer, raw: redis.Redis, prefix: str) -> None:
    channel = asyncio.run(layer.new_channel())

    async def work(n: int) -> Any:
        receiving = await started(layer.receive(channel))
        await layer.send(channel, {"n": n})
        message = await within(receiving)
        # Left waiting, as servers leave their consumers: asyncio.run cancels it.
        await started(layer.receive(channel))
        return message

    assert [asyncio.run(work(n)) for n in range(3)] == [{"n": n} for n in range(3)]
    gone(raw, prefix)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["specific", "general"])
def test_a_receive_left_waiting_in_a_closed_loop_takes_no_message(
    layer: RedisChannelLayer, redis_server: Any, raw: redis.Redis, prefix: str, new_loop: NewLoop, kind: str
) -> None:
    channel = run(new_loop, layer.new_channel()) if kind == "specific" else "general"
    left: list[Any] = []

    async def leave() -> None:
        left.append(await started(layer.receive(channel)))
        await until(lambda: blocked(raw, prefix) == 1)

    run(new_loop, leave())
    peer = RedisChannelLayer(hosts=hosts_on(redis_server), prefix=prefix, sync_hub="never")

    async def work() -> None:
        await peer.send(channel, {"n": 1})
        assert await within(layer.receive(channel)) == {"n": 1}
        await nothing_to_receive(layer, channel)

    run(new_loop, work())
    left[0]._log_destroy_pending = False


def test_async_to_sync(layer: RedisChannelLayer, raw: redis.Redis, prefix: str) -> None:
    """Each call has a loop of its own, as in a synchronous view."""
    channel = async_to_sync(layer.new_channel)()
    for n in range(3):
        async_to_sync(layer.send)(channel, {"n": n})
        async_to_sync(layer.send)("general", {"n": n})
    async_to_sync(layer.group_add)("room", channel)
    async_to_sync(layer.group_send)("room", {"n": 3})
    assert [async_to_sync(layer.receive)(channel) for _ in range(4)] == [{"n": n} for n in range(4)]
    assert [async_to_sync(layer.receive)("general") for _ in range(3)] == [{"n": n} for n in range(3)]
    async_to_sync(layer.group_discard)("room", channel)
    async_to_sync(layer.group_send)("room", {"n": 4})
    async_to_sync(layer.send)(channel, {"n": 5})
    assert async_to_sync(layer.receive)(channel) == {"n": 5}
    async_to_sync(layer.flush)()
    gone(raw, prefix)


# At once.


def test_one_channel_received_in_several_threads(layer: RedisChannelLayer, new_loop: NewLoop) -> None:
    """Shared out among them: every message once."""
    channels = [run(new_loop, layer.new_channel()), "general"]
    for channel in channels:
        got: list[int] = []

        async def work(channel: str = channel, got: list[int] = got) -> None:
            while (n := (await layer.receive(channel))["n"]) >= 0:
                got.append(n)

        async def send(channel: str = channel) -> None:
            for start in range(0, 300, 20):
                await asyncio.gather(*(layer.send(channel, {"n": n}) for n in range(start, start + 20)))
            for _ in range(3):
                await layer.send(channel, {"n": -1})

        with ThreadPoolExecutor(4) as pool:
            workers = [pool.submit(run, new_loop, work()) for _ in range(3)]
            pool.submit(run, new_loop, send()).result(LIMIT)
            for worker in workers:
                worker.result(LIMIT)
        assert sorted(got) == list(range(300))


async def cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait([task])


def test_the_role_passes_on_when_a_loop_closes(
    layer: RedisChannelLayer, raw: redis.Redis, prefix: str, new_loop: NewLoop
) -> None:
    """The loop that empties the key for all closes, then the one that took over; the last one misses nothing."""
    loops = [Thread(new_loop) for _ in range(3)]
    sender = Thread(new_loop)
    try:
        channels = [each.do(layer.new_channel()) for each in loops]
        tasks = [each.do(begin_to_receive(layer, name, 30)) for each, name in zip(loops, channels, strict=True)]
        for start in (0, 10, 20):
            for n in range(start, start + 10):
                for name in channels:
                    sender.do(layer.send(name, {"n": n}))
            if len(loops) > 1:
                loops[0].do(cancel(tasks.pop(0)))
                loops.pop(0).close()
                del channels[0]
        assert loops[0].do(finished(tasks[0])) == [{"n": n} for n in range(30)]
    finally:
        for each in [*loops, sender]:
            each.close()
    gone(raw, prefix)


@pytest.mark.single_server("it holds up a wait in Redis, of which there is none")
def test_a_key_stays_with_a_loop_that_closes_until_its_wait_has_ended(
    layer: RedisChannelLayer, new_loop: NewLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two loops that wait on one key at the same time would hand out its messages in any order."""
    first, second, sender = Thread(new_loop), Thread(new_loop), Thread(new_loop)
    # The wait does not end by itself while this looks at it.
    layer.brpop_timeout = 60
    held: list[Pump] = []
    wake, go_on, stopping = Pump._wake, threading.Event(), threading.Event()

    def wake_later(pump: Pump) -> None:
        if pump._stopped is None or go_on.is_set():
            wake(pump)
        else:
            held.append(pump)
            stopping.set()

    monkeypatch.setattr(Pump, "_wake", wake_later)
    monkeypatch.setattr(pump_module, "CLOSE_TIMEOUT", LIMIT)
    closing = threading.Thread(target=first.close)
    try:
        mine, *others = first.do(layer.new_channel()), second.do(layer.new_channel()), second.do(layer.new_channel())
        task = first.do(begin_to_receive(layer, mine, 1))
        (inbox,) = layer._inboxes.inboxes.values()
        owner: Any = inbox.receiver
        tasks = [second.do(begin_to_receive(layer, others[0], 1))]
        first.do(cancel(task))
        # Else there is no wait that would have to be ended.
        first.do(until(lambda: owner.pumps[0]._blocked and not owner.pumps[0]._waking))
        closing.start()
        assert stopping.wait(LIMIT)
        tasks.append(second.do(begin_to_receive(layer, others[1], 1)))
        assert inbox.receiver is owner
        go_on.set()
        first.loop.call_soon_threadsafe(wake, held[0])
        closing.join(LIMIT)
        for n, name in enumerate(others):
            sender.do(layer.send(name, {"n": n}))
        assert [second.do(finished(each)) for each in tasks] == [[{"n": 0}], [{"n": 1}]]
    finally:
        go_on.set()
        if closing.ident is None:
            first.close()
        elif closing.is_alive():
            first.loop.call_soon_threadsafe(wake, held[0])
            closing.join(LIMIT)
        for each in (second, sender):
            each.close()


def test_who_still_waits_is_served_when_the_first_loop_stands_still(
    layer: RedisChannelLayer, raw: redis.Redis, prefix: str, new_loop: NewLoop
) -> None:
    """A loop that stops says nothing; what its connection had popped by then comes when it closes."""
    first, second, sender = Thread(new_loop), Thread(new_loop), Thread(new_loop)
    try:
        mine, other = first.do(layer.new_channel()), second.do(layer.new_channel())
        first.do(begin_to_receive(layer, mine, 1))
        second_task = second.do(begin_to_receive(layer, other, 4))
        first.stop()
        for n in range(3):
            sender.do(layer.send(other, {"n": n}))
        first.loop.close()
        sender.do(layer.send(other, {"n": 3}))
        got = second.do(finished(second_task))
        assert sorted(message["n"] for message in got) == [0, 1, 2, 3]
    finally:
        for each in (second, sender):
            each.close()


async def test_a_key_that_another_loop_has_just_asked_for_is_kept(make_layer: Any) -> None:
    """It was to be forgotten; who came in another thread in between counts on the loop that has it."""
    layer = make_layer()
    channel = await layer.new_channel()
    await layer.send(channel, {"n": 1})
    assert await within(layer.receive(channel)) == {"n": 1}
    receiver = layer._loops[asyncio.get_running_loop()].receiver
    [inbox] = receiver.inboxes.values()
    inbox.disarm()
    # The other thread has the inbox, and has not yet come to wait on it.
    assert layer._inboxes.open(inbox.name, layer.client_prefix) is inbox
    receiver._forget(inbox)
    receiver.serve(inbox)
    assert inbox in receiver.wanted(receiver.pumps[0])
