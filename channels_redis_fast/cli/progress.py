"""
The progress of a long command: one line on standard error, or none if that is not a terminal.
"""

from __future__ import annotations

from typing import Any


def bar(*columns: Any) -> Any:
    """
    Return rich's ``Progress``, to be used as a context manager: a description, a bar, and the given columns after it.

    Without ``columns``, it shows the time left at the speed so far. Raises ``ModuleNotFoundError`` without rich.
    """
    from rich.console import Console  # noqa: PLC0415 - of the extra
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    console = Console(stderr=True)
    shown = columns or (TimeRemainingColumn(),)
    return Progress(
        TextColumn("{task.description}"), BarColumn(), *shown, console=console, transient=True,
        disable=not console.is_terminal,
    )  # fmt: skip
