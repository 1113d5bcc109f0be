"""What ``bench`` shows on a terminal: a table for each case. Measures nothing and knows no layer."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from ..tables import Column, FittingTable, Kind
from .rows import NUMBERS, Row

#: The columns, with the ranks in which a narrow terminal leaves them out.
COLUMNS = (
    Column("", Kind.WORD),
    Column("p50", Kind.NUMBER, 1),
    Column("p99", Kind.NUMBER, 2),
    Column("messages/s", Kind.NUMBER),
    Column("lowest - highest", Kind.NUMBER, 3),
    Column("lost", Kind.NUMBER),
    Column("this layer is", Kind.NUMBER),
)


def render(head: str, about: str, cases: Sequence[tuple[str, Sequence[Row]]], notes: Sequence[str]) -> RenderableType:
    """Return a whole run. The first row of each case is this layer's."""
    parts: list[RenderableType] = [Text(head, style="bold"), Text(about)]
    for title, rows in cases:
        parts += [Text(""), _table(title, rows)]
        parts += [
            Text(f"{row.label}: {len(row.failures)} turns failed, the last one with {row.failures[-1]}", style="red")
            for row in rows
            if row.failures
        ]
    return Group(*parts, Text(""), *(Text(note, style="yellow") for note in notes))


def _table(title: str, rows: Sequence[Row]) -> FittingTable:
    table = FittingTable(title, COLUMNS)
    for row in rows:
        p50, p99, rate = (row.spread(number) for number in NUMBERS.values())
        if p50 is None or p99 is None or rate is None:
            table.add(row.label, "-", "-", "-", "-", _lost(row), "")
            continue
        times = None if row is rows[0] else rows[0].times(row)
        table.add(
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
    """Write a number with three digits, or with all digits before the point if there are more."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
