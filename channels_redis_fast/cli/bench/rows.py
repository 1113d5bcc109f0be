"""The results of ``bench`` for one contender in one case, over all rounds. Measures nothing and prints nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from .cases import Turn

#: The numbers that are shown of the turns.
NUMBERS: dict[str, Callable[[Turn], float]] = {
    "p50_us": lambda turn: turn.percentile(0.50),
    "p99_us": lambda turn: turn.percentile(0.99),
    "per_second": lambda turn: turn.per_second,
}


@dataclass
class Row:
    """The turns of one contender in one case, round by round; empty ones if it failed, and why."""

    label: str
    turns: list[Turn] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def lost(self) -> int:
        """Messages that never arrived."""
        return sum(turn.lost for turn in self.turns)

    def spread(self, number: Callable[[Turn], float]) -> tuple[float, float, float] | None:
        """Return median, lowest and highest of a number over the turns in which something arrived."""
        values = [number(turn) for turn in self.turns if turn.messages]
        return (median(values), min(values), max(values)) if values else None

    def times(self, other: Row) -> float | None:
        """Return how many times as many messages as another row's this one had: the median over the rounds of both."""
        rounds = zip(self.turns, other.turns, strict=False)
        ratios = [mine.per_second / its.per_second for mine, its in rounds if mine.messages and its.messages]
        return median(ratios) if ratios else None

    def as_dict(self, ours: Row) -> dict[str, Any]:
        """Return everything, for JSON."""
        found: dict[str, Any] = {"label": self.label, "lost": self.lost, "failures": self.failures}
        found["this_layer_is_times_as_fast"] = ours.times(self)
        for name, number in NUMBERS.items():
            spread = self.spread(number)
            found[name] = None if spread is None else dict(zip(("median", "lowest", "highest"), spread, strict=True))
            found[f"{name}_by_turn"] = [number(turn) for turn in self.turns]
        return found
