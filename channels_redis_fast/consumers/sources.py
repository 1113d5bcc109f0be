"""
Waits for a consumer's messages: the client's, and those of its channel.

Channels has a task for each receive, and ``asyncio.wait`` over both. Here the consumer's own task waits on one object
(``Gate``), which the first source with a message opens:

- a foreign receive (the server's, a middleware's, another layer's) keeps its own task, since it may look up its task or
  be cancelled by a timeout;
- a receive of this package's layers does neither. The gate watches its mailbox, which costs neither a task nor a
  coroutine.

Rules kept here, all of them Channels': one message at a time; each source in order, alternating with the other; the
next receive of a source starts when its last message has been dispatched; at the end both are cancelled and awaited.
"""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import CancelledError, get_running_loop
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NoReturn, Protocol

from ..core import RedisChannelLayer
from ..hot import Gate, Waiter
from ..memory import InMemoryChannelLayer
from ..pubsub import RedisPubSubChannelLayer

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]

#: The ``receive`` methods that a reader of their layer can replace.
READ = (RedisChannelLayer.receive, RedisPubSubChannelLayer.receive, InMemoryChannelLayer.receive)

#: How many available messages are dispatched in a row, if no handler waits, before other tasks get a turn.
STREAK = 16

#: What a source returns while it has no message.
NOTHING: Any = object()


class Reader(Protocol):
    """Reads a channel of one of our layers, one message at a time: the ``reader`` of each layer."""

    def claim(self) -> Waiter[Message] | None: ...

    def take(self, coming: Waiter[Message], /) -> Message: ...

    def abandon(self, coming: Waiter[Message], /) -> None: ...

    def abandon_later(self, coming: Waiter[Message], /) -> None: ...

    def leave(self) -> None: ...

    def leave_later(self) -> None: ...


class Source:
    """A source of messages, one receive at a time, each in its own task."""

    __slots__ = ("_gate", "_receive", "_task")

    def __init__(self, gate: Gate, receive: Receive) -> None:
        self._gate = gate
        self._receive = receive
        self._task: asyncio.Future[Message] | None = None

    def start(self) -> None:
        """Start the next receive. The gate opens when it has ended."""
        self._task = asyncio.ensure_future(self._receive())
        self._task.add_done_callback(self._ended)

    def take(self) -> Message:
        """Return the message, or ``NOTHING`` if there is none yet. Raises what the receive raised."""
        if self._task is None or not self._task.done():
            return NOTHING  # type: ignore[no-any-return]
        return self._task.result()

    @property
    def is_waiting(self) -> bool:
        """Whether the receive waits: there is no message of this source, and none is being dispatched."""
        return self._task is not None and not self._task.done()

    def cancel(self) -> None:
        """Start cancelling the receive."""
        if self._task is not None:
            self._task.cancel()

    async def end(self) -> None:
        """Wait until the receive has ended. Raises what it raises then, unless it is a cancellation."""
        if self._task is not None:
            with contextlib.suppress(CancelledError):
                await self._task

    def abandon(self) -> None:
        """End the receive without waiting, when nothing can be awaited any more."""
        # The loop may be closed.
        with contextlib.suppress(RuntimeError):
            Source.cancel(self)

    def _ended(self, _: Any) -> None:
        self._gate.open()


class MailboxSource(Source):
    """A channel of one of our layers. It has a task only if the layer has to wait before it can read."""

    __slots__ = ("_coming", "_reader")

    def __init__(self, gate: Gate, receive: Receive, reader: Reader) -> None:
        super().__init__(gate, receive)
        self._reader = reader
        self._coming: Waiter[Message] | None = None

    def start(self) -> None:
        coming = self._coming = self._reader.claim()
        if coming is None:
            super().start()
        elif coming.done():
            self._gate.open()
        else:
            self._gate.watch(coming)

    def take(self) -> Message:
        coming = self._coming
        if coming is None:
            return super().take()
        if not coming.done():
            return NOTHING  # type: ignore[no-any-return]
        self._coming = self._task = None
        return self._reader.take(coming)

    @property
    def is_waiting(self) -> bool:
        coming = self._coming
        return super().is_waiting if coming is None else not coming.done()

    def cancel(self) -> None:
        coming, self._coming = self._coming, None
        if coming is not None:
            self._reader.abandon(coming)
        super().cancel()
        self._reader.leave()

    def abandon(self) -> None:
        coming, self._coming = self._coming, None
        if coming is not None:
            self._reader.abandon_later(coming)
        super().abandon()
        self._reader.leave_later()


async def dispatch_all(receives: list[Receive], dispatch: Callable[[Message], Awaitable[None]]) -> NoReturn:
    """
    Await messages from all sources and dispatch them one at a time, until something raises.

    Raises what a receive or the dispatch raises.
    """
    gate = Gate(get_running_loop())
    sources = [_source(gate, receive) for receive in receives]
    streak = 0
    try:
        for source in sources:
            source.start()
        while True:
            if not gate.is_open:
                streak = 0
            elif (streak := streak + 1) >= STREAK:
                streak = 0
                await asyncio.sleep(0)
            await gate
            for source in sources:
                message = source.take()
                if message is not NOTHING:
                    await dispatch(message)
                    source.start()
    except GeneratorExit:
        for source in sources:
            source.abandon()
        raise
    except BaseException:
        await _end(sources)
        raise


def _source(gate: Gate, receive: Receive) -> Source:
    if isinstance(receive, partial) and getattr(receive.func, "__func__", None) in READ:
        layer: Any = getattr(receive.func, "__self__", None)
        reader: Reader | None = layer._reader(*receive.args)
        if reader is not None:
            return MailboxSource(gate, receive, reader)
    return Source(gate, receive)


async def _end(sources: list[Source]) -> None:
    for source in sources:
        source.cancel()
    error: BaseException | None = None
    for source in sources:
        try:
            await source.end()
        except BaseException as reason:
            error = reason
    if error is not None:
        raise error
