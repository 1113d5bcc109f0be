"""
The progress of a command that takes a while: one line on standard error, and none where that is no terminal.
"""

from __future__ import annotations

from typing import Any


def bar(*columns: Any) -> Any:
    """
    Return rich's ``Progress``, to be used as a context: a description, a bar, and what is given behind it.

    Without ``columns`` that is the time left, from the speed so far. Raises ``ModuleNotFoundError`` without rich.
    """
    from rich.console import Console  # noqa: PLC0415 - of the extra
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    console = Console(stderr=True)
    shown = columns or (TimeRemainingColumn(),)
    return Progress(
        TextColumn("{task.description}"), BarColumn(), *shown, console=console, transient=True,
        disable=not console.is_terminal,
    )  # fmt: skip
