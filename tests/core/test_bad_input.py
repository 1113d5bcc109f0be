"""What a caller can do wrong while the layer runs: each mistake is told to him, and costs nobody else a message."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from channels.layers import BaseChannelLayer

from channels_redis_fast.core import RedisChannelLayer
from tests.core.helpers import receive_many, started, within

MakeLayer = Callable[..., RedisChannelLayer]

BAD_CHANNELS = [
    None, 5, b"bytes", ["list"], "", "space in it", "chat room", "ünïcode", "a/b", "a:b", "!", "!local", "a!b!c",
    "a!b c", "x" * 100, "x" * 50 + "!" + "y" * 49, "lone\ud800", "new\nline", "a\n\n", "nul\0",
]  # fmt: skip
BAD_GROUPS = [None, 5, b"bytes", "", "space in it", "ünïcode", "a/b", "spec!fic", "x" * 100, "lone\ud800", "a\n\n"]

CHANNEL_TEXT = BaseChannelLayer.invalid_name_error.format("Channel")
GROUP_TEXT = BaseChannelLayer.invalid_name_error.format("Group")


class NoDict(Exception):
    """What a custom serializer raises."""


def keys(raw: Any, prefix: str) -> list[bytes]:
    return list(raw.scan_iter(f"{prefix}*"))


# Names.


@pytest.mark.parametrize("name", BAD_CHANNELS, ids=lambda name: ascii(name)[:20])
async def test_an_invalid_channel_name(make_layer: MakeLayer, raw: Any, prefix: str, name: Any) -> None:
    layer = make_layer()
    calls = [
        layer.send(name, {}),
        layer.receive(name),
        layer.group_add("room", name),
        layer.group_discard("room", name),
    ]
    for call in calls:
        with pytest.raises(TypeError) as raised:
            await within(call)
        assert str(raised.value) == CHANNEL_TEXT
    assert keys(raw, prefix) == []


@pytest.mark.parametrize("name", BAD_GROUPS, ids=lambda name: ascii(name)[:20])
async def test_an_invalid_group_name(make_layer: MakeLayer, raw: Any, prefix: str, name: Any) -> None:
    layer = make_layer()
    for call in (layer.group_add(name, "general"), layer.group_discard(name, "general"), layer.group_send(name, {})):
        with pytest.raises(TypeError) as raised:
            await within(call)
        assert str(raised.value) == GROUP_TEXT
    assert keys(raw, prefix) == []


# Messages.


@pytest.mark.parametrize("message", [None, [], "text", b"bytes", 5, [("type", "x")]], ids=repr)
async def test_a_message_that_is_no_dict(make_layer: MakeLayer, raw: Any, prefix: str, message: Any) -> None:
    layer = make_layer()
    with pytest.raises(AssertionError, match="message is not a dict"):
        await layer.send("general", message)
    with pytest.raises(AssertionError, match="message is not a dict"):
        await layer.group_send("room", message)
    assert keys(raw, prefix) == []


@pytest.mark.parametrize("channel", ["general", "x!local"])
async def test_the_reserved_key(make_layer: MakeLayer, raw: Any, prefix: str, channel: str) -> None:
    layer = make_layer()
    await layer.group_add("room", channel)
    before = keys(raw, prefix)
    for call in (layer.send(channel, {"__asgi_channel__": "y"}), layer.group_send("room", {"__asgi_channel__": None})):
        with pytest.raises(AssertionError, match="__asgi_channel__"):
            await within(call)
    assert keys(raw, prefix) == before


@pytest.mark.parametrize("arguments", [(), (5,), ("its text",)], ids=str)
async def test_an_error_of_a_custom_serializer(make_layer: MakeLayer, arguments: tuple[Any, ...]) -> None:
    """Whatever arguments an exception has, the text names the channel."""

    class Refusing(RedisChannelLayer):
        def serialize(self, message: dict[str, Any]) -> bytes:
            raise NoDict(*arguments)

    with pytest.raises(NoDict) as raised:
        await make_layer(Refusing).send("some.channel", {})
    assert "some.channel" in str(raised.value)
    assert all(str(argument) in str(raised.value) for argument in arguments)


# Rubbish in Redis.

GOOD = b"0123456789ab"
RUBBISH = {
    "empty": b"",
    "shorter than a prefix": b"abc",
    "no body": GOOD,
    "not msgpack": GOOD + b"\xc1",
    "cut": GOOD + msgpack.packb({"type": "x", "text": "abc"})[:-1],
    "more behind": GOOD + msgpack.packb({"type": "x"}) + b"x",
    "a number": GOOD + b"\x05",
    "a list": GOOD + msgpack.packb([1]),
    "not utf-8": GOOD + b"\x81\xa1a\xa2\xff\xfe",
    "a key that is a list": GOOD + b"\x81\x90\x01",
    "addressed to a number": GOOD + msgpack.packb({"__asgi_channel__": 5}),
    "addressed to nobody": GOOD + msgpack.packb({"__asgi_channel__": []}),
    "addressed to a list of numbers": GOOD + msgpack.packb({"__asgi_channel__": [5]}),
    "addressed to None": GOOD + msgpack.packb({"__asgi_channel__": None}),
    "a million deep": GOOD + b"\x81\xa1a" + b"\x91" * 1_000_000 + b"\x00",
}


@pytest.mark.parametrize(
    "kind",
    [
        # No two messages are the same; these are.
        "specific",
        "general",
    ],
)
@pytest.mark.parametrize("name", RUBBISH)
async def test_what_cannot_be_decoded_is_logged_skipped_and_counted(
    make_layer: MakeLayer, raw: Any, prefix: str, caplog: pytest.LogCaptureFixture, kind: str, name: str
) -> None:
    layer, sender = make_layer(), make_layer()
    channel = await layer.new_channel() if kind == "specific" else "general"
    key = prefix + layer.non_local_name(channel)
    start = time.time() - 10
    # Alone in front, which is popped; then between two others, which on a specific key is read in passing.
    raw.zadd(key, {RUBBISH[name]: start})
    await sender.send(channel, {"n": 1})
    assert await within(layer.receive(channel)) == {"n": 1}
    await sender.send(channel, {"n": 2})
    raw.zadd(key, {RUBBISH[name]: time.time()})
    await sender.send(channel, {"n": 3})
    assert await receive_many(layer, channel, 2) == [{"n": 2}, {"n": 3}]
    assert layer.stats()["undecodable"] == 2
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2
    assert all(key in record.getMessage() for record in errors)
    await layer.close_pools()
    assert not raw.exists(key), "what was skipped came back, or stayed"


@pytest.mark.parametrize("kind", ["specific", "general"])
async def test_rubbish_ends_no_wait(make_layer: MakeLayer, raw: Any, prefix: str, kind: str) -> None:
    layer = make_layer()
    channel = await layer.new_channel() if kind == "specific" else "general"
    receiving = await started(layer.receive(channel))
    for n in range(5):
        raw.zadd(prefix + layer.non_local_name(channel), {b"rubbish%d" % n: time.time()})
    await make_layer().send(channel, {"n": 1})
    assert await within(receiving) == {"n": 1}


@pytest.mark.parametrize("kind", ["specific", "general"])
async def test_a_key_of_another_type_is_an_error_and_no_end(
    make_layer: MakeLayer, raw: Any, prefix: str, kind: str
) -> None:
    """Somebody else's string under the name: sends raise what Redis says; once it is gone, all is well."""
    from redis.exceptions import ResponseError

    layer = make_layer()
    channel = await layer.new_channel() if kind == "specific" else "general"
    raw.set(prefix + layer.non_local_name(channel), "in the way")
    results = await within(asyncio.gather(*(layer.send(channel, {}) for _ in range(3)), return_exceptions=True))
    assert [type(result) for result in results] == [ResponseError] * 3
    other = await layer.new_channel("other")
    await layer.send(other, {"n": 1})
    assert await within(layer.receive(other)) == {"n": 1}
    receiving = await started(layer.receive(channel))
    raw.delete(prefix + layer.non_local_name(channel))
    await layer.send(channel, {"n": 2})
    assert await within(receiving) == {"n": 2}
