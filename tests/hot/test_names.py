"""Names, keys, shards and the splitting of groups, against Channels' own checks, zlib and the twin."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from enum import Enum
from typing import Any

import pytest
from channels.layers import BaseChannelLayer
from hypothesis import example, given
from hypothesis import strategies as st

from tests.ids import shown

NAMES = st.one_of(
    st.text(),
    st.text(st.characters(codec="ascii"), max_size=110),
    st.from_regex(r"[a-zA-Z0-9\-_.]{1,60}(![a-zA-Z0-9\-_.]{0,60})?\n?", fullmatch=True),
    # Digits of other scripts and lone surrogates.
    st.text(st.sampled_from("aZ09-_.!\n \0٣é\ud800\U0001d7d8"), max_size=12),
)


class Derived(str):
    __slots__ = ()


class Member(str, Enum):
    ROOM = "room"


ODD = [None, 1, b"room", ["room"], Derived("room"), Member.ROOM, object()]


def channels_accepts(check: Callable[[object], bool], name: object) -> bool:
    try:
        return check(name)
    except TypeError:
        return False


@given(name=NAMES)
@example(name="")
@example(name="!")
@example(name="a!b!c")
@example(name="a\n")
@example(name="a" * 99)
@example(name="a" * 100)
def test_kind_is_sure_only_of_what_channels_accepts(hot: Any, name: str) -> None:
    layer = BaseChannelLayer()
    kind = hot.kind(name)
    accepted = channels_accepts(layer.require_valid_channel_name, name)
    if kind < 0:
        # In doubt; but never about an accepted name of plain characters.
        assert not accepted or not name.isascii() or name.endswith("\n")
    else:
        assert accepted
        assert kind == (len(layer.non_local_name(name)) if "!" in name else 0)


@given(name=NAMES)
@example(name="a\n")
@example(name="a" * 100)
def test_group_is_sure_only_of_what_channels_accepts(hot: Any, name: str) -> None:
    accepted = channels_accepts(BaseChannelLayer().require_valid_group_name, name)
    if hot.is_group(name):
        assert accepted
    else:
        assert not accepted or not name.isascii() or name.endswith("\n")


@pytest.mark.parametrize("name", ODD, ids=shown)
def test_odd_types_are_left_to_channels(hot: Any, name: object) -> None:
    assert hot.kind(name) == -1
    assert hot.is_group(name) is False


@given(name=NAMES)
def test_verdicts_of_the_twins(twins: Any, name: str) -> None:
    compiled, pure = twins
    assert compiled.kind(name) == pure.kind(name)
    assert compiled.is_group(name) is pure.is_group(name)


@given(name=NAMES)
@example(name="a!b")
@example(name="a!!")
def test_find(hot: Any, name: str) -> None:
    """By the part through the mark, and nothing for a name that is not specific beyond doubt."""
    found = object()
    local = name[: name.find("!") + 1]
    few: dict[str, Any] = {"b!": 1, "aé!": 2, local: found}
    for table in (few, {**{f"{n}!": n for n in range(10)}, **few}):
        assert hot.find(table, name) is (found if hot.kind(name) > 0 else None)
        del table[local]
        assert hot.find(table, name) is None


@pytest.mark.parametrize("name", ODD, ids=shown)
def test_nothing_is_found_by_odd_types(hot: Any, name: Any) -> None:
    assert hot.find({"room": 1, "": 2}, name) is None


@given(prefix=st.binary(max_size=20), name=NAMES, length=st.integers(0, 120))
def test_key(hot: Any, prefix: bytes, name: str, length: int, outcome: Any) -> None:
    expected = outcome(lambda: prefix + (name[:length] if length else name).encode())
    assert outcome(hot.key, prefix, name, length) == expected


def test_key_of_a_derived_str(hot: Any) -> None:
    assert hot.key(b"asgi", Derived("room!x"), 5) == b"asgiroom!"
    assert hot.key(b"asgi", "room!x") == b"asgiroom!x"


def ring(value: str | bytes, ring_size: int) -> int:
    """The rule of channels_redis, said once more."""
    data = value.encode("utf8") if isinstance(value, str) else value
    return int((zlib.crc32(data) & 0xFFF) / (4096 / float(ring_size)))


@given(value=st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.binary(max_size=300)))
@example(value="")
@example(value=b"12345678")
@example(value=b"1234567")
def test_shard_hashes_as_zlib_does(hot: Any, value: str | bytes) -> None:
    for ring_size in (2, 3, 186, 4096):
        assert hot.shard(value, ring_size) == ring(value, ring_size)


def test_shard_of_every_hash_on_every_ring(hot: Any) -> None:
    by_hash: dict[int, bytes] = {}
    number = 0
    while len(by_hash) < 4096:
        name = b"%d" % number
        by_hash.setdefault(zlib.crc32(name) & 0xFFF, name)
        number += 1
    for ring_size in (1, 2, 3, 5, 7, 16, 64, 100, 185, 186, 187, 1000, 2047, 4095, 4096, 5000):
        for name in by_hash.values():
            shard = hot.shard(name, ring_size)
            assert shard == (0 if ring_size == 1 else ring(name, ring_size))
            assert 0 <= shard < ring_size


def test_ring_of_186_tells_doubles_from_integers() -> None:
    """The reason why the arithmetic is in doubles: with integers some names would move."""
    assert any(int(hashed / (4096 / 186.0)) != hashed * 186 // 4096 for hashed in range(4096))


@pytest.mark.parametrize("value", [*ODD[:2], ODD[3], bytearray(b"room"), Derived("room"), "\ud800"], ids=shown)
@pytest.mark.parametrize("ring_size", [-1, 0, 1, 4])
def test_shard_of_odd_values(twins: Any, outcome: Any, value: Any, ring_size: int) -> None:
    compiled, pure = twins
    assert outcome(compiled.shard, value, ring_size) == outcome(pure.shard, value, ring_size)


MEMBERS = st.lists(
    st.one_of(
        st.binary(max_size=12),
        st.builds(lambda local, rest: b"%d!%d" % (local, rest), st.integers(0, 5), st.integers(0, 50)),
        st.text(max_size=12).map(lambda text: text.encode("utf8", "surrogatepass")),
        st.sampled_from([b"", b"!", b"!!", b"a!", b"a", b"a!b!c", b"\xff!", b"a!\xff", b"\xc3\xa9!x"]),
    ),
    max_size=30,
)


@given(members=MEMBERS, prefix=st.binary(max_size=6), ring_size=st.integers(1, 20))
def test_split(hot: Any, members: list[bytes], prefix: bytes, ring_size: int) -> None:
    shards, broken = hot.split(members, prefix, ring_size)
    expected_broken = []
    expected: list[dict[bytes, list[str]]] = [{} for _ in range(ring_size)]
    for member in members:
        try:
            name = member.decode()
        except UnicodeDecodeError:
            expected_broken.append(member)
            continue
        local = BaseChannelLayer().non_local_name(name).encode()
        expected[0 if ring_size == 1 else ring(local, ring_size)].setdefault(prefix + local, []).append(name)
    assert broken == expected_broken
    assert [keys for keys, _ in shards] == [list(keys) for keys in expected]
    assert [names for _, names in shards] == [list(keys.values()) for keys in expected]


def test_split_names_each_key_once_whatever_the_order(hot: Any) -> None:
    members = [b"b!1", b"a!1", b"b!2", b"a!2", b"general", b"b!3", b"general"]
    shards, broken = hot.split(members, b"asgi", 1)
    assert shards == [
        ([b"asgib!", b"asgia!", b"asgigeneral"], [["b!1", "b!2", "b!3"], ["a!1", "a!2"], ["general", "general"]])
    ]
    assert broken == []


@pytest.mark.parametrize("members", [["a"], [None], [bytearray(b"a")], [b"a", 1]], ids=shown)
def test_split_refuses_other_members(twins: Any, outcome: Any, members: Any) -> None:
    compiled, pure = twins
    assert outcome(compiled.split, members, b"", 2) == outcome(pure.split, members, b"", 2)
    with pytest.raises(TypeError, match="a group member must be bytes"):
        pure.split(members, b"", 2)


def test_split_needs_a_ring(hot: Any) -> None:
    with pytest.raises(ValueError, match="at least one shard, not 0"):
        hot.split([], b"", 0)
