"""Where a position goes in a packed message: at an offset that follows from lengths, whatever is in it."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels_redis_fast.history.placement import ENTRY, widened, with_position, without_position
from channels_redis_fast.history.positions import FIELD, PLACEHOLDER, Position
from channels_redis_fast.messages.codec import CHANNEL_FIELD, EnvelopeCodec

POSITION = str(Position(1_767_225_600_123, 7, "0123abcd", "deadbeef"))

#: How many entries a message has beside its position: about where the map's header grows, for it and one more.
SIZES = [*range(17), *range(65_533, 65_537)]


def message_of(size: int) -> dict[str, Any]:
    return {f"k{n}": n for n in range(size)}


def filled(body: bytes, prefix_length: int, codec: EnvelopeCodec, channels: list[str]) -> bytes:
    """What the script of the core layer makes of a message as it is kept, for the channels of one key."""
    header, begin = widened(body, prefix_length, 2)
    [member] = codec.encode_group({}, [channels])
    middle = header + body[begin:] + ENTRY + POSITION.encode()
    return member[:prefix_length] + middle + member[prefix_length + 1 :]


@pytest.mark.parametrize("prefix_length", [0, 12])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [["one"], [f"specific.{n}!{n}" for n in range(40)]], ids=["one", "many"])
def test_behind_all_entries_and_before_the_channels(size: int, prefix_length: int, channels: list[str]) -> None:
    codec = EnvelopeCodec(prefix_length)
    member = filled(codec.encode(message_of(size), None), prefix_length, codec, channels)
    assert codec.decode(member) == (channels, {**message_of(size), FIELD: POSITION})
    # As channels_redis reads it, and packed as it would pack it.
    message = msgpack.unpackb(member[prefix_length:])
    assert list(message)[-2:] == [FIELD, CHANNEL_FIELD]
    assert msgpack.packb(message) == member[prefix_length:]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(message=st.dictionaries(st.text(max_size=5), VALUES, max_size=18), prefix_length=st.integers(0, 20))
def test_whatever_the_message(message: dict[str, Any], prefix_length: int) -> None:
    """Also one that holds what looks like a position."""
    message.pop(CHANNEL_FIELD, None)
    message = {**without_position(message), "fake": PLACEHOLDER, "f": ENTRY}
    codec = EnvelopeCodec(prefix_length)
    member = filled(codec.encode(message, None), prefix_length, codec, ["a", "b"])
    assert codec.decode(member) == (["a", "b"], {**message, FIELD: POSITION})


def test_a_position_goes_and_comes() -> None:
    message = {FIELD: "old", "type": "t"}
    assert with_position(message, POSITION) == {"type": "t", FIELD: POSITION}
    assert list(with_position(message, POSITION)) == ["type", FIELD]
    assert without_position(message) == {"type": "t"}
    assert message == {FIELD: "old", "type": "t"}
    plain = {"type": "t"}
    assert without_position(plain) is plain
