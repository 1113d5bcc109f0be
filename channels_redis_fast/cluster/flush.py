"""
Deletion of a layer's keys on a server or a cluster. Recognises keys by their prefix. Does not know their contents.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from ..connection.commands import CommandConnection
from .cluster import Cluster

#: Keys that one SCAN step examines: few enough not to block the server.
STEP = 1000


async def unlink_all(shard: CommandConnection | Cluster, prefix: bytes, is_spared: Callable[[bytes], bool]) -> None:
    """Unlink all keys that begin with ``prefix`` and are not spared. Uses SCAN instead of KEYS."""
    for server in await shard.servers():
        await _unlink_all_of(server, shard, prefix, is_spared)


async def _unlink_all_of(
    server: CommandConnection, shard: CommandConnection | Cluster, prefix: bytes, is_spared: Callable[[bytes], bool]
) -> None:
    pattern = literal(prefix) + b"*"
    cursor = b"0"
    while True:
        ((cursor, keys),) = await server.call((b"SCAN", cursor, b"MATCH", pattern, b"COUNT", STEP))
        # One key per command, since on a cluster no two of them need to be in one slot.
        await asyncio.gather(
            *(shard.at(key).call((b"UNLINK", key), repeatable=True) for key in keys if not is_spared(key))
        )
        if cursor == b"0":
            return


def literal(text: bytes) -> bytes:
    """Escape the special characters of a Redis glob."""
    return re.sub(rb"([\\*?\[\]])", rb"\\\1", text)
