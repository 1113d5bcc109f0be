"""Members of sorted sets, against `msgpack` itself and the twin: results, exceptions, and hostile bytes."""

from __future__ import annotations

import datetime
import os
import random
import struct
import sys
from collections import OrderedDict
from copy import deepcopy
from enum import Enum, IntEnum
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.ids import shown

FIELD = "__asgi_channel__"
INT_EDGES = sorted(
    {
        sign * (2**bits) + offset
        for bits in (0, 5, 7, 8, 15, 16, 31, 32, 63, 64)
        for sign in (1, -1)
        for offset in (-1, 0, 1)
    }
)
SIZES = [0, 1, 15, 16, 31, 32, 255, 256, 2047, 2048, 65535, 65536]

# Any text: what has lone surrogates is for msgpack to refuse.
TEXT = st.text(st.characters(), max_size=40)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.sampled_from(INT_EDGES), st.floats(), TEXT, st.binary(max_size=40)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(TEXT, st.binary(max_size=4), st.integers(0, 3)), inner, max_size=5),
    ),
    max_leaves=12,
)


MESSAGES = st.dictionaries(TEXT, VALUES, max_size=18).filter(lambda message: FIELD not in message)
CHANNELS = st.one_of(st.none(), TEXT, st.lists(TEXT, min_size=1, max_size=20))

EXAMPLE = {
    "type": "chat.message",
    "text": "h\xe9llo " * 7,
    "n": [0, -1, 200, -200, 70_000, -70_000, 2**40, -(2**40)],
    "x": {"f": 1.5, "b": b"\x00" * 300, "none": None, b"raw": [True, False], "list": list(range(20))},
    "a key with more than thirty-one bytes": "\u20ac" * 100,
}


class Derived(dict):  # type: ignore[type-arg]
    pass


class Text(str):
    __slots__ = ()


class Colour(str, Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 300


ODD_VALUES = [
    Text("text"),
    Colour.RED,
    Level.HIGH,
    Derived(a=1),
    OrderedDict(a=1),
    bytearray(b"bytes"),
    memoryview(b"bytes"),
    msgpack.ExtType(5, b"data"),
    msgpack.Timestamp(1, 2),
    datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc),
    {1, 2},
    object,
    1j,
    "\ud800",
    2**64,
    -(2**63) - 1,
    float("nan"),
]


def nested(levels: int, kind: type = list) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"k": value} if kind is dict else [value]
    return value


# ----------------------------------------------------------------------------------------------------------- packing


@given(message=MESSAGES)
@example(message=EXAMPLE)
def test_pack_is_packb(hot: Any, message: Any, outcome: Any) -> None:
    assert outcome(hot.pack, message) == outcome(msgpack.packb, message)


@pytest.mark.parametrize("number", INT_EDGES)
def test_pack_every_width_of_int(hot: Any, outcome: Any, number: int) -> None:
    assert outcome(hot.pack, {"n": number}) == outcome(msgpack.packb, {"n": number})


@pytest.mark.parametrize("size", SIZES)
def test_pack_every_width_of_size(hot: Any, size: int) -> None:
    for value in (
        "x" * size,
        "\xe9" * size,
        b"x" * size,
        [1] * size,
        (1,) * size,
        dict.fromkeys(map(str, range(size))),
    ):
        assert hot.pack({"v": value}) == msgpack.packb({"v": value})


@pytest.mark.parametrize("value", ODD_VALUES, ids=shown)
def test_whatever_is_odd_goes_to_msgpack(hot: Any, outcome: Any, value: Any) -> None:
    for message in ({"v": value}, {"v": [1, {"deep": value}]}, value):
        assert outcome(hot.pack, message) == outcome(msgpack.packb, message)
    for message in ({"v": value}, {"a": "x" * 5000, "v": (value,)}):
        expected = outcome(lambda message=message: msgpack.packb({**message, FIELD: "a!b"}))
        assert outcome(lambda message=message: hot.encode(message, "a!b", 12)[12:]) == expected


@pytest.mark.parametrize("levels", [1, 30, 31, 32, 33, 34, 200, 600])
@pytest.mark.parametrize("kind", [list, dict])
def test_pack_nested(hot: Any, outcome: Any, levels: int, kind: type) -> None:
    message = {"v": nested(levels, kind)}
    assert outcome(hot.pack, message) == outcome(msgpack.packb, message)


