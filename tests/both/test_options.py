"""Options that both layers have: what is refused when a layer is made, with a text that names the option."""

from __future__ import annotations

import re
from typing import Any

import pytest
from channels.layers import get_channel_layer
from django.test import override_settings

from channels_redis_fast import serializers
from tests.both.conftest import LAYERS

NAN = float("nan")

WRONG: list[tuple[str, Any]] = [
    ("prefix", None),
    ("prefix", b"asgi"),
    ("prefix", 5),
    ("prefix", "\ud800"),
    ("expiry", "sixty"),
    ("expiry", True),
    ("expiry", 0),
    ("expiry", -1),
    ("expiry", NAN),
    ("expiry", float("inf")),
    ("expiry", 2**40),
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
    ("on_drain", True),
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
def test_a_wrong_option_is_refused_by_name(kind: str, option: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=option) as raised:
        LAYERS[kind](**{option: value})
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("name", ["capasity", "grace", "client_prefix", "channel_layer", "on_diconnect"])
def test_an_option_that_does_not_exist(kind: str, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Also beside one that the Pub/Sub layer takes without effect."""
    for others in ({}, {"group_expiry": 5}):
        with pytest.raises(TypeError, match=f"'{name}'"):
            LAYERS[kind](**{**others, name: 5})
    assert not caplog.records


@pytest.mark.parametrize(
    "options",
    [
        {"prefix": ""},
        {"prefix": "ü :{}*"},
        {"expiry": 1},
        {"expiry": 1.9},
        {"capacity": 0},
        {"channel_capacity": None},
        {"channel_capacity": {}},
        {"channel_capacity": {re.compile("x"): 0, "*": 10**9}},
        {"symmetric_encryption_keys": None},
        {"symmetric_encryption_keys": ()},
        {"symmetric_encryption_keys": iter(["one", b"two"])},
        {"serializer_format": "json"},
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_what_is_allowed(kind: str, options: dict[str, Any]) -> None:
    LAYERS[kind](**options)


@pytest.mark.parametrize("option", ["expiry", "capacity"])
@pytest.mark.parametrize("value", ["70", " 70 ", "70.0", 70.0])
def test_numbers_as_settings_have_them(kind: str, option: str, value: Any) -> None:
    """Texts, as the environment gives them, and whole floats."""
    assert getattr(LAYERS[kind](**{option: value}), option) == 70


def test_encryption_without_cryptography(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serializers, "Fernet", None)
    monkeypatch.setattr(serializers, "MultiFernet", None)
    with pytest.raises(ValueError, match=r"symmetric_encryption_keys.*cryptography"):
        LAYERS[kind](symmetric_encryption_keys=["s3cret"])
    LAYERS[kind](symmetric_encryption_keys=[])
    LAYERS[kind]()


class Unmakeable:
    """A serializer that cannot be made, in a way that looks as if the layer were not configured."""

    def __init__(self, **options: Any) -> None:
        raise KeyError("SECRET_SETTING")

    def serialize(self, message: Any) -> bytes:
        return b""

    def deserialize(self, message: bytes) -> Any:
        return {}


@pytest.mark.parametrize("name", ["yaml", "unmakeable"])
def test_a_serializer_that_does_not_exist(monkeypatch: pytest.MonkeyPatch, kind: str, name: str) -> None:
    """``get_channel_layer`` takes a KeyError for a layer that is not configured, and would return None."""
    monkeypatch.setitem(serializers.registry._registry, "unmakeable", Unmakeable)
    config = {"BACKEND": f"channels_redis_fast.{kind}.{LAYERS[kind].__name__}", "CONFIG": {"serializer_format": name}}
    wrong = pytest.raises(ValueError, match=f"'serializer_format'.*'{name}'")
    with override_settings(CHANNEL_LAYERS={"default": config}), wrong:
        get_channel_layer()
    assert issubclass(serializers.SerializerDoesNotExist, KeyError)
