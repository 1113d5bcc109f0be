"""Calls from synchronous code, as a Django view makes them: `async_to_sync(layer.group_send)(...)`, one by one.

The calling thread has no event loop, so each call has one of its own, with all that a layer does when a loop begins and
ends; a layer with plain functions for such code (`layer.sync`) is measured with these too. Who listens does so in
another process, on another layer object: a view's process has no consumers. Knows no layer.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from asgiref.sync import async_to_sync

from bench.workloads import QUIET, Clock, Inbox, Result, chat_message, percentile, result_of

Run = Callable[[Any], Any]

#: Seconds that the other process may take to start.
START = 60.0

#: Calls that go ahead of those that are measured; their messages have this number.
WARM_UP, NO_NUMBER = 10, -1


class Listeners:
    """Another process, with an event loop in which the members of a group listen."""

    def __init__(
        self, make_layer: Callable[[], Any], close: Callable[[Any], Any], run: Run, group: str, members: int
    ) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        # Forked, before there is a layer or a thread here: another start would take longer than what is measured.
        context = multiprocessing.get_context("fork")
        arguments = (make_layer, close, run, group, members, theirs)
        self._process = context.Process(target=_listen, args=arguments, daemon=True)

    def __enter__(self) -> Listeners:
        self._process.start()
        self._told(START)
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):
            self._pipe.send(None)
        self._process.join(QUIET)
        self._process.kill()
        self._pipe.close()

    def heard(self, count: int) -> list[list[int]]:
        """What each member has received: `count` messages, or all that came until nothing did for a while."""
        self._pipe.send(count)
        numbers: list[list[int]] = self._told(START + QUIET)
        return numbers

    def _told(self, seconds: float) -> Any:
        if not self._pipe.poll(seconds):
            raise RuntimeError("the process that listens says nothing")
        return self._pipe.recv()


def _listen(make_layer: Any, close: Any, run: Run, group: str, members: int, pipe: Any) -> None:
    async def listen() -> None:
        layer = make_layer()
        inboxes: list[list[int]] = [[] for _ in range(members)]
        channels = [await layer.new_channel() for _ in inboxes]
        for channel in channels:
            await layer.group_add(group, channel)

        async def receive(channel: str, inbox: list[int]) -> None:
            while True:
                number = (await layer.receive(channel))["number"]
                if number != NO_NUMBER:
                    inbox.append(number)

        listening = [asyncio.ensure_future(receive(*pair)) for pair in zip(channels, inboxes, strict=True)]
        await asyncio.sleep(0.05)
        pipe.send("ready")
        count = await asyncio.to_thread(pipe.recv)
        while count is not None:
            before, until = -1, time.monotonic() + QUIET
            while sum(map(len, inboxes)) < count * members and time.monotonic() < until:
                if sum(map(len, inboxes)) != before:
                    before, until = sum(map(len, inboxes)), time.monotonic() + QUIET
                await asyncio.sleep(0.01)
            pipe.send(inboxes)
            count = await asyncio.to_thread(pipe.recv)
        for task in listening:
            task.cancel()
        await asyncio.wait(listening, timeout=5)
        await close(layer)

    run(listen())


async def nothing() -> None:
    """What a call costs of which the layer's part is nothing."""


def sync_group(
    make_layer: Callable[[], Any],
    close: Callable[[Any], Any],
    run: Run,
    *,
    count: int,
    members: int = 20,
    threads: int = 1,
    native: bool = False,
) -> Result:
    """
    `count` group_sends from each of some threads to a group; the p50 is of one call.

    Each through `async_to_sync`; if `native`, through `layer.sync` where the layer has it. Counts as received what all
    members have. Where one thread calls through `async_to_sync`, `extra` says what the p50 is above that of a
    coroutine that does nothing, called in turns with it.
    """
    group = f"bench.{uuid.uuid4().hex}"
    clock = Clock()
    times: list[float] = []
    bare: list[float] = []

    def send(number: int) -> None:
        if native:
            layer.sync.group_send(group, chat_message(number))
        else:
            async_to_sync(layer.group_send)(group, chat_message(number))

    def work(thread: int) -> None:
        for number in range(thread * count, (thread + 1) * count):
            started = time.perf_counter()
            send(number)
            times.append(time.perf_counter() - started)
            if threads == 1 and not native:
                started = time.perf_counter()
                async_to_sync(nothing)()
                bare.append(time.perf_counter() - started)

    with Listeners(make_layer, close, run, group, members) as listeners:
        layer = make_layer()
        # Asked of the class: channels_redis' Pub/Sub layer has no attributes where no event loop runs.
        native = native and hasattr(type(layer), "sync")
        for _ in range(WARM_UP):
            send(NO_NUMBER)
        workers = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
        with clock.measure():
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        heard = listeners.heard(threads * count)
        async_to_sync(close)(layer)
    result = counted(heard, threads, count, clock)
    result.p50_us, result.p99_us = percentile(times, 0.50) * 1e6, percentile(times, 0.99) * 1e6
    if bare:
        result.extra["above_noop_us"] = result.p50_us - percentile(bare, 0.50) * 1e6
    return result


def counted(heard: list[list[int]], threads: int, count: int, clock: Clock) -> Result:
    """The result of group sends, numbered by thread, of which each member heard some."""
    result = result_of(threads * count, [], clock)
    result.received = len(set.intersection(*map(set, heard)))
    for numbers in heard:
        result.repeated += len(numbers) - len(set(numbers))
        for thread in range(threads):
            mine = Inbox([number for number in numbers if number // count == thread])
            result.disordered += mine.disordered
    return result


def sync_nothing(*, count: int) -> Result:
    """What `async_to_sync` itself takes: a coroutine that does nothing."""
    inbox, clock, times = Inbox(), Clock(), []
    with clock.measure():
        for number in range(count):
            started = time.perf_counter()
            async_to_sync(nothing)()
            times.append(time.perf_counter() - started)
            inbox.numbers.append(number)
    result = result_of(count, [inbox], clock)
    result.p50_us, result.p99_us = percentile(times, 0.50) * 1e6, percentile(times, 0.99) * 1e6
    return result
