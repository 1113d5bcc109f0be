"""What a client says it has seen: whatever it sends is understood or known not to be, and raises nothing."""

from __future__ import annotations

import json
from urllib.parse import quote, urlencode

import pytest

from channels_redis_fast.consumers.since import MAX_BYTES, MAX_POSITIONS, Since
from channels_redis_fast.history.positions import Position

A, B = "aaaaaaaa", "bbbbbbbb"


def position(digest: str, number: int = 1) -> str:
    return str(Position(1_700_000_000_000, number, digest, "0123abcd"))


def query(*values: str) -> bytes:
    return urlencode([("since", value) for value in values]).encode()


UNDERSTOOD = {
    "nothing": (b"", None, None),
    "an empty value": (b"since=&x=1", None, None),
    "another parameter": (b"token=since", None, None),
    "one position": (b"x=%FF&" + query(position(A)), position(A), None),
    "two positions": (query(position(A), position(B)), position(A), position(B)),
    "two in one": (query(f"{position(A)}, {position(B)}"), position(A), position(B)),
    "two of one group: the older one": (query(position(A, 2), position(A, 1), position(A, 3)), position(A, 1), None),
    "a map": (query(json.dumps({"a": position(A), "b": position(B)})), position(A), position(B)),
    "a map of a client that has no position yet": (query(json.dumps({"a": position(A), "b": None})), position(A), None),
    "a map and a position": (query(json.dumps({"a": position(A)}), position(B)), position(A), position(B)),
}


@pytest.mark.parametrize("case", UNDERSTOOD)
def test_understood(case: str) -> None:
    text, of_a, of_b = UNDERSTOOD[case]
    since = Since.from_query(text)
    assert since.take("a", A) == (of_a, True)
    assert since.take("b", B) == (of_b, True)
    # It is where the client was when it came: nothing that holds for a second join.
    assert since.take("a", A) == (None, True)


NOT_UNDERSTOOD = {
    "text": query("yesterday"),
    "too short": query(position(A)[:-1]),
    "too long": query(position(A) + "0"),
    "digits of another script": query(position(A).replace("1", "\N{ARABIC-INDIC DIGIT ONE}")),
    "not a map": query("{"),
    "nested": query("{" + '"a":{' * 900),
    "not ASCII": b"since=\xff",
    "a number too large to read": query('{"x": ' + "9" * 5000 + "}"),
    "too many bytes": query(*[position(A)] * (MAX_BYTES // 40)),
    "too many positions": query(*[position(f"{number:08x}") for number in range(MAX_POSITIONS + 1)]),
    "too many in a map": query(json.dumps({f"g{number}": position(A) for number in range(MAX_POSITIONS + 1)})),
}


@pytest.mark.parametrize("case", NOT_UNDERSTOOD)
def test_not_understood(case: str) -> None:
    """It may have been a position of any group."""
    since = Since.from_query(NOT_UNDERSTOOD[case])
    assert since.take("other", "0ddba115") == (None, False)


@pytest.mark.parametrize("value", ["yesterday", 7, [], position(B)], ids=str)
def test_what_is_no_position_of_the_group(value: object) -> None:
    """In a map it is known of which group it was."""
    since = Since.from_query(b"since=" + quote(json.dumps({"a": value})).encode())
    assert since.take("a", A) == (None, False)
    assert since.take("b", B) == (None, True)


def test_event_ids() -> None:
    since = Since.from_event_id(f"{position(A)},{position(B, 2)}".encode())
    assert since.take("a", A) == (position(A), True)
    assert since.take("b", B) == (position(B, 2), True)
    assert Since.from_event_id(b"7").take("a", A) == (None, False)
    assert Since.from_event_id(b"\xff" * (MAX_BYTES + 1)).take("a", A) == (None, False)
