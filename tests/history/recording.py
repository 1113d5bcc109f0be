"""Writing into histories without a layer that sends: the script that records, called by a plain client."""

from __future__ import annotations

from typing import Any

import redis

from channels_redis_fast.base import RedisLayer
from channels_redis_fast.connection.identity import ServerIdentity
from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.history import History, Stream
from channels_redis_fast.history.scripts import RECORD

#: What is kept where a test does not say it.
ROOMY = {"size": 10_000, "ttl": 60}

#: Returns the position; or the newest ID in a list where the proposed one is not newer; or an error.
SCRIPT = (
    RECORD
    + """
local position, newer, wrong = append(KEYS[1], {newest(KEYS[1])}, 1, ARGV[6], ARGV[7])
redis.call('EXPIRE', KEYS[1], ARGV[3])
if position then return position end
return newer and {newer} or wrong
"""
)


def stream_of(layer: RedisLayer, group: str = "room") -> Stream:
    """The history of a group as the layer has it."""
    assert layer._histories is not None
    return layer._histories.get(group, group_key(layer, group))


def group_key(layer: RedisLayer, group: str = "room") -> bytes:
    between = ":group:" if isinstance(layer, RedisChannelLayer) else "__group__"
    return f"{layer.prefix}{between}{group}".encode()


def identity_of(raw: redis.Redis) -> ServerIdentity:
    """Who a server is, as it says itself."""
    return ServerIdentity(raw.info("server")["run_id"].encode(), raw.info("replication")["master_replid"].encode())


def record(
    raw: redis.Redis,
    layer: RedisLayer,
    *messages: dict[str, Any] | bytes,
    group: str = "room",
    server: ServerIdentity | None = None,
    proposal: str = "",
) -> list[Any]:
    """Record messages, bytes as they are; their positions, or what the script says instead."""
    stream = stream_of(layer, group)
    server = identity_of(raw) if server is None else server
    pipeline = raw.pipeline(transaction=False)
    for message in messages:
        body = message if isinstance(message, bytes) else layer._codec.encode(message, None)
        pipeline.eval(SCRIPT, 1, stream.key, *stream.append_arguments(server), proposal, body)
    return [reply.decode() if isinstance(reply, bytes) else reply for reply in pipeline.execute()]


def numbered(first: int, last: int) -> list[dict[str, Any]]:
    return [{"type": "t", "n": n} for n in range(first, last + 1)]


def numbers(history: History) -> list[int]:
    return [message["n"] for message in history.messages]
