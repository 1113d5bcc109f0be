"""Groups with a history on the core layer, seen from outside: streams, members and messages as they are in Redis."""

from __future__ import annotations

import asyncio
import json
import os
import zlib
from collections.abc import Callable
from typing import Any

from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.history.positions import FIELD, Position, history_key
from channels_redis_fast.serializers import registry
from tests.core.helpers import receive_many, within

MakeCore = Callable[..., RedisChannelLayer]

#: The option of nearly all tests, and the capacity of layers that are not to be full.
HISTORY: dict[str, Any] = {"room*": {"size": 5_000, "ttl": 60}}
ROOMY = 100_000


class Deflated:
    """A serializer of a site's own, of no base class."""

    def __init__(self, **options: Any) -> None:
        pass

    def serialize(self, message: dict[str, Any]) -> bytes:
        return os.urandom(8) + zlib.compress(json.dumps(message).encode())

    def deserialize(self, message: bytes) -> Any:
        return json.loads(zlib.decompress(message[8:]))


class Overridden(RedisChannelLayer):
    """A layer of a site's own."""

    def serialize(self, message: dict[str, Any]) -> bytes:
        return super().serialize(message)[::-1]

    def deserialize(self, message: bytes) -> dict[str, Any]:
        return super().deserialize(message[::-1])


registry.register_serializer("deflated", Deflated)

#: Ways from a message to bytes: the layer's class and options.
CODECS: dict[str, dict[str, Any]] = {
    "msgpack": {},
    "no prefix": {"random_prefix_length": 0},
    "json": {"serializer_format": "json"},
    "encrypted": {"symmetric_encryption_keys": ["secret"]},
    "custom": {"serializer_format": "deflated"},
    "overridden": {"kind": Overridden},
}


def group_key(layer: RedisChannelLayer, group: str) -> bytes:
    return f"{layer.prefix}:group:{group}".encode()


def stream_key(layer: RedisChannelLayer, group: str) -> bytes:
    return history_key(layer.prefix.encode(), group_key(layer, group))


def recorded(raw: Any, layer: RedisChannelLayer, group: str) -> list[bytes]:
    """The IDs of the messages in a group's stream; marks are none."""
    return [entry for entry, fields in raw.xrange(stream_key(layer, group)) if b"m" in fields]


def entry_of(message: dict[str, Any]) -> bytes:
    """The ID that a message's position stands for."""
    position = Position.parse(message[FIELD])
    assert position is not None, message
    return position.entry.encode()


def entries_of(messages: list[dict[str, Any]]) -> list[bytes]:
    return [entry_of(message) for message in messages]


def bare(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages without their positions."""
    return [{name: value for name, value in message.items() if name != FIELD} for message in messages]


async def until_last(layer: RedisChannelLayer, channel: str) -> list[dict[str, Any]]:
    """What a channel receives before the message that says that it is the last."""

    async def receive() -> list[dict[str, Any]]:
        messages = []
        while (message := await layer.receive(channel)).get("type") != "last":
            messages.append(message)
        return messages

    return await within(receive(), 60)


async def all_of(layer: RedisChannelLayer, channel: str) -> list[dict[str, Any]]:
    """What waits on a channel, of all that is there now."""
    await layer.send(channel, {"type": "last"})
    return await until_last(layer, channel)


async def in_thread(run: Callable[[], Any]) -> Any:
    return await within(asyncio.get_running_loop().run_in_executor(None, run), 60)


__all__ = [
    "CODECS",
    "FIELD",
    "HISTORY",
    "ROOMY",
    "MakeCore",
    "all_of",
    "bare",
    "entries_of",
    "entry_of",
    "group_key",
    "in_thread",
    "receive_many",
    "recorded",
    "stream_key",
    "until_last",
]
