"""Workloads over several processes: a group whose members live in four of them, and workers on a general channel.

The contender's process sends; each other process is this module, run by the same python. It says in lines of JSON when
it listens, what it has heard and, when its input ends, everything that it received.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import uuid
from asyncio.subprocess import PIPE, Process
from typing import Any

from bench.workloads import (
    QUIET,
    SETTLE,
    WAIT,
    Audience,
    Clock,
    Inbox,
    Result,
    chat_message,
    finish,
    forget_warm_up,
    join,
    result_of,
    spawn,
)

PROCESSES = 4
# What one worker process does at once.
RECEIVERS = 10
SENDERS = 16


class Member:
    """One other process, as the sender sees it."""

    def __init__(self, process: Process) -> None:
        assert process.stdout is not None
        assert process.stdin is not None
        self._process, self._lines, self._input = process, process.stdout, process.stdin
        self.heard = 0
        # When, by the monotonic clock, where the process tells.
        self.heard_at = 0.0
        self.cpu_seconds = 0.0
        self.last = 0.0
        self.numbers: list[list[int]] = []
        self.ready = asyncio.Event()
        self.changed = asyncio.Event()
        self._reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        while line := await self._lines.readline():
            said = json.loads(line)
            if "heard" in said:
                self.heard, self.heard_at = said["heard"], said.get("at", 0.0)
                self.changed.set()
            elif "ready" in said:
                self.ready.set()
            else:
                self.numbers, self.cpu_seconds, self.last = said["numbers"], said["cpu_seconds"], said["last"]

    async def until_heard(self, count: int) -> None:
        while self.heard < count:
            self.changed.clear()
            await self.changed.wait()

    def tell(self, what: str) -> None:
        self._input.write(f"{what}\n".encode())

    async def end(self) -> None:
        """Ask for the result and wait for the end, which comes in any case."""
        self._input.close()
        try:
            await asyncio.wait_for(self._reading, WAIT)
            await asyncio.wait_for(self._process.wait(), WAIT)
        finally:
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()
        if self._process.returncode != 0:
            raise RuntimeError(f"a process of the crowd ended with code {self._process.returncode}")


async def gather_crowd(context: list[str], role: str, name: str, consumers: int) -> list[Member]:
    command = [sys.executable, "-m", "bench.crowd", *context, "--role", role, "--name", name]
    command += ["--consumers", str(consumers)]
    members = []
    for _ in range(PROCESSES):
        # The result is one long line.
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, limit=1 << 26)
        members.append(Member(process))
    try:
        await asyncio.wait_for(asyncio.gather(*(member.ready.wait() for member in members)), WAIT)
    except asyncio.TimeoutError:
        await asyncio.gather(*(member.end() for member in members), return_exceptions=True)
        raise
    return members


async def crowd_group(layer: Any, context: list[str], *, count: int, consumers: int = 1000) -> Result:
    """`count` broadcasts to `consumers` in four processes, each broadcast when the last has reached all of them."""
    name = f"bench.{uuid.uuid4().hex}"
    members = await gather_crowd(context, "listener", name, consumers // PROCESSES)
    clock = Clock()

    async def broadcast(numbers: range) -> None:
        for number in numbers:
            await layer.group_send(name, chat_message(number))
            await asyncio.wait_for(asyncio.gather(*(member.until_heard(number + 1) for member in members)), QUIET)

    try:
        await broadcast(range(1))
        for member in members:
            member.tell("start")
        with clock.measure():
            try:
                await broadcast(range(1, count + 1))
            except asyncio.TimeoutError:
                clock.seconds -= QUIET
    finally:
        await asyncio.gather(*(member.end() for member in members))
    boxes = [Inbox(numbers) for member in members for numbers in member.numbers]
    result = result_of(consumers * count, boxes, clock)
    result.cpu_seconds += sum(member.cpu_seconds for member in members)
    return result


async def crowd_workers(layer: Any, context: list[str], *, count: int) -> Result:
    """`count` jobs on one general channel, by 16 senders, for four worker processes: each job for one of them."""
    name = f"bench.{uuid.uuid4().hex}"
    members = await gather_crowd(context, "worker", name, RECEIVERS)
    clock = Clock()

    async def send(numbers: range) -> None:
        for number in numbers:
            await layer.send(name, chat_message(number))

    try:
        for member in members:
            member.tell("start")
        with clock.measure():
            began = time.monotonic()
            await finish(spawn(send(range(sender, count, SENDERS)) for sender in range(SENDERS)))
            heard, since = -1, time.monotonic()
            while (now := sum(member.heard for member in members)) < count and time.monotonic() - since < QUIET:
                if now != heard:
                    heard, since = now, time.monotonic()
                await asyncio.sleep(0.01)
        # Whoever received more than there were, received it after the count was complete.
        await asyncio.sleep(0.3)
    finally:
        await asyncio.gather(*(member.end() for member in members))
    # Workers tell how many they have only now and then; the moment of the last one is exact.
    clock.seconds = max(member.last for member in members) - began
    everything = [number for member in members for numbers in member.numbers for number in numbers]
    result = result_of(count, [Inbox(sorted(everything))], clock)
    result.cpu_seconds += sum(member.cpu_seconds for member in members)
    return result


def say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


async def input_lines() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def listener(layer: Any, name: str, consumers: int) -> tuple[list[Inbox], float, float]:
    """Members of a group; tells of each broadcast that all of them have heard."""
    audience = Audience(layer, name, await join(layer, name, consumers))
    await asyncio.sleep(SETTLE)

    async def tell() -> None:
        heard = 0
        while True:
            await audience.reached()
            heard += 1
            say({"heard": heard})

    telling = spawn([tell()])
    cpu = await cpu_until_end()
    await finish(telling, within=0)
    await audience.leave()
    forget_warm_up(audience.inboxes)
    return audience.inboxes, cpu, time.monotonic()


async def cpu_until_end() -> float:
    """Say that all is ready; return the CPU seconds from the line that begins the work to the end of the input."""
    say({"ready": True})
    lines = await input_lines()
    await lines.readline()
    before = time.process_time()
    await lines.read()
    return time.process_time() - before


async def worker(layer: Any, name: str, consumers: int) -> tuple[list[Inbox], float, float]:
    """Receivers of one general channel; tells now and then how many jobs it has."""
    inboxes = [Inbox() for _ in range(consumers)]
    last = 0.0

    async def receive(inbox: Inbox) -> None:
        nonlocal last
        while True:
            number = (await layer.receive(name))["number"]
            last = time.monotonic()
            inbox.numbers.append(number)

    async def tell() -> None:
        told = 0
        while True:
            await asyncio.sleep(0.05)
            heard = sum(len(inbox.numbers) for inbox in inboxes)
            if heard != told:
                told = heard
                say({"heard": heard})

    tasks = spawn([*(receive(inbox) for inbox in inboxes), tell()])
    await asyncio.sleep(SETTLE)
    cpu = await cpu_until_end()
    await finish(tasks, within=0)
    return inboxes, cpu, last


async def take_part(arguments: argparse.Namespace) -> None:
    from bench.contender import close_layer, layer_of

    layer = layer_of(arguments)
    role = listener if arguments.role == "listener" else worker
    inboxes, cpu, last = await role(layer, arguments.name, arguments.consumers)
    say({"numbers": [inbox.numbers for inbox in inboxes], "cpu_seconds": cpu, "last": last})
    # Others still use the keys, so nothing is flushed: the sender does that.
    await asyncio.wait_for(close_layer(layer, flush=False), 30)


def main() -> int:
    from bench.contender import add_layer_arguments, run

    parser = argparse.ArgumentParser(description=__doc__)
    add_layer_arguments(parser)
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--role", required=True, choices=("listener", "worker"))
    parser.add_argument("--name", required=True, help="of the group or the channel")
    parser.add_argument("--consumers", type=int, required=True)
    arguments = parser.parse_args()
    run(take_part(arguments), arguments.loop)
    return 0


if __name__ == "__main__":
    sys.exit(main())
