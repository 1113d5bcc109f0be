"""Timing a command from the write to the reply. Knows who waits for the reply, and neither command nor socket."""

from __future__ import annotations

from time import monotonic
from typing import Any, Protocol

from ..hot import Histogram


class Answerable(Protocol):
    """One command on the wire. ``resolve`` takes its reply; ``lost`` is called if there will be none."""

    def resolve(self, reply: Any) -> None: ...
    def lost(self, error: Exception) -> None: ...


class TimedCommand:
    """A command on the wire that is timed, in the place of who waits for its reply."""

    __slots__ = ("_began", "_histogram", "_request")

    def __init__(self, request: Answerable, histogram: Histogram) -> None:
        self._request = request
        self._histogram = histogram
        # Loop time may stand still for long.
        self._began = monotonic()

    def resolve(self, reply: Any) -> None:
        self._histogram.since(self._began)
        self._request.resolve(reply)

    def lost(self, error: Exception) -> None:
        self._request.lost(error)
