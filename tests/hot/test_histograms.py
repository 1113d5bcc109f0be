"""Histograms, against counting by hand and the twin."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

BOUNDS = st.lists(st.floats(-10, 1000), min_size=1, max_size=80, unique=True).map(sorted)
VALUES = st.lists(st.floats(), max_size=50)


@given(bounds=BOUNDS, values=VALUES)
@example(bounds=[1.0], values=[1.0, -0.0, float("inf"), float("nan")])
def test_each_value_is_in_the_first_bucket_that_takes_it(hot: Any, bounds: list[float], values: list[float]) -> None:
    histogram = hot.Histogram(bounds)
    expected = [0] * (len(bounds) + 1)
    numbers = [max(value, 0.0) for value in values if not math.isnan(value)]
    for number in numbers:
        expected[next((at for at, bound in enumerate(bounds) if number <= bound), len(bounds))] += 1
    for value in values:
        histogram.add(value)
    assert histogram.counts() == expected
    assert histogram.count == len(numbers)
    assert histogram.total == pytest.approx(sum(numbers))
    assert histogram.recent() == (expected, max(numbers, default=0.0))


@pytest.mark.parametrize("bounds", [[], [2.0, 1.0], [1.0, 1.0], [1.0, float("nan")]])
def test_bounds_that_do_not_rise(hot: Any, bounds: list[float]) -> None:
    with pytest.raises(ValueError, match="the bounds of a histogram rise"):
        hot.Histogram(bounds)


def test_the_last_minute(hot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is older is in no recent bucket any more; since the start it stays. Also after a pause of any length."""
    now = 1000.0
    monkeypatch.setattr(sys.modules[hot.Histogram.__module__], "monotonic", lambda: now)
    histogram = hot.Histogram([1.0, 2.0])
    histogram.add(1.5)
    histogram.since(now - 7)
    assert histogram.recent() == ([0, 1, 1], 7.0)
    now += 50
    histogram.add(0.5)
    assert histogram.recent() == ([1, 1, 1], 7.0)
    now += 20
    assert histogram.recent() == ([1, 0, 0], 0.5)
    now += 10_000
    assert histogram.recent() == ([0, 0, 0], 0.0)
    histogram.since(now - 1.5)
    assert histogram.recent() == ([0, 1, 0], 1.5)
    assert histogram.counts() == [1, 2, 1]
    assert (histogram.count, histogram.total) == (4, 10.5)
