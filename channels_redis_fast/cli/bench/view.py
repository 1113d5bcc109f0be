"""What ``bench`` shows on a terminal: a table for each case. Measures nothing and knows no layer."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .rows import NUMBERS, Row


def render(
    head: str, versions: str, cases: Sequence[tuple[str, Sequence[Row]]], notes: Sequence[str]
) -> RenderableType:
    """Return all of a run. The first row of each case is this layer's."""
    parts: list[RenderableType] = [Text(head, style="bold"), Text(versions)]
    for title, rows in cases:
        parts.append(_table(title, rows))
        parts += [
            Text(f"{row.label}: {len(row.failures)} turns failed, the last one with {row.failures[-1]}", style="red")
            for row in rows
            if row.failures
        ]
    return Group(*parts, Text(""), *(Text(note, style="yellow") for note in notes))


def _table(title: str, rows: Sequence[Row]) -> Table:
    table = Table(title=f"\n{title}", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.padding = (0, 2, 0, 0)
    table.add_column("median of the turns")
    for name in ("p50", "p99", "messages/s", "lowest - highest", "lost", "this layer is"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        p50, p99, rate = (row.spread(number) for number in NUMBERS.values())
        if p50 is None or p99 is None or rate is None:
            table.add_row(row.label, "-", "-", "-", "-", _lost(row), "")
            continue
        times = None if row is rows[0] else rows[0].times(row)
        table.add_row(
            row.label,
            _time(p50[0]),
            _time(p99[0]),
            _digits(rate[0]),
            f"{_digits(rate[1])} - {_digits(rate[2])}",
            _lost(row),
            "" if times is None else f"{_digits(times)} x as fast",
        )
    return table


def _lost(row: Row) -> Text:
    return Text(f"{row.lost:,}", style="red" if row.lost else "green")


def _time(microseconds: float) -> str:
    return f"{_digits(microseconds)} µs" if microseconds < 1000 else f"{_digits(microseconds / 1000)} ms"


def _digits(value: float) -> str:
    """Write a number with three digits, or all those before the point."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
