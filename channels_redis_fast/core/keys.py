"""
Counts what a core layer has in Redis: members of a group, waiting messages on a channel's key.

Read-only: expired entries that were not removed yet are not counted, and stay. Knows connections and keys. Names,
shards and limits come from ``core``.
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
    """Return how many members a group's key has, not counting those last added ``expiry`` seconds ago or earlier."""
    (count,) = await connection.call((b"ZCOUNT", key, b"(%d" % _limit(expiry), b"+inf"), repeatable=True)
    return int(count)


async def name_members(connection: CommandConnection | SlotQueue, key: bytes, expiry: int) -> list[str]:
    """Return the names of these members, sorted by the time at which they were last added."""
    (members,) = await connection.call((b"ZRANGEBYSCORE", key, b"(%d" % _limit(expiry), b"+inf"), repeatable=True)
    names = []
    for member in members:
        try:
            names.append(member.decode())
        except UnicodeDecodeError:
            logger.error("Skipped a member of %r that is not a channel name", key.decode())
    return names


async def count_waiting(connections: Sequence[CommandConnection | SlotQueue], key: bytes, expiry: int) -> int:
    """
    Return how many messages wait on a channel's key on all shards, not counting those older than ``expiry`` seconds.
    """
    return sum(await asyncio.gather(*(_count_waiting(connection, key, expiry) for connection in connections)))


async def _count_waiting(connection: CommandConnection | SlotQueue, key: bytes, expiry: int) -> int:
    # Messages are stamped with the server's time, or with the sender's if scripts are refused; then TIME is refused
    # too.
    (now,) = await connection.call((b"TIME",), repeatable=True, raises=False)
    limit = int(now[0]) - expiry if isinstance(now, list) else _limit(expiry)
    (count,) = await connection.call((b"ZCOUNT", key, b"(%d" % limit, b"+inf"), repeatable=True)
    return int(count)


def _limit(expiry: int) -> int:
    """Return the highest score that has expired by this process' clock, as ``group_send`` and upstream's senders do."""
    return int(time.time()) - expiry
