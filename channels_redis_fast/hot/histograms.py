"""The reference twin of `_ext/histograms.pyx`: counts measurements by size, since the start and recently.

It knows numbers and the monotonic clock. It does not know what is measured, nor how the counts are used.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import isnan
from time import monotonic

#: The length in seconds of a span, the unit in which recent measurements are counted, and how many spans are kept in
#: addition to the current one.
SPAN, SPANS = 10.0, 6


class Histogram:
    """Counts measurements by size. `bounds`: the largest value of each bucket, rising; one more bucket is for the rest.

    `count` and `total` cover everything since the start: the number of measurements, and their sum. If two threads add
    at once without an interpreter lock, one measurement may be lost, but nothing breaks.

    Raises ValueError if the bounds do not rise, or if there are none.
    """

    __slots__ = ("_bounds", "_counts", "_largest", "_recent", "_spans", "count", "total")

    def __init__(self, bounds: Sequence[float], /) -> None:
        self._bounds = [float(bound) for bound in bounds]
        pairs = zip(self._bounds, self._bounds[1:], strict=False)
        if not self._bounds or not all(low < high for low, high in pairs):
            raise ValueError("the bounds of a histogram rise")
        self.count = 0
        self.total = 0.0
        self._counts = [0] * (len(self._bounds) + 1)
        # A ring of spans: the number of each, its counts, and the largest value.
        self._spans = [-1] * (SPANS + 1)
        self._recent = [[0] * (len(self._bounds) + 1) for _ in range(SPANS + 1)]
        self._largest = [0.0] * (SPANS + 1)

    def add(self, value: float, /) -> None:
        """Count a value. A value below 0 counts as 0; NaN is not counted."""
        self._put(float(value), monotonic())

    def since(self, start: float, /) -> None:
        """Count the seconds since a moment on the monotonic clock."""
        now = monotonic()
        self._put(now - start, now)

    def counts(self) -> list[int]:
        """Return how many measurements there were in each bucket since the start."""
        return list(self._counts)

    def recent(self) -> tuple[list[int], float]:
        """Return the counts of each bucket in the last minute (or up to ten seconds more), and the largest value."""
        oldest = int(monotonic() / SPAN) - SPANS
        counts = [0] * len(self._counts)
        largest = 0.0
        for place, span in enumerate(self._spans):
            if span >= oldest:
                counts = [one + other for one, other in zip(counts, self._recent[place], strict=True)]
                largest = max(largest, self._largest[place])
        return counts, largest

    def _put(self, value: float, now: float) -> None:
        if isnan(value):
            return
        value = max(value, 0.0)
        bucket = bisect_left(self._bounds, value)
        span = int(now / SPAN)
        place = span % (SPANS + 1)
        if self._spans[place] != span:
            self._recent[place] = [0] * len(self._counts)
            self._largest[place] = 0.0
            self._spans[place] = span
        self.count += 1
        self.total += value
        self._counts[bucket] += 1
        self._recent[place][bucket] += 1
        self._largest[place] = max(self._largest[place], value)
