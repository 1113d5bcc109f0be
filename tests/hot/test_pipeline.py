"""RESP assembly, against a parser and the twin."""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Any

import hiredis
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.ids import shown


class Score(float):
    def __repr__(self) -> str:
        return "not a number"


class Level(IntEnum):
    HIGH = 3


class Verb(str, Enum):
    GET = "GET"


WORDS = st.one_of(
    st.binary(max_size=40),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.integers(),
    st.integers(-(2**63), 2**64),
    st.floats(),
)
COMMANDS = st.lists(st.one_of(st.lists(WORDS, min_size=1, max_size=8), st.tuples(WORDS, WORDS)), max_size=8)


def text_of(word: Any) -> bytes:
    if isinstance(word, bytes):
        return word
    return word.encode() if isinstance(word, str) else repr(word).encode()


@given(commands=COMMANDS)
@example(commands=[])
@example(commands=[[-(2**63), 2**63 - 1, 2**63, -(2**63) - 1, 0, -1, 9, 10, -0.0, 1e16, 1e-7, float("inf")]])
def test_a_server_reads_the_words_that_were_sent(hot: Any, commands: list[Any]) -> None:
    reader = hiredis.Reader()
    reader.feed(hot.assemble(commands))
    for command in commands:
        assert reader.gets() == [text_of(word) for word in command]
    assert reader.gets() is False


@pytest.mark.parametrize("size", [0, 1, 9, 10, 2040, 2048, 5000, 70_000])
def test_buffers_grow(hot: Any, size: int) -> None:
    body = b"x" * size
    assert hot.assemble((("SET", "k", body),) * 3) == b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n%b\r\n" % (size, body) * 3


def test_derived_types_go_by_their_value(hot: Any) -> None:
    words = [Verb.GET, Level.HIGH, Score(1.5)]
    assert hot.assemble([words]) == b"*3\r\n$3\r\nGET\r\n$1\r\n3\r\n$3\r\n1.5\r\n"


@pytest.mark.parametrize(
    ("commands", "error", "text"),
    [
        ([["GET", True]], TypeError, "a command's word must be bytes, str, int or float, not bool"),
        ([["GET", None]], TypeError, "a command's word must be bytes, str, int or float, not NoneType"),
        ([["GET", bytearray(b"k")]], TypeError, "a command's word must be bytes, str, int or float, not bytearray"),
        ([["GET", ["k"]]], TypeError, "a command's word must be bytes, str, int or float, not list"),
        ([["PING"], []], ValueError, "a command has at least one word"),
        ([()], ValueError, "a command has at least one word"),
        ([b"PING"], TypeError, "a command must be a list or a tuple, not bytes"),
        (["PING"], TypeError, "a command must be a list or a tuple, not str"),
        (None, TypeError, "commands must be a list or a tuple, not NoneType"),
        (b"PING", TypeError, "commands must be a list or a tuple, not bytes"),
        (
            [["GET", "a\ud800"]],
            UnicodeEncodeError,
            "'utf-8' codec can't encode character '\\ud800' in position 1: surrogates not allowed",
        ),
    ],
    ids=shown,
)
def test_refused_commands(hot: Any, commands: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        hot.assemble(commands)
    assert str(caught.value) == text


@given(commands=COMMANDS)
def test_the_size_of_what_is_written(twins: Any, commands: Any) -> None:
    compiled, pure = twins
    expected = sum(len(word) for command in commands for word in command if type(word) is bytes)
    for kind in (list, tuple):
        assert compiled.payload_size(kind(commands)) == pure.payload_size(kind(commands)) == expected


def test_the_size_of_what_is_no_command(hot: Any) -> None:
    """That it is none is for `assemble` to say, which is called behind."""
    assert hot.payload_size([[b"abc", "d"], b"efg", None, (b"h",)]) == 4
    with pytest.raises(TypeError, match=r"^commands must be a list or a tuple, not NoneType$"):
        hot.payload_size(None)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ([], True),
        ([b"", b"a" * 100], True),
        ([b"a", None], False),
        ([b"a", "a"], False),
        ([[b"a"]], False),
        ([bytearray(b"a")], False),
        ((b"a",), False),
        (b"a", False),
        (5, False),
        (None, False),
    ],
)
def test_a_list_of_strings(hot: Any, reply: Any, expected: bool) -> None:
    assert hot.are_strings(reply) is expected
