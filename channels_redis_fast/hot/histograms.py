"""The reference twin of `_ext/histograms.pyx`: how often a measurement was how large, since the start and lately.

It knows numbers and the monotonic clock; not what is measured, nor what is made of it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import isnan
from time import monotonic

#: Seconds that belong together when it is asked what was measured lately, and how many such spans are kept beside the
#: one that goes on.
SPAN, SPANS = 10.0, 6


class Histogram:
    """Counts measurements by size. `bounds`: the largest value of each bucket, rising; one more bucket is for the rest.

    `count` and `total` are of everything since the start: how many there were, and their sum. Two threads that add at
    once may lose one of the two where there is no interpreter lock, and break nothing.

    Raises ValueError for bounds that do not rise, or are none.
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
        # A ring of spans: the number of each, what was counted in it, and the largest value.
        self._spans = [-1] * (SPANS + 1)
        self._recent = [[0] * (len(self._bounds) + 1) for _ in range(SPANS + 1)]
        self._largest = [0.0] * (SPANS + 1)

    def add(self, value: float, /) -> None:
        """Count a value; one below 0 counts as 0, and one that is no number does not count."""
        self._put(float(value), monotonic())

    def since(self, start: float, /) -> None:
        """Count the seconds since a moment of the monotonic clock."""
        now = monotonic()
        self._put(now - start, now)

    def counts(self) -> list[int]:
        """Return how many there were in each bucket since the start."""
        return list(self._counts)

    def recent(self) -> tuple[list[int], float]:
        """Return how many there were in each bucket in the last minute (or ten seconds more), and the largest."""
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
