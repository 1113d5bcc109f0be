"""
Counting what a core layer has in Redis: members of a group, messages that wait on a channel's key.

Only reads: expired entries that were not removed yet are not counted, and stay. Knows connections and
keys; names, shards and limits come from ``core``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from ..cluster.slot_queue import SlotQueue
from ..connection.commands import CommandConnection

logger = logging.getLogger("channels_redis_fast")


async def count_members(connection: CommandConnection | SlotQueue, key: bytes, expiry: int) -> int:
    """Return how many members a group's key has, those that were last added ``expiry`` seconds ago not among them."""
    (count,) = await connection.call((b"ZCOUNT", key, b"(%d" % _limit(expiry), b"+inf"), repeatable=True)
    return int(count)


async def name_members(connection: CommandConnection | SlotQueue, key: bytes, expiry: int) -> list[str]:
    """Return the names of such members by the time at which they were last added."""
    (members,) = await connection.call((b"ZRANGEBYSCORE", key, b"(%d" % _limit(expiry), b"+inf"), repeatable=True)
    names = []
    for member in members:
        try:
            names.append(member.decode())
        except UnicodeDecodeError:
            logger.error("Skipped a member of %r that is not a channel name", key.decode())
    return names


async def count_waiting(connections: Sequence[CommandConnection | SlotQueue], key: bytes, expiry: int) -> int:
    """Return how many messages wait on a channel's key, over all shards, those older than ``expiry`` not counted."""
    return sum(await asyncio.gather(*(_count_waiting(connection, key, expiry) for connection in connections)))


async def _count_waiting(connection: CommandConnection | SlotQueue, key: bytes, expiry: int) -> int:
    # Messages are stamped with the server's time, or with the sender's where scripts are refused; so is TIME there.
    (now,) = await connection.call((b"TIME",), repeatable=True, raises=False)
    limit = int(now[0]) - expiry if isinstance(now, list) else _limit(expiry)
    (count,) = await connection.call((b"ZCOUNT", key, b"(%d" % limit, b"+inf"), repeatable=True)
    return int(count)


def _limit(expiry: int) -> int:
    """Return the last score that has expired by this process' clock, as ``group_send`` and upstream's senders do."""
    return int(time.time()) - expiry
