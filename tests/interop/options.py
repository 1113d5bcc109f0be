"""The settings under which the fleet has to get along, and what is sent under each. Knows no layer."""

from __future__ import annotations

from typing import Any

OLD_KEY, NEW_KEY = "the old key, long enough for anybody", "the new key, long enough for anybody"

#: Options of every layer of a fleet by what they try; `shards` is the number of hosts.
OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {"prefix": None},
    "msgpack": {"serializer_format": "msgpack"},
    "json": {"serializer_format": "json"},
    "encrypted": {"symmetric_encryption_keys": [NEW_KEY, OLD_KEY]},
    "encrypted json": {"serializer_format": "json", "symmetric_encryption_keys": [NEW_KEY]},
    "own serializer": {"serializer_format": "deflated"},
    "own serializer, encrypted": {"serializer_format": "backwards", "symmetric_encryption_keys": [NEW_KEY]},
    "prefix": {"prefix": "spät/1:"},
    "short random prefix": {"random_prefix_length": 3},
    "no random prefix": {"random_prefix_length": 0, "serializer_format": "json"},
    "2 shards": {"shards": 2},
    "5 shards": {"shards": 5},
    "5 shards, encrypted, prefix": {"shards": 5, "symmetric_encryption_keys": [NEW_KEY], "prefix": "p"},
}

#: No two are equal: without random prefixes equal ones are one.
MESSAGES: list[dict[str, Any]] = [
    {"type": "chat.message", "text": "flat"},
    {"type": "chat.message", "text": "Grüße \N{SNOWMAN} \N{GRINNING FACE}\x00", "of": None, "loud": True},
    {"type": "numbers", "small": -1, "big": 2**63 - 1, "real": 0.1, "far": -1e300},
    {"type": "nested", "users": [{"name": "ada", "rooms": [1, 2, [3]]}, {}], "empty": []},
    # With the field that names the channels the header of a map grows by a byte after 15 keys.
    *({f"key{key}": key for key in range(keys)} for keys in (14, 15, 16)),
    {"type": "long", "text": "x" * 70_000},
]


def messages(options: dict[str, Any]) -> list[dict[str, Any]]:
    """What is sent under these options: msgpack can do more than the others."""
    if options.get("serializer_format", "msgpack") == "msgpack":
        return [*MESSAGES, {"type": "websocket.send", "bytes": bytes(range(256)), "blobs": [b"", b"\xff" * 300]}]
    return MESSAGES
