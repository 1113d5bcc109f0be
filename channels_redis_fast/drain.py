"""
The drain of a layer before its process ends: which channels were told to leave, and what still runs. No I/O.

``Drain`` is a layer's record; the layers report who receives. ``HANDLERS`` is what runs in this process for clients and
jobs, as far as it is counted (``deploy``). Does not know layers or servers.

Rules kept here:

- Each channel is told once, however often the layer is drained.
- Channels that are told together are spread evenly over the remaining time, in random order.
- After the deadline nothing more is recorded, so that the memory of a process that keeps running does not grow.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection
from contextvars import ContextVar
from random import Random
from typing import Any

#: Seconds between two checks whether anybody is left.
LOOK = 0.05

#: A channel and the message for it.
Notice = tuple[str | list[str] | None, dict[str, Any]]


class Drain:
    """
    The drain of one layer in one process.

    ``kind``: the type of the message that channels receive, None if they receive none.
    """

    def __init__(self, kind: str | None) -> None:
        self.kind = kind
        #: Until when (monotonic) channels are told and waited for.
        self.deadline = time.monotonic()
        #: Channels that were received on since the drain began, and whose receiver has not left. Changed without the
        #: lock, by atomic calls: the garbage collector may end a receiver.
        self.present: set[str] = set()
        self._told: set[str] = set()
        self._lock = threading.Lock()
        # A separate generator: an application may seed the global one, and all processes would then spread in the same
        # way.
        self._random = Random(os.urandom(16))

    def extend(self, over: float) -> float:
        """
        Extend the drain to ``over`` seconds from now, unless it lasts longer already. Return when these seconds end.
        """
        until = time.monotonic() + over
        with self._lock:
            self.deadline = max(self.deadline, until)
        return until

    def arrived(self, channels: Collection[str]) -> list[Notice]:
        """Called with channels that somebody receives on. Return the messages for those that were not told yet."""
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
        """Called when a receiver has left: at any point, in any thread."""
        self.present.discard(channel)


_own: ContextVar[object] = ContextVar("channels_redis_fast.drain.own", default=None)


class RunningHandlers:
    """What runs in this process for clients and jobs. Thread-safe."""

    def __init__(self) -> None:
        #: Whether all connections of the process are counted here, so that no channel has an uncounted consumer.
        self.are_counted = False
        self._running: set[object] = set()

    def begin(self) -> object:
        """
        Called when a handler begins to run. Return the argument for ``end``. Code that it runs does not wait for it.
        """
        handler = object()
        self._running.add(handler)
        _own.set(handler)
        return handler

    def pause(self, handler: object) -> None:
        """Called when a handler only waits for its next job."""
        self._running.discard(handler)

    def go_on(self, handler: object) -> None:
        """Called when a handler has a job again."""
        self._running.add(handler)

    def end(self, handler: object) -> None:
        """Called when a handler has ended."""
        self._running.discard(handler)

    def are_running(self) -> bool:
        """Return whether any handler runs other than the calling one."""
        own = _own.get()
        return len(self._running) > (own in self._running)

    def forget(self) -> None:
        """In a forked child: forget the parent's handlers."""
        self.__init__()  # type: ignore[misc]


HANDLERS = RunningHandlers()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=HANDLERS.forget)