def test_pack_what_contains_itself(hot: Any, outcome: Any) -> None:
    message: dict[str, Any] = {}
    message["self"] = message
    assert outcome(hot.pack, message) == outcome(msgpack.packb, message)


@given(message=MESSAGES, channel=CHANNELS, prefix_length=st.integers(0, 40))
def test_encode(hot: Any, message: Any, channel: Any, prefix_length: int, outcome: Any) -> None:
    before = list(message)
    whole = message if channel is None else {**message, FIELD: channel}
    expected = outcome(msgpack.packb, whole)
    assert outcome(lambda: hot.encode(message, channel, prefix_length)[prefix_length:]) == expected
    assert list(message) == before


@pytest.mark.parametrize("entries", [0, 1, 14, 15, 16, 17, 65534, 65535, 65536])
def test_map_headers_grow(hot: Any, entries: int) -> None:
    message = {str(number): number for number in range(entries)}
    for channel in ("a!b", ["a!b", "a!c"]):
        expected = msgpack.packb({**message, FIELD: channel})
        assert hot.encode(message, channel, 0) == expected
        assert hot.splice(msgpack.packb(message), channel) == expected
        assert hot.frames(msgpack.packb(message), [channel], 0) == [expected]
        assert hot.decode(expected, 0) == (channel, message)


@pytest.mark.parametrize(
    "message", [None, 5, "text", [1, 2], [("a", 1)], (), Derived(a=1), OrderedDict(a=1)], ids=shown
)
@pytest.mark.parametrize("channel", [None, "a!b"])
def test_encode_of_no_plain_dict(twins: Any, outcome: Any, message: Any, channel: str | None) -> None:
    compiled, pure = (outcome(twin.encode, message, channel, 0) for twin in twins)
    assert compiled == pure
    assert channel is None or isinstance(message, dict) or pure == (TypeError, pure[1])


# ---------------------------------------------------------------------------------------------------------- splicing


@given(message=MESSAGES, channel=CHANNELS.filter(bool))
def test_splice_is_encode(hot: Any, message: Any, channel: Any, outcome: Any) -> None:
    try:
        body = msgpack.packb(message)
    except (UnicodeEncodeError, OverflowError):
        return
    assert outcome(hot.splice, body, channel) == outcome(lambda: msgpack.packb({**message, FIELD: channel}))


@pytest.mark.parametrize("channel", [Text("a!b"), [Text("a!b")], ("a!b",), "\ud800", object()], ids=shown)
def test_splice_of_odd_channels(hot: Any, outcome: Any, channel: Any) -> None:
    expected = outcome(lambda: msgpack.packb({"a": 1, FIELD: channel}))
    if expected[0] is TypeError:
        # The text has the address of the object.
        with pytest.raises(TypeError):
            hot.splice(msgpack.packb({"a": 1}), channel)
    else:
        assert outcome(hot.splice, msgpack.packb({"a": 1}), channel) == expected
        assert outcome(lambda: hot.frames(msgpack.packb({"a": 1}), [channel], 3)[0][3:]) == expected


@pytest.mark.parametrize("body", [b"", b"\xde", b"\xde\x00", b"\xdf\x00\x00\x00", b"\x90", b"\xc0", b"{}"], ids=shown)
def test_splice_needs_a_map(hot: Any, body: bytes) -> None:
    for call in (lambda: hot.splice(body, "a!b"), lambda: hot.frames(body, [["a!b"]], 12)):
        with pytest.raises(ValueError, match=r"^the body is not a packed map$"):
            call()


def test_splice_into_a_full_map(hot: Any) -> None:
    with pytest.raises(ValueError, match="no room for one more entry"):
        hot.splice(b"\xdf\xff\xff\xff\xff", "a!b")
    assert hot.splice(b"\xdf\xff\xff\xff\xfe", "a").startswith(b"\xdf\xff\xff\xff\xff")


@pytest.mark.parametrize("body", [None, "text", bytearray(b"\x80"), memoryview(b"\x80")], ids=type)
def test_splice_needs_bytes(hot: Any, body: Any) -> None:
    with pytest.raises(TypeError, match="a packed message must be bytes, not"):
        hot.splice(body, "a!b")


def test_headers_longer_than_needed_are_shortened(hot: Any) -> None:
    assert hot.splice(b"\xdf\x00\x00\x00\x00", "a") == hot.splice(b"\xde\x00\x00", "a") == hot.splice(b"\x80", "a")


