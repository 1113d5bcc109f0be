"""
The positions that a client sends when it comes back: ``?since=`` and ``Last-Event-ID``. No I/O.

Any input is accepted, with bounded work: malformed or excessive input raises nothing, but is remembered, so that the
client is told that something may be missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from urllib.parse import parse_qsl

from ..history.positions import Position

#: The maximum number of positions that one client may send, and the maximum size of the query or header in bytes.
MAX_POSITIONS = 100
MAX_BYTES = 16_384


class Since:
    """The positions up to which a client has seen its groups."""

    __slots__ = ("_by_digest", "_by_group", "_is_whole")

    def __init__(self) -> None:
        #: Positions sent without a group's name, by the digest of the group that they contain.
        self._by_digest: dict[str, str] = {}
        #: Positions sent with a group's name, unparsed.
        self._by_group: dict[str, object] = {}
        #: False if something was not understood, which may have been a position of any group.
        self._is_whole = True

    @classmethod
    def from_query(cls, query: bytes) -> Since:
        """Return the values of ``since`` in a query string: positions, or ``{"group": "position"}`` as JSON."""
        since = cls()
        if b"since=" not in query:
            return since
        if len(query) > MAX_BYTES:
            since._is_whole = False
            return since
        for name, value in parse_qsl(query.decode("ascii", "replace")):
            if name == "since":
                since._add(value)
        return since

    @classmethod
    def from_event_id(cls, header: bytes) -> Since:
        """Return the positions in a ``Last-Event-ID``, separated by commas."""
        since = cls()
        if len(header) > MAX_BYTES:
            since._is_whole = False
        else:
            since._add_positions(filter(None, header.decode("ascii", "replace").split(",")))
        return since

    def take(self, group: str, digest: str) -> tuple[str | None, bool]:
        """
        Return the position that the client has of a group, and forget it.

        The position is None if there is none. The second value is False if there may have been one that was not
        understood.
        """
        if group in self._by_group:
            text = self._by_group.pop(group)
            position = Position.parse(text) if isinstance(text, str) else None
            if position is None or position.group != digest:
                return None, False
            return str(position), True
        found = self._by_digest.pop(digest, None)
        return found, found is not None or self._is_whole

    def _add(self, value: str) -> None:
        if not value.startswith("{"):
            self._add_positions(value.split(","))
            return
        try:
            positions = json.loads(value)
        except (ValueError, RecursionError):
            self._is_whole = False
            return
        for group, position in positions.items():
            # A client may say that it has no position of a group yet.
            if position is not None and self._has_room():
                self._by_group[group] = position

    def _add_positions(self, texts: Iterable[str]) -> None:
        for text in texts:
            position = Position.parse(text.strip())
            if position is None:
                self._is_whole = False
            elif self._has_room():
                # Of two positions, the older one: messages after it may then come twice, but none is missed.
                known = self._by_digest.get(position.group)
                self._by_digest[position.group] = str(position) if known is None else min(known, str(position))

    def _has_room(self) -> bool:
        if len(self._by_digest) + len(self._by_group) < MAX_POSITIONS:
            return True
        self._is_whole = False
        return False
