"""
Events of one event loop on their way to a group: one part after the other, each until it is delivered.

Knows events, and the layer only as what sends a message to a group.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any, Protocol

from redis.exceptions import ConnectionError, RedisError, TimeoutError

from .calls import GroupQueue
from .events import Event, without_repeats

logger = logging.getLogger("channels_redis_fast")

#: Events that are delivered side by side, few enough for receivers to keep up, whose keys hold a hundred messages
#: unless the site says otherwise; and how often one is tried that a server refuses.
MAX_AT_ONCE, ATTEMPTS = 25, 5

#: Seconds until an event is tried again, the first time and at most.
RETRY, RETRY_AT_MOST = 0.05, 1.0


class Courier(Protocol):
    """What delivers an event, once."""

    #: When (monotonic) a connection that was lost was there again.
    came_back_at: float

    def pause(self, queue: GroupQueue) -> float:
        """Return for how many seconds a group is told nothing, since its members may have to join it again first."""

    async def send_event(self, queue: GroupQueue, event: Event) -> None:
        """Tell a group of an event. Raises what prevents it."""


class Outbox:
    """The events of one group that one event loop has claimed; exists while there are any."""

    def __init__(self, queue: GroupQueue, courier: Courier) -> None:
        self._queue = queue
        self._courier = courier
        self._events: deque[Event] = deque()
        self.task: asyncio.Task[None] | None = None

    def put(self, events: list[Event]) -> None:
        """Have events delivered after those that were put in before."""
        self._events.extend(events)

    async def run(self) -> None:
        """Deliver what there is, and what comes meanwhile."""
        while self._events:
            taken = [self._events.popleft() for _ in range(min(MAX_AT_ONCE, len(self._events)))]
            for part in without_repeats(taken):
                await self._deliver(part)
                self._queue.delivered(part)

    async def _deliver(self, events: list[Event]) -> None:
        queue, courier = self._queue, self._courier
        pause, refusals = RETRY, 0
        while True:
            while (seconds := courier.pause(queue)) > 0:  # noqa: ASYNC110
                await asyncio.sleep(seconds)
            # Those of data that were lost are confirmed otherwise: others may have changed what they say.
            events = [event for event in events if event.epoch == queue.group.epoch]
            if not events:
                return
            before = courier.came_back_at
            outcomes = await asyncio.gather(
                *(courier.send_event(queue, event) for event in events), return_exceptions=True
            )
            failed = [
                (event, error)
                for event, error in zip(events, outcomes, strict=True)
                if isinstance(error, BaseException) and not self._is_given_up(event, error, refusals)
            ]
            if courier.came_back_at != before:
                # The server may have had no members to send to. Who has got an event does not hear it again.
                continue
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
