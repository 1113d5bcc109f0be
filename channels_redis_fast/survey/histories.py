"""
Surveys the histories of groups, for either layer: how long, how large, how old. Read-only; does not read messages.

Recognizes a history by its key. Requests only its oldest entry, which comes with its message.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..connection.link import Command
from ..connection.replies import REDIRECTIONS
from ..history.positions import group_key_of, histories_prefix
from .entries import Entry, by_size, note_refusal, seconds_left
from .group_keys import GroupKeySurvey
from .line import Line
from .snapshot import History, Picture, Shard


class HistorySurvey(GroupKeySurvey):
    """Fills in the histories of one shard. ``group_prefix``: how the keys, or Redis channels, of groups begin."""

    def __init__(self, line: Line, shard: Shard, picture: Picture, prefix: bytes, group_prefix: bytes) -> None:
        super().__init__(line, shard, picture, prefix, group_prefix, group_key_of)
        self.start = histories_prefix(prefix)

    async def look_at(self, keys: Sequence[bytes]) -> None:
        """Examine keys that begin with ``start``. Raises ``redis.exceptions.ConnectionError`` naming the host."""
        if not keys:
            return
        commands: list[Command] = []
        for key in keys:
            commands += ((b"TYPE", key), (b"PTTL", key), (b"XLEN", key))
        # Last, since a server may not have it.
        commands += [(b"MEMORY", b"USAGE", key) for key in keys]
        clock, *replies = await self._line.ask((b"TIME",), *commands)
        now = time.time() if isinstance(clock, Exception) else int(clock[0]) + int(clock[1]) / 1e6
        found: list[Entry] = []
        for at, key in enumerate(keys):
            kind, lives, count = replies[3 * at : 3 * at + 3]
            size = self._number("MEMORY USAGE", replies[3 * len(keys) + at])
            if kind == b"none" or kind.__class__ in REDIRECTIONS:
                # The key is gone, for good or to another server of the cluster.
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
