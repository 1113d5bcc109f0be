"""Tables at a given width: columns go by rank, no word or number breaks, and what is missing is said."""

from __future__ import annotations

import pytest

from channels_redis_fast.cli.tables import ELLIPSIS, Column, FittingTable, Kind, shorten
from tests.cli.screens import same_as_expected, shown

COLUMNS = (
    Column("channel", Kind.NAME),
    Column("shard", Kind.NUMBER, 5),
    Column("waiting", Kind.NUMBER),
    Column("capacity", Kind.NUMBER, 2),
    Column("full", Kind.NUMBER, 1),
    Column("past group_expiry", Kind.NUMBER, 4),
    Column("bytes", Kind.NUMBER, 3),
    Column("our connections", Kind.SENTENCE, 3),
    Column("", Kind.SENTENCE, 6),
)

LONG = "specific.3f2a9b8c7d6e5f4a3b2c1d0e9f8a7b6c!"


def table() -> FittingTable:
    made = FittingTable("Channels: 2 keys with 1,234,568 messages", COLUMNS)
    made.add(LONG, "0", "1,234,567", "1,234,567", "100%", "12", "1.23 GB", "core:commands 3, core:receiver 5", "")
    made.add("email", "10", "1", "100", "1%", "-", "123 B", "none", "")
    return made


@pytest.mark.parametrize("width", [80, 100, 120])
def test_a_table_at_a_width(width: int) -> None:
    same_as_expected(f"table-{width}", shown(table(), width))


@pytest.mark.parametrize("width", [24, 30, 40, 53, 60, 72, 79, 80, 81, 95, 99, 110, 121, 132, 300])
def test_no_width_breaks_a_word_or_a_number(width: int) -> None:
    texts = [cell.plain for row in table().rows for cell in row] + [column.title for column in COLUMNS]
    texts += [str(table().title), table().remedy, "not shown at this width"]
    whole = {word.strip(",;:") for text in texts for word in text.split()}
    out = shown(table(), width)
    for word in " ".join(out).split():
        assert word.strip("(),;:") in whole or ELLIPSIS in word
    for text in ("1,234,567", "waiting", *(word for column in COLUMNS for word in column.title.split())):
        # In the table, or among what is not shown.
        assert text in " ".join(out)


def test_a_str_is_no_markup() -> None:
    made = FittingTable(None, [Column("host", Kind.NAME)])
    made.add("[::1]:6379 [red]")
    assert shown(made, 80) == ["host", "[::1]:6379 [red]"]


def test_every_row_has_a_cell_for_each_column() -> None:
    with pytest.raises(ValueError, match="2 cells for 1 columns"):
        FittingTable(None, [Column("host")]).add("a", "b")


@pytest.mark.parametrize(
    ("name", "width", "short"),
    [
        ("email", 5, "email"),
        ("email", 4, f"em{ELLIPSIS}l"),
        ("0123456789", 6, f"012{ELLIPSIS}89"),
        # Each of these takes two cells.
        ("\u65e5\u672c\u8a9e\u65e5\u672c\u8a9e", 8, f"\u65e5\u672c{ELLIPSIS}\u8a9e"),
    ],
)
def test_names_are_shortened_in_the_middle(name: str, width: int, short: str) -> None:
    assert shorten(name, width) == short
