"""
Publishing to groups with a history: each message is one call of a script that records and publishes it.

A message that is our msgpack is handed over without a position, which the script adds. Any other (encryption, JSON, a
site's own serializer) is made just before it is written, with the position that is proposed for it; a proposal that is
not the newest is refused, and the message made anew. Knows streams and Redis channels, no layer.

Rules kept here:

- Of one event loop's messages to a group none overtakes another, also where proposals are refused.
- A message that cannot be made, or that is refused too often, fails for its sender, and for nobody else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import RedisError, ResponseError

from ..connection.identity import ServerIdentity
from ..connection.link import Command
from ..connection.replies import UnexpectedReply
from ..connection.script_call import ScriptCall, Way
from ..history import Stream
from ..history.placement import with_position
from ..history.positions import Position, epoch_of
from ..history.proposals import ATTEMPTS, Entry, Proposer
from ..history.streams import no_scripts
from ..hot import Waiter
from ..messages.codec import Message
from ..stats import Stats
from ..subscriptions.dialect import Dialect
from . import scripts

#: Makes what is published of a message; whatever it raises is the sender's.
Encode = Callable[[Message], bytes]


class Recorder:
    """Makes the calls of one event loop. ``fills``: whether messages are our msgpack."""

    def __init__(self, dialect: Dialect, fills: bool, stats: Stats) -> None:
        self.script = scripts.filled(dialect) if fills else scripts.proposed(dialect)
        self.dialect = dialect
        self.stats = stats
        self.proposer = Proposer()
        #: By stream, the call that was written last and is not answered.
        self.unanswered: dict[bytes, ProposedCall] = {}
        self._fills = fills

    def call(
        self, way: Way, waiter: Waiter[None], channel: bytes, stream: Stream, message: Message, encode: Encode
    ) -> ScriptCall:
        """Return the call for one message. Raises what ``encode`` does, where it is asked at once."""
        if self._fills:
            return FilledCall(self, way, waiter, channel, stream, encode(message))
        return ProposedCall(self, way, waiter, channel, stream, message, encode)


class RecordedCall(ScriptCall):
    """One message on its way; ``waiter`` raises redis-py's errors."""

    __slots__ = ("_channel", "_recorder", "_stream", "_waiter")

    def __init__(self, recorder: Recorder, way: Way, waiter: Waiter[None], channel: bytes, stream: Stream) -> None:
        super().__init__(recorder.script, way)
        self._recorder = recorder
        self._waiter = waiter
        self._channel = channel
        self._stream = stream

    def done(self, reply: Any) -> None:
        waiter, recorder = self._waiter, self._recorder
        if reply == 1:
            recorder.stats.recorded += 1
            if not waiter.done():
                waiter.set_result(None)
        elif not isinstance(reply, Exception):
            raise UnexpectedReply.to("the script that records", reply)
        elif not waiter.done():
            if isinstance(reply, RedisError):
                label = f"Redis at {self._way.dialer.label}"
                reply = recorder.dialect.explain(recorder.dialect.publish, reply, label)
            waiter.set_exception(reply)

    def refused(self, error: ResponseError | None) -> None:
        self.done(no_scripts(self._way, error))


class FilledCall(RecordedCall):
    """A message whose position the script adds. ``body``: the message as our msgpack, a map."""

    __slots__ = ("_body",)

    def __init__(
        self, recorder: Recorder, way: Way, waiter: Waiter[None], channel: bytes, stream: Stream, body: bytes
    ) -> None:
        super().__init__(recorder, way, waiter, channel, stream)
        self._body = body

    def arguments(self, server: ServerIdentity) -> list[Any]:
        body = self._body
        first = body[0]
        if 0x80 <= first < 0x8F:
            header, start = _SHORT_HEADERS[first], 2
        else:
            header, start = _longer_header(body)
        return [1, self._stream.key, self._channel, header, start, *self._stream.record_arguments(server, body)]


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
        super().__init__(recorder, way, waiter, channel, stream)
        self._message = message
        self._encode = encode
        self._entry: Entry = (0, 0)
        self._attempts = 0

    def commands(self, server: ServerIdentity) -> Sequence[Command]:
        try:
            return super().commands(server)
        except Exception as error:
            # In the middle of the requests of others, which go on.
            self.done(error)
            return ()

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


#: By the first byte of a map of less than 15 entries, the header of one with one entry more.
_SHORT_HEADERS = {0x80 + count: bytes([0x81 + count]) for count in range(15)}


def _longer_header(packed: bytes) -> tuple[bytes, int]:
    """Return a map's header with one entry more, and where what is behind its own begins, counted from 1."""
    first = packed[0]
    if first == 0x8F:
        return b"\xde\x00\x10", 2
    width = 2 if first == 0xDE else 4
    count = int.from_bytes(packed[1 : 1 + width], "big") + 1
    header = b"\xde" + count.to_bytes(2, "big") if count < 0x10000 else b"\xdf" + count.to_bytes(4, "big")
    return header, width + 2
