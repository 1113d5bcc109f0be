"""
Deleting a layer's keys on a server or a cluster. Recognises keys by their prefix; does not know what is in them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from ..connection.commands import CommandConnection
from .cluster import Cluster

#: Keys that one SCAN step looks at: few enough not to hold up the server.
STEP = 1000


async def unlink_all(shard: CommandConnection | Cluster, prefix: bytes, is_spared: Callable[[bytes], bool]) -> None:
    """Unlink, with SCAN and not KEYS, all keys that begin with ``prefix`` and are not spared."""
    for server in await shard.servers():
        await _unlink_all_of(server, shard, prefix, is_spared)


async def _unlink_all_of(
    server: CommandConnection, shard: CommandConnection | Cluster, prefix: bytes, is_spared: Callable[[bytes], bool]
) -> None:
    pattern = literal(prefix) + b"*"
    cursor = b"0"
    while True:
        ((cursor, keys),) = await server.call((b"SCAN", cursor, b"MATCH", pattern, b"COUNT", STEP))
        # Each by itself, as on a cluster no two of them need be in one slot.
        await asyncio.gather(
            *(shard.at(key).call((b"UNLINK", key), repeatable=True) for key in keys if not is_spared(key))
        )
        if cursor == b"0":
            return


def literal(text: bytes) -> bytes:
    """Escape what means something in a Redis glob."""
    return re.sub(rb"([\\*?\[\]])", rb"\\\1", text)
