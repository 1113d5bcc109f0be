"""What the benchmarks do to a channel layer, and the honest count of what came out.

Works on any channel layer and knows none of them: no Redis, no settings, no tables. Every wait ends; what has not
arrived by then is reported as lost, and what arrived twice or out of order is reported as well.
"""

from __future__ import annotations

import asyncio
import gc
import time
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Protocol

Message = dict[str, Any]

WAIT = 60.0
# When nothing has arrived for so long, what is missing counts as lost. Upstream's core blocks for 5 s at a time.
QUIET = 6.0
# For one broadcast, several times in a run: a contender that loses some must not use up its turn waiting for them.
STORM_WAIT = 10.0
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
    """One measurement. `per_second` counts messages that arrived; the percentiles are of one message's way."""

    sent: int
    received: int
    repeated: int
    disordered: int
    seconds: float
    cpu_seconds: float
    p50_us: float | None = None
    p99_us: float | None = None
    # What the server did meanwhile: calls by command, and `cpu_us`. Empty when nobody asked it.
    server: dict[str, int] = field(default_factory=dict)
    # What only some workloads measure: memory, connections, processor time per minute.
    extra: dict[str, float] = field(default_factory=dict)

    @property
    def lost(self) -> int:
        return self.sent - self.received

    def as_dict(self) -> dict[str, Any]:
        rates = {"per_second": self.received / self.seconds}
        if self.cpu_seconds:
            rates["per_cpu_second"] = self.received / self.cpu_seconds
        if self.received:
            # Without the server's part where nobody asked it, as for a layer without one.
            rates["cpu_each_us"] = (self.cpu_seconds * 1e6 + self.server.get("cpu_us", 0)) / self.received
        return {**asdict(self), "lost": self.lost, **rates}


class Clock:
    """Wall and processor time of a block. The collector runs before it, never for the garbage of the set-up.

    Nor does it look through the modules during the block: in one of 0.1 s, that was a sixth of the processor time.

    `read_server` tells the server's counters and `read_connections` how many are open, when somebody who knows the
    server has set them; asked outside the measured time.
    """

    read_server: Callable[[], Counter[str]] | None = None
    read_connections: Callable[[], int] | None = None

    def __init__(self) -> None:
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self.server: Counter[str] = Counter()

    @contextmanager
    def measure(self) -> Iterator[None]:
        gc.collect()
        freezes = not gc.get_freeze_count()
        read = type(self).read_server
        before = read() if read is not None else Counter()
        if freezes:
            gc.freeze()
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - wall
            self.cpu_seconds += time.process_time() - cpu
            if freezes:
                gc.unfreeze()
            if read is not None:
                self.server += read() - before


def result_of(sent: int, inboxes: Iterable[Inbox], clock: Clock) -> Result:
    boxes = list(inboxes)
    return Result(
        sent=sent,
        received=sum(box.distinct for box in boxes),
        repeated=sum(len(box.numbers) - box.distinct for box in boxes),
        disordered=sum(box.disordered for box in boxes),
        seconds=clock.seconds,
        cpu_seconds=clock.cpu_seconds,
        server=dict(clock.server),
    )


TEXT = "Hello, is it me you are looking for?"


def chat_message(number: int, text: str = TEXT) -> Message:
    return {"type": "chat.message", "text": text, "number": number}


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


async def until_quiet(tasks: list[asyncio.Task[None]], arrived: Callable[[], int], clock: Clock) -> None:
    """Wait for the tasks as long as messages arrive. What is waited for in vain is taken off the clock afterwards."""
    count, since = arrived(), time.perf_counter()
    while True:
        _, late = await asyncio.wait(tasks, timeout=0.5)
        if not late:
            break
        if arrived() != count:
            count, since = arrived(), time.perf_counter()
        elif time.perf_counter() - since > QUIET:
            clock.seconds -= time.perf_counter() - since
            break
    await finish(tasks, within=0)


def total(inboxes: Iterable[Inbox]) -> Callable[[], int]:
    boxes = list(inboxes)
    return lambda: sum(len(box.numbers) for box in boxes)


def spawn(coroutines: Iterable[Coroutine[Any, Any, None]]) -> list[asyncio.Task[None]]:
    return [asyncio.ensure_future(coroutine) for coroutine in coroutines]


