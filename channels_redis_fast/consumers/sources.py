"""
Waiting for a consumer's messages: the client's, and those of its channel.

Channels has a task for each receive, and ``asyncio.wait`` over both. Here the consumer's own task waits, on one object
that whichever source is first wakes, and nothing else runs in between:

- a receive that nobody here wrote (the server's, a middleware's, another layer's) keeps a task of its own, since it
  may ask for its task or be cancelled by a timeout;
- a receive of this package's layers does neither. It is driven by the consumer's task itself, as if it were awaited
  there, and costs no task at all.

Rules kept here, all of them Channels': one message at a time; each source in order, and in turn with the other; the
next receive of a source starts when its last message has been dispatched; at the end both are cancelled and awaited.
"""

from __future__ import annotations

import asyncio
import contextlib
import types
from asyncio import CancelledError, get_running_loop
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from functools import partial
from typing import Any, NoReturn

from ..core import RedisChannelLayer
from ..pubsub import RedisPubSubChannelLayer

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]

#: Receives that await futures and nothing else: no task, no timeout, no context variable of their own.
DIRECT_RECEIVES = (RedisChannelLayer.receive, RedisPubSubChannelLayer.receive)

#: Messages that are dispatched in a row, if they are there and no handler waits, before other tasks have a turn.
STREAK = 16


class Gate:
    """
    What the consumer's task awaits while no source has anything.

    Follows asyncio's protocol for what a task may await. It has no outcome of its own: a source that becomes ready
    wakes the task in that very callback, not in one that follows.
    """

    __slots__ = ("_asyncio_future_blocking", "_callback", "_cancelled", "_loop", "context", "sources")

    def __init__(self) -> None:
        self._asyncio_future_blocking = False
        self._loop = get_running_loop()
        self._callback: Callable[[Gate], Any] | None = None
        self._cancelled: CancelledError | None = None
        self.sources: list[Source] = []
        #: The task's own; not known before it waits for the first time.
        self.context: Context | None = None

    def __await__(self) -> Generator[Gate, None, None]:
        self._asyncio_future_blocking = True
        yield self

    def add_done_callback(self, callback: Callable[[Gate], Any], /, *, context: Context) -> None:
        """Take the callback of the task."""
        self._callback = callback
        if self.context is None:
            self.context = context
            for source in self.sources:
                source.watch(context)

    def open(self) -> None:
        """Wake the task, if it waits here: nobody does while a handler runs."""
        callback = self._callback
        if callback is not None:
            self._callback = None
            callback(self)

    def cancel(self, msg: Any = None) -> bool:
        """End the wait by cancellation."""
        self._cancelled = CancelledError() if msg is None else CancelledError(msg)
        self._loop.call_soon(self.open)
        return True

    def result(self) -> None:
        """Raise the cancellation, if there was one."""
        if self._cancelled is not None:
            error, self._cancelled = self._cancelled, None
            raise error

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop."""
        return self._loop


class Source:
    """Where messages come from, one receive at a time. `arrived` says whether to take what the receive has."""

    __slots__ = ("_gate", "arrived")

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.arrived = False

    def start(self) -> None:
        """Start the next receive."""
        raise NotImplementedError

    def watch(self, context: Context) -> None:
        """Have ``_arrive`` called, in the task's context, when the receive may have ended."""
        raise NotImplementedError

    def take(self) -> Message | None:
        """Return the message, or None if there is none yet after all. Raises what the receive raised."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Begin to end the receive."""

    async def end(self) -> None:
        """Wait until the receive has ended. Raises what it raises then, if that is no cancellation."""
        raise NotImplementedError

    def abandon(self) -> None:
        """End the receive without waiting, where nothing can be awaited any more."""
        raise NotImplementedError

    def _arrive(self, _: Any) -> None:
        self.arrived = True
        self._gate.open()


