"""Where a position is in a packed message: at an offset that follows from lengths, whatever is in it."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels_redis_fast.history.placement import place_behind_prefix, place_in, with_position, without_position
from channels_redis_fast.history.positions import FIELD, PLACEHOLDER, WIDTH, Position
from channels_redis_fast.messages.codec import CHANNEL_FIELD, EnvelopeCodec

POSITION = str(Position(1_767_225_600_123, 7, "0123abcd", "deadbeef"))

#: How many entries a message has beside its position: about where the map's header grows, for it and one more.
SIZES = [*range(17), *range(65_533, 65_537)]


def message_of(size: int) -> dict[str, Any]:
    return {f"k{n}": n for n in range(size)}


def filled(packed: bytes, place: int) -> bytes:
    return packed[:place] + POSITION.encode() + packed[place + WIDTH :]


@pytest.mark.parametrize("size", SIZES)
def test_in_a_message_alone(size: int) -> None:
    packed = msgpack.packb(with_position(message_of(size), PLACEHOLDER))
    assert msgpack.unpackb(filled(packed, place_in(packed))) == {**message_of(size), FIELD: POSITION}


@pytest.mark.parametrize("prefix_length", [0, 1, 12, 300])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [["one"], [f"specific.{n}!{n}" for n in range(40)]], ids=["one", "many"])
def test_behind_a_prefix_and_before_channels(size: int, prefix_length: int, channels: list[str]) -> None:
    codec = EnvelopeCodec(prefix_length)
    message = with_position(message_of(size), PLACEHOLDER)
    packed = msgpack.packb(message)
    [member] = codec.encode_group(message, [channels])
    filled_in = filled(member, place_behind_prefix(packed, member, prefix_length))
    assert codec.decode(filled_in) == (channels, {**message_of(size), FIELD: POSITION})
    assert msgpack.unpackb(filled_in[prefix_length:])[CHANNEL_FIELD] == channels


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(message=st.dictionaries(st.text(max_size=5), VALUES, max_size=18), prefix_length=st.integers(0, 20))
def test_whatever_the_message(message: dict[str, Any], prefix_length: int) -> None:
    """Also one that holds what looks like a position."""
    message.pop(CHANNEL_FIELD, None)
    message["fake"] = PLACEHOLDER
    marked = with_position(message, PLACEHOLDER)
    packed = msgpack.packb(marked)
    [member] = EnvelopeCodec(prefix_length).encode_group(marked, [["a", "b"]])
    got = EnvelopeCodec(prefix_length).decode(filled(member, place_behind_prefix(packed, member, prefix_length)))
    assert got == (["a", "b"], {**without_position(message), FIELD: POSITION})


def test_a_position_goes_and_comes() -> None:
    message = {FIELD: "old", "type": "t"}
    assert with_position(message, POSITION) == {"type": "t", FIELD: POSITION}
    assert list(with_position(message, POSITION)) == ["type", FIELD]
    assert without_position(message) == {"type": "t"}
    assert message == {FIELD: "old", "type": "t"}
    plain = {"type": "t"}
    assert without_position(plain) is plain
