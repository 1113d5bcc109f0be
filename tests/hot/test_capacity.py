"""Capacities by glob, against `fnmatch`, Channels' own table and the twin."""

from __future__ import annotations

import fnmatch
import re
from enum import IntEnum
from types import MappingProxyType
from typing import Any

import pytest
from channels.layers import BaseChannelLayer
from hypothesis import example, given
from hypothesis import strategies as st

from tests.ids import shown

# Few characters, so that globs and names meet often.
GLOBS = st.one_of(
    st.text(st.sampled_from("ab.!*?"), max_size=10),
    st.text(st.sampled_from("abz-!*?[]^&|~\\\n"), max_size=10),
    st.lists(
        st.sampled_from(["a", "b", "*", "?", "[ab]", "[!a]", "[a-c]", "[!a-c.]", "[c-a]", "[aab]", "[]]", "[", "é"])
    ).map("".join),
    st.text(max_size=6),
)


NAMES = st.one_of(st.text(st.sampled_from("abcz.!-[]^\n\x7fé"), max_size=12), st.text(max_size=8))


@given(glob=GLOBS, name=NAMES)
@example(glob="", name="")
@example(glob="", name="\n")
@example(glob="*", name="")
@example(glob="a", name="a\n")
@example(glob="**a**", name="bab")
@example(glob="[!a]", name="\x7f")
@example(glob="[!a]*", name="b")
@example(glob="[aa]", name="a")
@example(glob="[**]", name="*")
@example(glob="A", name="a")
def test_a_glob_means_what_fnmatch_says(hot: Any, glob: str, name: str) -> None:
    expected = re.compile(fnmatch.translate(glob)).match(name) is not None
    assert hot.CapacityTable({glob: 1}, 0).lookup(name) == int(expected)


@given(globs=st.lists(GLOBS, max_size=5, unique=True), names=st.lists(NAMES, max_size=8))
def test_precedence_is_that_of_channels(hot: Any, globs: list[str], names: list[str]) -> None:
    patterns: dict[Any, int] = {glob: number for number, glob in enumerate(globs, 1)}
    patterns[re.compile("a")] = 99
    layer = BaseChannelLayer()
    layer.channel_capacity = layer.compile_capacities(patterns)
    table = hot.CapacityTable(patterns, layer.capacity)
    for name in names:
        assert table.lookup(name) == layer.get_capacity(name)


def test_every_ascii_character_in_a_set(hot: Any) -> None:
    for glob in ("[a-z]", "[!a-z]", "[0-9A-F_.]", "[!_.]", "?"):
        table = hot.CapacityTable({glob: 1}, 0)
        for code in range(128):
            assert table.lookup(chr(code)) == int(fnmatch.fnmatchcase(chr(code), glob)), (glob, code)


def test_many_stars_cost_no_more_than_their_length_times_the_names(hot: Any) -> None:
    """With backtracking into every star this would not end before the suite's time limit."""
    table = hot.CapacityTable({"*a" * 40 + "*b": 1}, 0)
    assert table.lookup("a" * 99) == 0
    assert table.lookup("a" * 98 + "b") == 1


class Size(IntEnum):
    SMALL = 3


class Pattern(str):
    __slots__ = ()


class Anything:
    def match(self, name: object) -> bool:
        return True


@pytest.mark.parametrize(
    ("patterns", "capacity"),
    [
        ({}, 7),
        ({"room": 3}, 3),
        ({"ro*": 0}, 0),
        ([("r*", 5), ("room", 6)], 5),
        ([("x", 5), (re.compile("ro"), 6)], 6),
        (MappingProxyType({"room": 4}), 4),
        ({Anything(): 8}, 8),
        ({Pattern("r??m"): 9}, 9),
        ({"room": 2**80}, 2**80),
    ],
    ids=shown,
)
def test_tables(hot: Any, patterns: Any, capacity: int) -> None:
    table = hot.CapacityTable(patterns, 7)
    assert table.lookup("room") == capacity
    assert table.default == 7


def test_pairs_may_come_from_an_iterator(hot: Any) -> None:
    assert hot.CapacityTable(iter([("x", 5), ("room", 6)]), 7).lookup("room") == 6


def test_capacities_are_plain_ints(hot: Any) -> None:
    assert type(hot.CapacityTable({"room": Size.SMALL}, 1).lookup("room")) is int


@pytest.mark.parametrize("name", [None, 1, b"room", ["room"], Pattern("room")], ids=shown)
def test_odd_names_are_the_regular_expressions(twins: Any, outcome: Any, name: Any) -> None:
    for patterns in ({"room": 1}, {"r*": 1}, {}):
        results = [outcome(twin.CapacityTable(patterns, 7).lookup, name) for twin in twins]
        assert results[0] == results[1]


@pytest.mark.parametrize(
    ("patterns", "error", "text"),
    [
        ({1: 1}, TypeError, "channel_capacity: 1 is neither a glob nor a compiled pattern"),
        ({b"a*": 1}, TypeError, "channel_capacity: b'a*' is neither a glob nor a compiled pattern"),
        ({None: 1}, TypeError, "channel_capacity: None is neither a glob nor a compiled pattern"),
        ({"a*": "5"}, TypeError, "channel_capacity: the capacity of 'a*' must be an int, not '5'"),
        ({"a*": None}, TypeError, "channel_capacity: the capacity of 'a*' must be an int, not None"),
        ({"a*": True}, TypeError, "channel_capacity: the capacity of 'a*' must be an int, not True"),
        ({"a*": 1.0}, TypeError, "channel_capacity: the capacity of 'a*' must be an int, not 1.0"),
        ({"a*": -1}, ValueError, "channel_capacity: the capacity of 'a*' must not be negative: -1"),
    ],
    ids=shown,
)
def test_refused_options_are_named(hot: Any, patterns: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        hot.CapacityTable(patterns, 7)
    assert str(caught.value) == text
