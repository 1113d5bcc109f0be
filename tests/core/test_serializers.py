"""Serializers: ours, a site's own in every documented way, and encryption with more than one key."""

from __future__ import annotations

import json
import logging
import pickle
import random
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest

from channels_redis_fast import serializers
from channels_redis_fast.core import RedisChannelLayer
from tests.core.helpers import nothing_to_receive, receive_many, started, within

MakeLayer = Callable[..., RedisChannelLayer]


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, type[Any]], None]]:
    """Register serializers for one test only."""
    monkeypatch.setattr(serializers.registry, "_registry", dict(serializers.registry._registry))
    return serializers.registry.register_serializer


class Pickling:
    """As channels_redis documents a custom serializer: nothing but two methods, and options it may ignore."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def serialize(self, message: Any) -> bytes:
        return b"%d" % random.getrandbits(64) + b"|" + pickle.dumps(message)

    def deserialize(self, stored: bytes) -> Any:
        return pickle.loads(stored.partition(b"|")[2])


class Compressing(serializers.BaseMessageSerializer):
    """Only the two methods that a subclass has to have."""

    def as_bytes(self, message: Any, *args: Any, **kwargs: Any) -> bytes:
        return zlib.compress(json.dumps(message).encode())

    def from_bytes(self, message: bytes, *args: Any, **kwargs: Any) -> Any:
        return json.loads(zlib.decompress(message))


class Marking(serializers.MsgPackSerializer):
    """A subclass of ours with one method overridden: it must not be passed by."""

    def as_bytes(self, message: Any, *args: Any, **kwargs: Any) -> bytes:  # type: ignore[override]
        return bytes(msgpack.packb({**message, "mark": 1}))


class Sets(serializers.MsgPackSerializer):
    """msgpack with a type of the site's own."""

    def as_bytes(self, message: Any, *args: Any, **kwargs: Any) -> bytes:  # type: ignore[override]
        return bytes(msgpack.packb(message, default=lambda value: {"set": sorted(value)}))

    def from_bytes(self, message: bytes, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        return msgpack.unpackb(message, object_hook=lambda value: set(value["set"]) if "set" in value else value)


class OwnMethods(RedisChannelLayer):
    """A layer whose own methods are the serializer."""

    def serialize(self, message: Any) -> bytes:
        return b"%d" % random.getrandbits(64) + b"own" + json.dumps(message).encode()

    def deserialize(self, message: bytes) -> Any:
        return json.loads(message.partition(b"own")[2])


async def check(layer: RedisChannelLayer, sent: dict[str, Any], expected: dict[str, Any]) -> None:
    """All ways of a message: general, specific, group of several on one key; popped and read in passing."""
    channels = [await layer.new_channel() for _ in range(3)]
    targets = [*channels, "general"]
    receiving = await started(layer.receive(channels[0]))
    for channel in targets:
        await layer.group_add("room", channel)
        for _ in range(2):
            await layer.send(channel, sent)
    await layer.group_send("room", sent)
    assert await within(receiving) == expected
    for channel in targets:
        messages = await receive_many(layer, channel, 2 if channel == channels[0] else 3)
        assert messages == [expected] * len(messages)
        assert len({id(message) for message in messages}) == len(messages)
        await layer.group_discard("room", channel)


SENT = {"type": "x", "list": [1, {"a": None}]}


@pytest.mark.parametrize("keys", [None, ["secret"]], ids=["plain", "encrypted"])
@pytest.mark.parametrize("form", ["msgpack", "json"])
async def test_ours(make_layer: MakeLayer, form: str, keys: list[str] | None) -> None:
    await check(make_layer(serializer_format=form, symmetric_encryption_keys=keys), SENT, SENT)


@pytest.mark.parametrize("keys", [None, ["secret"]], ids=["plain", "encrypted"])
@pytest.mark.parametrize("kind", [Pickling, Compressing, Marking])
async def test_a_sites_own(
    make_layer: MakeLayer,
    register: Callable[[str, type[Any]], None],
    kind: type[Any],
    keys: list[str] | None,
) -> None:
    register("own", kind)
    expected = {**SENT, "mark": 1} if kind is Marking else SENT
    await check(make_layer(serializer_format="own", symmetric_encryption_keys=keys), SENT, expected)


async def test_a_subclass_may_send_what_msgpack_cannot(
    make_layer: MakeLayer, register: Callable[[str, type[Any]], None]
) -> None:
    register("sets", Sets)
    message = {"type": "x", "value": {1, 2}}
    await check(make_layer(serializer_format="sets"), message, message)


async def test_methods_of_a_layer(make_layer: MakeLayer, raw: Any, prefix: str) -> None:
    layer = make_layer(OwnMethods)
    await layer.send("general", SENT)
    [member] = raw.zrange(f"{prefix}general", 0, -1)
    assert json.loads(member.partition(b"own")[2]) == SENT
    assert await within(layer.receive("general")) == SENT
    await check(layer, SENT, SENT)


async def test_one_method_of_a_layer(make_layer: MakeLayer) -> None:
    """Only one of the two overridden: the other is still the serializer's."""

    class Sending(RedisChannelLayer):
        def serialize(self, message: Any) -> bytes:
            return super().serialize({**message, "mark": 1})

    class Receiving(RedisChannelLayer):
        def deserialize(self, message: bytes) -> Any:
            return {**super().deserialize(message), "mark": 2}

    await check(make_layer(Sending), SENT, {**SENT, "mark": 1})
    await check(make_layer(Receiving), SENT, {**SENT, "mark": 2})


async def test_a_serializer_patched_by_the_site(make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a subclass, the class itself: also then its methods are what counts."""
    monkeypatch.setattr(
        serializers.MsgPackSerializer, "as_bytes", staticmethod(lambda message: msgpack.packb({**message, "mark": 3}))
    )
    await check(make_layer(), SENT, {**SENT, "mark": 3})


def test_serialize_and_deserialize_are_public() -> None:
    layer = RedisChannelLayer()
    stored = layer.serialize(SENT)
    assert msgpack.unpackb(stored[12:]) == SENT
    assert layer.deserialize(stored) == SENT


def test_the_registry(register: Callable[[str, Any], None]) -> None:
    class Half:
        def serialize(self, message: Any) -> bytes:
            return b""

    for wrong in (Half, Pickling(), "pickle", None):
        with pytest.raises(AssertionError, match="serializer_class"):
            register("wrong", wrong)
    with pytest.raises(serializers.SerializerDoesNotExist):
        serializers.registry.get_serializer("wrong")
    register("own", Pickling)
    options = {"random_prefix_length": 3, "expiry": 4, "symmetric_encryption_keys": None}
    assert serializers.registry.get_serializer("own", **options).options == options
    register("own", Compressing)
    assert type(serializers.registry.get_serializer("own")) is Compressing
    assert type(serializers.registry.get_serializer("json")) is serializers.JSONSerializer


def test_the_base_class_is_abstract() -> None:
    with pytest.raises(TypeError, match="as_bytes"):
        serializers.BaseMessageSerializer()  # type: ignore[abstract]


def test_a_serializer_by_itself() -> None:
    """Defaults of upstream's class: no prefix, no expiry, no keys."""
    for kind in (serializers.MsgPackSerializer, serializers.JSONSerializer):
        serializer = kind()
        assert serializer.deserialize(serializer.serialize(SENT)) == SENT
        assert serializer.serialize(SENT) == serializer.as_bytes(SENT)
        prefixed = kind(random_prefix_length=5)
        assert prefixed.serialize(SENT)[5:] == serializer.as_bytes(SENT)


# Encryption.


async def test_the_first_key_encrypts_and_all_decrypt(make_layer: MakeLayer) -> None:
    old, new = make_layer(symmetric_encryption_keys=["old"]), make_layer(symmetric_encryption_keys=["new", "old"])
    channel = await new.new_channel()
    await old.send(channel, {"n": 1})
    await new.send(channel, {"n": 2})
    assert await receive_many(new, channel, 2) == [{"n": 1}, {"n": 2}]
    rotated = make_layer(symmetric_encryption_keys=["new"])
    await new.send("general", {"n": 3})
    assert await within(rotated.receive("general")) == {"n": 3}


@pytest.mark.parametrize("form", ["msgpack", "json"])
@pytest.mark.parametrize("kind", ["specific", "general"])
async def test_a_token_under_an_unknown_key_is_skipped(
    make_layer: MakeLayer, caplog: pytest.LogCaptureFixture, kind: str, form: str
) -> None:
    layer = make_layer(symmetric_encryption_keys=["ours"], serializer_format=form)
    channel = await layer.new_channel() if kind == "specific" else "general"
    await make_layer(symmetric_encryption_keys=["theirs"], serializer_format=form).send(channel, {"n": 1})
    await make_layer(serializer_format=form).send(channel, {"n": 2})  # not encrypted at all
    await layer.send(channel, {"n": 3})
    assert await within(layer.receive(channel)) == {"n": 3}
    assert layer.stats()["undecodable"] == 2
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(messages) == 2
    assert all(layer.non_local_name(channel) in message and "InvalidToken" in message for message in messages)
    await nothing_to_receive(layer, channel)


@pytest.mark.parametrize(("age", "readable"), [(65, True), (75, False)])
async def test_a_token_older_than_expiry_and_tolerance_is_refused(
    make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch, age: int, readable: bool
) -> None:
    """Ten seconds for clocks that differ."""
    from cryptography import fernet

    layer = make_layer(symmetric_encryption_keys=["key"], expiry=60)
    now = fernet.time.time
    with monkeypatch.context() as earlier:
        earlier.setattr(fernet.time, "time", lambda: now() - age)
        stored = layer.serialize({"n": 1})
    if readable:
        assert layer.deserialize(stored) == {"n": 1}
    else:
        with pytest.raises(fernet.InvalidToken):
            layer.deserialize(stored)


@pytest.mark.parametrize("options", [{}, {"symmetric_encryption_keys": ["s3cret"]}])
async def test_keys_that_are_no_text(make_layer: MakeLayer, options: dict[str, Any]) -> None:
    """What can be sent can be received, by all ways; channels_redis accepts it from a sender and reads none of it."""
    layer, peer = make_layer(**options), make_layer(**options)
    channel = await layer.new_channel()
    for message in ({"scores": {1: "one", 2.5: [{None: True}]}}, {1: 2, "type": "x"}):
        await layer.group_add("room", channel)
        await peer.send(channel, message)
        await peer.group_send("room", message)
        await peer.send("general", message)
        assert await receive_many(layer, channel, 2) == [message, message]
        assert await within(layer.receive("general")) == message
    assert layer.stats()["undecodable"] == 0
