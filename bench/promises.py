"""The ratios this project promises, and the arithmetic that says whether a run kept them.

Ratios are taken round by round, between contenders that ran within the same minute: a noisy machine slows both. Knows
numbers only: no processes, no tables.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench.cases import CASES, METRICS

Measurements = Sequence[dict[str, Any]]

#: The waking of tasks by asyncio's futures alone, without a layer or a server.
FLOOR = "floor-tasks"


@dataclass(frozen=True)
class Promise:
    """Our `layer` is at least `factor` times better than `against` in that workload.

    With `than` the other side is measured in another workload: our own cost with many beside our own cost with few.
    With `metric` it is not the workload's usual number that is compared.
    """

    layer: str
    workload: str
    against: str
    factor: float
    than: str | None = None
    metric: str | None = None

    @property
    def other_workload(self) -> str:
        return self.than or self.workload


@dataclass(frozen=True)
class Limit:
    """Our `layer` needs at most so much of a metric in that workload."""

    layer: str
    workload: str
    metric: str
    at_most: float


def _own_costs(layer: str) -> tuple[Promise, Promise]:
    return (
        # A delivery costs at most 1.5 times as much, a message at most 1.3 times.
        Promise(layer, "group-10000", layer, 1 / 1.5, than="group-100"),
        Promise(layer, "waiting-5000", layer, 1 / 1.3, than="waiting-50"),
    )


def _sites(layer: str, against: str, factor: float, sooner: float) -> tuple[Promise, ...]:
    """Of a site that uses our consumers: `factor` is of its frames per second to sockets, `sooner` of the last one.

    10 times as soon and 0.6 of a hand-written loop were aimed at: a task is woken for each client, where the loop has
    one for all, and the time to the last client is but the other side of the frames per second.
    """
    direct, loop = f"{layer}-direct", f"{layer}-loop"
    return (
        Promise(direct, "consumers-room", layer, 12.0),
        Promise(direct, "consumers-room", "floor-tasks-direct", 1 / 1.6),
        Promise(direct, "consumers-echo", layer, 2.0),
        Promise(direct, "consumers-idle", layer, 1.0),
        Promise(direct, "sockets-200", against, factor),
        Promise(direct, "sockets-200", against, sooner, metric="p99_us"),
        Promise(direct, "sockets-200", loop, 0.5),
    )


PROMISES = (
    Promise("fast", "pairs", "upstream", 120.0),
    Promise("fast", "pairs", "memory", 1.5),
    Promise("fast", "send", "upstream", 30.0),
    Promise("fast", "group", "upstream", 25.0),
    Promise("fast", "group", "floor-tasks", 0.8),
    Promise("fast", "roundtrip", "upstream", 6.0),
    Promise("fast", "sync_group", "upstream", 2.5),
    Promise("fast", "sync_native", "upstream", 8.0, than="sync_group"),
    Promise("fast", "sync_threads", "upstream", 20.0),
    Promise("fast", "idle", "upstream", 1.0),
    Promise("fast", "site", "floor-tasks", 0.9),
    *_own_costs("fast"),
    Promise("fast-pubsub", "pairs", "upstream-pubsub", 20.0),
    Promise("fast-pubsub", "pairs", "memory", 1.2),
    Promise("fast-pubsub", "send", "upstream-pubsub", 25.0),
    Promise("fast-pubsub", "group", "upstream-pubsub", 3.5),
    Promise("fast-pubsub", "group", "floor-tasks", 0.8),
    Promise("fast-pubsub", "roundtrip", "upstream-pubsub", 1.5),
    Promise("fast-pubsub", "sync_group", "upstream-pubsub", 2.5),
    Promise("fast-pubsub", "sync_native", "upstream-pubsub", 8.0, than="sync_group"),
    Promise("fast-pubsub", "sync_threads", "upstream-pubsub", 20.0),
    Promise("fast-pubsub", "idle", "upstream-pubsub", 10.0),
    Promise("fast-pubsub", "site", "floor-tasks", 0.9),
    Promise("fast-pubsub", "storm", "upstream-pubsub", 4.0),
    Promise("fast-pubsub", "storm-500", "upstream-pubsub", 5.0),
    *_own_costs("fast-pubsub"),
    # A cluster of three beside one server, by what this process' processor takes.
    Promise("fast-pubsub", "cluster-pairs", "fast-pubsub", 0.85, than="pairs", metric="per_cpu_second"),
    Promise("fast", "cluster-spread", "fast", 0.75, than="spread", metric="per_cpu_second"),
    # Without a server, beside the layer of Channels that has none either.
    Promise("fast-memory", "group", "memory", 80.0),
    Promise("fast-memory", "pairs", "memory", 4.0),
    Promise("fast-memory", "roundtrip", "memory", 1.0),
    Promise("fast-memory", "group-10000", "fast-memory", 1 / 1.3, than="group-100"),
    *_sites("fast", "upstream", 7.0, 7.0),
    *_sites("fast-pubsub", "upstream-pubsub", 5.0, 4.0),
    Promise("fast-direct", "sockets-1000", "upstream", 11.0),
)
# Of one shard. 400 consumers are promised; 500 are measured.
LIMITS = (
    Limit("fast", "idle", "connections", 2),
    Limit("fast-pubsub", "idle", "connections", 2),
    # A call through `async_to_sync` and its own event loop, above one that does nothing.
    Limit("fast", "sync_group", "above_noop_us", 400),
    Limit("fast-pubsub", "sync_group", "above_noop_us", 400),
)


def needed() -> set[tuple[str, str]]:
    """The (workload, layer) pairs without which not every promise can be judged."""
    pairs = {(promise.workload, promise.layer) for promise in PROMISES}
    pairs |= {(promise.other_workload, promise.against) for promise in PROMISES}
    return pairs | {(limit.workload, limit.layer) for limit in LIMITS}


@dataclass(frozen=True)
class Spread:
    """Many measurements of one thing: the middle, the distance between the quartiles, and the ends."""

    median: float
    quartiles: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        quartiles = 0.0
        if len(values) > 1:
            first, _, third = statistics.quantiles(values, n=4, method="inclusive")
            quartiles = third - first
        return cls(statistics.median(values), quartiles, min(values), max(values))


def metric_of(workload: str) -> str:
    return CASES[workload].metric


def lines_of(measurements: Measurements, layer: str, workload: str, loop: str = "asyncio") -> Iterator[dict[str, Any]]:
    """What one contender measured in one case, without the turns that failed."""
    for line in measurements:
        if (line["layer"], line["workload"], line["loop"]) == (layer, workload, loop) and "failed" not in line:
            yield line


def value(line: dict[str, Any], metric: str) -> float | None:
    """One number of a measurement; None when it has none, as when nothing arrived."""
    found = line.get(metric)
    return line.get("extra", {}).get(metric) if found is None else found


def values(measurements: Measurements, layer: str, workload: str, metric: str, loop: str = "asyncio") -> list[float]:
    """One value a round, in the order of the rounds."""
    found = (value(line, metric) for line in lines_of(measurements, layer, workload, loop))
    return [number for number in found if number is not None]


def ratio(
    measurements: Measurements,
    layer: str,
    against: str,
    workload: str,
    *,
    than: str | None = None,
    metric: str | None = None,
    loop: str = "asyncio",
) -> Spread | None:
    """How many times better `layer` is than `against`: more messages, or less time. None when a side is missing."""
    metric = metric or metric_of(workload)

    def by_round(layer: str, workload: str) -> dict[int, float]:
        found = ((line["round"], value(line, metric)) for line in lines_of(measurements, layer, workload, loop))
        return {number: measured for number, measured in found if measured is not None}

    ours, theirs = by_round(layer, workload), by_round(against, than or workload)
    if not METRICS[metric][1]:
        ours, theirs = theirs, ours
    ratios = [
        mine / theirs[number] if theirs[number] else math.inf for number, mine in ours.items() if number in theirs
    ]
    return Spread.of(ratios) if ratios else None


def verdict(promise: Promise, measured: Spread | None) -> str:
    """`missed` only when the spread between the rounds does not explain it."""
    if measured is None:
        return "not measured"
    if measured.median >= promise.factor:
        return "kept"
    if measured.median + measured.quartiles >= promise.factor:
        return "in spread"
    return "missed"


def limit_verdict(limit: Limit, measured: Spread | None) -> str:
    if measured is None:
        return "not measured"
    if measured.median <= limit.at_most:
        return "kept"
    return "in spread" if measured.median - measured.quartiles <= limit.at_most else "missed"


def check(measurements: Measurements, loop: str = "asyncio") -> list[dict[str, Any]]:
    """Each promise and limit of which anything was measured, with what was measured and the verdict.

    Where bare tasks were measured in the same run, `floor` is the ratio that they reach. It is no bound: they wait for
    asyncio's futures, and our compiled waiters cost less.
    """
    checked: list[dict[str, Any]] = []
    for promise in PROMISES:
        measured = ratio(
            *(measurements, promise.layer, promise.against, promise.workload),
            than=promise.than,
            metric=promise.metric,
            loop=loop,
        )
        if measured is not None:
            word = verdict(promise, measured)
            checked.append({**vars(promise), "measured": vars(measured), "verdict": word})
            if promise.against != FLOOR and promise.than is None:
                floor = ratio(measurements, FLOOR, promise.against, promise.workload, metric=promise.metric, loop=loop)
                if floor is not None:
                    checked[-1]["floor"] = vars(floor)
    for limit in LIMITS:
        found = values(measurements, limit.layer, limit.workload, limit.metric, loop)
        if found:
            spread = Spread.of(found)
            word = limit_verdict(limit, spread)
            checked.append({**vars(limit), "measured": vars(spread), "verdict": word})
    return checked
