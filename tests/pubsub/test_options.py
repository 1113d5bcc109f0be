"""Options: what is refused by name when a layer is made, what has no effect; and a layer outside a loop."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest

from channels_redis_fast.pubsub import RedisPubSubChannelLayer

WRONG: list[tuple[str, Any]] = [
    ("hosts", "redis://localhost"),
    ("hosts", 5),
    ("hosts", {"address": "redis://localhost"}),
    ("hosts", [("localhost", "no port")]),
    ("hosts", ["http://localhost"]),
    ("hosts", [{"address": "redis://localhost", "colour": "red"}]),
    ("on_disconnect", 5),
    ("on_disconnect", b"down"),
    ("on_disconnect", True),
    ("on_reconnect", 5),
    ("on_reconnect", ["up"]),
    ("sharded", "yes"),
    ("sharded", 1),
]


@pytest.mark.parametrize(("option", "value"), WRONG, ids=lambda value: ascii(value)[:30])
def test_a_wrong_option_is_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError, KeyError), match=option) as raised:
        RedisPubSubChannelLayer(**{option: value})
    assert "s3cret" not in str(raised.value)


def test_options_of_the_core_layer(caplog: pytest.LogCaptureFixture) -> None:
    """One warning names all those that change nothing, and no other."""
    every = {"expiry": 60, "capacity": 5, "channel_capacity": {"x*": 1}, "group_expiry": 5, "random_prefix_length": 3}
    layer = RedisPubSubChannelLayer(**every)
    [record] = caplog.records
    assert (record.name, record.levelno) == ("channels_redis_fast", logging.WARNING)
    text = record.getMessage()
    named = set(re.findall(r"\w+", text)) & {*every, "hosts", "prefix"}
    assert named == {"group_expiry", "random_prefix_length"}
    assert layer.capacity == 5


def test_nothing_to_warn_about(caplog: pytest.LogCaptureFixture) -> None:
    RedisPubSubChannelLayer(hosts=[("localhost", 6379)], capacity=5, expiry=60, on_disconnect="x", on_reconnect="y")
    assert not caplog.records


def test_the_order_of_positional_options() -> None:
    """As in channels_redis."""
    layer = RedisPubSubChannelLayer([("localhost", 1)], "p", "down", "up")
    assert (layer.prefix, layer.on_disconnect, layer.on_reconnect) == ("p", "down", "up")


def test_outside_a_running_loop() -> None:
    """The admin, the shell and Channels itself look at a layer where no loop runs."""
    layer = RedisPubSubChannelLayer(hosts=["redis://:s3cret@localhost:1", ("other", 2)], channel_capacity={"x*": 7})
    assert hasattr(layer, "extensions")
    assert set(layer.extensions) == {"groups", "flush"}
    assert (layer.capacity, layer.expiry, layer.prefix) == (10_000, None, "asgi")
    assert (layer.get_capacity("y"), layer.get_capacity("xy")) == (10_000, 7)
    for text in (str(layer), repr(layer)):
        assert "s3cret" not in text
        assert "RedisPubSubChannelLayer" in text
    assert "localhost:1" in str(layer)
    assert "other:2" in str(layer)
    assert layer.stats()["sends"] == 0
    assert layer.deserialize(layer.serialize({"n": 1})) == {"n": 1}
    assert layer.consistent_hash("x") in (0, 1)
    assert layer.require_valid_channel_name("x")
    assert not hasattr(layer, "nothing of that name")
