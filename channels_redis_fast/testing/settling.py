"""
Waits until everything that was sent has been handled: nothing is on its way through the layer, and no consumer is busy.

A consumer is busy from the moment a message or a client event arrives until its handler has returned, even while the
handler waits for a thread or a database. This is determined by where its task is suspended: in Channels' dispatch or in
that of ``channels_redis_fast.consumers``, whose receives all wait when there is nothing to do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from channels.utils import await_many_dispatch

from ..consumers.sources import dispatch_all
from ..memory import InMemoryChannelLayer

#: How many iterations of the event loop must pass without progress: while a task is being woken, no queue has its
#: message.
STEPS = 10

#: Seconds between two checks while something takes long.
LOOK = 0.001


async def settled(layer: Any, timeout: float = 5.0) -> None:
    """
    Return when every message sent through an in-memory layer has been handled, by the consumers of this event loop.

    Messages on a channel that nobody receives on do not count. Your own tasks that receive count until they have the
    message.

    Raises ``TimeoutError`` after ``timeout`` seconds, saying what is still going on; ``TypeError`` for a layer that is
    not in memory.
    """
    if not isinstance(layer, InMemoryChannelLayer):
        raise TypeError(
            f"settled() needs an InMemoryChannelLayer: {type(layer).__name__} does not know which messages are on "
            "their way"
        )
    deadline = time.monotonic() + timeout
    quiet, seen = 0, _progress(layer)
    while quiet < STEPS:
        busy = [f"a message to {channel}" for channel in layer._mailboxes.awaited_messages()]
        busy += [f"a message in {task.get_name()}" for task in asyncio.all_tasks() if _is_at_work(task)]
        progress = _progress(layer)
        quiet = 0 if busy or progress != seen else quiet + 1
        seen = progress
        if busy and time.monotonic() > deadline:
            raise TimeoutError(f"not settled within {timeout:g} s: {', '.join(busy)}")
        # Other threads get a turn while there is something to wait for.
        await asyncio.sleep(LOOK if busy else 0)


def _progress(layer: InMemoryChannelLayer) -> tuple[int, ...]:
    stats = layer._stats
    return stats.sends, stats.group_sends, stats.receives, stats.deliveries


def _is_at_work(task: asyncio.Task[Any]) -> bool:
    """Whether a task is a consumer that has something to handle."""
    if task is asyncio.current_task():
        return False
    for frame in _frames(task.get_coro()):
        if frame.f_code is await_many_dispatch.__code__:
            return any(receive.done() for receive in frame.f_locals.get("tasks", ()))
        if frame.f_code is dispatch_all.__code__:
            return not all(source.is_waiting for source in frame.f_locals.get("sources", ()))
    return False


def _frames(awaited: Any) -> Iterator[FrameType]:
    """Yield the frames of a coroutine and of the coroutines that it waits for, the outermost first."""
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is not None:
            yield frame
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
