"""
One process of a run, on the REAL layer: it sends, or it consumes. ``python -m channels_redis_fast.cli.tune.player``

It reads orders as lines of JSON from its standard input and answers each with one line. It ends when the input ends.
Sends are open-loop: each leaves when it is due, whether or not the ones before it are done, and its delay is reported.
Times are those of the system's monotonic clock, which all processes of a machine share. Knows nothing of sweeps, of
what is measured on the server, and of what the numbers mean.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import random
import signal
import sys
import threading
import time
from array import array
from collections.abc import Awaitable, Callable
from typing import Any

from channels.exceptions import ChannelFull
from redis.exceptions import RedisError

from ..deployment import Deployment, find
from .workload import SOON, Workload, timetable

#: Names on the scratch prefix.
CHANNEL, GROUP, FILLED, GREETING = "tune", "tune", "tune.filled", "tune.greeting"

#: How many seconds of a too long sleep the next one makes up for: the inaccuracy of timers, and no more.
MOST_DEBT = 0.002

#: The maximum number of sends that are started before those started get to run.
YIELD = 100

#: Seconds for opening connections.
OPENING = 15.0


def packed(numbers: array[Any]) -> str:
    """Return numbers as text for a line of JSON."""
    return base64.b64encode(numbers.tobytes()).decode()


def unpacked(code: str, text: str) -> array[Any]:
    """Return the numbers in such a text; ``code`` is their type in an ``array``."""
    numbers: array[Any] = array(code)
    numbers.frombytes(base64.b64decode(text))
    return numbers


class Part:
    """Common to both kinds of processes: a layer for each run."""

    def __init__(self, deployment: Deployment, workload: Workload) -> None:
        self.workload = workload
        self.layer: Any = None
        self._deployment = deployment
        self._cpu = 0.0

    async def open(self, order: dict[str, Any]) -> dict[str, Any]:
        """Create the layer of a run and open its connections."""
        self.layer = self._deployment.make_layer(**order["changes"])
        # A message that goes out and comes back has opened every connection that this process needs.
        try:
            await asyncio.wait_for(self._greet(), OPENING)
        except asyncio.TimeoutError:
            raise RuntimeError(f"A message to itself did not come back within {OPENING:g} s.") from None
        return {}

    def begin(self) -> None:
        """Start counting processor time."""
        self._cpu = time.process_time()

    async def close(self, order: dict[str, Any]) -> dict[str, Any]:
        """End a run and close its connections."""
        used = time.process_time() - self._cpu
        stats = self.layer.stats()
        await self.layer.close_pools()
        return {"cpu": used, "stats": stats}

    async def _greet(self) -> None:
        channel = await self.layer.new_channel(GREETING)
        await self.layer.send(channel, {"type": GREETING})
        await self.layer.receive(channel)


class Consumers(Part):
    """All consumers of one process."""

    def __init__(self, deployment: Deployment, workload: Workload) -> None:
        super().__init__(deployment, workload)
        self._tasks: list[asyncio.Task[None]] = []
        self._forget()

    def _forget(self) -> None:
        #: For each message that came: its number in the timetable, how long it waited, how long it took.
        self.numbers, self.waits = array("L"), array("d")
        self.worked = 0.0
        #: Seconds from the end of a message's work to the next message, if that was already waiting.
        self.fetches = 0
        self.fetching = 0.0

    async def open(self, order: dict[str, Any]) -> dict[str, Any]:
        await super().open(order)
        self._forget()
        if self.workload.to == "general":
            channels = [CHANNEL] * self.workload.consumers
        else:
            channels = [await self.layer.new_channel() for _ in range(self.workload.consumers)]
        if self.workload.to == "group":
            await asyncio.gather(*(self.layer.group_add(GROUP, channel) for channel in channels))
        self.begin()
        self._tasks = [asyncio.ensure_future(self._consume(channel)) for channel in channels]
        return {"channels": channels}

    async def count(self, order: dict[str, Any]) -> dict[str, Any]:
        """Report the progress of this process."""
        stats = self.layer.stats()
        broken = [task.exception() for task in self._tasks if task.done()]
        if broken:
            raise RuntimeError(f"a consumer ended: {broken[0]}")
        return {"received": len(self.numbers), "dropped": stats["dropped"], "expired": stats["expired"]}

    async def close(self, order: dict[str, Any]) -> dict[str, Any]:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return {
            **await super().close(order),
            "numbers": packed(self.numbers),
            "waits": packed(self.waits),
            "worked": self.worked,
            "fetches": self.fetches,
            "fetching": self.fetching,
        }

    async def _consume(self, channel: str) -> None:
        computes = self.workload.service == "cpu"
        debt = ended = 0.0
        while True:
            message = await self.layer.receive(channel)
            got = time.monotonic()
            if "due" not in message:
                # A Pub/Sub layer's message about an outage.
                continue
            due, work = message["due"], message["work"]
            self.numbers.append(message["number"])
            self.waits.append(max(got - due, 0.0))
            if ended and due < ended - SOON:
                self.fetches += 1
                self.fetching += got - ended
            if computes:
                # This thread's own time: while another process has the processor, no work is done here.
                until = time.thread_time() + work
                while time.thread_time() < until:
                    pass
                ended = time.monotonic()
            else:
                await asyncio.sleep(max(work - debt, 0.0))
                ended = time.monotonic()
                # Event loops round up to milliseconds: if one sleep was too long, the next is shorter.
                debt = min(max(debt + ended - got - work, 0.0), MOST_DEBT)
            self.worked += ended - got


class Sender(Part):
    """The process that sends."""

    async def open(self, order: dict[str, Any]) -> dict[str, Any]:
        await super().open(order)
        body = self._body()
        for start in range(0, order["fill"], YIELD):
            numbers = range(start, min(start + YIELD, order["fill"]))
            await asyncio.gather(
                *(self.layer.send(FILLED, self._message(number, 0.0, 0.0, body)) for number in numbers)
            )
        return {"size": len(self.layer.serialize(self._message(0, 0.0, 0.0, body)))}

    async def play(self, order: dict[str, Any]) -> dict[str, Any]:
        """Send the messages of a timetable, and return when all have been answered."""
        times = timetable(self.workload, order["seconds"], order["seed"])
        channels: list[str] = order["channels"]
        body = self._body()
        full, lateness, errors = array("L"), array("d"), []
        is_group = self.workload.to == "group"
        sends: set[asyncio.Task[None]] = set()

        async def send(number: int, due: float) -> None:
            message = self._message(number, due, times.works[number], body)
            try:
                if is_group:
                    await self.layer.group_send(GROUP, message)
                else:
                    await self.layer.send(channels[times.targets[number]], message)
            except ChannelFull:
                full.append(number)
            except RedisError as error:
                errors.append(str(error))

        start: float = order["start"]
        self.begin()
        for number, after in enumerate(times.dues):
            due = start + after
            if number % YIELD == 0:
                # A sender that is behind must let its sends run, too.
                await asyncio.sleep(0)
            while (missing := due - time.monotonic()) > 0:  # noqa: ASYNC110 - a time is waited for, and no event
                await asyncio.sleep(missing)
            lateness.append(time.monotonic() - due)
            task = asyncio.ensure_future(send(number, due))
            sends.add(task)
            task.add_done_callback(sends.discard)
        await asyncio.gather(*sends)
        return {
            "full": packed(full),
            "late": sum(late > self.workload.tolerance for late in lateness),
            "latest": max(lateness, default=0.0),
            "failed": len(errors),
            "error": errors[0] if errors else None,
            "over_capacity": self.layer.stats()["over_capacity"],
        }

    def _message(self, number: int, due: float, work: float, body: str) -> dict[str, Any]:
        return {"type": "tune.message", "number": number, "due": due, "work": work, "body": body}

    def _body(self) -> str:
        """Return the text that brings a message to its size. It must not be compressible by a serializer."""
        missing = self.workload.size - len(self.layer.serialize(self._message(0, 0.0, 0.0, "")))
        if missing <= 0:
            return ""
        return base64.b64encode(random.Random(missing).randbytes(missing)).decode()[:missing]


async def serve(orders: asyncio.Queue[bytes], answer: Callable[[dict[str, Any]], None]) -> None:
    """Carry out orders forever."""
    part: Part | None = None
    while True:
        order = json.loads(await orders.get())
        try:
            if order["do"] == "be":
                kind = {"sender": Sender, "consumers": Consumers}[order["role"]]
                part = kind(find(argparse.Namespace(**order["arguments"])), Workload(**order["workload"]))
                answer({})
            else:
                action: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]] = getattr(part, order["do"])
                answer(await action(order))
        except Exception as error:
            answer({"error_type": type(error).__name__, "error_text": str(error) or type(error).__name__})


async def main(output: int) -> None:
    loop = asyncio.get_running_loop()
    orders: asyncio.Queue[bytes] = asyncio.Queue()

    def read() -> None:
        with contextlib.suppress(RuntimeError):
            for line in sys.stdin.buffer:
                loop.call_soon_threadsafe(orders.put_nowait, line)
            # The process that gave the orders is gone, perhaps in the middle of a run.
            loop.call_soon_threadsafe(serving.cancel)

    def answer(told: dict[str, Any]) -> None:
        data = json.dumps(told).encode() + b"\n"
        while data:
            data = data[os.write(output, data) :]

    serving = asyncio.ensure_future(serve(orders, answer))
    threading.Thread(target=read, daemon=True).start()
    with contextlib.suppress(asyncio.CancelledError):
        await serving


if __name__ == "__main__":
    # Ctrl-C goes to the whole terminal; the command itself ends its processes, once it has their numbers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Output of a site's own code must not get in between the answers.
    answers = os.dup(1)
    os.dup2(2, 1)
    asyncio.run(main(answers))
