"""More that is done to a layer in one process: load at a given rate, many that wait, and nothing at all.

Like `bench.workloads`, and judged in the same way. Knows no layer.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable
from pathlib import Path

from bench.workloads import (
    SETTLE,
    ChannelLayer,
    Clock,
    Inbox,
    Result,
    chat_message,
    consume,
    finish,
    percentile,
    result_of,
    spawn,
    total,
    until_quiet,
)

# How late a message may be sent because the sender sleeps in between, without its time having begun.
PACE = 0.002


class Goal:
    """So many messages still have to arrive."""

    def __init__(self, messages: int) -> None:
        self._missing = messages
        self._reached = asyncio.Event()

    def arrived(self) -> None:
        self._missing -= 1
        if self._missing == 0:
            self._reached.set()

    async def reached(self) -> None:
        await self._reached.wait()


async def offered(layer: ChannelLayer, *, count: int, rate: int, channels: int = 50) -> Result:
    """`count` messages at `rate` a second, whether the layer keeps up or not: p50 and p99 from send to receive.

    The time of a message begins when it was due, give or take the sender's own sleep, so that a layer that holds up
    the sender hides nothing.
    """
    names = [await layer.new_channel() for _ in range(channels)]
    inboxes = [Inbox() for _ in names]
    started: list[float] = []
    arrived = [0.0] * count
    goal = Goal(count)
    clock = Clock()

    async def listen(channel: str, inbox: Inbox) -> None:
        while True:
            number = (await layer.receive(channel))["number"]
            arrived[number] = time.perf_counter()
            inbox.numbers.append(number)
            goal.arrived()

    async def send_all() -> None:
        sends: set[asyncio.Task[None]] = set()
        began = time.perf_counter()
        while (number := len(started)) < count:
            now = time.perf_counter()
            while number < count and (due := began + number / rate) <= now:
                started.append(min(now, due + PACE))
                task = asyncio.ensure_future(layer.send(names[number % channels], chat_message(number)))
                sends.add(task)
                task.add_done_callback(sends.discard)
                number += 1
            await asyncio.sleep(0.001)
        await asyncio.gather(*sends)
        await goal.reached()

    # What opens connections is not the load's.
    first = [await layer.new_channel()]
    await finish(spawn([consume(layer, first[0], Inbox(), 1), layer.send(first[0], chat_message(0))]))
    listeners = spawn(listen(name, inbox) for name, inbox in zip(names, inboxes, strict=True))
    await asyncio.sleep(SETTLE)
    with clock.measure():
        await until_quiet(spawn([send_all()]), total(inboxes), clock)
    await finish(listeners, within=0)
    result = result_of(count, inboxes, clock)
    times = [end - start for start, end in zip(started, arrived, strict=False) if end]
    if times:
        result.p50_us, result.p99_us = percentile(times, 0.50) * 1e6, percentile(times, 0.99) * 1e6
    return result


async def waiting(layer: ChannelLayer, *, count: int, consumers: int, senders: int = 50) -> Result:
    """`count` messages, by `senders` coroutines, to `consumers` of this process that all wait: each gets its share."""
    channels = [await layer.new_channel() for _ in range(consumers)]
    inboxes = [Inbox() for _ in channels]
    clock = Clock()
    goal = Goal(consumers)

    async def listen(channel: str, inbox: Inbox) -> None:
        while True:
            inbox.numbers.append((await layer.receive(channel))["number"])
            goal.arrived()

    async def produce(numbers: Iterable[int]) -> None:
        for number in numbers:
            await layer.send(channels[number % consumers], chat_message(number))

    async def deliver(messages: int, clock: Clock) -> None:
        tasks = spawn(produce(range(sender, messages, senders)) for sender in range(senders))
        await until_quiet(tasks + spawn([goal.reached()]), total(inboxes), clock)

    listeners = spawn(listen(channel, inbox) for channel, inbox in zip(channels, inboxes, strict=True))
    await asyncio.sleep(SETTLE)
    # Once to each first: what is told of is a consumer that waits, not one that arrives.
    await deliver(consumers, Clock())
    for inbox in inboxes:
        inbox.numbers.clear()
    goal = Goal(count)
    with clock.measure():
        await deliver(count, clock)
    await finish(listeners, within=0)
    return result_of(count, inboxes, clock)


def resident() -> int:
    """Bytes of memory that this process occupies; 0 where the system does not tell."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


async def idle(layer: ChannelLayer, *, count: int, consumers: int = 500) -> Result:
    """`consumers` wait for `count` seconds and nothing happens. Then each gets one message, as proof that it waited."""
    before = resident()
    channels = [await layer.new_channel() for _ in range(consumers)]
    inboxes = [Inbox() for _ in channels]
    listeners = spawn(consume(layer, channel, inbox, 1) for channel, inbox in zip(channels, inboxes, strict=True))
    # Until the connections are open and everything that comes after a start is over.
    await asyncio.sleep(1.0)
    occupied = resident() - before
    clock = Clock()
    with clock.measure():
        await asyncio.sleep(count)
    for start in range(0, consumers, 50):
        await asyncio.gather(*(layer.send(channel, chat_message(0)) for channel in channels[start : start + 50]))
    await until_quiet(listeners, total(inboxes), Clock())
    # After the proof: a site's consumers send as well.
    connections = Clock.read_connections() if Clock.read_connections is not None else None
    result = result_of(consumers, inboxes, clock)
    minutes = clock.seconds / 60
    result.extra = {
        "cpu_per_minute": clock.cpu_seconds / minutes,
        "server_cpu_per_minute": clock.server["cpu_us"] / 1e6 / minutes,
        "kib_per_consumer": occupied / consumers / 1024,
    }
    if connections is not None:
        result.extra["connections"] = connections
    return result
