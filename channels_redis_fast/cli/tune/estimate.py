"""
The precision of a measurement: 95 % intervals for a share and for a quantile.

Losses and long waits come in clusters, so neighbouring messages carry less information than their number suggests. The
interval is the binomial one (Wilson's) for as many independent messages as would vary as much as the batches of the run
do: the method of batch means. Knows nothing of what is counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, variance

#: The quantile of the standard normal distribution for 95 %.
Z95 = 1.96

#: The number of batches that a run is cut into.
BATCHES = 20


def wilson(successes: float, trials: float, z: float = Z95) -> tuple[float, float]:
    """Return the interval of a probability (E. B. Wilson, 1927). It is not empty if nothing, or all, was counted."""
    if trials <= 0:
        return 0.0, 1.0
    share = successes / trials
    middle = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def effective(hits: Sequence[float], batches: int = BATCHES) -> float:
    """
    Return how many independent trials a sequence of shares (0 to 1, in order of time) is worth, at most its length.

    If nothing varies, nothing can be said about clusters, and the result is the length.
    """
    length = len(hits) // batches
    mean = fmean(hits) if hits else 0.0
    if length < 1 or not 0 < mean < 1:
        return float(len(hits))
    means = [fmean(hits[start : start + length]) for start in range(0, length * batches, length)]
    spread = variance(means) / batches
    independent = mean * (1 - mean) / spread if spread > 0 else math.inf
    return min(float(len(hits)), max(independent, 1.0))


def share_of(hits: Sequence[float], z: float = Z95) -> tuple[float, float, float]:
    """Return the mean of shares in order of time, and its interval: (estimate, low, high)."""
    if not hits:
        return 0.0, 0.0, 1.0
    mean, trials = fmean(hits), effective(hits)
    low, high = wilson(mean * trials, trials, z)
    return mean, min(low, mean), max(high, mean)


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest of sorted numbers that this share does not exceed. Raises ``ValueError`` if there is none."""
    if not ordered:
        raise ValueError("nothing to take a quantile of")
    return ordered[min(max(math.ceil(share * len(ordered)), 1), len(ordered)) - 1]


def quantile_of(values: Sequence[float], share: float, z: float = Z95) -> tuple[float, float, float]:
    """Return a quantile of numbers in order of time, and its interval: (estimate, low, high)."""
    ordered = sorted(values)
    estimate = quantile(ordered, share)
    trials = effective([float(value > estimate) for value in values])
    low, high = wilson(share * trials, trials, z)
    return estimate, min(quantile(ordered, low), estimate), max(quantile(ordered, high), estimate)
