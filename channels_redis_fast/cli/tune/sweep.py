"""
All runs of a tuning: which capacities, for how long, and how many of them at the same time.

Runs share the machine only where that does not distort them: the first is alone and tells how much of the processors
one takes; what was disturbed nevertheless is repeated alone. Knows no table and no picture.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from . import queueing
from .drive import Origin, Players
from .estimate import Z95
from .measured import WARM_UP, Run
from .scratch import Scratch
from .workload import Timetable, Workload, timetable

#: Seconds of one run, where no option says otherwise.
SHORTEST, LONGEST = 10.0, 120.0

#: Bursts that a run has at least, where no option says otherwise.
FEWEST_BURSTS = 10

#: Runs at the same time, and the part of this machine's processors that they may take together.
MOST_AT_ONCE, MOST_OF_MACHINE = 8, 0.5

#: Messages with which it is measured what a full key takes; larger capacities are extrapolated.
MOST_FILLED = 10_000

#: Messages of one run: its fate is kept for each.
MOST_MESSAGES = 2_000_000


@dataclass(frozen=True)
class Limits:
    """What is asked for: the part that may be lost, and seconds that all but one in a hundred may wait at most."""

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
    #: How many runs at the same time; None: as many as the machine bears.
    at_once: int | None = None
    #: How often a run is repeated, alone, that the machine could not keep up with.
    repeats: int = 2

    def times(self) -> Timetable:
        return timetable(self.workload, self.seconds, self.seed)


def seconds_needed(workload: Workload, max_loss: float) -> float:
    """Return how long a run has to be so that no loss at all shows that less than ``max_loss`` are lost."""
    messages = Z95 * Z95 * (1 - max_loss) / max_loss
    return 1.05 * messages / workload.mean_rate / (1 - WARM_UP)


def default_seconds(workload: Workload, max_loss: float) -> float:
    """Return the seconds of a run that no option says: as long as is needed, within what one waits for."""
    least = max(SHORTEST, FEWEST_BURSTS * workload.burst_every if workload.burst else 0.0)
    return float(math.ceil(min(max(seconds_needed(workload, max_loss), least), LONGEST)))


def ladder(workload: Workload, limits: Limits, times: Timetable, current: int | None, shards: int = 1) -> list[int]:
    """
    Return capacities around the one that an ideal queue needs, and the ``current`` one of the deployment.

    Below it in steps of two, down to a sixteenth, and closer where the answer is to be expected.
    """
    ideal = queueing.smallest_capacity(queueing.lines(workload, times), limits.max_loss)
    if workload.utilisation() >= 1:
        # The longer the run, the more would wait: no more than as long as it may.
        ideal = min(ideal, max(int(limits.max_wait * workload.servers / workload.service_time), 1))
    if workload.to == "general":
        ideal = math.ceil(ideal / shards)
    steps = {2**step for step in range(ideal.bit_length() + 2) if ideal / 16 <= 2**step <= 2 * ideal}
    near = {max(round(ideal * part), 1) for part in (0.75, 1, 1.25, 1.5, 2)}
    return sorted(steps | near | ({current} if current else set()))


class Sweep:
    """Carries out a plan on a scratch prefix."""

    def __init__(
        self, plan: Plan, origin: Origin, scratch: Scratch, progress: Callable[[str, float], None] = lambda *_: None
    ) -> None:
        self.plan = plan
        self._origin = origin
        self._scratch = scratch
        self._progress = progress
        self._times = plan.times()
        self._players: list[Players] = []
        self._number = 0
        self._driven: set[int] = set()

    async def run(self) -> list[Run]:
        """
        Drive every capacity of the plan; return the runs in the order of their capacities.

        Raises ``RunFailed`` or redis-py's ``ConnectionError``. The processes end in any case.
        """
        try:
            return await self._run()
        finally:
            await asyncio.gather(*(players.end() for players in self._players))

    async def _run(self) -> list[Run]:
        left = list(self.plan.capacities)
        runs: list[Run] = []
        at_once = self.plan.at_once
        if at_once is None:
            # From the middle: what it takes of the machine is typical.
            runs = await self._together([left.pop(len(left) // 2)])
            at_once = self._bearable(runs[0])
        while left:
            runs += await self._together(left[:at_once])
            left = left[at_once:]
        for _ in range(self.plan.repeats):
            for position, run in enumerate(runs):
                if run.doubts:
                    (again,) = await self._together([run.capacity])
                    if again.late <= run.late or not again.doubts:
                        runs[position] = again
        return sorted(runs, key=lambda run: run.capacity)

    def _bearable(self, run: Run) -> int:
        """Return how many runs may go on at the same time, by what one took of the processors of this machine."""
        if self.plan.workload.service == "cpu" or run.doubts:
            return 1
        # Of the server's not more than one processor, wherever that is.
        machine = (run.cpu_sender + run.cpu_consumers + (run.cpu_server or 0.0)) / run.seconds / (os.cpu_count() or 1)
        return max(1, min(int(MOST_OF_MACHINE / machine) if machine > 0 else MOST_AT_ONCE, MOST_AT_ONCE))

    async def _together(self, capacities: Sequence[int]) -> list[Run]:
        new = [
            Players(self._origin, self._scratch, self.plan.workload)
            for _ in range(len(capacities) - len(self._players))
        ]
        self._players += new
        await _all(players.start() for players in new)
        before = await self._scratch.processor()
        runs: list[Run] = await _all(
            self._one(players, capacity) for players, capacity in zip(self._players, capacities, strict=False)
        )
        after = await self._scratch.processor()
        for run in runs:
            run.at_once = len(runs)
            if before is not None and after is not None:
                # Equal runs: each has an equal share in what the server did.
                run.cpu_server = (after - before) / len(runs)
        return runs

    async def _one(self, players: Players, capacity: int) -> Run:
        plan = self.plan
        self._number += 1
        fill = min(capacity, MOST_FILLED) if self._scratch.is_core else 0
        label = f"capacity {capacity}" + (" again" if capacity in self._driven else "")
        self._driven.add(capacity)

        def progress(part: float) -> None:
            self._progress(label, part)

        progress(0.0)
        return await players.run(self._number, capacity, self._times, plan.seconds, plan.seed, fill, progress)


async def _all(work: Any) -> list[Any]:
    """Return the results of coroutines; with the first that fails, the others are ended."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
