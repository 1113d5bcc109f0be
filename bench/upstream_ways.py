"""How `channels_redis` 4.3 and redis-py do what our hot functions do, with our functions' arguments.

Restated, not imported: the two packages do not fit into one environment. Knows no layer; only `bench.test_hot` uses it.
"""

from __future__ import annotations

import asyncio
import binascii
import random
from copy import deepcopy
from typing import Any

import msgpack
from channels.layers import BaseChannelLayer

_base = BaseChannelLayer()


def kind(name: str) -> int:
    _base.require_valid_channel_name(name)
    return len(_base.non_local_name(name)) if "!" in name else 0


def is_group(name: str) -> bool:
    return _base.require_valid_group_name(name)


def key(prefix: bytes, name: str, length: int = 0) -> str:
    return prefix.decode() + (_base.non_local_name(name) if "!" in name else name)


def shard(value: str, ring_size: int) -> int:
    return int((binascii.crc32(value.encode("utf8")) & 0xFFF) / (4096 / float(ring_size)))


def split(members: list[bytes], prefix: bytes, ring_size: int) -> tuple[dict[int, list[str]], dict[str, list[str]]]:
    """The first half of `_map_channel_keys_to_connection`."""
    keys: dict[int, list[str]] = {}
    channels: dict[str, list[str]] = {}
    for name in [member.decode("utf8") for member in members]:
        redis_key = key(prefix, name)
        index = shard(_base.non_local_name(name), ring_size)
        if redis_key not in channels:
            keys.setdefault(index, []).append(redis_key)
        channels.setdefault(redis_key, []).append(name)
    return keys, channels


class CapacityTable:
    def __init__(self, globs: dict[str, int], default: int) -> None:
        layer = BaseChannelLayer(capacity=default)
        layer.channel_capacity = layer.compile_capacities(globs)
        self.lookup = layer.get_capacity


def next_prefix(length: int) -> bytes:
    return random.getrandbits(8 * length).to_bytes(length, "big")


def pack(message: dict[str, Any]) -> bytes:
    packed: bytes = msgpack.packb(message)
    return packed


def encode(message: dict[str, Any], channel: str | None, prefix_length: int) -> bytes:
    message = message.copy()
    if channel is not None:
        message["__asgi_channel__"] = channel
    return next_prefix(prefix_length) + pack(message)


def frames(message: dict[str, Any], channels: list[list[str]], prefix_length: int) -> list[bytes]:
    """The second half of `_map_channel_keys_to_connection`: the whole message is packed for each key."""
    return [next_prefix(prefix_length) + pack({**message, "__asgi_channel__": names}) for names in channels]


def decode(member: bytes, prefix_length: int) -> tuple[Any, dict[str, Any]]:
    message = msgpack.unpackb(member[prefix_length:])
    return message.pop("__asgi_channel__", None), message


def clone(message: dict[str, Any]) -> dict[str, Any]:
    """Its layers give one object to all; this is the in-memory layer's way."""
    return deepcopy(message)


def assemble(commands: list[list[Any]]) -> bytes:
    """redis-py's encoder and hiredis' packer, one command after the other."""
    import hiredis
    from redis._parsers.encoders import Encoder

    encode = Encoder("utf-8", "strict", False).encode
    return b"".join(hiredis.pack_command(tuple(encode(word) for word in command)) for command in commands)


async def wake(receivers: int) -> None:
    """Each receiver waits on a queue of its own."""
    queues: list[asyncio.Queue[int]] = [asyncio.Queue() for _ in range(receivers)]
    tasks = [asyncio.ensure_future(queue.get()) for queue in queues]
    await asyncio.sleep(0)
    for number, queue in enumerate(queues):
        queue.put_nowait(number)
    await asyncio.gather(*tasks)
