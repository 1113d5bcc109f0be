"""
The histories of an in-memory layer's groups: what is kept for each, and how it is read.

Positions are those of ``history``, and ``complete`` has the same meaning. Messages are lost only by making room or by
expiring, always the oldest first. So what was missed is complete if the position asked for is one that the group had,
and nothing newer than that has gone. A group that is forgotten, or expires, starts again at a position that nobody has
seen.

The caller holds the layer's lock.
"""

from __future__ import annotations

import logging
import os
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..history import FIELD, History
from ..history.positions import Position, digest_of
from ..history.reading import check_arguments
from ..history.retention import Retention, RetentionRules
from ..messages.codec import Message
from ..stats import Stats
from .copying import Copying

logger = logging.getLogger("channels_redis_fast")

#: Bytes counted for a kept message in addition to the message itself, as on a server.
OVERHEAD = 100

#: Milliseconds and number, like the ID of a stream entry.
Entry = tuple[int, int]


class Kept(NamedTuple):
    """A message that was sent to a group. ``excluded``: the channels that it was not for."""

    entry: Entry
    message: Any
    size: int
    excluded: frozenset[str]


class GroupHistory:
    """The history of one group. ``epoch``: identifies the life of the layer that it belongs to."""

    __slots__ = ("_bytes", "_digest", "_epoch", "_kept", "_start", "_was_trimmed", "expires_at", "retention")

    def __init__(self, group: str, epoch: str, retention: Retention) -> None:
        self.retention = retention
        self.expires_at = 0.0
        self._digest = digest_of(group.encode())
        self._epoch = epoch
        self._kept: deque[Kept] = deque()
        self._bytes = 0
        #: The position before the oldest kept message. The number is random, so that if a history was forgotten, its
        #: group's next history has none of its positions.
        self._start: Entry = (_milliseconds(), int.from_bytes(os.urandom(4), "big") % 1_000_000_000)
        self._was_trimmed = False

    def next_position(self) -> Position:
        """Return the position of the next message."""
        milliseconds, number = self._newest
        now = _milliseconds()
        entry = (now, 0) if now > milliseconds else (milliseconds, number + 1)
        return self._position(entry)

    def record(self, position: Position, message: Any, size: int, excluded: frozenset[str]) -> None:
        """Keep a message at the position from ``next_position``. The oldest messages make room for it."""
        self._kept.append(Kept((position.milliseconds, position.number), message, size + OVERHEAD, excluded))
        self._bytes += size + OVERHEAD
        while len(self._kept) > self.retention.size or (self._bytes > self.retention.max_bytes and len(self._kept) > 1):
            oldest = self._kept.popleft()
            self._bytes -= oldest.size
            self._start = oldest.entry
            self._was_trimmed = True

    def behind(self, since: str | None, limit: int | None) -> tuple[list[Kept], Entry, bool]:
        """Return the requested messages, the position to continue from, and whether they are complete."""
        position = None if since is None else Position.parse(since)
        if position is not None and position.group != self._digest:
            position = None
        if position is None:
            found = list(self._kept)
            cut = limit is not None and len(found) > limit
            if limit is not None and cut:
                found = found[-limit:]
            return found, self._newest, since is None and not cut and not self._was_trimmed
        after: Entry = (position.milliseconds, position.number)
        missed: list[Kept] = []
        is_known = self._start == after
        for kept in reversed(self._kept):
            if kept.entry <= after:
                is_known = kept.entry == after
                break
            missed.append(kept)
        missed.reverse()
        reached = self._newest
        if limit is not None and len(missed) >= limit:
            missed = missed[:limit]
            reached = missed[-1].entry
        return missed, reached, is_known and position.epoch == self._epoch

    def text(self, entry: Entry) -> str:
        """Return the position of an entry as text."""
        return str(self._position(entry))

    @property
    def _newest(self) -> Entry:
        return self._kept[-1].entry if self._kept else self._start

    def _position(self, entry: Entry) -> Position:
        return Position(*entry, self._digest, self._epoch)


class GroupHistories:
    """The histories of a layer. ``rules``: the option ``history``."""

    def __init__(self, rules: Mapping[Any, Mapping[str, Any]], copying: Copying, stats: Stats) -> None:
        self._rules = RetentionRules(rules)
        self._copying = copying
        self._stats = stats
        self._epoch = os.urandom(4).hex()
        #: By group, the most recently used at the end.
        self._histories: OrderedDict[str, GroupHistory] = OrderedDict()

    @property
    def retentions(self) -> Mapping[str, Retention]:
        """How much is kept of groups, by their pattern as text."""
        return self._rules.by_pattern

    def find(self, group: str) -> GroupHistory | None:
        """Return the history of a group; None if it has none."""
        now = time.monotonic()
        history = self._histories.get(group)
        if history is None or history.expires_at <= now:
            retention = self._rules.lookup(group)
            if retention is None:
                return None
            self._drop_expired(now)
            history = self._histories[group] = GroupHistory(group, self._epoch, retention)
        history.expires_at = now + history.retention.ttl
        self._histories.move_to_end(group)
        return history

    def get(self, group: str) -> GroupHistory:
        """``find``, but raises ``RuntimeError`` for a group without a history."""
        history = self.find(group)
        if history is None:
            raise RuntimeError(f"Group {group!r} has no history: no pattern of the option 'history' matches its name.")
        return history

    def record(self, group: str, history: GroupHistory, message: Message, excluded: frozenset[str]) -> Message:
        """Keep a message. Return it as it is delivered, with its position."""
        position = history.next_position()
        kept, size = self._copying.keep(message, "group", group)
        history.record(position, kept, size, excluded)
        self._stats.recorded += 1
        delivered = self._copying.give(kept)
        delivered[FIELD] = str(position)
        return delivered

    def read(self, group: str, since: str | None, limit: int | None, channel: str | None = None) -> History:
        """
        Return messages of a group's history; for ``channel``, without messages that exclude it.

        Raises ``RuntimeError`` for a group without a history, ``TypeError`` or ``ValueError`` naming a wrong argument.
        """
        history = self.get(group)
        check_arguments(since, limit)
        found, reached, is_whole = history.behind(since, limit)
        messages = []
        for kept in found:
            if channel in kept.excluded:
                continue
            try:
                message = self._copying.give(kept.message)
            except Exception as error:
                self._stats.undecodable += 1
                logger.error(
                    "Skipped an undecodable message in the history of group %r: %s: %s",
                    group,
                    type(error).__name__,
                    error,
                )
                is_whole = False
                continue
            message[FIELD] = history.text(kept.entry)
            messages.append(message)
        return History(messages, history.text(reached), is_whole)

    def forget(self, group: str) -> None:
        """Discard a group's history. Raises ``RuntimeError`` for a group without one."""
        self.get(group)
        del self._histories[group]

    def clear(self) -> None:
        """Discard all histories."""
        self._histories.clear()

    def _drop_expired(self, now: float) -> None:
        # Groups may have different lifetimes, so a long-lived one at the front may keep expired ones behind it for a
        # while. Not forever, since it moves to the end or expires itself.
        while self._histories:
            oldest = next(iter(self._histories))
            if self._histories[oldest].expires_at > now:
                break
            del self._histories[oldest]


def _milliseconds() -> int:
    return time.time_ns() // 1_000_000
