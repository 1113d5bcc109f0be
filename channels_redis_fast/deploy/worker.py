"""
``Worker``: does the jobs of general channels, several at once, and ends without losing one.

A job is a message on a general channel. An application does it in the scope of Channels' ``runworker``: ``{"type":
"channel", "channel": name}``. Each channel has as many instances of the application as jobs may run at once, and each
instance asks for its next job when it has finished the last one, so no job is taken from Redis before an instance can
do it.

When the worker is told to stop, an instance that waits for a job gets ``StopConsumer`` instead, and whatever was popped
for it is put back; an instance that is doing a job gets it when it asks for the next one. Works with any channel layer;
a layer of another package may lose what it has popped for a cancelled receive. Knows applications and layers only by
their protocols.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from channels.exceptions import StopConsumer
from django.db import connections

from ..drain import HANDLERS

logger = logging.getLogger("channels_redis_fast")

#: Seconds before an instance that ended without asking for a job is restarted: at first, and at most.
SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 5.0

Application = Callable[[Any, Any, Any], Awaitable[None]]


class Worker:
    """
    Does the jobs of some channels.

    ``concurrency``: the maximum number of jobs of each channel at once. ``timeout``: how many seconds jobs may take to
    end once the worker was told to stop; None for no limit.
    """

    def __init__(
        self,
        application: Application,
        channels: Sequence[str],
        layer: Any,
        concurrency: int = 1,
        timeout: float | None = None,
    ) -> None:
        self._timeout = timeout
        self._instances = [
            Instance(application, channel, layer) for channel in dict.fromkeys(channels) for _ in range(concurrency)
        ]
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """
        Do jobs until ``stop`` is called, and finish those that have begun.

        Raises what an application raises before it asks for its first job, because it cannot do any.
        """
        tasks = [asyncio.ensure_future(instance.run()) for instance in self._instances]
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            while not stopping.done():
                done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            for instance in self._instances:
                instance.stop()
            _, late = await asyncio.wait(tasks, timeout=self._timeout)
            if late:
                logger.warning("%d jobs did not finish within %g s, and are cancelled", len(late), self._timeout)
        finally:
            stopping.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.wait([stopping, *tasks])
            for task in tasks:
                # Already raised, or no longer relevant.
                if not task.cancelled():
                    task.exception()

    def stop(self) -> None:
        """Take no more jobs; call this in the event loop. ``run`` returns when the jobs that have begun are done."""
        self._stopping.set()


class Instance:
    """One instance of the application, and its successors."""

    def __init__(self, application: Application, channel: str, layer: Any) -> None:
        self._application = application
        self._channel = channel
        self._layer = layer
        self._handler: object = None
        self._is_stopping = False
        #: Whether this application has ever asked for a job, and whether it has since it was last called.
        self._is_able = False
        self._asked = False
        #: The task that waits for a job, and whether it was cancelled because there will be none.
        self._waiting: asyncio.Task[Any] | None = None
        self._is_interrupted = False
        self._pausing: asyncio.Future[None] | None = None

    async def run(self) -> None:
        """Run the application, and restart it whenever it ends, until it is told to stop."""
        pause = SHORTEST_PAUSE
        while not self._is_stopping:
            self._asked = False
            try:
                await self._run_once()
            except Exception as error:
                if not self._is_able:
                    raise
                logger.error("A job of channel %r failed", self._channel, exc_info=error)
            if self._asked:
                pause = SHORTEST_PAUSE
            elif not self._is_stopping:
                if not self._is_able:
                    raise RuntimeError(f"The application ended before it received a job of channel {self._channel!r}.")
                await self._rest(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def stop(self) -> None:
        """Give it no more jobs."""
        self._is_stopping = True
        if self._waiting is not None:
            self._is_interrupted = self._waiting.cancel()
        if self._pausing is not None and not self._pausing.done():
            self._pausing.set_result(None)

    async def _run_once(self) -> None:
        self._handler = HANDLERS.begin()
        # Each synchronous consumer gets its own thread. Otherwise all would share one, and do one job at a time.
        async with ThreadSensitiveContext():
            try:
                with contextlib.suppress(StopConsumer):
                    await self._application({"type": "channel", "channel": self._channel}, self._receive, self._send)
            finally:
                HANDLERS.end(self._handler)
                await sync_to_async(connections.close_all)()

    async def _receive(self) -> Any:
        """Return the next job. Raises ``StopConsumer`` when there are no more."""
        self._asked = self._is_able = True
        if self._is_stopping:
            raise StopConsumer
        HANDLERS.pause(self._handler)
        self._waiting = asyncio.current_task()
        try:
            return await self._layer.receive(self._channel)
        except asyncio.CancelledError:
            if not self._is_interrupted:
                raise
            self._is_interrupted = False
            if sys.version_info >= (3, 11) and self._waiting is not None:
                self._waiting.uncancel()
            raise StopConsumer from None
        finally:
            self._waiting = None
            HANDLERS.go_on(self._handler)

    async def _send(self, message: Any) -> None:
        raise RuntimeError(f"A job of channel {self._channel!r} has no client to send {message.get('type')!r} to.")

    async def _rest(self, seconds: float) -> None:
        self._pausing = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait([self._pausing], timeout=seconds)
        finally:
            self._pausing = None