async def consume(layer: ChannelLayer, channel: str, inbox: Inbox, count: int) -> None:
    numbers = inbox.numbers
    while len(numbers) < count:
        numbers.append((await layer.receive(channel))["number"])


async def produce(layer: ChannelLayer, channel: str, numbers: Iterable[int], text: str = TEXT) -> None:
    for number in numbers:
        await layer.send(channel, chat_message(number, text))


async def pairs(layer: ChannelLayer, *, count: int, pairs: int = 50, text: str = TEXT) -> Result:
    """`pairs` producers, each with a consumer on a channel of its own, all in this process: send -> receive."""
    channels = [await layer.new_channel() for _ in range(pairs)]

    async def run(inboxes: list[Inbox], clock: Clock, count: int) -> Result:
        boxes = list(zip(channels, inboxes, strict=True))
        consumers = spawn(consume(layer, channel, inbox, count) for channel, inbox in boxes)
        await asyncio.sleep(SETTLE)
        with clock.measure():
            producers = spawn(produce(layer, channel, range(count), text) for channel in channels)
            await until_quiet(producers + consumers, total(inboxes), clock)
        return result_of(pairs * count, inboxes, clock)

    await run([Inbox() for _ in channels], Clock(), 1)
    return await run([Inbox() for _ in channels], Clock(), count)


async def send(layer: ChannelLayer, *, count: int, senders: int = 64) -> Result:
    """`senders` coroutines, each sending to a specific channel of its own; all of them belong to this process."""
    return await sends(layer, [await layer.new_channel() for _ in range(senders)], count)


async def send_spread(layer: ChannelLayer, *, count: int, senders: int = 64) -> Result:
    """The same to general channels, which have nothing in common: on the core layers each is a Redis key of its own."""
    channels = [f"bench.{uuid.uuid4().hex}" for _ in range(senders)]
    # A Pub/Sub layer listens on a general channel from its first receive on; what is sent before would be lost.
    listeners = spawn(consume(layer, channel, Inbox(), 1) for channel in channels)
    await asyncio.sleep(SETTLE)
    await finish(spawn(produce(layer, channel, [0]) for channel in channels) + listeners)
    return await sends(layer, channels, count)


async def sends(layer: ChannelLayer, channels: list[str], count: int) -> Result:
    """One sender for each channel. What they sent is received afterwards, off the clock.

    So nobody waits in `receive` while it runs, and the time is the senders' on every layer. Only a Pub/Sub layer
    takes in meanwhile what it listens to, as it does beside any sender.
    """
    inboxes = [Inbox() for _ in channels]
    clock = Clock()
    await finish(spawn(produce(layer, channel, [0]) for channel in channels))
    with clock.measure():
        await finish(spawn(produce(layer, channel, range(1, count + 1)) for channel in channels))
    boxes = zip(channels, inboxes, strict=True)
    late = spawn(consume(layer, channel, inbox, count + 1) for channel, inbox in boxes)
    await until_quiet(late, total(inboxes), Clock())
    forget_warm_up(inboxes)
    return result_of(len(channels) * count, inboxes, clock)


class Audience:
    """A group and its members, each listening; knows when a broadcast has reached them all.

    `layer` sends; a member listens on its own of `receivers`, where these are given.
    """

    def __init__(
        self, layer: ChannelLayer, group: str, channels: list[str], receivers: Sequence[ChannelLayer] = ()
    ) -> None:
        self.inboxes = [Inbox() for _ in channels]
        self._layer = layer
        self._group = group
        self._arrived = 0
        self._reached_all = asyncio.Event()
        self._listeners = spawn(
            self._listen(receiver, channel, inbox)
            for receiver, channel, inbox in zip(
                receivers or [layer] * len(channels), channels, self.inboxes, strict=True
            )
        )

    async def _listen(self, receiver: ChannelLayer, channel: str, inbox: Inbox) -> None:
        while True:
            inbox.numbers.append((await receiver.receive(channel))["number"])
            self._arrived += 1
            if self._arrived == len(self.inboxes):
                self._reached_all.set()

    async def reached(self) -> None:
        """Wait until a broadcast has reached everyone. The next counts from here."""
        await self._reached_all.wait()
        self._arrived -= len(self.inboxes)
        self._reached_all.clear()

    async def hear(self, numbers: Iterable[int]) -> None:
        """Broadcast them one after the other, each when the last has reached everyone."""
        for number in numbers:
            self._arrived = 0
            self._reached_all.clear()
            await self._layer.group_send(self._group, chat_message(number))
            await self._reached_all.wait()

    async def leave(self) -> None:
        await finish(self._listeners, within=0)