class TaskSource(Source):
    """A receive of somebody else's, each time in a new task."""

    __slots__ = ("_receive", "_task")

    def __init__(self, gate: Gate, receive: Receive) -> None:
        super().__init__(gate)
        self._receive = receive
        self._task: asyncio.Future[Message] | None = None

    def start(self) -> None:
        self._task = asyncio.ensure_future(self._receive())
        if self._gate.context is not None:
            self._task.add_done_callback(self._arrive, context=self._gate.context)

    def watch(self, context: Context) -> None:
        if self._task is not None:
            self._task.add_done_callback(self._arrive, context=context)

    def take(self) -> Message | None:
        assert self._task is not None
        return self._task.result()

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def end(self) -> None:
        if self._task is not None:
            with contextlib.suppress(CancelledError):
                await self._task

    def abandon(self) -> None:
        # The loop may be closed.
        with contextlib.suppress(RuntimeError):
            self.cancel()


class DirectSource(Source):
    """A receive of one of our layers, driven by the consumer's task."""

    __slots__ = ("_coroutine", "_error", "_future", "_message", "_receive")

    def __init__(self, gate: Gate, receive: Callable[[], Coroutine[Any, Any, Message]]) -> None:
        super().__init__(gate)
        self._receive = receive
        #: The receive, and what it waits for; None when it has ended.
        self._coroutine: Coroutine[Any, Any, Message] | None = None
        self._future: Any = None
        self._message: Message | None = None
        self._error: BaseException | None = None

    def start(self) -> None:
        self._message = None
        self._coroutine = self._receive()
        self._step()

    def watch(self, context: Context) -> None:
        if self._future is not None:
            self._future.add_done_callback(self._arrive, context=context)

    def take(self) -> Message | None:
        if self._future is not None:
            self.arrived = False
            self._step()
        if self._error is not None:
            raise self._error
        return self._message

    def _step(self) -> None:
        """Go on with the receive, to its end or to the next thing that it waits for."""
        try:
            future = self._coroutine.send(None)  # type: ignore[union-attr]
        except StopIteration as stop:
            self._coroutine = self._future = None
            self._message = stop.value
            self.arrived = True
        except BaseException as error:
            self._coroutine = self._future = None
            self._error = error
            self.arrived = True
        else:
            # What a task does with what its coroutine waits for.
            future._asyncio_future_blocking = False
            self._future = future
            if self._gate.context is not None:
                future.add_done_callback(self._arrive, context=self._gate.context)

    async def end(self) -> None:
        if self._coroutine is not None:
            with contextlib.suppress(CancelledError):
                await _go_on(self._coroutine)

    def abandon(self) -> None:
        if self._coroutine is not None:
            self._coroutine.close()


@types.coroutine
def _go_on(coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Await a coroutine that has begun already, throwing a cancellation into it."""
    try:
        future = coroutine.throw(CancelledError())
        while True:
            try:
                value = yield future
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as error:
                future = coroutine.throw(error)
            else:
                future = coroutine.send(value)
    except StopIteration as stop:
        return stop.value


async def dispatch_all(receives: list[Receive], dispatch: Callable[[Message], Awaitable[None]]) -> NoReturn:
    """
    Await messages from all of the sources and dispatch them one at a time, until something raises.

    Raises what a receive or the dispatch raises.
    """
    gate = Gate()
    sources = gate.sources = [_source(gate, receive) for receive in receives]
    streak = 0
    for source in sources:
        source.start()
    try:
        while True:
            idle = True
            for source in sources:
                if source.arrived:
                    idle = False
                    message = source.take()
                    if message is not None:
                        await dispatch(message)
                        source.arrived = False
                        source.start()
            if idle:
                streak = 0
                await gate
            else:
                streak += 1
                if streak >= STREAK:
                    streak = 0
                    await asyncio.sleep(0)
    except GeneratorExit:
        for source in sources:
            source.abandon()
        raise
    except BaseException:
        await _end(sources)
        raise
    finally:
        # Each knows the other; without this, only the garbage collector would free them.
        gate.sources = []


def _source(gate: Gate, receive: Receive) -> Source:
    if isinstance(receive, partial) and getattr(receive.func, "__func__", None) in DIRECT_RECEIVES:
        return DirectSource(gate, receive)
    return TaskSource(gate, receive)


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
