"""
What ``bench`` does with a channel layer, and what it counts.

Works on any channel layer and knows none of them. Knows nothing of Redis, contenders or tables. Only the call is timed:
progress is watched from outside, and messages that have not arrived after ``LOST_AFTER`` count as lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol

#: Seconds without any progress after which messages in transit count as lost.
LOST_AFTER = 2.0

#: Seconds between two checks for progress.
LOOK = 0.25

#: Seconds to wait until subscriptions and receives are in place, which not every layer reports.
SETTLE = 0.05

#: Calls before the measurement: they open connections and load scripts.
WARM_UP = 5

#: How many coroutines send at the same time, and how many messages each of them sends before all are thrown away.
SENDERS, SENDS = 32, 50

#: Seconds that cancelled tasks get to end.
ENDING = 1.0

TEXT = "Hello, is it me you are looking for?"


class ChannelLayer(Protocol):
    """The part of a channel layer that is used here."""

    async def send(self, channel: str, message: dict[str, Any]) -> None: ...
    async def receive(self, channel: str) -> dict[str, Any]: ...
    async def new_channel(self) -> str: ...
    async def group_add(self, group: str, channel: str) -> None: ...
    async def group_send(self, group: str, message: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Subject:
    """
    A layer to measure.

    ``channels``: names of general channels that nobody receives on; ``empty`` throws away the messages waiting there.
    """

    layer: ChannelLayer
    channels: Sequence[str]
    empty: Callable[[], Awaitable[None]]


@dataclass
class Turn:
    """The result of one turn; times in seconds, one for each call that was awaited."""

    messages: int = 0
    seconds: float = 0.0
    times: list[float] = field(default_factory=list)
    lost: int = 0

    @property
    def per_second(self) -> float:
        """Messages that arrived, per second."""
        return self.messages / self.seconds if self.seconds else 0.0

    def percentile(self, fraction: float) -> float:
        """Return the time in microseconds that this fraction of the calls did not exceed; 0 if there were none."""
        if not self.times:
            return 0.0
        return sorted(self.times)[min(len(self.times) - 1, int(len(self.times) * fraction))] * 1e6


async def repeat(call: Callable[[], Awaitable[Any]], seconds: float) -> Turn:
    """Make a call repeatedly for some seconds; time each. A call that does not end is ``lost``, and ends the turn."""
    turn = Turn()
    done = 0

    async def calls() -> None:
        nonlocal done
        end = perf_counter() + seconds
        while done <= WARM_UP or perf_counter() < end:
            started = perf_counter()
            await call()
            took = perf_counter() - started
            done += 1
            if done > WARM_UP:
                turn.times.append(took)

    task = asyncio.ensure_future(calls())
    try:
        seen = quiet = 0
        while not (await asyncio.wait([task], timeout=LOOK))[0]:
            # Checks are counted instead of seconds: this process may have been held up as a whole.
            quiet = quiet + 1 if done == seen else 0
            seen = done
            if quiet * LOOK >= LOST_AFTER:
                turn.lost = 1
                break
        else:
            task.result()
    finally:
        await end_of([task])
    turn.messages, turn.seconds = len(turn.times), sum(turn.times)
    return turn


async def round_trip(subject: Subject, seconds: float) -> Turn:
    """Send a message to a channel and receive it, one at a time: the wait of a single user."""
    layer = subject.layer
    channel = await layer.new_channel()
    await asyncio.sleep(SETTLE)

    async def there_and_back() -> None:
        await layer.send(channel, _message())
        await layer.receive(channel)

    return await repeat(there_and_back, seconds)


async def send(subject: Subject, seconds: float) -> Turn:
    """Send from ``SENDERS`` coroutines at the same time, each to its own channel."""
    turn = Turn()
    channels = subject.channels[:SENDERS]

    async def sender(channel: str, end: float) -> None:
        for _ in range(SENDS):
            started = perf_counter()
            if started > end and turn.times:
                break
            await subject.layer.send(channel, _message())
            turn.times.append(perf_counter() - started)

    # Opens the connections.
    await asyncio.gather(*(subject.layer.send(channel, _message()) for channel in channels))
    while not turn.times or turn.seconds < seconds:
        await subject.empty()
        started = perf_counter()
        end = started + seconds - turn.seconds
        await asyncio.gather(*(sender(channel, end) for channel in channels))
        turn.seconds += perf_counter() - started
    await subject.empty()
    turn.messages = len(turn.times)
    return turn


async def fan_out(subject: Subject, seconds: float, members: int) -> Turn:
    """Send to a group of ``members``, again when the last one has the message. Messages counted are deliveries."""
    layer, group = subject.layer, "bench"
    channels = [await layer.new_channel() for _ in range(members)]
    await asyncio.gather(*(layer.group_add(group, channel) for channel in channels))
    arrived, leaving = 0, False
    all_there = asyncio.Event()

    async def listen(channel: str) -> None:
        nonlocal arrived
        while not leaving:
            await layer.receive(channel)
            arrived += 1
            if arrived == members:
                all_there.set()

    async def broadcast() -> None:
        nonlocal arrived
        await layer.group_send(group, _message())
        await all_there.wait()
        arrived = 0
        all_there.clear()

    listeners = [asyncio.ensure_future(listen(channel)) for channel in channels]
    try:
        await asyncio.sleep(SETTLE)
        turn = await repeat(broadcast, seconds)
        for listener in listeners:
            if listener.done():
                listener.result()
        if turn.lost:
            turn.lost = members - arrived
        else:
            # A cancelled receiver may continue waiting in Redis, so all receivers end with a last message.
            leaving = True
            await layer.group_send(group, _message())
            await asyncio.wait(listeners, timeout=LOST_AFTER)
    finally:
        await end_of(listeners)
    turn.messages *= members
    return turn


async def end_of(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait a while for them to end: a layer may take its time. Their errors are ignored."""
    for task in tasks:
        task.cancel()
        task.add_done_callback(lambda task: task.cancelled() or task.exception())
    await asyncio.wait(tasks, timeout=ENDING)


def _message() -> dict[str, Any]:
    return {"type": "chat.message", "text": TEXT, "number": 1}
