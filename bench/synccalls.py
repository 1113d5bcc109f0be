"""Calls from synchronous code, as a Django view makes them: `async_to_sync(layer.group_send)(...)`, one by one.

The calling thread has no event loop, so each call has one of its own, with all that a layer does when a loop begins and
ends. Who listens does so in another thread, on another layer object. Knows no layer.
"""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from asgiref.sync import async_to_sync

from bench.workloads import QUIET, Clock, Inbox, Result, chat_message, percentile, result_of

Run = Callable[[Any], Any]


class Listener:
    """A thread with an event loop in which one member of a group listens."""

    def __init__(self, make_layer: Callable[[], Any], close: Callable[[Any], Any], run: Run, group: str) -> None:
        self.inbox = Inbox()
        self.error: BaseException | None = None
        self._listens = threading.Event()
        self._make_layer, self._close, self._group = make_layer, close, group
        self._thread = threading.Thread(target=self._work, args=(run,))

    def __enter__(self) -> Listener:
        self._thread.start()
        self._listens.wait(30)
        return self

    def __exit__(self, *error: object) -> None:
        if self._listens.is_set() and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(30)

    def _work(self, run: Run) -> None:
        try:
            run(self._listen())
        except BaseException as error:
            self.error = error
            self._listens.set()

    async def _listen(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        layer = self._make_layer()
        channel = await layer.new_channel()
        await layer.group_add(self._group, channel)

        async def receive() -> None:
            while True:
                self.inbox.numbers.append((await layer.receive(channel))["number"])

        listening = asyncio.ensure_future(receive())
        await asyncio.sleep(0.05)
        self._listens.set()
        await self._ended.wait()
        listening.cancel()
        await asyncio.wait([listening], timeout=5)
        await self._close(layer)


def sync_group(make_layer: Callable[[], Any], close: Callable[[Any], Any], run: Run, *, count: int) -> Result:
    """`count` group_sends to a group of one, each through `async_to_sync`; the p50 is of one call."""
    group = f"bench.{uuid.uuid4().hex}"
    layer = make_layer()
    clock = Clock()
    times: list[float] = []
    with Listener(make_layer, close, run, group) as listener:
        inbox = listener.inbox

        def send(number: int) -> None:
            started = time.perf_counter()
            async_to_sync(layer.group_send)(group, chat_message(number))
            times.append(time.perf_counter() - started)

        def wait_for(messages: int) -> None:
            until = time.perf_counter() + QUIET
            while len(inbox.numbers) < messages and time.perf_counter() < until and listener.error is None:
                time.sleep(0.001)

        warm_up = max(5, count // 10)
        for number in range(warm_up):
            send(number)
        wait_for(warm_up)
        inbox.numbers.clear()
        times.clear()
        with clock.measure():
            for number in range(count):
                send(number)
        wait_for(count)
    if listener.error is not None:
        raise listener.error
    result = result_of(count, [inbox], clock)
    result.p50_us, result.p99_us = percentile(times, 0.50) * 1e6, percentile(times, 0.99) * 1e6
    return result


def sync_nothing(*, count: int) -> Result:
    """What `async_to_sync` itself takes: a coroutine that does nothing."""
    inbox, clock, times = Inbox(), Clock(), []

    async def nothing() -> None:
        pass

    with clock.measure():
        for number in range(count):
            started = time.perf_counter()
            async_to_sync(nothing)()
            times.append(time.perf_counter() - started)
            inbox.numbers.append(number)
    result = result_of(count, [inbox], clock)
    result.p50_us, result.p99_us = percentile(times, 0.50) * 1e6, percentile(times, 0.99) * 1e6
    return result
