"""
One run: the processes of ``player``, a capacity, a timetable, and the fate of each message.

``Players`` are one process that sends and those that consume; they are kept from run to run. Knows when a run is over.
``measured`` knows what its numbers mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from redis.exceptions import ConnectionError

from .measured import Run, evaluate, refused
from .player import FILLED
from .scratch import Scratch
from .workload import Timetable, Workload

#: Seconds from the order to send until the first message may be due.
LEAD = 0.2

#: Seconds between two checks of a run's progress.
LOOK = 0.1

#: Seconds without any progress after which missing messages count as lost on the way.
QUIET = 3.0

#: Seconds for a process to start, which imports a whole site, and seconds for it to end.
STARTING, ENDING = 60.0, 5.0


class RunFailed(Exception):
    """A run could not be carried out; the text is one sentence."""


@dataclass(frozen=True)
class Origin:
    """How a process finds the deployment: the command's own options, and the changes that apply to all runs."""

    arguments: Mapping[str, Any]
    changes: Mapping[str, Any]


class Player:
    """One process, controlled through orders and answers."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in ``end``

    async def start(self, role: str, origin: Origin, workload: Workload) -> None:
        """Start the process and let it create its part. Raises ``RunFailed``."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "channels_redis_fast.cli.tune.player",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=self._errors, limit=1 << 30,
        )  # fmt: skip
        order = {"role": role, "arguments": dict(origin.arguments), "workload": asdict(workload)}
        try:
            await asyncio.wait_for(self.ask("be", **order), STARTING)
        except asyncio.TimeoutError:
            raise RunFailed(f"A process of the run did not start within {STARTING:g} s.") from None

    async def ask(self, what: str, **order: Any) -> dict[str, Any]:
        """
        Give an order and return the answer.

        Raises ``RunFailed`` if the process ended, ``redis.exceptions.ConnectionError`` if that was its error.
        """
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": what, **order}).encode() + b"\n")
            await self._process.stdin.drain()
        line = await self._process.stdout.readline()
        if not line:
            raise RunFailed(f"A process of the run ended: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error_type" in answer:
            kind = ConnectionError if answer["error_type"].endswith("ConnectionError") else RunFailed
            raise kind(answer["error_text"])
        return answer

    async def end(self) -> None:
        """End the process, whatever it is doing: perhaps a run that nobody waits for any more."""
        process = self._process
        if process is not None and process.returncode is None:
            if process.stdin is not None:
                process.stdin.close()
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait([asyncio.ensure_future(process.wait())], timeout=ENDING)
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        self._errors.close()

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


class Players:
    """The processes of one run at a time."""

    def __init__(self, origin: Origin, scratch: Scratch, workload: Workload) -> None:
        self._origin = origin
        self._scratch = scratch
        self._workload = workload
        self._sender = Player()
        self._consumers = [Player() for _ in range(workload.processes)]

    async def start(self) -> None:
        """Start the processes. Raises ``RunFailed`` or redis-py's ``ConnectionError``."""
        roles = [(self._sender, "sender"), *((player, "consumers") for player in self._consumers)]
        await asyncio.gather(*(player.start(role, self._origin, self._workload) for player, role in roles))

    async def end(self) -> None:
        await asyncio.gather(*(player.end() for player in (self._sender, *self._consumers)))

    async def run(
        self, number: int, capacity: int, times: Timetable, seconds: float, seed: int, fill: int,
        progress: Callable[[float], None],
    ) -> Run:  # fmt: skip
        """
        Play a timetable at a capacity.

        ``fill``: the number of messages used to measure the size of a full key; ``progress`` is told from 0 to 1.
        """
        changes = {**self._origin.changes, **self._scratch.changes(number, capacity)}
        told, *opened = await asyncio.gather(
            self._sender.ask("open", changes=changes, fill=fill),
            *(player.ask("open", changes=changes) for player in self._consumers),
        )
        full = None
        if fill:
            filled = self._scratch.key(number, FILLED)
            full = await self._scratch.memory(filled)
            await self._scratch.remove(filled)
        channels = [channel for answer in opened for channel in answer["channels"]]
        keys = sorted({self._scratch.key(number, channel) for channel in channels}) if self._scratch.is_core else []
        watch = _Watch(self._scratch, keys)
        start = time.monotonic() + LEAD
        sending = asyncio.ensure_future(
            self._sender.ask("play", seconds=seconds, seed=seed, start=start, channels=channels)
        )
        try:
            while not sending.done():
                await watch.look()
                progress(min((time.monotonic() - start) / seconds, 1.0))
                await asyncio.wait([sending], timeout=LOOK)
            sent = sending.result()
        finally:
            sending.cancel()
        await self._drain(watch, len(times) * self._workload.copies, sent)
        ran = time.monotonic() - start
        answers = await asyncio.gather(*(player.ask("close") for player in self._consumers))
        used = await self._sender.ask("close")
        run = evaluate(self._workload, capacity, ran, times, sent, used, answers)
        run.message_bytes = told["size"]
        if self._scratch.is_core:
            run.depth, run.memory = watch.depth, watch.memory
        if full is not None:
            run.memory_full = round(full * capacity / fill)
        return run

    async def _drain(self, watch: _Watch, offered: int, sent: Mapping[str, Any]) -> None:
        """Wait until everything has arrived or is known to be lost."""
        expected = offered - refused(self._workload, sent) - sent["failed"] * self._workload.copies
        before, since = -1, time.monotonic()
        patience = QUIET + 3 * self._workload.service_time * self._workload.consumers
        while True:
            counts = await asyncio.gather(*(player.ask("count") for player in self._consumers))
            settled = sum(count["received"] + count["dropped"] + count["expired"] for count in counts)
            if settled >= expected:
                return
            if settled != before:
                before, since = settled, time.monotonic()
            elif time.monotonic() - since > patience:
                return
            await watch.look()
            await asyncio.sleep(LOOK)


class _Watch:
    """The highest fill of the keys, as far as occasional checks show it."""

    def __init__(self, scratch: Scratch, keys: list[str]) -> None:
        self._scratch = scratch
        self._keys = keys
        self.depth: int | None = 0
        self.memory: int | None = 0

    async def look(self) -> None:
        if self._keys:
            self.depth = _larger(self.depth, await self._scratch.depth(*self._keys))
            self.memory = _larger(self.memory, await self._scratch.memory(*self._keys))


def _larger(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else max(one, other)
