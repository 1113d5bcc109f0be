"""
Messages that two servers send during a failover of a Redis Cluster: each is delivered once.

The servers of a shard pass on to each other what is published at one of them. A demoted primary still accepts
publishers and subscriptions, so a message that it has delivered can arrive from the new primary too, if the
subscription has moved there meanwhile. Nothing in a message of Pub/Sub tells such a repeat from an equal message. So
repeats are looked for only while a slot changes hands: the n-th copy from one server is the n-th from another, if it
follows within ``REPEAT_TIME``. Knows servers only as what messages come from.
"""

from __future__ import annotations

import asyncio
from collections import deque

from ..cluster.slots import slot_of

#: Seconds after a message, and after its slot has moved, within which another server of the shard may repeat it. It
#: takes as long as a message between the two: up to 30 ms were seen on a busy machine.
REPEAT_TIME = 0.5

#: Seconds within which a subscription leaves a server that is a replica.
HANDOVER_TIME = 5.0

#: Messages that are remembered: the latest ones.
MAX_MESSAGES = 100_000


class RepeatFilter:
    """The repeats of an event loop. While ``slots`` is empty, there are none, and ``is_new`` need not be asked."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        #: Slots that are changing hands, and until when they count as such.
        self.slots: dict[int, float] = {}
        self._loop = loop
        #: By hash of name and payload: how many such messages each server has sent. And when each message came first.
        self._counts: dict[int, dict[object, int]] = {}
        self._came: deque[tuple[float, int]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def may_be_replica(self, slot: int) -> None:
        """
        Called when a server accepts a subscription again that has ended there: it may be a replica of another by now.

        Nothing is repeated if the slot has gone to another shard. Its old server then refuses subscriptions.
        """
        self._expect_repeats(slot, HANDOVER_TIME)

    def moved(self, slot: int) -> None:
        """Called when the names of a slot have been requested at another server."""
        if slot in self.slots:
            self._expect_repeats(slot, REPEAT_TIME)

    def is_new(self, server: object, name: bytes, payload: bytes) -> bool:
        """Return whether a message from a server is not one that another server has sent just before."""
        now = self._loop.time()
        if self.slots.get(slot_of(name), now) <= now:
            return True
        came = self._came
        while came and came[0][0] <= now - REPEAT_TIME:
            self._forget(came.popleft()[1])
        message = hash((name, payload))
        counts = self._counts.setdefault(message, {})
        count = counts.get(server, 0) + 1
        is_new = count > max(counts.values(), default=0)
        counts[server] = count
        if is_new:
            came.append((now, message))
            if len(came) > MAX_MESSAGES:
                self._forget(came.popleft()[1])
        return is_new

    def stop(self) -> None:
        """Called when all sockets are closed on purpose."""
        self.slots.clear()
        self._look()

    def _forget(self, message: int) -> None:
        """Forget the first copy of a message."""
        counts = {server: count - 1 for server, count in self._counts.pop(message).items() if count > 1}
        if counts:
            self._counts[message] = counts

    def _expect_repeats(self, slot: int, seconds: float) -> None:
        self.slots[slot] = self._loop.time() + seconds
        if self._timer is None:
            self._timer = self._loop.call_later(REPEAT_TIME, self._look)

    def _look(self) -> None:
        """Forget the slots whose time is over, and with the last one all messages."""
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
            self._came.clear()
