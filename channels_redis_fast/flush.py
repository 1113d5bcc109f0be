"""
Deleting what a core layer has on a server. Knows keys by what they begin with; not what is in them.
"""

from __future__ import annotations

import re

from .commands import CommandConnection

#: Keys that one SCAN step looks at: few enough not to hold up the server.
STEP = 1000


async def unlink_all(connection: CommandConnection, prefix: bytes, spared: bytes) -> None:
    """Unlink all keys that begin with ``prefix``, but for those that begin with ``spared``. SCAN, and not KEYS."""
    pattern = literal(prefix) + b"*"
    cursor = b"0"
    while True:
        ((cursor, keys),) = await connection.call((b"SCAN", cursor, b"MATCH", pattern, b"COUNT", STEP))
        keys = [key for key in keys if not key.startswith(spared)]
        if keys:
            await connection.call([b"UNLINK", *keys])
        if cursor == b"0":
            return


def literal(text: bytes) -> bytes:
    """Escape what means something in a Redis glob."""
    return re.sub(rb"([\\*?\[\]])", rb"\\\1", text)
