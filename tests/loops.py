"""Event loops that a test makes itself: run to an end, or in threads of their own. Knows no layer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import redis

from tests.core.helpers import LIMIT, clients, receive_many, started, until, within

NewLoop = Callable[[], asyncio.AbstractEventLoop]


def run(new_loop: NewLoop, work: Coroutine[Any, Any, Any]) -> Any:
    loop = new_loop()
    try:
        return loop.run_until_complete(within(work))
    finally:
        loop.close()


def gone(raw: redis.Redis, name: str) -> None:
    """See all connections of that name end."""
    new = asyncio.new_event_loop()
    try:
        new.run_until_complete(until(lambda: not clients(raw, name)))
    finally:
        new.close()


class Thread:
    """An event loop that runs in a thread of its own until it is told to close."""

    def __init__(self, new_loop: NewLoop) -> None:
        self.loop = new_loop()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(within(work), self.loop).result(LIMIT)

    def stop(self) -> None:
        """End the thread and leave the loop as it is."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()

    def close(self) -> None:
        self.stop()
        self.loop.close()

    def _run(self) -> None:
        self.loop.run_forever()


async def begin_to_receive(layer: Any, channel: str, count: int) -> Any:
    return await started(receive_many(layer, channel, count))


async def finished(task: Any) -> Any:
    return await task
