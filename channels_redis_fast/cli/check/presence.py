"""What the option ``presence`` requires of a server's user, for layers that have it. Sends no commands itself."""

from __future__ import annotations

from ...base import RedisLayer
from ...connection.link import Command
from ...presence.keys import PresenceKeys


def presence_key(layer: RedisLayer, scratch: bytes) -> bytes:
    """Return the key of a hash that nobody else uses, in the slot of the scratch name."""
    return PresenceKeys.of(layer.prefix.encode(), scratch).users


def presence_commands(layer: RedisLayer, scratch: bytes) -> dict[str, Command]:
    """Return the commands that the layer sends only for presence, harmless on a scratch hash."""
    key = presence_key(layer, scratch)
    return {
        "HSET": (b"HSET", key, b"check", 1),
        "HGET": (b"HGET", key, b"check"),
        "HMGET": (b"HMGET", key, b"check"),
        "HGETALL": (b"HGETALL", key),
        "HKEYS": (b"HKEYS", key),
        "HLEN": (b"HLEN", key),
        "HEXISTS": (b"HEXISTS", key, b"check"),
        "HINCRBY": (b"HINCRBY", key, b"check", 1),
        "EXISTS": (b"EXISTS", key),
        "HDEL": (b"HDEL", key, b"check"),
    }
