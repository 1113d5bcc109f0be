"""Options: what is refused when a layer is made, with a text that names the option; what is not."""

from __future__ import annotations

import re
from typing import Any

import pytest

from channels_redis_fast import serializers
from channels_redis_fast.core import RedisChannelLayer

WRONG: list[tuple[str, Any]] = [
    ("expiry", None),
    ("group_expiry", None),
    ("group_expiry", "1d"),
    ("group_expiry", 0),
    ("group_expiry", [1]),
    ("random_prefix_length", None),
    ("random_prefix_length", "twelve"),
    ("random_prefix_length", -1),
    ("random_prefix_length", 1.5),
]


@pytest.mark.parametrize(("option", "value"), WRONG, ids=lambda value: ascii(value)[:30])
def test_a_wrong_option_is_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=option) as raised:
        RedisChannelLayer(**{option: value})
    assert "s3cret" not in str(raised.value)


def test_what_a_layer_has_when_nothing_is_said() -> None:
    layer = RedisChannelLayer()
    assert layer.prefix == "asgi"
    assert (layer.expiry, layer.group_expiry, layer.capacity) == (60, 86400, 100)
    assert layer.channel_capacity == []
    assert layer.ring_size == 1
    assert re.fullmatch("[0-9a-f]{32}", layer.client_prefix)
    assert layer.client_prefix != RedisChannelLayer().client_prefix


@pytest.mark.parametrize(
    "options",
    [{"group_expiry": 1}, {"expiry": 1.9, "group_expiry": 2.5}, {"random_prefix_length": 0}],
    ids=lambda value: ascii(value)[:40],
)
def test_what_is_allowed(options: dict[str, Any]) -> None:
    RedisChannelLayer(**options)


def test_options_by_position_are_in_upstreams_order() -> None:
    layer = RedisChannelLayer(["redis://h:1"], "p", 1, 2, 3, {"a": 4}, None, 5, "json")
    assert layer.hosts == [{"address": "redis://h:1"}]
    assert (layer.prefix, layer.expiry, layer.group_expiry, layer.capacity) == ("p", 1, 2, 3)
    assert layer.get_capacity("a") == 4
    assert isinstance(layer._serializer, serializers.JSONSerializer)
    assert layer._serializer.random_prefix_length == 5


@pytest.mark.parametrize("value", ["70", " 70 ", "70.0", 70.0])
def test_numbers_as_settings_have_them(value: Any) -> None:
    assert RedisChannelLayer(group_expiry=value).group_expiry == 70
