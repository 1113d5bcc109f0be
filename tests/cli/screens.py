"""What a terminal of a given width shows, and the screens in `expected/` that it is compared with.

After a change that is meant, `UPDATE_SCREENS=1 pytest tests/cli` writes these again; look at the difference.
"""

from __future__ import annotations

import os
from io import StringIO
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console, RenderableType

EXPECTED = Path(__file__).parent / "expected"


def shown(renderable: RenderableType, width: int) -> list[str]:
    """The lines of a terminal, without the spaces behind them; none is longer than it is wide."""
    out = StringIO()
    Console(file=out, width=width, color_system=None, highlight=False).print(renderable)
    lines = out.getvalue().splitlines()
    assert all(cell_len(line) <= width for line in lines)
    return [line.rstrip() for line in lines]


def same_as_expected(name: str, lines: list[str]) -> None:
    """Compare with the screen of this name."""
    path = EXPECTED / f"{name}.txt"
    text = "\n".join(lines) + "\n"
    if "UPDATE_SCREENS" in os.environ:
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
