"""
Tables that fit the width of the terminal: columns are left out by rank, and no word or number is ever broken.

``Column`` says what its cells hold, and so how they may be changed: numbers and words stay whole, names are shortened
in the middle, sentences are wrapped between words. A ``FittingTable`` is laid out when it is printed, and says below
which columns it had to leave out. Knows nothing of what the tables contain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

#: The number of cells between two columns.
GAP = 2

#: The number of cells that a name keeps as long as there is a column to leave out. Only when there is none left, it is
#: shortened further, down to ``SHORTEST``.
NAME, SHORTEST = 24, 8

#: The number of cells in which a sentence can be read. If there is room, a column of sentences is as wide as its
#: longest word; if not, words that are longer than the column are shortened like names.
SENTENCE = 20

ELLIPSIS = "\u2026"


class Kind(Enum):
    """What the cells of a column hold."""

    #: Right-aligned, never broken.
    NUMBER = "number"
    #: Left-aligned, never broken.
    WORD = "word"
    #: Left-aligned; shortened in the middle if there is no room.
    NAME = "name"
    #: Left-aligned, wrapped between words.
    SENTENCE = "sentence"


@dataclass(frozen=True)
class Column:
    """
    A column of a table.

    ``title``: its heading, wrapped between words if that saves room; a column without a title is not shown if all of
    its cells are empty. ``rank``: the column with the highest rank is left out first, the rightmost of several; a
    column of rank 0 is never left out.
    """

    title: str
    kind: Kind = Kind.WORD
    rank: int = 0


@dataclass
class FittingTable:
    """
    A table that is laid out for the width at which it is printed; a renderable of rich.

    ``remedy``: where to see the columns that do not fit, for the line below the table. ``has_head``: whether the
    columns' titles are shown.
    """

    title: str | None
    columns: Sequence[Column]
    rows: list[list[Text]] = field(default_factory=list)
    remedy: str = "a wider terminal or --json shows them"
    has_head: bool = True

    def add(self, *cells: str | Text) -> None:
        """Add a row, one cell for each column. A ``str`` is taken literally, without rich's markup."""
        if len(cells) != len(self.columns):
            raise ValueError(f"{len(cells)} cells for {len(self.columns)} columns")
        self.rows.append([cell if isinstance(cell, Text) else Text(cell) for cell in cells])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the title, the columns that fit, and what was left out."""
        if self.title is not None:
            yield Text(self.title, style="bold")
        measured = [_Measured(column, [row[number] for row in self.rows]) for number, column in enumerate(self.columns)]
        shown, left_out = _choose([each for each in measured if not each.is_void], options.max_width)
        _widen(shown, options.max_width)
        yield _table(shown, self.has_head)
        if left_out:
            names = ", ".join(each.column.title for each in left_out)
            yield Text(f"(not shown at this width: {names}; {self.remedy})", style="dim")


class _Measured:
    """A column with the numbers of cells that it needs, wants and gets."""

    def __init__(self, column: Column, cells: Sequence[Text]) -> None:
        self.column = column
        self.cells = cells
        self.is_void = not column.title and not any(cell.plain for cell in cells)
        widest = max((cell.cell_len for cell in cells), default=0)
        #: The width with neither cells nor title wrapped or shortened.
        self.natural = max(widest, cell_len(column.title))
        heading = _longest_word(column.title)
        if column.kind is Kind.NAME:
            self.least = max(heading, min(widest, NAME))
        elif column.kind is Kind.SENTENCE:
            word = max((_longest_word(cell.plain) for cell in cells), default=0)
            self.least = max(heading, word, min(widest, SENTENCE))
        else:
            self.least = max(heading, widest)
        self.width = self.least

    def narrow(self, wanted: int) -> int:
        """Give up this many cells, or as many as can be spared, for lack of room; return how many."""
        if self.column.kind is Kind.NAME:
            floor = max(SHORTEST, _longest_word(self.column.title))
        elif self.column.kind is Kind.SENTENCE:
            floor = max(SENTENCE, _longest_word(self.column.title))
        else:
            return 0
        spared = max(0, min(wanted, self.width - floor))
        self.width -= spared
        return spared


def _longest_word(text: str) -> int:
    return max(map(cell_len, text.split()), default=0)


def _total(columns: Sequence[_Measured]) -> int:
    return sum(each.width for each in columns) + GAP * max(len(columns) - 1, 0)


def _choose(columns: Sequence[_Measured], room: int) -> tuple[list[_Measured], list[_Measured]]:
    """Return the columns to show, each as narrow as possible, and those to leave out, both in order."""
    shown = list(columns)
    while _total(shown) > room:
        last = max(range(len(shown)), key=lambda number: (shown[number].column.rank, number), default=None)
        if last is None or shown[last].column.rank == 0:
            for each in shown:
                each.narrow(_total(shown) - room)
            break
        del shown[last]
    return shown, [each for each in columns if each not in shown]


def _widen(columns: Sequence[_Measured], room: int) -> None:
    """Distribute the remaining room: to names and sentences evenly, then to titles that fit in one line."""
    left = room - _total(columns)
    flexible = [each for each in columns if each.column.kind in (Kind.NAME, Kind.SENTENCE)]
    while left > 0 and (wanting := [each for each in flexible if each.width < each.natural]):
        for each in wanting[:left]:
            each.width += 1
            left -= 1
    for each in columns:
        if each.natural - each.width <= left:
            left -= each.natural - each.width
            each.width = each.natural


def _table(columns: Sequence[_Measured], has_head: bool) -> Table:
    table = Table(box=None, show_header=has_head, pad_edge=False, padding=(0, GAP, 0, 0))
    for each in columns:
        kind = each.column.kind
        table.add_column(
            Text(each.column.title),
            justify="right" if kind is Kind.NUMBER else "left",
            width=each.width,
            overflow="fold",
        )
    for cells in zip(*(each.cells for each in columns), strict=True):
        table.add_row(*(_cell(each, cell) for each, cell in zip(columns, cells, strict=True)))
    return table


def _cell(measured: _Measured, cell: Text) -> Text:
    if measured.column.kind is Kind.NAME:
        return Text(shorten(cell.plain, measured.width), style=cell.style)
    if measured.column.kind is Kind.SENTENCE and _longest_word(cell.plain) > measured.width:
        return Text(" ".join(shorten(word, measured.width) for word in cell.plain.split(" ")), style=cell.style)
    return cell


def shorten(name: str, width: int) -> str:
    """Return a name in at most ``width`` cells: its beginning and its end, with an ellipsis between them."""
    if cell_len(name) <= width:
        return name
    room = max(width - 1, 0)
    # From the end, one by one, so that characters of two cells are not cut.
    tail = ""
    for character in reversed(name):
        if cell_len(character + tail) > room // 2:
            break
        tail = character + tail
    head = set_cell_size(name, room - cell_len(tail))
    return f"{head.rstrip()}{ELLIPSIS}{tail}"
