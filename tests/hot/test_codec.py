"""A layer's plain codec: the functions of the envelope with the length of the prefix filled in."""

from __future__ import annotations

from typing import Any

import pytest

MESSAGE = {"type": "chat.message", "n": 1, "more": [1, {"x": None}]}


@pytest.mark.parametrize("length", [0, 9, 10, 12])
def test_there_and_back(hot: Any, length: int) -> None:
    codec = hot.EnvelopeCodec(length)
    assert codec.ordered == (length >= hot.ORDERED_FROM)
    for channel in (None, "specific.a!b"):
        member = codec.encode(MESSAGE, channel)
        assert member[length:] == hot.encode(MESSAGE, channel, 0)
        assert codec.decode(member) == hot.decode(member, length) == (channel, MESSAGE)
    members = codec.encode_group(MESSAGE, [["a!b", "a!c"], ["b!d"]])
    assert codec.decode_all(members) == ([(["a!b", "a!c"], MESSAGE), (["b!d"], MESSAGE)], [])


def test_what_cannot_be_decoded_spoils_nothing(hot: Any) -> None:
    codec = hot.EnvelopeCodec(2)
    good = [codec.encode({"n": n}, "a!b") for n in range(2)]
    deliveries, errors = codec.decode_all([good[0], b"", b"xx\x93", good[1], b"xx\x01"])
    assert deliveries == [("a!b", {"n": 0}), ("a!b", {"n": 1})]
    assert len(errors) == 3
    assert "must be a map" in str(errors[2])


def test_a_negative_length(hot: Any) -> None:
    with pytest.raises(ValueError, match="a prefix has no negative length: -1"):
        hot.EnvelopeCodec(-1)
