"""The bench's verdicts, from made-up numbers: nothing is measured here."""

from __future__ import annotations

import math
from typing import Any

import pytest

from bench import check as short_run
from bench.cases import CASES, METRICS
from bench.contender import BACKENDS
from bench.promises import LIMITS, PROMISES, Limit, Promise, Spread, check, limit_verdict, needed, ratio, verdict
from bench.sizes import CHECK, FULL, HEADLINES, QUICK, size_of


def lines(layer: str, workload: str, metric: str, *numbers: float, **more: Any) -> list[dict[str, Any]]:
    common = {"layer": layer, "workload": workload, "loop": "asyncio", **more}
    return [{**common, "round": number, metric: one} for number, one in enumerate(numbers, 1)]


def test_a_rate_is_better_when_it_is_higher() -> None:
    measured = ratio(
        lines("fast", "pairs", "per_second", 100, 300) + lines("upstream", "pairs", "per_second", 10, 10),
        *("fast", "upstream", "pairs"),
    )
    assert measured == Spread(median=20, quartiles=10, low=10, high=30)


def test_a_latency_is_better_when_it_is_lower() -> None:
    measured = ratio(
        lines("fast", "roundtrip", "p50_us", 50) + lines("upstream", "roundtrip", "p50_us", 300),
        *("fast", "upstream", "roundtrip"),
    )
    assert measured is not None
    assert measured.median == 6


def test_rounds_are_compared_with_the_same_round() -> None:
    """A turn that failed takes its round out on both sides; the others do not move up."""
    ours = lines("fast", "pairs", "per_second", 10, 20, 30)
    ours[0] = {**ours[0], "failed": "it broke"}
    measured = ratio(ours + lines("upstream", "pairs", "per_second", 1, 2, 5), "fast", "upstream", "pairs")
    assert measured is not None
    assert (measured.low, measured.high) == (6, 10)


def test_loops_are_not_mixed() -> None:
    measurements = lines("fast", "pairs", "per_second", 10) + lines("upstream", "pairs", "per_second", 1, loop="uvloop")
    assert ratio(measurements, "fast", "upstream", "pairs") is None


def test_the_same_layer_beside_itself_in_another_workload() -> None:
    measurements = lines("fast", "group-10000", "per_second", 50) + lines("fast", "group-100", "per_second", 100)
    measured = ratio(measurements, "fast", "fast", "group-10000", than="group-100")
    assert measured is not None
    assert measured.median == 0.5


def test_what_costs_nothing_is_infinitely_better() -> None:
    measurements = lines("fast", "idle", "x", 0, extra={"cpu_per_minute": 0.0})
    measurements += lines("upstream", "idle", "x", 0, extra={"cpu_per_minute": 0.6})
    measured = ratio(measurements, "fast", "upstream", "idle")
    assert measured is not None
    assert measured.median == math.inf


@pytest.mark.parametrize(
    ("median", "quartiles", "word"),
    [(20, 0, "kept"), (19, 1, "in spread"), (19, 0.9, "missed"), (25, 30, "kept")],
)
def test_a_promise_is_missed_only_by_more_than_the_spread(median: float, quartiles: float, word: str) -> None:
    promise = Promise("fast", "pairs", "upstream", 20)
    assert verdict(promise, Spread(median, quartiles, 0, 0)) == word


def test_what_was_not_measured_is_neither_kept_nor_missed() -> None:
    assert verdict(PROMISES[0], None) == limit_verdict(LIMITS[0], None) == "not measured"


@pytest.mark.parametrize(
    ("median", "quartiles", "word"), [(2, 0, "kept"), (3, 0, "missed"), (3, 1, "in spread"), (1, 0, "kept")]
)
def test_a_limit(median: float, quartiles: float, word: str) -> None:
    assert limit_verdict(Limit("fast", "idle", "connections", 2), Spread(median, quartiles, 0, 0)) == word


def test_check_judges_what_is_there() -> None:
    measurements = lines("fast", "pairs", "per_second", 1300) + lines("upstream", "pairs", "per_second", 10)
    measurements += lines("memory", "pairs", "per_second", 1000)
    measurements += lines("fast", "idle", "x", 0, extra={"cpu_per_minute": 1.0, "connections": 3})
    found = {
        (line["workload"], line.get("against", line.get("metric"))): line["verdict"] for line in check(measurements)
    }
    assert found == {("pairs", "upstream"): "kept", ("pairs", "memory"): "missed", ("idle", "connections"): "missed"}


def test_the_short_run_can_judge_every_promise() -> None:
    sizes = short_run.sizes()
    assert {(case, layer) for case, counts in sizes.items() for layer in counts} == needed()
    assert needed() == {(case, layer) for case, layer in needed() if size_of(CHECK, case, layer)}


@pytest.mark.parametrize("sizes", [FULL, QUICK, CHECK], ids=["full", "quick", "check"])
def test_sizes_name_cases_and_layers_that_there_are(sizes: dict[str, dict[str, int]]) -> None:
    assert set(sizes) <= set(CASES)
    assert {layer for counts in sizes.values() for layer in counts} <= set(BACKENDS)
    assert set(HEADLINES) <= set(sizes)


def test_every_case_is_in_the_full_run_and_can_be_found() -> None:
    assert set(FULL) == set(CASES)
    for case in CASES.values():
        assert callable(case.function())
        assert case.metric in METRICS
