"""
Messages that two servers send during a failover of a Redis Cluster: each is delivered once.

The servers of a shard pass on to each other what is published at one of them. A demoted primary still accepts
publishers and subscriptions, so a message that it has delivered can arrive from the new primary too, if the
subscription has moved there meanwhile. Nothing in a message of Pub/Sub tells such a repeat from an equal message, so
repeats are looked for only while a slot changes hands, and the n-th copy from one server counts as the n-th from
another. Knows servers only as what messages come from.
"""

from __future__ import annotations

import asyncio

from ..cluster.slots import slot_of

#: Seconds for which the servers of a shard may repeat a message after its slot has moved. A message takes a round trip
#: from one to another, and longer where the machine is busy.
REPEAT_TIME = 1.0

#: Seconds within which a slot moves, after its server has given it up.
HANDOVER_TIME = 5.0

#: Messages that are remembered: the latest ones.
MAX_MESSAGES = 100_000


class RepeatFilter:
    """The repeats of an event loop. While ``slots`` is empty, there are none, and ``is_new`` need not be asked."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        #: Slots that are changing hands, and until when they count as such.
        self.slots: dict[int, float] = {}
        self._loop = loop
        #: By hash of name and payload: how many such messages each server has sent.
        self._counts: dict[int, dict[object, int]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def given_up(self, slot: int) -> None:
        """Called when a server has given up a slot by itself. Another server of its shard may have it now."""
        self._expect_repeats(slot, HANDOVER_TIME)

    def moved(self, slot: int) -> None:
        """Called when the names of a slot have been requested at another server."""
        if slot in self.slots:
            self._expect_repeats(slot, REPEAT_TIME)

    def is_new(self, server: object, name: bytes, payload: bytes) -> bool:
        """Return whether a message from a server is not one that another server has sent before."""
        if slot_of(name) not in self.slots:
            return True
        counts = self._counts.setdefault(hash((name, payload)), {})
        count = counts.get(server, 0) + 1
        is_new = count > max(counts.values(), default=0)
        counts[server] = count
        if len(self._counts) > MAX_MESSAGES:
            del self._counts[next(iter(self._counts))]
        return is_new

    def stop(self) -> None:
        """Called when all sockets are closed on purpose."""
        self.slots.clear()
        self._look()

    def _expect_repeats(self, slot: int, seconds: float) -> None:
        self.slots[slot] = self._loop.time() + seconds
        if self._timer is None:
            self._timer = self._loop.call_later(REPEAT_TIME, self._look)

    def _look(self) -> None:
        """End the handovers whose time is over."""
        now = self._loop.time()
        for slot in [slot for slot, until in self.slots.items() if until <= now]:
            del self.slots[slot]
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.slots:
            self._timer = self._loop.call_later(REPEAT_TIME, self._look)
        else:
            self._counts.clear()
