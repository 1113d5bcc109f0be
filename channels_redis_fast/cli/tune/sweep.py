"""
All runs of a tuning: which capacities, for how long, and how many at the same time.

Runs share the machine only if that does not distort them: the first is alone and shows how much of the processors one
takes; a run that was disturbed nevertheless is repeated alone. Knows no table and no picture.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from . import queueing
from .drive import Origin, Players
from .estimate import Z95
from .measured import WARM_UP, Run
from .scratch import Scratch
from .workload import Timetable, Workload, timetable

#: The shortest and the longest run in seconds, unless an option says otherwise.
SHORTEST, LONGEST = 10.0, 120.0

#: The minimum number of bursts in a run, unless an option says otherwise.
FEWEST_BURSTS = 10

#: The maximum number of runs at the same time, and the share of this machine's processors that they may take together.
MOST_AT_ONCE, MOST_OF_MACHINE = 8, 0.5

#: Seconds that a run takes in addition to its messages, until a run has shown the actual number.
OVERHEAD = 1.0

#: The number of messages used to measure the size of a full key; larger capacities are extrapolated.
MOST_FILLED = 10_000

#: The maximum number of messages in one run, since the fate of each is kept.
MOST_MESSAGES = 2_000_000


@dataclass(frozen=True)
class Limits:
    """The limits: the share that may be lost, and the seconds that all but one in a hundred may wait at most."""

    max_loss: float
    max_wait: float


@dataclass(frozen=True)
class Plan:
    """A sweep: which capacities are driven, for how many seconds each, with which seed."""

    workload: Workload
    limits: Limits
    capacities: Sequence[int]
    seconds: float
    seed: int
    #: How many runs at the same time; None: as many as the machine can take.
    at_once: int | None = None
    #: How often a run that the machine could not keep up with is repeated, alone.
    repeats: int = 2

    def times(self) -> Timetable:
        return timetable(self.workload, self.seconds, self.seed)


def seconds_needed(workload: Workload, max_loss: float) -> float:
    """Return how long a run has to be so that zero losses prove that less than ``max_loss`` are lost."""
    messages = Z95 * Z95 * (1 - max_loss) / max_loss
    return 1.05 * messages / workload.mean_rate / (1 - WARM_UP)


def default_seconds(workload: Workload, max_loss: float) -> float:
    """Return the length of a run in seconds if no option says it: as long as needed, within reasonable limits."""
    least = max(SHORTEST, FEWEST_BURSTS * workload.burst_every if workload.burst else 0.0)
    return float(math.ceil(min(max(seconds_needed(workload, max_loss), least), LONGEST)))


def ladder(workload: Workload, limits: Limits, times: Timetable, current: int | None, shards: int = 1) -> list[int]:
    """
    Return capacities around the one that an ideal queue needs, and the ``current`` one of the deployment.

    Below it they go down in steps of two, to a sixteenth, and they are closer together where the answer is expected.
    """
    ideal = queueing.smallest_capacity(queueing.lines(workload, times), limits.max_loss)
    if workload.to == "general":
        ideal = math.ceil(ideal / shards)
    steps = {2**step for step in range(ideal.bit_length() + 2) if ideal / 16 <= 2**step <= 2 * ideal}
    near = {max(round(ideal * part), 1) for part in (0.75, 1, 1.25, 1.5, 2)}
    return sorted(steps | near | ({current} if current else set()))


@dataclass(frozen=True)
class Standing:
    """The progress of a sweep: capacities measured so far and in all, those driven now, and the seconds left."""

    measured: int
    planned: int
    driving: Sequence[int]
    elapsed: float
    seconds_left: float

    @property
    def part(self) -> float:
        """The elapsed share of its time, from 0 to 1."""
        whole = self.elapsed + self.seconds_left
        return self.elapsed / whole if whole > 0 else 1.0


class Sweep:
    """
    Carries out a plan on a scratch prefix.

    ``runs`` has each run as soon as it is finished, so that a stopped sweep was not in vain.
    """

    def __init__(
        self, plan: Plan, origin: Origin, scratch: Scratch, runs: list[Run],
        progress: Callable[[Standing], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self.plan = plan
        self.runs = runs
        self._origin = origin
        self._scratch = scratch
        self._progress = progress
        self._times = plan.times()
        self._players: list[Players] = []
        self._number = 0
        self._began = time.monotonic()
        #: What remains to be done after the current runs, and how many at the same time.
        self._left: list[int] = []
        self._at_once = plan.at_once or 1
        #: The total duration of a run in seconds, as shown by the last runs.
        self._run_seconds = plan.seconds + OVERHEAD

    async def run(self) -> None:
        """
        Drive every capacity of the plan. Afterwards the runs are in the order of their capacities, however it ended.

        Raises ``RunFailed`` or redis-py's ``ConnectionError``. The processes end in any case.
        """
        try:
            await self._run()
        finally:
            self.runs.sort(key=lambda run: run.capacity)
            await asyncio.gather(*(players.end() for players in self._players))

    async def _run(self) -> None:
        self._left = list(self.plan.capacities)
        if self.plan.at_once is None:
            # From the middle: its use of the machine is typical.
            middle = self._left.pop(len(self._left) // 2)
            self._at_once = self._bearable((await self._together([middle]))[0])
        while self._left:
            together, self._left = self._left[: self._at_once], self._left[self._at_once :]
            await self._together(together)
        self._at_once = 1
        for _ in range(self.plan.repeats):
            self._left = [run.capacity for run in self.runs if run.doubts]
            while self._left:
                await self._repeat(self._left.pop(0))

    async def _repeat(self, capacity: int) -> None:
        """Drive a capacity again, alone; the new run counts unless it was disturbed more than the first."""
        (again,) = await self._together([capacity], keep=False)
        position = next(at for at, run in enumerate(self.runs) if run.capacity == capacity)
        if again.late <= self.runs[position].late or not again.doubts:
            self.runs[position] = again

    def _bearable(self, run: Run) -> int:
        """Return how many runs may go on at the same time, judging by one run's use of this machine's processors."""
        if self.plan.workload.service == "cpu" or run.doubts:
            return 1
        # Of the server's not more than one processor, wherever that is.
        machine = (run.cpu_sender + run.cpu_consumers + (run.cpu_server or 0.0)) / run.seconds / (os.cpu_count() or 1)
        return max(1, min(int(MOST_OF_MACHINE / machine) if machine > 0 else MOST_AT_ONCE, MOST_AT_ONCE))

    async def _together(self, capacities: Sequence[int], keep: bool = True) -> list[Run]:
        """Drive capacities at the same time; return their runs, which are added to ``runs`` if they are to be kept."""
        new = [
            Players(self._origin, self._scratch, self.plan.workload)
            for _ in range(len(capacities) - len(self._players))
        ]
        self._players += new
        self._tell(capacities, 0.0)
        await _all(players.start() for players in new)
        began = time.monotonic()
        if self._number == 0:
            # The time that processes take to start says nothing about the runs.
            self._began = began
        before = await self._scratch.processor()
        runs: list[Run] = await _all(
            self._one(players, capacity, capacities, keep)
            for players, capacity in zip(self._players, capacities, strict=False)
        )
        after = await self._scratch.processor()
        self._run_seconds = time.monotonic() - began
        for run in runs:
            if before is not None and after is not None:
                # The runs are equal, so each has an equal share in what the server did.
                run.cpu_server = (after - before) / len(runs)
        return runs

    async def _one(self, players: Players, capacity: int, together: Sequence[int], keep: bool) -> Run:
        plan = self.plan
        self._number += 1
        fill = min(capacity, MOST_FILLED) if self._scratch.is_core else 0

        def progress(part: float) -> None:
            self._tell(together, max(part, 0.0))

        run = await players.run(self._number, capacity, self._times, plan.seconds, plan.seed, fill, progress)
        run.at_once = len(together)
        if keep:
            self.runs.append(run)
        return run

    def _tell(self, together: Sequence[int], part: float) -> None:
        """Report the progress of the sweep, given how far the current runs are."""
        rounds = math.ceil(len(self._left) / self._at_once)
        left = self._run_seconds * rounds + max(self._run_seconds - part * self.plan.seconds, 0.0)
        measured = sum(run.capacity not in together for run in self.runs)
        elapsed = time.monotonic() - self._began
        self._progress(Standing(measured, len(self.plan.capacities), together, elapsed, left))


async def _all(work: Any) -> list[Any]:
    """Return the results of coroutines; if one fails, the others are ended."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
