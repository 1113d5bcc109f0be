"""
The drain of a layer before its process ends: which channels were told to go, and what still runs. No I/O.

``Drain`` is what a layer remembers; the layers say who receives. ``HANDLERS`` is what runs in this process for clients
and jobs, as far as somebody counts it (``deploy``). Knows neither layers nor servers.

Rules kept here:

- Each channel is told once, however often the layer is drained.
- The shares of channels that are told together are spread evenly over the time that is left, in random order.
- After the deadline nothing is remembered any more, so that a process that goes on does not grow.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection
from contextvars import ContextVar
from random import Random
from typing import Any

#: Seconds between two looks at whether anybody is left.
LOOK = 0.05

#: A channel and what it is told.
Notice = tuple[str | list[str] | None, dict[str, Any]]


class Drain:
    """
    The drain of one layer in one process.

    ``kind``: the type of the message that channels get, None if they get none.
    """

    def __init__(self, kind: str | None) -> None:
        self.kind = kind
        #: Until when (monotonic) channels are told, and waited for.
        self.deadline = time.monotonic()
        #: Channels that were received on since it began, and whose receiver has not left. Changed without the lock, by
        #: calls that are atomic: a receiver may be ended by the garbage collector.
        self.present: set[str] = set()
        self._told: set[str] = set()
        self._lock = threading.Lock()
        # Of its own: sites seed the global one, and so would spread alike in all processes.
        self._random = Random(os.urandom(16))

    def extend(self, over: float) -> float:
        """Have it last ``over`` seconds from now, if it would end before; return when these have passed."""
        until = time.monotonic() + over
        with self._lock:
            self.deadline = max(self.deadline, until)
        return until

    def arrived(self, channels: Collection[str]) -> list[Notice]:
        """Called with channels that somebody receives on; return what those get that were not told yet."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            return []
        with self._lock:
            self.present.update(channels)
            if self.kind is None:
                return []
            new = [channel for channel in channels if channel not in self._told]
            self._told.update(new)
            self._random.shuffle(new)
            share = left / max(len(new), 1)
            return [
                (channel, {"type": self.kind, "after": (place + self._random.random()) * share})
                for place, channel in enumerate(new)
            ]

    def left(self, channel: str) -> None:
        """Called when a receiver has left. In the middle of anything, in any thread."""
        self.present.discard(channel)


_own: ContextVar[object] = ContextVar("channels_redis_fast.drain.own", default=None)


class RunningHandlers:
    """What runs in this process for clients and jobs. For any thread."""

    def __init__(self) -> None:
        #: Whether all connections of the process are counted here, so that no channel has a consumer beside them.
        self.are_counted = False
        self._running: set[object] = set()

    def begin(self) -> object:
        """Called when something begins to run; return what ``end`` takes. Code that it runs does not wait for it."""
        handler = object()
        self._running.add(handler)
        _own.set(handler)
        return handler

    def pause(self, handler: object) -> None:
        """Called when it does nothing but wait for its next job."""
        self._running.discard(handler)

    def go_on(self, handler: object) -> None:
        """Called when it has a job again."""
        self._running.add(handler)

    def end(self, handler: object) -> None:
        """Called when it has ended."""
        self._running.discard(handler)

    def are_running(self) -> bool:
        """Return whether anything runs but what asks."""
        own = _own.get()
        return len(self._running) > (own in self._running)

    def forget(self) -> None:
        """In a forked child: what runs is the parent's."""
        self.__init__()  # type: ignore[misc]


HANDLERS = RunningHandlers()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=HANDLERS.forget)
