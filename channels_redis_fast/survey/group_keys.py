"""Shared by the surveys of histories and presence: keys that each belong to one group. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .entries import note_refusal
from .line import Line
from .snapshot import Leftover, Picture, Shard, printable


class GroupKeySurvey:
    """
    Examines keys of groups on one shard. ``group_prefix``: how the keys, or Redis channels, of groups begin.

    ``group_key_of``: returns the key of the group that a key belongs to, given the layer's prefix; None if there is
    none.
    """

    def __init__(
        self,
        line: Line,
        shard: Shard,
        picture: Picture,
        prefix: bytes,
        group_prefix: bytes,
        group_key_of: Callable[[bytes, bytes], bytes | None],
    ) -> None:
        self._line = line
        self._shard = shard
        self._picture = picture
        self._prefix = prefix
        self._group_prefix = group_prefix
        self._group_key_of = group_key_of

    def _name(self, key: bytes) -> str:
        group_key = self._group_key_of(self._prefix, key)
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
