"""Slots of names, as redis-py has them, and the map of slots as servers tell it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from channels_redis_fast.cluster.slots import SLOTS, owners_of, slot_of


@pytest.mark.parametrize(
    ("name", "slot"),
    [
        (b"", 0),
        (b"123456789", 12739),
        (b"foo", 12182),
        (b"{foo}.bar", 12182),
        (b"a{foo}{bar}", 12182),
        (b"foo{}{bar}", 8363),
        (b"foo{{bar}}zap", 4015),
    ],
)
def test_names_of_the_specification(name: bytes, slot: int) -> None:
    assert slot_of(name) == slot == key_slot(name)


@given(
    st.one_of(st.binary(max_size=60), st.lists(st.sampled_from([b"{", b"}", b"a", b"bc"]), max_size=8).map(b"".join))
)
def test_any_name_is_where_redis_py_says(name: bytes) -> None:
    assert slot_of(name) == key_slot(name)
    assert 0 <= slot_of(name) < SLOTS


MAP = [
    [0, 5460, [b"10.0.0.1", 7000, b"id1", []], [b"10.0.0.4", 7003, b"id4", []]],
    [5461, 10922, [b"", 7001, b"id2"]],
    [10923, 10923, [None, 7002, b"id3", [b"ip", b"10.0.0.3"]]],
    [10924, 16383, [b"?", 7002, b"id3"]],
]


def test_a_map() -> None:
    assert list(owners_of(MAP, "asked")) == [
        (0, 5460, ("10.0.0.1", 7000)),
        (5461, 10922, ("asked", 7001)),
        (10923, 10923, ("asked", 7002)),
        (10924, 16383, ("asked", 7002)),
    ]
    assert list(owners_of([], "asked")) == []


def test_a_map_whose_addresses_are_others_from_here() -> None:
    def remap(address: tuple[str, int]) -> tuple[str, int]:
        return "outside", address[1] + 10000

    assert [address for *_, address in owners_of(MAP[:2], "asked", remap)] == [("outside", 17000), ("outside", 17001)]
