"""
Events of one event loop on their way to a group: one part after the other, retrying each until it is delivered.

Knows events. Knows the layer only as a way to send a message to a group.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from redis.exceptions import ConnectionError, RedisError, TimeoutError

from .calls import GroupQueue
from .events import Event, without_repeats
from .groups import GroupPresence
from .scripts import MAX_AT_ONCE

logger = logging.getLogger("channels_redis_fast")

#: How often an event is tried if a server refuses it.
ATTEMPTS = 5

#: Seconds until an event is retried: the first time, and at most.
RETRY, RETRY_AT_MOST = 0.05, 1.0


class Outages(Protocol):
    """What is known about the availability of servers."""

    #: When (monotonic) a lost connection was last restored.
    came_back_at: float

    def pause(self, group: GroupPresence) -> float:
        """Return for how many seconds a group is told nothing, since its members may have to rejoin it first."""


class Outbox:
    """
    The events of one group that one event loop has claimed. Exists while there are any.

    ``send`` tells a group of an event, once. It raises whatever prevents that.
    """

    def __init__(
        self, queue: GroupQueue, outages: Outages, send: Callable[[GroupQueue, Event], Coroutine[Any, Any, None]]
    ) -> None:
        self._queue = queue
        self._outages = outages
        self._send = send
        self._events: deque[Event] = deque()
        self.task: asyncio.Task[None] | None = None

    def put(self, events: list[Event]) -> None:
        """Deliver events, after those that were added before."""
        self._events.extend(events)

    async def run(self) -> None:
        """Deliver the events, including those that are added meanwhile."""
        while self._events:
            taken = [self._events.popleft() for _ in range(min(MAX_AT_ONCE, len(self._events)))]
            for part in without_repeats(taken):
                await self._deliver(part)
                self._queue.delivered(part)

    async def _deliver(self, events: list[Event]) -> None:
        queue, outages = self._queue, self._outages
        pause, refusals = RETRY, 0
        while True:
            while (seconds := outages.pause(queue.group)) > 0:  # noqa: ASYNC110
                await asyncio.sleep(seconds)
            # Events of lost data are confirmed in another way: other processes may have changed what they report.
            events = [event for event in events if event.epoch == queue.group.epoch]
            if not events:
                return
            before = outages.came_back_at
            outcomes = await asyncio.gather(*(self._send(queue, event) for event in events), return_exceptions=True)
            results = [
                (event, error)
                for event, error in zip(events, outcomes, strict=True)
                if not isinstance(error, BaseException) or not self._is_given_up(event, error, refusals)
            ]
            if outages.came_back_at != before:
                # The server may have had no members to send to. Receivers that have an event already drop the repeat.
                events = [event for event, _ in results]
                continue
            failed = [(event, error) for event, error in results if isinstance(error, BaseException)]
            if not failed:
                return
            events = [event for event, _ in failed]
            refusals += not any(isinstance(error, (ConnectionError, TimeoutError)) for _, error in failed)
            await asyncio.sleep(pause)
            pause = min(2 * pause, RETRY_AT_MOST)

    def _is_given_up(self, event: Event, error: Any, refusals: int) -> bool:
        if isinstance(error, (ConnectionError, TimeoutError)):
            return False
        if isinstance(error, RedisError) and refusals + 1 < ATTEMPTS:
            return False
        if isinstance(error, ReferenceError) or not isinstance(error, Exception):
            raise error
        logger.error(
            "Group %r was not told that a user has come or left: %s: %s",
            self._queue.group.name,
            type(error).__name__,
            error,
        )
        return True
