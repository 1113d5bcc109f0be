"""From the channel layer and the client to a consumer's handlers, without a new task and a thread for each message.

One message, on its way: a source's feeder, a task that lives as long as the consumer, awaits it and hands it over; the
consumer's own task runs the handler; then the feeder awaits the next one. Channels starts a task for each message and
waits on all of them anew, and hops to a thread before each handler.

Rules kept here, all of them Channels' own:

- One message at a time; from each source in order. A source's next `receive()` begins when its last message has been
  dispatched: at most one is taken ahead, and a client that does not read delays its own consumer only.
- Neither source can starve the other: a message waits for one of the other source at most.
- Every handler runs in the consumer's own task and context: what `connect` sets in a context variable, each later
  handler sees.
- `StopConsumer` ends the consumer; every other exception, of a handler or of a source, leaves the application. Both
  sources are cancelled and awaited at the end.
- `dispatch`, `send`, `base_send` and `__call__` may be overridden.
- No handler meets a stale database connection that it would not meet under Channels (`database`).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import channels.consumer
from asgiref.sync import async_to_sync
from channels.consumer import get_handler_name
from channels.exceptions import StopConsumer
from channels.layers import get_channel_layer

from .database import StaleConnections

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]


class DirectDispatch:
    """
    A mixin that gives a consumer class the direct way to its handlers: ``class Feed(DirectDispatch, TheirConsumer)``.

    Where their class overrides ``__call__`` or ``dispatch`` (as Channels' ``SyncConsumer`` does), that one is kept;
    what it calls by ``super()`` is then Channels' own, which ``install`` makes direct too.

    Raises ``TypeError`` when a class is made with it that is no subclass of ``channels.consumer.AsyncConsumer``, or
    that names a consumer class first.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        order = cls.__mro__
        if channels.consumer.AsyncConsumer not in order:
            raise TypeError(
                f"{cls.__name__} is not a consumer: DirectDispatch goes in front of a subclass of "
                f"channels.consumer.AsyncConsumer, as in class {cls.__name__}(DirectDispatch, AsyncWebsocketConsumer)"
            )
        behind = order[order.index(DirectDispatch) + 1 :]
        if channels.consumer.AsyncConsumer not in behind:
            raise TypeError(f"{cls.__name__}: DirectDispatch has no effect behind a consumer class; name it first")
        for name in ("__call__", "dispatch"):
            theirs = next(base for base in behind if name in vars(base))
            if theirs is not channels.consumer.AsyncConsumer and _owner(cls, name) is DirectDispatch:
                setattr(cls, name, vars(theirs)[name])

    async def __call__(self: Any, scope: Any, receive: Receive, send: Callable[[Message], Awaitable[None]]) -> None:
        """Run the consumer as an ASGI application, until a handler raises ``StopConsumer``."""
        self.scope = scope
        self.channel_layer = get_channel_layer(self.channel_layer_alias)
        sources = [receive]
        if self.channel_layer is not None:
            self.channel_name = await self.channel_layer.new_channel()
            self.channel_receive = functools.partial(self.channel_layer.receive, self.channel_name)
            sources.append(self.channel_receive)
        self.base_send = async_to_sync(send) if self._sync else send
        with contextlib.suppress(StopConsumer):
            await feed(sources, self.dispatch)

    async def dispatch(self: Any, message: Message) -> None:
        """
        Run the handler that the message's type names.

        Raises ``ValueError``, in Channels' words, for a message without a type, with one that begins with an
        underscore, or with one that has no handler.
        """
        handler = getattr(self, get_handler_name(message), None)
        if not handler:
            raise ValueError("No handler for message type %s" % message["type"])  # noqa: UP031 - Channels' own text
        await close_stale_connections(self)
        await handler(message)


def _owner(cls: type, name: str) -> type:
    return next(base for base in cls.__mro__ if name in vars(base))


async def close_stale_connections(consumer: Any) -> None:
    """Do for a consumer's handlers what ``channels.db.aclose_old_connections`` does, where it would do anything."""
    # In the instance's own dict: a consumer's class may be anybody's, and its `__init__` need not call ours.
    stale: StaleConnections | None = vars(consumer).get("_stale_connections")
    if stale is None:
        stale = consumer._stale_connections = StaleConnections()
    if stale.exist():
        await stale.close()


async def feed(sources: list[Receive], dispatch: Callable[[Message], Awaitable[None]]) -> None:
    """
    Dispatch what the sources give, one message at a time, in the running task. Ends only by an exception.

    The counterpart of ``channels.utils.await_many_dispatch``.
    """
    loop = asyncio.get_running_loop()
    arrivals = _Arrivals(loop)
    feeders: list[asyncio.Task[None]] = []
    try:
        feeders += [loop.create_task(_Source(receive, arrivals).run()) for receive in sources]
        while True:
            source = arrivals.popleft() if arrivals else await arrivals.next()
            await dispatch(source.take())
            source.go_on()
    finally:
        await _end(feeders)


class _Arrivals(deque["_Source"]):
    """The sources whose message has arrived, in order, for the consumer's task."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.loop = loop
        self._waiter: asyncio.Future[None] | None = None

    def add(self, source: _Source) -> None:
        self.append(source)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self) -> _Source:
        while not self:
            self._waiter = self.loop.create_future()
            await self._waiter
        return self.popleft()


class _Source:
    """The client or the channel layer: awaits one message after the other, each when the last one was dispatched."""

    __slots__ = ("_arrivals", "_dispatched", "_error", "_message", "_receive")

    def __init__(self, receive: Receive, arrivals: _Arrivals) -> None:
        self._receive = receive
        self._arrivals = arrivals
        self._message: Message | None = None
        self._error: BaseException | None = None
        self._dispatched: asyncio.Future[None] | None = None

    async def run(self) -> None:
        """Receive, hand over, wait until that is dispatched, and so on; what ``receive`` raises is handed over too."""
        while True:
            try:
                self._message = await self._receive()
            except BaseException as error:
                self._error = error
                self._arrivals.add(self)
                raise
            self._dispatched = self._arrivals.loop.create_future()
            self._arrivals.add(self)
            await self._dispatched

    def take(self) -> Message:
        """Return the message that has arrived. Raises what ``receive`` has raised instead."""
        if self._error is not None:
            raise self._error
        message, self._message = self._message, None
        assert message is not None
        return message

    def go_on(self) -> None:
        """Called when the message has been dispatched: the next one may be received."""
        assert self._dispatched is not None
        if not self._dispatched.done():
            self._dispatched.set_result(None)


async def _end(feeders: list[asyncio.Task[None]]) -> None:
    """Cancel the feeders and await all of them; as in Channels, what one of them raises by itself is raised."""
    for feeder in feeders:
        feeder.cancel()
    errors: list[BaseException] = []
    for feeder in feeders:
        # Also when the server cancels the application a second time meanwhile.
        while not feeder.done():
            with contextlib.suppress(BaseException):
                await feeder
        if not feeder.cancelled() and (error := feeder.exception()) is not None:
            errors.append(error)
    if errors:
        raise errors[0]
