"""
Names that have lost their subscription: which of these gaps are reported, and when they end.

A gap that begins because a slot moves is reported if it lasts longer than ``MOVE_TIME``; one that begins because a
connection was lost is reported at once. Knows names. Does not know where they are subscribed or who receives on them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

#: Seconds that a name may be without a subscription while its slot moves, before this counts as an outage.
MOVE_TIME = 1.0

#: Seconds between checks of moving names.
_INTERVAL = 0.1


class SubscriptionGaps:
    """
    The gaps in the subscriptions of an event loop.

    ``on_lost`` takes the names that are reported lost, ``on_back`` those of them that are subscribed again.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_lost: Callable[[Sequence[bytes]], None],
        on_back: Callable[[Sequence[bytes]], None],
    ) -> None:
        self._loop = loop
        self._on_lost = on_lost
        self._on_back = on_back
        #: When each moving name began to move, the oldest first; names that were reported lost; and names that are
        #: back.
        self._moving: dict[bytes, float] = {}
        self._lost: set[bytes] = set()
        self._back: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        #: Names that are reported together, and the timer for that.
        self._missed: dict[bytes, None] = {}
        self._report: asyncio.TimerHandle | None = None

    def begin(self, name: bytes) -> None:
        """Called when a name has lost its subscription, apparently for a short time."""
        if name not in self._lost:
            self._moving.setdefault(name, self._loop.time())
            if self._timer is None:
                self._timer = self._loop.call_later(_INTERVAL, self._look)

    def lost(self, names: Iterable[bytes]) -> None:
        """Called when names have lost their subscription at the same time."""
        lost = [name for name in names if name not in self._lost]
        self._lost.update(lost)
        for name in lost:
            self._moving.pop(name, None)
        if lost:
            self._on_lost(lost)

    def missed(self, name: bytes) -> None:
        """
        Called when a name has lost its subscription, and messages published on it before that were certainly missed.

        This is reported even if the name is subscribed again at once. It is reported together with other such names of
        the next moment, since a channel and its groups should be reported together.
        """
        self.begin(name)
        self._missed[name] = None
        if self._report is None:
            self._report = self._loop.call_later(_INTERVAL, self._report_missed)

    def end(self, name: bytes) -> None:
        """Called when a name is subscribed (again)."""
        self._moving.pop(name, None)
        if name in self._lost:
            self._lost.discard(name)
            if not self._back:
                self._loop.call_soon(self._report_back)
            self._back.append(name)

    def forget(self, name: bytes) -> None:
        """Called when a name is no longer wanted."""
        self._moving.pop(name, None)
        self._missed.pop(name, None)
        self._lost.discard(name)

    def stop(self) -> None:
        """Called when all sockets are closed on purpose, which is no gap."""
        self._moving.clear()
        self._missed.clear()
        if self._report is not None:
            self._report.cancel()
            self._report = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        now = self._loop.time()
        self.lost([name for name, since in self._moving.items() if now - since > MOVE_TIME])
        self._timer = self._loop.call_later(_INTERVAL, self._look) if self._moving else None

    def _report_missed(self) -> None:
        self._report = None
        missed, self._missed = self._missed, {}
        there = [name for name in missed if name not in self._moving and name not in self._lost]
        self.lost(missed)
        for name in there:
            self.end(name)

    def _report_back(self) -> None:
        back, self._back = self._back, []
        # Names that were lost again in the meantime are reported when that is over.
        self._on_back([name for name in back if name not in self._lost])
