"""
Publishing to groups with a history: a script records and publishes, the messages of one tick to one group together.

A message that is our msgpack is handed over without a position, which the script adds. Any other (encryption, JSON, a
site's own serializer) is made just before it is written, with the position that is proposed for it; a proposal that is
not the newest is refused, and the message made anew. Knows streams and Redis channels, no layer.

Rules kept here:

- Of one event loop's messages to a group none overtakes another, also where proposals are refused.
- A message that cannot be made, or that is refused too often, fails for its sender, and for nobody else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from redis.exceptions import RedisError, ResponseError

from ..connection.commands import MAX_MESSAGES
from ..connection.futures import fail
from ..connection.identity import ServerIdentity
from ..connection.link import Command
from ..connection.replies import UnexpectedReply
from ..connection.requests import Pending
from ..connection.script_call import ScriptCall, Way, no_scripts
from ..history import Stream
from ..history.placement import widened, with_position
from ..history.positions import Position, epoch_of
from ..history.proposals import ATTEMPTS, Entry, Proposer
from ..hot import Waiter, Waker
from ..messages.codec import Message
from ..stats import Stats
from ..subscriptions.dialect import Dialect
from . import scripts
from .publisher import MAX_BYTES, MakeRequest

#: Makes what is published of a message; whatever it raises is the sender's.
Encode = Callable[[Message], bytes]


class Outlet(Protocol):
    """What hands requests to the server of a Redis channel, in order."""

    #: The request that was handed in last, if nothing was handed in behind it.
    last: Pending | None

    def submit(self, channel: bytes, make: MakeRequest) -> Waiter[None]:
        """Hand in a request of its own."""


class Recorder:
    """Makes the calls of one event loop. ``fills``: whether messages are our msgpack."""

    def __init__(self, dialect: Dialect, fills: bool, waker: Waker, stats: Stats) -> None:
        self.script = scripts.filled(dialect) if fills else scripts.proposed(dialect)
        self.dialect = dialect
        self.stats = stats
        self.proposer = Proposer()
        #: By stream, the call that was written last and is not answered.
        self.unanswered: dict[bytes, ProposedCall] = {}
        self._fills = fills
        self._waker = waker

    def send(self, outlet: Outlet, channel: bytes, stream: Stream, message: Message, encode: Encode) -> Waiter[None]:
        """
        Record and publish one message. The waiter raises redis-py's errors.

        Raises what ``encode`` does, where it is asked at once.
        """
        waiter: Waiter[None]
        if not self._fills:
            waiter = outlet.submit(
                channel, lambda way, waiter: ProposedCall(self, way, waiter, channel, stream, message, encode)
            )
            # Nobody joins it, and it has what keeps the layer.
            outlet.last = None
            return waiter
        body = encode(message)
        last = outlet.last
        if isinstance(last, FilledBatch) and last.takes(stream):
            waiter = self._waker.waiter()
            last.add(body, waiter)
            return waiter
        return outlet.submit(channel, lambda way, waiter: FilledBatch(self, way, channel, stream, body, waiter))


class RecordedCall(ScriptCall):
    """Messages on their way to one group; each has a waiter, which raises redis-py's errors."""

    __slots__ = ("_channel", "_recorder", "_stream", "_waiters")

    def __init__(self, recorder: Recorder, way: Way, channel: bytes, stream: Stream, waiter: Waiter[None]) -> None:
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
    """Messages whose positions the script adds; each is our msgpack, a map."""

    __slots__ = ("_is_open", "_messages", "_size")

    def __init__(
        self, recorder: Recorder, way: Way, channel: bytes, stream: Stream, body: bytes, waiter: Waiter[None]
    ) -> None:
        super().__init__(recorder, way, channel, stream, waiter)
        self._messages: list[Any] = []
        self._size = 0
        #: Whether it has not been written.
        self._is_open = True
        self._put(body)

    def takes(self, stream: Stream) -> bool:
        """Return whether one more message to a group has a place in it."""
        has_room = self._size < MAX_BYTES and len(self._waiters) < MAX_MESSAGES
        return self._is_open and self._stream is stream and has_room

    def add(self, body: bytes, waiter: Waiter[None]) -> None:
        """Take one more message."""
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
        # Its outlet has it until there is another.
        self._messages.clear()

    def _put(self, body: bytes) -> None:
        header, begin = widened(body, 0, 1)
        # Lua counts from 1.
        self._messages += (header, begin + 1, body)
        self._size += len(body)


class ProposedCall(RecordedCall):
    """A message with the position that is proposed for it."""

    __slots__ = ("_attempts", "_encode", "_entry", "_message")

    def __init__(
        self,
        recorder: Recorder,
        way: Way,
        waiter: Waiter[None],
        channel: bytes,
        stream: Stream,
        message: Message,
        encode: Encode,
    ) -> None:
        super().__init__(recorder, way, channel, stream, waiter)
        self._message = message
        self._encode = encode
        self._entry: Entry = (0, 0)
        self._attempts = 0

    def arguments(self, server: ServerIdentity) -> list[Any]:
        recorder, stream = self._recorder, self._stream
        entry = recorder.proposer.propose(stream.key, server)
        position = str(Position(*entry, stream.digest, epoch_of(server)))
        payload = self._encode(with_position(self._message, position))
        before = recorder.unanswered.get(stream.key)
        self._entry = entry
        recorder.unanswered[stream.key] = self
        after = "" if before is None or before is self else _text(before._entry)
        return [1, stream.key, self._channel, after, *stream.record_arguments(server, payload, _text(entry))]

    def reply(self, reply: Any) -> bool:
        self._is_answered()
        if isinstance(reply, bytes):
            self._attempts += 1
            if reply:
                self._recorder.proposer.overtaken(self._stream.key, reply)
            if self._attempts < ATTEMPTS:
                return True
            reply = ResponseError(
                f"Redis at {self._way.dialer.label}: a message for group {self._stream.group!r} was overtaken by those "
                f"of other senders {ATTEMPTS} times, and was not sent"
            )
        return super().reply(reply)

    def done(self, reply: Any) -> None:
        self._is_answered()
        super().done(reply)

    def _is_answered(self) -> None:
        if self._recorder.unanswered.get(self._stream.key) is self:
            del self._recorder.unanswered[self._stream.key]


def _text(entry: Entry) -> str:
    return f"{entry[0]}-{entry[1]}"
