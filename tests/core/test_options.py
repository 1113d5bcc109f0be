"""Options: what is refused when a layer is made, with a text that names the option; what is not."""

from __future__ import annotations

import re
from typing import Any

import pytest
from channels.layers import get_channel_layer
from django.test import override_settings

from channels_redis_fast import serializers
from channels_redis_fast.core import RedisChannelLayer

NAN = float("nan")

WRONG: list[tuple[str, Any]] = [
    ("prefix", None),
    ("prefix", b"asgi"),
    ("prefix", 5),
    ("prefix", "\ud800"),
    ("expiry", None),
    ("expiry", "sixty"),
    ("expiry", True),
    ("expiry", 0),
    ("expiry", -1),
    ("expiry", NAN),
    ("expiry", float("inf")),
    ("expiry", 2**40),
    ("group_expiry", None),
    ("group_expiry", "1d"),
    ("group_expiry", 0),
    ("group_expiry", [1]),
    ("capacity", None),
    ("capacity", "many"),
    ("capacity", 1.5),
    ("capacity", True),
    ("capacity", -1),
    ("channel_capacity", "http.*"),
    ("channel_capacity", [("http.*", 5)]),
    ("channel_capacity", 5),
    ("channel_capacity", {"http.*": "5"}),
    ("channel_capacity", {"http.*": None}),
    ("channel_capacity", {"http.*": 1.5}),
    ("channel_capacity", {"http.*": True}),
    ("channel_capacity", {"http.*": -1}),
    ("channel_capacity", {5: 5}),
    ("channel_capacity", {b"http.*": 5}),
    ("on_drain", 5),
    ("on_drain", b"drain"),
    ("random_prefix_length", None),
    ("random_prefix_length", "twelve"),
    ("random_prefix_length", -1),
    ("random_prefix_length", 1.5),
    ("symmetric_encryption_keys", "s3cret"),
    ("symmetric_encryption_keys", b"s3cret"),
    ("symmetric_encryption_keys", 5),
    ("symmetric_encryption_keys", [5]),
    ("symmetric_encryption_keys", ["good", None]),
    ("serializer_format", "yaml"),
    ("serializer_format", None),
    ("serializer_format", ["msgpack"]),
]


@pytest.mark.parametrize(("option", "value"), WRONG, ids=lambda value: ascii(value)[:30])
def test_a_wrong_option_is_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=option) as raised:
        RedisChannelLayer(**{option: value})
    assert "s3cret" not in str(raised.value)


def test_an_option_that_does_not_exist() -> None:
    with pytest.raises(TypeError, match="capasity"):
        RedisChannelLayer(capasity=5)  # type: ignore[call-arg]


def test_encryption_without_cryptography(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serializers, "Fernet", None)
    monkeypatch.setattr(serializers, "MultiFernet", None)
    with pytest.raises(ValueError, match=r"symmetric_encryption_keys.*cryptography"):
        RedisChannelLayer(symmetric_encryption_keys=["s3cret"])
    RedisChannelLayer(symmetric_encryption_keys=[])
    RedisChannelLayer()


class Unmakeable:
    """A serializer that cannot be made, in a way that looks as if the layer were not configured."""

    def __init__(self, **options: Any) -> None:
        raise KeyError("SECRET_SETTING")

    def serialize(self, message: Any) -> bytes:
        return b""

    def deserialize(self, message: bytes) -> Any:
        return {}


@pytest.mark.parametrize("backend", ["core.RedisChannelLayer", "pubsub.RedisPubSubChannelLayer"])
@pytest.mark.parametrize("name", ["yaml", "unmakeable"])
def test_a_serializer_that_does_not_exist(monkeypatch: pytest.MonkeyPatch, backend: str, name: str) -> None:
    """``get_channel_layer`` takes a KeyError for a layer that is not configured, and would return None."""
    monkeypatch.setitem(serializers.registry._registry, "unmakeable", Unmakeable)
    config = {"BACKEND": f"channels_redis_fast.{backend}", "CONFIG": {"serializer_format": name}}
    wrong = pytest.raises(ValueError, match=f"'serializer_format'.*'{name}'")
    with override_settings(CHANNEL_LAYERS={"default": config}), wrong:
        get_channel_layer()
    assert issubclass(serializers.SerializerDoesNotExist, KeyError)


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
    [
        {"prefix": ""},
        {"prefix": "ü :{}*"},
        {"expiry": 1},
        {"expiry": 1.9, "group_expiry": 2.5},
        {"capacity": 0},
        {"channel_capacity": None},
        {"channel_capacity": {}},
        {"channel_capacity": {re.compile("x"): 0, "*": 10**9}},
        {"symmetric_encryption_keys": None},
        {"symmetric_encryption_keys": ()},
        {"symmetric_encryption_keys": iter(["one", b"two"])},
        {"random_prefix_length": 0},
        {"serializer_format": "json"},
    ],
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


@pytest.mark.parametrize("option", ["expiry", "group_expiry", "capacity"])
@pytest.mark.parametrize("value", ["70", " 70 ", "70.0", 70.0])
def test_numbers_as_settings_have_them(option: str, value: Any) -> None:
    """Texts, as the environment gives them, and whole floats."""
    assert getattr(RedisChannelLayer(**{option: value}), option) == 70
