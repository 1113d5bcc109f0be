"""Times a command from the write to the reply. Knows what takes the reply. Does not know the command or the socket."""

from __future__ import annotations

from time import monotonic
from typing import Any, Protocol

from ..hot import Histogram


class Answerable(Protocol):
    """One command on the wire. ``resolve`` takes its reply; ``lost`` is called if there will be none."""

    def resolve(self, reply: Any) -> None: ...
    def lost(self, error: Exception) -> None: ...


class TimedCommand:
    """A command on the wire that is timed; it wraps the object that waits for the reply."""

    __slots__ = ("_began", "_histogram", "_request")

    def __init__(self, request: Answerable, histogram: Histogram) -> None:
        self._request = request
        self._histogram = histogram
        # Not loop time, which may stand still for long.
        self._began = monotonic()

    def resolve(self, reply: Any) -> None:
        self._histogram.since(self._began)
        self._request.resolve(reply)

    def lost(self, error: Exception) -> None:
        self._request.lost(error)
