"""The runs of a sweep as a table, for a terminal and for the page. Prints and measures nothing."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from ..tables import Column, FittingTable, Kind
from .advice import Advice, judge, spell
from .measured import Run
from .sweep import Plan

#: The columns, with the ranks in which a narrow terminal leaves them out.
COLUMNS = (
    Column("capacity", Kind.NUMBER),
    Column("lost", Kind.NUMBER, 1),
    Column("lost up to", Kind.NUMBER),
    Column("refused", Kind.NUMBER, 3),
    Column("dropped", Kind.NUMBER, 3),
    Column("p50", Kind.NUMBER, 4),
    Column("p95", Kind.NUMBER, 6),
    Column("p99", Kind.NUMBER, 2),
    Column("p99 up to", Kind.NUMBER),
    Column("full key", Kind.NUMBER, 5),
    Column("CPU (\u00b5s)", Kind.NUMBER, 7),
    Column("verdict", Kind.WORD),
)

LEGEND = (
    "p50, p95, p99: waiting time. Up to: upper end of the 95% confidence interval. Full key: memory of a key at its "
    "capacity. CPU: processor time for each message, sending + consuming + server."
)


def fitting(plan: Plan, runs: Sequence[Run], advice: Advice) -> FittingTable:
    """Return the runs as a table for a terminal, the recommended capacity in bold."""
    made = FittingTable(None, COLUMNS, remedy="a wider terminal or index.html shows them")
    for run, row in zip(runs, rows(plan, runs), strict=True):
        made.add(*(Text(cell, style="bold" if run.capacity == advice.capacity else "") for cell in row))
    return made


def rows(plan: Plan, runs: Sequence[Run]) -> list[list[str]]:
    """Return the table's rows, with a cell for each of ``COLUMNS``."""
    lines = []
    for run in runs:
        wait = run.wait_p99
        times = [run.wait_p50, run.wait_p95, *((None, None) if wait is None else (wait.estimate, wait.high))]
        lines.append([
            f"{run.capacity:,}",
            f"{run.loss.estimate:.3%}",
            f"{run.loss.high:.3%}",
            f"{run.refused:,}",
            f"{run.dropped:,}",
            *("-" if one is None else spell(one) for one in times),
            _bytes(run.memory_full),
            _processor(run),
            "unreliable" if run.doubts else str(judge(run, plan.limits)),
        ])  # fmt: skip
    return lines


def _bytes(number: int | None) -> str:
    if number is None:
        return "-"
    return f"{number / 1000:,.1f} kB" if number < 10**6 else f"{number / 10**6:,.1f} MB"


def _processor(run: Run) -> str:
    """Return the microseconds of processor time for each delivery offered: sending, consuming, in the server."""
    parts = (run.cpu_sender, run.cpu_consumers, run.cpu_server)
    return "+".join("?" if part is None else f"{part / max(run.offered, 1) * 1e6:.0f}" for part in parts)
