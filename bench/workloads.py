"""What the benchmarks do to a channel layer, and the honest count of what came out.

Works on any channel layer and knows none of them: no Redis, no settings, no tables. Every wait ends; what has not
arrived by then is reported as lost, and what arrived twice or out of order is reported as well.
"""

from __future__ import annotations

import asyncio
import gc
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Protocol

Message = dict[str, Any]

WAIT = 60.0
SETTLE = 0.05


class ChannelLayer(Protocol):
    """The part of a Channels layer the workloads use."""

    async def send(self, channel: str, message: Message) -> None: ...
    async def receive(self, channel: str) -> Message: ...
    async def new_channel(self) -> str: ...
    async def group_add(self, group: str, channel: str) -> None: ...
    async def group_send(self, group: str, message: Message) -> None: ...


@dataclass
class Inbox:
    """The numbers of the messages one receiver got, in order. Judged after the clock has stopped, to cost nothing."""

    numbers: list[int] = field(default_factory=list)

    @property
    def distinct(self) -> int:
        return len(set(self.numbers))

    @property
    def disordered(self) -> int:
        return sum(later < earlier for earlier, later in pairwise(self.numbers))


@dataclass
class Result:
    """One measurement. `per_second` counts messages; the percentiles belong to workloads of one message at a time."""

    sent: int
    received: int
    repeated: int
    disordered: int
    seconds: float
    cpu_seconds: float
    p50_us: float | None = None
    p99_us: float | None = None

    @property
    def lost(self) -> int:
        return self.sent - self.received

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "lost": self.lost, "per_second": self.sent / self.seconds}


class Clock:
    """Wall and processor time of a block. The collector runs before it, never for the garbage of the set-up."""

    seconds = 0.0
    cpu_seconds = 0.0

    @contextmanager
    def measure(self) -> Iterator[None]:
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - wall
            self.cpu_seconds += time.process_time() - cpu


def result_of(sent: int, inboxes: Iterable[Inbox], clock: Clock) -> Result:
    boxes = list(inboxes)
    return Result(
        sent=sent,
        received=sum(box.distinct for box in boxes),
        repeated=sum(len(box.numbers) - box.distinct for box in boxes),
        disordered=sum(box.disordered for box in boxes),
        seconds=clock.seconds,
        cpu_seconds=clock.cpu_seconds,
    )


def chat_message(number: int) -> Message:
    return {"type": "chat.message", "text": "Hello, is it me you are looking for?", "number": number}


def forget_warm_up(inboxes: Iterable[Inbox]) -> None:
    """Number 0 was sent before the clock started."""
    for inbox in inboxes:
        inbox.numbers = [number for number in inbox.numbers if number != 0]


async def finish(tasks: list[asyncio.Task[None]], within: float = WAIT) -> None:
    """Wait for the tasks, cancel those that are late, and raise what one of them raised."""
    done, late = await asyncio.wait(tasks, timeout=within)
    for task in late:
        task.cancel()
    if late:
        # Bounded too: a layer may take its time to notice a cancellation, and lateness is counted, not awaited.
        await asyncio.wait(late, timeout=5.0)
    for task in done:
        task.result()


def spawn(coroutines: Iterable[Coroutine[Any, Any, None]]) -> list[asyncio.Task[None]]:
    return [asyncio.ensure_future(coroutine) for coroutine in coroutines]


async def consume(layer: ChannelLayer, channel: str, inbox: Inbox, count: int) -> None:
    numbers = inbox.numbers
    while len(numbers) < count:
        numbers.append((await layer.receive(channel))["number"])


async def produce(layer: ChannelLayer, channel: str, numbers: Iterable[int]) -> None:
    for number in numbers:
        await layer.send(channel, chat_message(number))


