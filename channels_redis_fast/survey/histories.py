"""
Looks at the histories of groups, of either layer: how long, how large, how old. Read-only; reads no message's text.

Knows a history by its key. Of its entries it asks for the oldest alone, which comes with its message.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ..connection.link import Command
from ..connection.replies import REDIRECTIONS
from ..history.positions import group_key_of, histories_prefix
from .entries import Entry, by_size, note_refusal, seconds_left
from .line import Line
from .snapshot import History, Leftover, Picture, Shard, printable


class HistorySurvey:
    """Fills in the histories of one shard. ``group_prefix``: what the keys, or Redis channels, of groups begin with."""

    def __init__(self, line: Line, shard: Shard, picture: Picture, prefix: bytes, group_prefix: bytes) -> None:
        self._line = line
        self._shard = shard
        self._picture = picture
        self._prefix = prefix
        self._group_prefix = group_prefix
        self.start = histories_prefix(prefix)

    async def look_at(self, keys: Sequence[bytes]) -> None:
        """Look at keys that begin with ``start``. Raises ``redis.exceptions.ConnectionError`` naming the host."""
        if not keys:
            return
        commands: list[Command] = []
        for key in keys:
            commands += ((b"TYPE", key), (b"PTTL", key), (b"XLEN", key))
        # Last, since it is what a server may not have.
        commands += [(b"MEMORY", b"USAGE", key) for key in keys]
        clock, *replies = await self._line.ask((b"TIME",), *commands)
        now = time.time() if isinstance(clock, Exception) else int(clock[0]) + int(clock[1]) / 1e6
        found: list[Entry] = []
        for at, key in enumerate(keys):
            kind, lives, count = replies[3 * at : 3 * at + 3]
            size = self._number("MEMORY USAGE", replies[3 * len(keys) + at])
            if kind == b"none" or kind.__class__ in REDIRECTIONS:
                # It has gone, for good or to another server of the cluster.
                continue
            if not isinstance(kind, Exception) and kind != b"stream":
                self._leave(key, "not a stream", None, size)
                continue
            length = self._number("XLEN", count)
            remaining = self._number("PTTL", lives)
            if remaining == -1:
                self._leave(key, "no expiry", length, size)
            found.append(Entry(key, length, size, seconds_left(remaining)))
        for some in by_size(found):
            await self._look_into(some, now)

    async def _look_into(self, streams: list[Entry], now: float) -> None:
        commands = [(b"XRANGE", key, b"-", b"+", b"COUNT", 1) for key, _, _, _ in streams]
        for (key, length, size, remaining), oldest in zip(streams, await self._line.ask(*commands), strict=True):
            age = None
            if isinstance(oldest, Exception):
                note_refusal(self._shard, "XRANGE", oldest)
            elif oldest:
                age = max(0.0, now - int(oldest[0][0].partition(b"-")[0]) / 1000)
            self._picture.histories.append(History(self._name(key), self._line.index, length, size, age, remaining))

    def _name(self, key: bytes) -> str:
        group_key = group_key_of(self._prefix, key)
        if group_key is None or not group_key.startswith(self._group_prefix):
            return printable(key)
        return printable(group_key[len(self._group_prefix) :])

    def _leave(self, key: bytes, kind: str, length: int | None, size: int | None) -> None:
        self._picture.leftovers.append(Leftover(printable(key), self._line.index, kind, length, size))

    def _number(self, command: str, reply: Any) -> int | None:
        if isinstance(reply, Exception):
            note_refusal(self._shard, command, reply)
            return None
        return reply if isinstance(reply, int) else None
