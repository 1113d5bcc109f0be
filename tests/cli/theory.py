"""Exact results of queueing theory, written down from the books and not from the code under test."""

from __future__ import annotations

import math


def md1k_loss(utilisation: float, size: int) -> float:
    """
    The part of Poisson arrivals that M/D/1/K refuses; `size` (K) counts the one that is served.

    From the Markov chain embedded at departures (Gross and Harris, Fundamentals of Queueing Theory, M/G/1/K).
    """
    coming = [math.exp(-utilisation) * utilisation**number / math.factorial(number) for number in range(size + 1)]
    left = [1.0]
    for state in range(size - 1):
        rest = left[state] - left[0] * coming[state]
        rest -= sum(left[before] * coming[state - before + 1] for before in range(1, state + 1))
        left.append(rest / coming[0])
    empty = left[0] / sum(left)
    return 1 - 1 / (empty + utilisation)


def erlang_b(load: float, servers: int) -> float:
    """The part that is refused where nobody can wait, whatever the distribution of the service times."""
    refused = 1.0
    for number in range(1, servers + 1):
        refused = load * refused / (number + load * refused)
    return refused
