"""
Publishing to groups with a history, for messages in our own msgpack: a script adds the position, records and publishes.
The messages of one tick to one group go together. Knows streams and Redis channels. Does not know a layer.

``proposed_calls`` handles other messages. Messages from one event loop to a group never overtake each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from redis.exceptions import RedisError, ResponseError

from ..connection.commands import MAX_MESSAGES
from ..connection.futures import fail
from ..connection.identity import ServerIdentity
from ..connection.link import Command
from ..connection.replies import UnexpectedReply
from ..connection.script import Script
from ..connection.script_call import ScriptCall, Way, no_scripts
from ..history import Stream
from ..history.placement import widened
from ..hot import Waiter, Waker
from ..messages.codec import Message
from ..stats import Stats
from ..subscriptions.dialect import Dialect
from . import scripts
from .proposed_calls import Encode, Outlet
from .publisher import MAX_BYTES


class Recorder(Protocol):
    """Records and publishes the messages of one event loop."""

    script: Script

    def send(self, outlet: Outlet, channel: bytes, stream: Stream, message: Message, encode: Encode, /) -> Waiter[None]:
        """
        Record and publish one message. The waiter raises redis-py's errors.

        Exceptions of ``encode`` are raised either here or by the waiter.
        """


class FillingRecorder:
    """A ``Recorder`` for messages into which a script fills their positions."""

    def __init__(self, dialect: Dialect, waker: Waker, stats: Stats) -> None:
        self.script = scripts.filled(dialect)
        self.dialect = dialect
        self.stats = stats
        self._waker = waker

    def send(self, outlet: Outlet, channel: bytes, stream: Stream, message: Message, encode: Encode) -> Waiter[None]:
        """Record and publish one message; see ``Recorder.send``."""
        body = encode(message)
        waiter: Waiter[None] = self._waker.waiter()
        last = outlet.last
        if isinstance(last, FilledBatch) and last.takes(stream):
            last.add(body, waiter)
            return waiter
        outlet.submit(channel, lambda way: FilledBatch(self, way, channel, stream, body, waiter), is_joined=True)
        return waiter


class RecordedCall(ScriptCall):
    """Messages on their way to one group, each with a waiter that raises redis-py's errors."""

    __slots__ = ("_channel", "_recorder", "_stream", "_waiters")

    def __init__(
        self, recorder: FillingRecorder, way: Way, channel: bytes, stream: Stream, waiter: Waiter[None]
    ) -> None:
        super().__init__(recorder.script, way)
        self._recorder = recorder
        self._channel = channel
        self._stream = stream
        self._waiters = [waiter]

    def done(self, reply: Any) -> None:
        count, error = 0, reply
        if isinstance(reply, list) and len(reply) == 2:
            count, error = reply
        elif isinstance(reply, int):
            count, error = reply, None
        is_known = error is None or isinstance(error, Exception)
        if not isinstance(count, int) or not is_known or (error is None and count != len(self._waiters)):
            raise UnexpectedReply.to("the script that records", reply)
        self._recorder.stats.recorded += count
        for waiter in self._waiters[:count]:
            if not waiter.done():
                waiter.set_result(None)
        if error is not None:
            if isinstance(error, RedisError):
                label = f"Redis at {self._way.dialer.label}"
                error = self._recorder.dialect.explain(self._recorder.dialect.publish, error, label)
            fail(self._waiters[count:], error)

    def refused(self, error: ResponseError | None) -> None:
        self.done(no_scripts(self._way, error, "history"))


class FilledBatch(RecordedCall):
    """Messages into which the script fills positions. Each is a map in our own msgpack."""

    __slots__ = ("_is_open", "_messages", "_size")

    def __init__(
        self, recorder: FillingRecorder, way: Way, channel: bytes, stream: Stream, body: bytes, waiter: Waiter[None]
    ) -> None:
        super().__init__(recorder, way, channel, stream, waiter)
        self._messages: list[Any] = []
        self._size = 0
        #: Whether it has not been written yet.
        self._is_open = True
        self._put(body)

    def takes(self, stream: Stream) -> bool:
        """Return whether there is room for one more message to a group."""
        has_room = self._size < MAX_BYTES and len(self._waiters) < MAX_MESSAGES
        return self._is_open and self._stream is stream and has_room

    def add(self, body: bytes, waiter: Waiter[None]) -> None:
        """Add one more message."""
        self._put(body)
        self._waiters.append(waiter)

    def commands(self, server: ServerIdentity) -> Sequence[Command]:
        self._is_open = False
        return super().commands(server)

    def arguments(self, server: ServerIdentity) -> list[Any]:
        stream = self._stream
        return [1, stream.key, self._channel, *stream.append_arguments(server), *self._messages]

    def done(self, reply: Any) -> None:
        self._is_open = False
        super().done(reply)
        # The outlet keeps a reference to this batch until there is another.
        self._messages.clear()

    def _put(self, body: bytes) -> None:
        header, begin = widened(body, 0, 1)
        # Lua counts from 1.
        self._messages += (header, begin + 1, body)
        self._size += len(body)
