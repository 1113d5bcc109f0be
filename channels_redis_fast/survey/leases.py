"""
Looks at the leases of a layer's processes, of either layer: how many there are, and how many are overdue. Read-only.
"""

from __future__ import annotations

from ..presence.leases import leases_key
from .entries import note_refusal
from .line import Line, NodeLine
from .snapshot import Leases, Picture, Shard


async def survey_leases(line: Line, shard: Shard, picture: Picture, prefix: bytes) -> None:
    """Fill in the leases, if they are on this server. Raises ``redis.exceptions.ConnectionError`` naming the host."""
    key = leases_key(prefix)
    if not (line.has(key) if isinstance(line, NodeLine) else line.index == 0):
        return
    clock, count = await line.ask((b"TIME",), (b"ZCARD", key))
    for command, reply in (("TIME", clock), ("ZCARD", count)):
        if isinstance(reply, Exception):
            note_refusal(shard, command, reply)
    if isinstance(clock, Exception) or not isinstance(count, int) or not count:
        return
    (overdue,) = await line.ask((b"ZCOUNT", key, b"-inf", b"%d.%06d" % (int(clock[0]), int(clock[1]))))
    if isinstance(overdue, Exception):
        note_refusal(shard, "ZCOUNT", overdue)
        return
    picture.leases.append(Leases(line.index, count - overdue, overdue))