async def group(layer: ChannelLayer, *, count: int, consumers: int = 1000) -> Result:
    """`count` broadcasts to a group of `consumers` in this process, each after the last has reached everyone."""
    return await rooms(layer, count=count, rooms=1, consumers=consumers)


async def join(layer: ChannelLayer, group: str, consumers: int) -> list[str]:
    """So many new channels, all in the group."""
    channels = [await layer.new_channel() for _ in range(consumers)]
    for start in range(0, consumers, 50):
        await asyncio.gather(*(layer.group_add(group, channel) for channel in channels[start : start + 50]))
    return channels


async def rooms(layer: ChannelLayer, *, count: int, rooms: int = 50, consumers: int = 20) -> Result:
    """`rooms` groups of `consumers`, all in this process; in each `count` broadcasts as in `group`, side by side."""
    names = [f"bench.{uuid.uuid4().hex}" for _ in range(rooms)]
    audiences = [Audience(layer, name, await join(layer, name, consumers)) for name in names]
    inboxes = [inbox for audience in audiences for inbox in audience.inboxes]
    await asyncio.sleep(SETTLE)
    clock = Clock()
    await until_quiet(spawn(audience.hear([0]) for audience in audiences), total(inboxes), Clock())
    with clock.measure():
        tasks = spawn(audience.hear(range(1, count + 1)) for audience in audiences)
        await until_quiet(tasks, total(inboxes), clock)
    for audience in audiences:
        await audience.leave()
    forget_warm_up(inboxes)
    return result_of(rooms * consumers * count, inboxes, clock)


async def spread(
    layer: ChannelLayer, *, count: int, make: Callable[[], Any], layers: int = 10, consumers: int = 200
) -> Result:
    """`count` broadcasts to a group whose members live in ten processes, as far as Redis can tell: on layers of their
    own, which `make` makes. Each is sent when the last has reached everyone."""
    others = [make() for _ in range(layers)]
    name = f"bench.{uuid.uuid4().hex}"
    members = [(other, await other.new_channel()) for other in others for _ in range(consumers // layers)]
    for other, channel in members:
        await other.group_add(name, channel)
    receivers, channels = zip(*members, strict=True)
    audience = Audience(layer, name, list(channels), receivers)
    clock = Clock()
    try:
        await until_quiet(spawn([audience.hear([0])]), total(audience.inboxes), Clock())
        with clock.measure():
            await until_quiet(spawn([audience.hear(range(1, count + 1))]), total(audience.inboxes), clock)
        await audience.leave()
    finally:
        for other in others:
            await other.close_pools()
    forget_warm_up(audience.inboxes)
    return result_of(len(members) * count, audience.inboxes, clock)


async def storm(layer: ChannelLayer, *, count: int, consumers: int = 1000) -> Result:
    """`count` times, `consumers` connect at once: a new channel in a group, each. `per_second` counts consumers.

    The clock stops when all of them are acknowledged. Upstream's Pub/Sub layer returns before that, so a message to
    one more channel is sent when every call has returned: it comes behind the acknowledgements. One broadcast then,
    off the clock, proves the rest: whoever does not hear it is lost.
    """
    clock = Clock()
    behind = Inbox()
    inboxes = [behind]

    async def connect(name: str) -> str:
        channel = await layer.new_channel()
        await layer.group_add(name, channel)
        return channel

    # The first consumer opens the connections, and is the one more later.
    first = await connect(f"bench.{uuid.uuid4().hex}")
    for number in range(1, count + 1):
        name = f"bench.{uuid.uuid4().hex}"
        with clock.measure():
            channels = await asyncio.gather(*(connect(name) for _ in range(consumers)))
            await finish(spawn([produce(layer, first, [number]), consume(layer, first, behind, number)]))
        audience = Audience(layer, name, channels)
        await finish(spawn([audience.hear([number])]), within=STORM_WAIT)
        await audience.leave()
        inboxes += audience.inboxes
    return result_of((consumers + 1) * count, inboxes, clock)


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