async def pairs(layer: ChannelLayer, *, count: int, pairs: int = 50) -> Result:
    """`pairs` producers, each with a consumer on a channel of its own, all in this process: send -> receive."""
    channels = [await layer.new_channel() for _ in range(pairs)]

    async def run(inboxes: list[Inbox], clock: Clock, count: int) -> Result:
        boxes = list(zip(channels, inboxes, strict=True))
        consumers = spawn(consume(layer, channel, inbox, count) for channel, inbox in boxes)
        await asyncio.sleep(SETTLE)
        with clock.measure():
            producers = spawn(produce(layer, channel, range(count)) for channel in channels)
            await finish(producers + consumers)
        return result_of(pairs * count, inboxes, clock)

    await run([Inbox() for _ in channels], Clock(), 1)
    return await run([Inbox() for _ in channels], Clock(), count)


async def send(layer: ChannelLayer, *, count: int, senders: int = 64) -> Result:
    """`senders` coroutines, each sending to a general channel of its own. Read back afterwards, off the clock."""
    channels = [f"bench.{uuid.uuid4().hex}" for _ in range(senders)]
    inboxes = [Inbox() for _ in channels]
    clock = Clock()
    await finish(spawn(produce(layer, channel, range(1)) for channel in channels))
    with clock.measure():
        await finish(spawn(produce(layer, channel, range(1, count + 1)) for channel in channels))
    boxes = zip(channels, inboxes, strict=True)
    await finish(spawn(consume(layer, channel, inbox, count + 1) for channel, inbox in boxes))
    forget_warm_up(inboxes)
    return result_of(senders * count, inboxes, clock)


async def group(layer: ChannelLayer, *, count: int, consumers: int = 1000) -> Result:
    """`count` broadcasts to a group of `consumers` in this process, each after the last has reached everyone."""
    name = f"bench.{uuid.uuid4().hex}"
    channels = [await layer.new_channel() for _ in range(consumers)]
    for start in range(0, consumers, 50):
        await asyncio.gather(*(layer.group_add(name, channel) for channel in channels[start : start + 50]))
    inboxes = [Inbox() for _ in channels]
    arrived = 0
    round_done = asyncio.Event()

    async def listen(channel: str, inbox: Inbox) -> None:
        nonlocal arrived
        while True:
            inbox.numbers.append((await layer.receive(channel))["number"])
            arrived += 1
            if arrived == consumers:
                round_done.set()

    async def broadcast(number: int) -> None:
        nonlocal arrived
        arrived = 0
        round_done.clear()
        await layer.group_send(name, chat_message(number))
        await round_done.wait()

    async def broadcasts(numbers: Iterable[int]) -> None:
        for number in numbers:
            await broadcast(number)

    listeners = spawn(listen(channel, inbox) for channel, inbox in zip(channels, inboxes, strict=True))
    await asyncio.sleep(SETTLE)
    clock = Clock()
    await finish(spawn([broadcasts([0])]))
    with clock.measure():
        await finish(spawn([broadcasts(range(1, count + 1))]))
    await finish(listeners, within=0)
    forget_warm_up(inboxes)
    return result_of(consumers * count, inboxes, clock)


async def roundtrip(layer: ChannelLayer, *, count: int) -> Result:
    """Send, then receive, one message at a time: the latency a lone user sees."""
    channel = await layer.new_channel()
    inbox = Inbox()
    times: list[float] = []
    clock = Clock()

    async def trips(numbers: Iterable[int]) -> None:
        for number in numbers:
            started = time.perf_counter()
            await layer.send(channel, chat_message(number))
            got = (await layer.receive(channel))["number"]
            times.append(time.perf_counter() - started)
            inbox.numbers.append(got)

    warm_up = max(10, count // 10)
    await finish(spawn([trips(range(warm_up))]))
    times.clear()
    inbox.numbers.clear()
    with clock.measure():
        await finish(spawn([trips(range(count))]))
    result = result_of(count, [inbox], clock)
    if times:
        result.p50_us, result.p99_us = percentile(times, 0.50) * 1e6, percentile(times, 0.99) * 1e6
    return result


def percentile(values: list[float], fraction: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * fraction))]


WORKLOADS: dict[str, Callable[..., Awaitable[Result]]] = {
    "pairs": pairs,
    "send": send,
    "group": group,
    "roundtrip": roundtrip,
}
