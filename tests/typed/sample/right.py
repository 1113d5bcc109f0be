"""A site's code as a strict type checker should take it. Never run: mypy reads it (see tests/typed/check.py)."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from typing_extensions import assert_type

import channels_redis_fast
from channels_redis_fast.core import ChannelFull, RedisChannelLayer
from channels_redis_fast.history import History
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from channels_redis_fast.serializers import BaseMessageSerializer, MsgPackSerializer, registry
from channels_redis_fast.utils import decode_hosts

assert_type(channels_redis_fast.__version__, str)

core = RedisChannelLayer(
    hosts=["redis://localhost:6379", ("localhost", 6380), {"address": "rediss://localhost:6381", "ssl_ca_certs": "ca"}],
    prefix="chat",
    expiry=30,
    group_expiry=3600,
    capacity=200,
    channel_capacity={"http.request": 200, re.compile(r"^http\.response!.+"): 500},
    symmetric_encryption_keys=["secret", b"older"],
    random_prefix_length=16,
    serializer_format="json",
    history={"room.*": {"size": 1000, "ttl": 3600}, re.compile(r"^chat\."): {"size": 10, "ttl": 60, "max_bytes": 5000}},
)
pubsub = RedisPubSubChannelLayer(
    hosts=[("localhost", 6379)],
    on_disconnect="redis.disconnected",
    on_reconnect="redis.reconnected",
    capacity=1000,
    channel_capacity={"chat.*": 10},
    expiry=2.5,
    history={"*": {"size": 100, "ttl": 60}},
    on_drain="redis.drained",
)


class Compact(BaseMessageSerializer):
    def as_bytes(self, message: Any, *args: Any, **kwargs: Any) -> bytes:
        return repr(message).encode()

    def from_bytes(self, message: bytes, *args: Any, **kwargs: Any) -> Any:
        return message.decode()


registry.register_serializer("compact", Compact)


class Sharded(RedisChannelLayer):
    """Methods that a site may override, with the types that they have."""

    def consistent_hash(self, value: str | bytes) -> int:
        return super().consistent_hash(value)

    def create_pool(self, index: int) -> Any:
        return super().create_pool(index)

    def get_capacity(self, channel: str) -> int:
        return 2 * super().get_capacity(channel)

    def serialize(self, message: dict[str, Any]) -> bytes:
        return super().serialize({**message, "by": "us"})

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        await super().send(channel, message)

    async def group_add(self, group: str, channel: str) -> None:
        await super().group_add(group=group, channel=channel)


async def talk(layer: RedisChannelLayer | RedisPubSubChannelLayer) -> dict[str, Any]:
    channel = assert_type(await layer.new_channel(), str)
    await layer.group_add("room", channel)
    await layer.group_send("room", {"type": "chat.message", "text": "hello"})
    await layer.group_discard("room", channel)
    try:
        await layer.send(channel, {"type": "chat.message"})
    except ChannelFull:
        await layer.flush()
    await layer.send_many([(channel, {"type": "chat.message"})])
    await layer.group_send_many((room, {"type": "chat.message"}) for room in ("here", "there"))
    await layer.group_send_many([("here", {"type": "chat.message"}, [channel]), ("there", {"type": "chat.message"})])
    await layer.group_send("room", {"type": "chat.message"}, exclude={channel})
    layer.sync.group_send("room", {"type": "chat.message"}, exclude=(channel,), timeout=1)
    history = assert_type(await layer.group_history("room", limit=20), History)
    assert_type(await layer.group_resume("room", channel, since=history.position), History)
    assert_type((history.messages, history.position, history.complete), tuple[list[dict[str, Any]], str, bool])
    await layer.group_forget("room")
    await layer.drain(over=5)
    assert_type(layer.is_draining, bool)
    assert_type(layer.stats(), dict[str, int])
    assert_type(layer.get_capacity(channel), int)
    await layer.close_pools()
    return assert_type(await layer.receive(channel), dict[str, Any])


def from_a_task(layer: RedisChannelLayer | RedisPubSubChannelLayer) -> None:
    layer.sync.group_send("room", {"type": "chat.message"})
    layer.sync.send_many([("chat", {"type": "chat.message"})], timeout=None)
    history = assert_type(layer.sync.group_history("room", since="x", limit=5, timeout=1), History)
    assert_type(layer.sync.group_resume("room", "chat", history.position), History)
    layer.sync.group_forget("room")
    layer.sync.drain()


async def both() -> None:
    assert_type(await asyncio.gather(talk(core), talk(pubsub)), tuple[dict[str, Any], dict[str, Any]])


assert_type(MsgPackSerializer(random_prefix_length=12).serialize({"type": "x"}), bytes)
assert_type(Sharded(decode_hosts(None)).prefix, str)