def test_frames(hot: Any) -> None:
    body = msgpack.packb(EXAMPLE)
    lists = [["a!b"], ["a!c", "a!d"], [f"specific.{number}!x" for number in range(3000)]]
    frames = hot.frames(body, lists, 12)
    assert [frame[12:] for frame in frames] == [hot.splice(body, names) for names in lists]
    assert len({frame[:12] for frame in frames}) == len(lists)
    assert hot.frames(body, [], 12) == []


# ---------------------------------------------------------------------------------------------------------- prefixes


@pytest.mark.parametrize("length", [0, 1, 12, 4095, 4096, 4097, 100_000])
def test_a_prefix_has_its_length(hot: Any, length: int) -> None:
    assert [len(hot.next_prefix(length)) for _ in range(5)] == [length] * 5
    assert len(hot.encode({}, None, length)) == length + 1


def test_random_bytes_are_used_once(hot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a source that counts, every four bytes of the pool are distinct."""
    counter = iter(range(2**20))
    hot.reseed()
    monkeypatch.setattr(
        os, "urandom", lambda size: b"".join(struct.pack("<I", next(counter)) for _ in range(size // 4))
    )
    try:
        taken = [hot.next_prefix(8) for _ in range(1000)]
        taken += [hot.next_prefix(24)[8:] for _ in range(1000)]
        taken += [hot.encode({}, None, 24)[8:24] for _ in range(1000)]
        taken += [frame[8:24] for frame in hot.frames(b"\x80", [["a"]] * 1000, 24)]
        taken += [hot.next_prefix(8008)[8:] for _ in range(3)]
    finally:
        hot.reseed()
    words = [prefix[at : at + 4] for prefix in taken for at in range(0, len(prefix), 4)]
    assert len(set(words)) == len(words)


@pytest.mark.parametrize("length", [10, 11, 12, 16, 17, 40])
def test_members_sort_in_the_order_they_were_made(hot: Any, length: int) -> None:
    hot.reseed()
    made = []
    for _ in range(700):
        made.append(hot.next_prefix(length))
        made.append(hot.encode({"type": "a"}, "a!b", length))
        made += hot.frames(b"\x80", [["a!b"], ["a!c"]], length)
    assert length >= hot.ORDERED_FROM
    assert sorted(made) == made
    half = min(length // 2, 8)
    counts = [int.from_bytes(member[:half], "big") for member in made]
    assert counts == list(range(counts[0], counts[0] + len(made)))
    assert len({member[half:length] for member in made}) == len(made)


def test_the_count_begins_at_random_and_has_far_to_go(hot: Any) -> None:
    starts = set()
    for _ in range(50):
        hot.reseed()
        starts.add(int.from_bytes(hot.next_prefix(10)[:5], "big"))
    assert len(starts) > 40
    assert max(starts) <= 2**39


def test_seeding_the_global_generator_changes_nothing(hot: Any) -> None:
    random.seed(1)
    first = hot.next_prefix(12)
    random.seed(1)
    assert hot.next_prefix(12) != first


def test_fingerprints(hot: Any) -> None:
    """Each byte counts, wherever it is, and each length; the same bytes have the same fingerprint."""
    members = [hot.encode({}, None, 12) for _ in range(1000)]
    members += [b"\0" * size for size in range(100)]
    members += [b"\0" * place + b"\x80" + b"\0" * (99 - place) for place in range(100)]
    members += [(1 << bit).to_bytes(40, "big") for bit in range(320)]
    members += [bytes((first, second)) for first in range(256) for second in range(1, 256)]
    found = hot.fingerprints(members)
    parts = [found[start : start + hot.FINGERPRINT] for start in range(0, len(found), hot.FINGERPRINT)]
    assert len(parts) == len(set(parts)) == len(members)
    assert hot.fingerprints([bytes(bytearray(member)) for member in members]) == found
    assert hot.fingerprints([]) == b""
    assert found == b"".join(hash(member).to_bytes(8, sys.byteorder, signed=True) for member in members)
    for refused in ("text", None, 5, bytearray(12), memoryview(b"0123456789")):
        with pytest.raises(TypeError, match=rf"^a member must be bytes, not {type(refused).__name__}$"):
            hot.fingerprints([b"0123456789", refused])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_child_that_reseeds_has_bytes_of_its_own(hot: Any) -> None:
    hot.next_prefix(12)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        hot.reseed()
        os.write(write, hot.next_prefix(12))
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with open(read, "rb") as pipe:
        assert pipe.read() != hot.next_prefix(12)


def test_negative_lengths(hot: Any) -> None:
    for call in (
        lambda: hot.next_prefix(-1),
        lambda: hot.encode({}, None, -1),
        lambda: hot.frames(b"\x80", [["a"]], -1),
        lambda: hot.decode(b"\x80", -1),
    ):
        with pytest.raises(ValueError, match=r"^a prefix has no negative length: -1$"):
            call()


# ---------------------------------------------------------------------------------------------------------- decoding


def decode_by_msgpack(member: bytes, prefix_length: int) -> tuple[Any, Any]:
    """What `decode` promises, in the words of its docstring."""
    message = msgpack.unpackb(member[prefix_length:], strict_map_key=False)
    if not isinstance(message, dict):
        raise ValueError(f"a message must be a map, not {type(message).__name__}")
    channel = message.pop(FIELD, "")
    if FIELD in msgpack.unpackb(member[prefix_length:], strict_map_key=False):
        if not isinstance(channel, str) and not (
            isinstance(channel, list) and channel and all(isinstance(name, str) for name in channel)
        ):
            raise ValueError(f"{FIELD} must be a name or a list of names")
        return channel, message
    return None, message


def agree(hot: Any, outcome: Any, member: bytes, prefix_length: int = 0) -> None:
    assert outcome(hot.decode, member, prefix_length) == outcome(decode_by_msgpack, member, prefix_length)


@given(message=MESSAGES, channel=CHANNELS, prefix_length=st.integers(0, 20))
@example(message=EXAMPLE, channel="a!b", prefix_length=12)
def test_decode_what_was_encoded(hot: Any, message: Any, channel: Any, prefix_length: int, outcome: Any) -> None:
    try:
        member = hot.encode(message, channel, prefix_length)
    except (UnicodeEncodeError, OverflowError):
        return
    agree(hot, outcome, member, prefix_length)


@given(data=st.binary(max_size=60))
@example(data=b"")
@example(data=b"\x80\x80")
@example(data=b"\x81\xa1k")
@example(data=b"\x81\x01\x02")
@example(data=b"\x81\xc4\x01k\x02")
@example(data=b"\x81\xa2\xff\xff\x01")
@example(data=b"\x81\xa1k\xd4\x05x")
@example(data=b"\x81\xa1k\xc1")
@example(data=b"\x81\xa1k\xd6\xff\x00\x00\x00\x01")
def test_decode_of_any_bytes(hot: Any, data: bytes, outcome: Any) -> None:
    agree(hot, outcome, data)
    # The same as the inside of a map, where more of it is read.
    agree(hot, outcome, b"\x81\xa1k" + data)
    agree(hot, outcome, b"\x81\xa4type" + data)
    agree(hot, outcome, b"\x81\xb0" + FIELD.encode() + data)


@pytest.mark.parametrize("channel", [None, "specific.a!b", ["specific.a!b", "specific.a!c"]], ids=shown)
def test_every_truncation_and_every_trailing_byte(hot: Any, outcome: Any, channel: Any) -> None:
    member = hot.encode(EXAMPLE, channel, 12)
    for length in range(len(member)):
        agree(hot, outcome, member[:length], 12)
    for extra in range(256):
        agree(hot, outcome, member + bytes([extra]), 12)


@given(data=st.data())
def test_mutated_messages(hot: Any, data: Any, outcome: Any) -> None:
    member = bytearray(hot.encode(EXAMPLE, ["a!b", "a!c"], 0))
    for _ in range(data.draw(st.integers(1, 4))):
        member[data.draw(st.integers(0, len(member) - 1))] = data.draw(st.integers(0, 255))
    agree(hot, outcome, bytes(member))


def test_every_byte_of_a_message_changed(hot: Any, outcome: Any) -> None:
    member = hot.encode({"type": "a.b", "v": [1, 2.5, {"k": b"x"}]}, "a!b", 0)
    for place in range(len(member)):
        for byte in range(256):
            agree(hot, outcome, member[:place] + bytes([byte]) + member[place + 1 :])


@pytest.mark.parametrize(
    "header",
    [
        b"\xdf\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdc\xff\xff",
    ],
    ids=shown,
)
def test_claimed_sizes_cost_nothing(hot: Any, outcome: Any, header: bytes) -> None:
    agree(hot, outcome, header + b"\xc0" * 5)
    agree(hot, outcome, b"\x81\xa1k" + header + b"\xc0" * 5)
    # Lists that promise as many items as there are bytes left, each inside the other.
    size = 20_000
    agree(hot, outcome, b"\x81\xa1k" + b"\xdd\x00\x00\x4e\x00" * 31 + b"\xc0" * size)


@pytest.mark.parametrize("levels", [30, 31, 32, 33, 100, 511, 600, 1100, 100_000])
def test_decode_nested(hot: Any, outcome: Any, levels: int) -> None:
    agree(hot, outcome, b"\x81\xa1k" + b"\x91" * levels + b"\xc0")
    agree(hot, outcome, b"\x81\xa1k" * levels + b"\xc0")


@pytest.mark.parametrize("number", INT_EDGES)
def test_decode_every_width_of_int(hot: Any, outcome: Any, number: int) -> None:
    for tag, code in (
        (0xCC, "B"),
        (0xCD, "H"),
        (0xCE, "I"),
        (0xCF, "Q"),
        (0xD0, "b"),
        (0xD1, "h"),
        (0xD2, "i"),
        (0xD3, "q"),
    ):
        try:
            packed = struct.pack(f">{code}", number)
        except struct.error:
            continue
        agree(hot, outcome, b"\x81\xa1k" + bytes([tag]) + packed)


@pytest.mark.parametrize(
    "packed", [b"\xca\x3f\xc0\x00\x00", b"\xca\x7f\x80\x00\x00", b"\xca\x7f\xc0\x00\x00"], ids=shown
)
def test_decode_single_floats(hot: Any, packed: bytes) -> None:
    assert repr(hot.decode(b"\x81\xa1k" + packed, 0)) == repr((None, msgpack.unpackb(b"\x81\xa1k" + packed)))


def test_decode_takes_the_channel_from_any_place(hot: Any) -> None:
    field = msgpack.packb(FIELD)
    one, two = msgpack.packb("a") + b"\x01", msgpack.packb("b") + b"\x02"
    for body in (field + b"\xa1x" + one + two, one + field + b"\xa1x" + two, one + two + field + b"\xa1x"):
        assert hot.decode(b"\x83" + body, 0) == ("x", {"a": 1, "b": 2})
    # Twice: the last one holds, as in every dict.
    assert hot.decode(b"\x83" + field + b"\xa1x" + one + field + b"\xa1y", 0) == ("y", {"a": 1})
    # Below the top it is an entry like others.
    assert hot.decode(msgpack.packb({"a": {FIELD: 5}}), 0) == (None, {"a": {FIELD: 5}})


@pytest.mark.parametrize("channel", [None, 1, b"a!b", [], [1], ["a", b"b"], {"a": 1}, 1.5, True], ids=shown)
def test_decode_refuses_other_channels(hot: Any, channel: Any) -> None:
    with pytest.raises(ValueError, match=f"^{FIELD} must be a name or a list of names$"):
        hot.decode(msgpack.packb({"a": 1, FIELD: channel}), 0)


@pytest.mark.parametrize("value", [None, 1, "text", [], [{}], b"x", 2.5], ids=shown)
def test_decode_needs_a_map(hot: Any, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^a message must be a map, not {type(value).__name__}$"):
        hot.decode(b"x" + msgpack.packb(value), 1)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_decode_of_other_buffers(hot: Any, kind: Any) -> None:
    assert hot.decode(kind(hot.encode(EXAMPLE, "a!b", 12)), 12) == ("a!b", EXAMPLE)


@pytest.mark.parametrize("member", [None, 5, "text"])
def test_decode_of_no_bytes(hot: Any, member: Any) -> None:
    with pytest.raises(TypeError):
        hot.decode(member, 0)


def test_keys_are_interned(hot: Any) -> None:
    names = ["type", "n", "", "seven77", "eightttt", "x" * 31, "x" * 32, "schl\xfcssel", "x" * 300]
    member = msgpack.packb({name: {name: 1} for name in names})
    for _ in range(2):
        _, message = hot.decode(member, 0)
        for name in names:
            (outer,) = [key for key in message if key == name]
            (inner,) = message[name]
            assert outer is inner is sys.intern(name)


def test_many_keys_share_the_cache(hot: Any) -> None:
    """More keys than it has room for, of every length, twice: each is found as itself."""
    messages = [{f"{number}{'k' * (number % 29)}": number} for number in range(3000)]
    for _ in range(2):
        for message in messages:
            assert hot.decode(msgpack.packb(message), 0) == (None, message)
            assert hot.decode(msgpack.packb({"type": next(iter(message))}), 0)[1] == {"type": next(iter(message))}


# ----------------------------------------------------------------------------------------------------------- copying


@given(message=MESSAGES)
def test_clone_is_equal(hot: Any, message: Any, outcome: Any) -> None:
    before = repr(message)
    assert repr(hot.clone(message)) == repr(deepcopy(message)) == before
    assert repr(message) == before


def test_clone_shares_nothing_changeable(hot: Any) -> None:
    message = {"list": [1, {"x": [2]}], "dict": {"y": {"z": 1}}, "text": "abc"}
    copy = hot.clone(message)
    copy["list"][1]["x"].append(3)
    copy["dict"]["y"]["z"] = 2
    copy["list"].append(4)
    copy["new"] = 1
    assert message == {"list": [1, {"x": [2]}], "dict": {"y": {"z": 1}}, "text": "abc"}


@pytest.mark.parametrize("value", [(1, [2]), "text", None, Derived(a=[1]), OrderedDict(a=1), object()], ids=type)
def test_clone_shares_all_else(hot: Any, value: Any) -> None:
    assert hot.clone(value) is value
    assert hot.clone({"v": value})["v"] is value
    assert hot.clone([value])[0] is value


@pytest.mark.parametrize("kind", [list, dict])
def test_clone_goes_512_levels_deep(hot: Any, kind: type) -> None:
    deepest = nested(512, kind)
    assert hot.clone(deepest) == deepest
    with pytest.raises(RecursionError, match=r"^a message is nested deeper than 512 levels$"):
        hot.clone(nested(513, kind))


@given(value=VALUES)
def test_footprint_is_the_twins(twins: Any, value: Any) -> None:
    compiled, pure = twins
    assert compiled.footprint(value) == pure.footprint(value)


@pytest.mark.parametrize(
    "value", ["x" * 10_000, "\xe9" * 10_000, b"x" * 10_000, [[]] * 1000, {str(n): n for n in range(1000)}], ids=type
)
def test_footprint_is_about_what_it_takes(hot: Any, value: Any) -> None:
    """At least half of it, and not many times as much."""

    def size_of(value: Any) -> int:
        inner = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
        return sys.getsizeof(value) + sum(map(size_of, inner))

    assert 0.5 * size_of(value) <= hot.footprint(value) <= 5 * size_of(value)


@pytest.mark.parametrize("kind", [list, dict])
def test_footprint_ends(hot: Any, kind: type) -> None:
    """Whatever refers to itself, or is deep: what a site's own serializer makes may be anything."""
    assert hot.footprint(nested(700, kind)) > 512 * 60
    knot: list[Any] = []
    knot.extend([knot, knot])
    assert hot.footprint(knot) > 10_000_000
    assert hot.footprint(object()) == hot.footprint(None)


def test_clone_of_what_contains_itself(hot: Any) -> None:
    message: list[Any] = []
    message.append(message)
    with pytest.raises(RecursionError):
        hot.clone(message)


# Without the bytes in between.


@given(message=st.one_of(MESSAGES, st.dictionaries(SCALARS, VALUES, max_size=4)))
@example(message=EXAMPLE)
@example(message={FIELD: "channel", "n": 1})
@example(message={"deep": nested(40)})
@example(message=Derived(a=1))
@example(message=[1])
def test_round_trip(twins: Any, outcome: Any, message: Any) -> None:
    compiled, pure = twins
    told = outcome(lambda: pure.decode(pure.encode(message, None, 0), 0)[1])
    assert [outcome(hot.round_trip, message) for hot in twins] == [told, told]
    if len(told) == 1:
        assert compiled.round_trip(message) is not message


@pytest.mark.parametrize("value", ODD_VALUES, ids=shown)
def test_round_trip_of_odd_values(twins: Any, outcome: Any, value: Any) -> None:
    told = outcome(lambda: msgpack.unpackb(msgpack.packb({"value": value}), strict_map_key=False))
    assert [outcome(hot.round_trip, {"value": value}) for hot in twins] == [told, told]
