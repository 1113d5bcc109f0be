"""
Surveys the leases of processes, for either layer: how many there are, and how many are overdue. Read-only.
"""

from __future__ import annotations

from typing import Any

from ..base import RedisLayer
from ..presence.leases import leases_key
from .entries import note_refusal
from .line import Line, NodeLine
from .snapshot import Leases, Picture, Shard


async def survey_leases(layer: RedisLayer, line: Line, shard: Shard, picture: Picture) -> None:
    """Fill in the leases, if they are on this server. Raises ``redis.exceptions.ConnectionError`` naming the host."""
    key = leases_key(layer.prefix.encode())
    if not (line.has(key) if isinstance(line, NodeLine) else line.index == 0):
        return

    def number(command: str, reply: Any) -> int:
        if isinstance(reply, Exception) and layer._leases is not None:
            note_refusal(shard, command, reply)
        return reply if isinstance(reply, int) else 0

    clock, reply = await line.ask((b"TIME",), (b"ZCARD", key))
    count = number("ZCARD", reply)
    if not count or isinstance(clock, Exception):
        number("TIME", clock)
        return
    (reply,) = await line.ask((b"ZCOUNT", key, b"-inf", b"%d.%06d" % (int(clock[0]), int(clock[1]))))
    overdue = number("ZCOUNT", reply)
    if not isinstance(reply, Exception):
        picture.leases.append(Leases(line.index, count - overdue, overdue))
