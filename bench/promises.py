"""The ratios this project promises, and the arithmetic that says whether a run kept them.

Ratios are taken round by round, between contenders that ran within the same minute: a noisy machine slows both. Knows
numbers only: no processes, no tables.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Promise:
    """Our `layer` is at least `factor` times better than `against` in that workload."""

    layer: str
    workload: str
    against: str
    factor: float


PROMISES = (
    Promise("fast", "pairs", "upstream", 60.0),
    Promise("fast", "pairs", "memory", 1.0),
    Promise("fast", "send", "upstream", 20.0),
    Promise("fast", "group", "upstream", 10.0),
    Promise("fast", "roundtrip", "upstream", 4.5),
    Promise("fast-pubsub", "pairs", "upstream-pubsub", 8.0),
    Promise("fast-pubsub", "pairs", "memory", 1.0),
    Promise("fast-pubsub", "send", "upstream-pubsub", 15.0),
    Promise("fast-pubsub", "group", "upstream-pubsub", 2.5),
    Promise("fast-pubsub", "roundtrip", "upstream-pubsub", 1.5),
    Promise("fast-pubsub", "storm", "upstream-pubsub", 4.0),
)


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
    return "p50_us" if workload == "roundtrip" else "per_second"


def values(measurements: Sequence[dict[str, Any]], layer: str, workload: str, metric: str) -> list[float]:
    """One value a round, in the order of the rounds."""
    return [line[metric] for line in measurements if line["layer"] == layer and line["workload"] == workload]


def ratio(measurements: Sequence[dict[str, Any]], layer: str, against: str, workload: str) -> Spread:
    """How many times better `layer` is than `against`: more messages, or less time."""
    metric = metric_of(workload)
    ours = values(measurements, layer, workload, metric)
    theirs = values(measurements, against, workload, metric)
    if metric == "per_second":
        return Spread.of([mine / other for mine, other in zip(ours, theirs, strict=True)])
    return Spread.of([other / mine for mine, other in zip(ours, theirs, strict=True)])


def verdict(promise: Promise, measured: Spread) -> str:
    """`missed` only when the spread between the rounds does not explain it."""
    if measured.median >= promise.factor:
        return "kept"
    if measured.median + measured.quartiles >= promise.factor:
        return "in spread"
    return "missed"
