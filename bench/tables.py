"""The one look of every table here: fits 80 columns, and when it gets narrow a label wraps, never a number."""

from __future__ import annotations

import math

from rich.table import Table


def new_table(title: str, label: str, *numbers: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(label)
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def colored(faults: int) -> str:
    return f"[{'red' if faults else 'green'}]{faults:,}[/]"


def number(value: float) -> str:
    """Three digits that matter; all of them before the point."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"
