"""
One live socket: writes commands, matches replies to them in order, and detects that no more replies come.

A ``Dialer`` opens a socket with redis-py and hands it over. From then on, bytes go from ``Link.write`` to the socket,
and from the socket through hiredis to the ``Answerable`` objects that come with each write. Knows no channel and no
message, and no other socket.

Rules kept here:

- Replies resolve in the order of the commands, and an error in handling one does not affect the others.
- Only a connection whose answer is overdue is dropped, never an idle one. Bytes that move, in either direction, count
  as activity; time in which this process did not run does not count as silence; and the size of a reply is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import reprlib
import select
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

try:
    import fcntl
    import termios
except ImportError:  # Windows: what the kernel has not sent is not known there.
    fcntl = termios = None  # type: ignore[assignment]

import hiredis
from redis.exceptions import ConnectionError, TimeoutError

from ..hot import Histogram
from ..stats import SAMPLE_INTERVAL, Stats
from .identity import UNKNOWN
from .overdue import LAST_READ, OverdueCheck
from .replies import UnexpectedReply, reply_error
from .round_trips import Answerable, TimedCommand

#: The maximum number of unanswered commands on one connection; further commands wait in the process.
MAX_IN_FLIGHT = 4096

#: The maximum size of one reply in bytes (Redis' own limit for a string is 512 MB), and the minimum number of bytes per
#: second for a reply that takes longer than an answer may.
MAX_REPLY = 640 * 1024 * 1024
MIN_REPLY_RATE = 1000

#: The maximum size in bytes of a one-line reply (a status, an error, a number): hiredis scans all of it for each chunk.
MAX_LINE = 1024 * 1024

#: How many times a connection is checked within the time that an answer may take.
LOOKS = 4

#: What the kernel reports for the end of a connection, also behind bytes that were not read. 0 where it cannot tell the
#: two apart: only Linux can.
END = getattr(select, "POLLRDHUP", 0)

Command = tuple[Any, ...] | list[Any]

_MORE = object()


class Link(asyncio.Protocol):
    """One live socket, from takeover to loss. ``on_lost`` is called once, with the reason."""

    #: Takes each reply on a connection where replies do not answer commands; otherwise the oldest unanswered command
    #: does.
    on_push: Callable[[Any], None] | None = None

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        answer_timeout: float,
        stats: Stats,
        on_writable: Callable[[], None],
        on_lost: Callable[[Exception | None], None],
    ) -> None:
        self.in_flight: deque[Answerable] = deque()
        self.writable = True
        #: Why nothing more may be written; None while it may.
        self.leaving: Exception | None = None
        #: The server that it leads to, for a host that may move.
        self.server = ""
        #: The server's identity, if it was asked for.
        self.identity = UNKNOWN
        self.closed = loop.create_future()
        self._loop = loop
        self._answer_timeout = answer_timeout
        self._stats = stats
        self._on_writable = on_writable
        self._on_lost = on_lost
        self._reader = hiredis.Reader(replyError=reply_error, notEnoughData=_MORE)
        #: Loop time at which bytes last came, or waiting for them began.
        self.last_activity = loop.time()
        #: Bytes of an incomplete reply, and when they began to come.
        self._partial = 0
        self._begun = 0.0
        #: Whether the next byte begins a reply, and whether the current reply is known to be one line.
        self._at_start = False
        self._is_line = False
        #: Counts the round trips, and the loop time from which the next one is timed.
        self._round_trips: Histogram | None = None
        self._time_next = math.inf
        #: Bytes written; of these, how many had left and how many had not at the last check.
        self._written = self._gone = self._unsent = 0
        self._watch: asyncio.TimerHandle | None = None
        self._overdue = OverdueCheck()
        self._reason: Exception | None = None
        self._transport: Any = None
        self._writer: Any = None
        #: Whether the end of the connection has been read, and ``connection_lost`` is on its way.
        self.is_ending: Callable[[], bool] = _yes

    def attach(self, writer: asyncio.StreamWriter) -> None:
        """Take a socket over from a stream, whose reader has to be empty, as it is after a handshake."""
        # Both are kept as long as the socket: a StreamWriter that is garbage-collected closes its transport.
        self._writer = writer
        self._transport = writer.transport
        # The transport's own method, because each write calls it.
        self.is_ending = self._transport.is_closing
        self._transport.set_protocol(self)
        # The stream protocol may have paused reading; nobody else would resume it.
        with contextlib.suppress(RuntimeError):
            self._transport.resume_reading()

    def write(self, data: bytes, requests: Sequence[Answerable]) -> None:
        """Write commands; ``requests`` has one entry for each expected reply, in order."""
        if not self.in_flight:
            self.last_activity = self._loop.time()
            self._at_start = True
            if self._watch is None:
                self._look_in(self._answer_timeout / LOOKS)
        if self.last_activity >= self._time_next:
            requests = self._timed(requests)
        self.in_flight.extend(requests)
        size = len(data)
        self._stats.bytes_sent += size
        self._written += size
        self._transport.write(data)

    def time_commands(self, round_trips: Histogram) -> None:
        """Time commands from now on, in at most one write every ``SAMPLE_INTERVAL`` seconds."""
        self._round_trips = round_trips
        self._time_next = 0.0

    def _timed(self, requests: Sequence[Answerable]) -> Sequence[Answerable]:
        assert self._round_trips is not None
        self._time_next = self.last_activity + SAMPLE_INTERVAL
        return [TimedCommand(requests[0], self._round_trips), *requests[1:]]

    def may_have_ended(self) -> bool:
        """
        Whether the kernel may hold the end of the connection, unread.

        Unread bytes count as a sign of it, unless they can be replies and the kernel reports the end separately.
        """
        sock = self._transport.get_extra_info("socket")
        if sock is None:
            return False
        descriptor = sock.fileno()
        return descriptor >= 0 and _may_have_ended(descriptor, bool(self.in_flight))

    def close(self) -> None:
        """Close gracefully: data that was written is still sent."""
        self._transport.close()

    def abort(self, reason: Exception) -> None:
        """Drop the socket at once; ``on_lost`` gets the reason."""
        if self._reason is None:
            self._reason = reason
            self._transport.abort()

    def leave(self, reason: Exception) -> None:
        """Write nothing more, and drop the socket when everything that was written has been answered."""
        self.leaving = reason
        if not self.in_flight:
            self.abort(reason)

    def data_received(self, data: bytes) -> None:
        gets = self._reader.gets
        push = self.on_push
        in_flight = self.in_flight
        self._stats.bytes_received += len(data)
        self._reader.feed(data)
        self.last_activity = self._loop.time()
        try:
            reply = gets()
            if reply is _MORE and not self._is_within_bounds(data):
                return
            while reply is not _MORE:
                # The bytes after the last complete reply are at most those that came with it.
                self._partial = 0
                try:
                    if push is not None:
                        push(reply)
                    elif in_flight:
                        in_flight.popleft().resolve(reply)
                    else:
                        self.abort(ConnectionError(f"an unexpected reply: {reprlib.repr(reply)}"))
                except UnexpectedReply as error:
                    # Later replies on this socket may no longer match the commands.
                    self.abort(error)
                    return
                except Exception as error:
                    context = {"message": "channels_redis_fast: a reply could not be handled", "exception": error}
                    self._loop.call_exception_handler(context)
                self._at_start = False
                reply = gets()
        except hiredis.ProtocolError as error:
            self.abort(ConnectionError(f"protocol error: {error}"))
            return
        if self.leaving is not None:
            if not self.in_flight:
                self.abort(self.leaving)
        elif self.writable and len(self.in_flight) < MAX_IN_FLIGHT:
            self._on_writable()

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        self._on_writable()

    def connection_lost(self, error: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self._transport = self._writer = None
        self.is_ending = _yes
        if not self.closed.done():
            self.closed.set_result(None)
        self._on_lost(self._reason or error)

    def _is_within_bounds(self, data: bytes) -> bool:
        """Count bytes that completed no reply; if they are too many, drop the socket and return False."""
        if not self._partial:
            self._begun = self.last_activity
            self._is_line = self._at_start and data[:1] in (b"+", b"-", b":")
        self._partial += len(data)
        limit = MAX_LINE if self._is_line else MAX_REPLY
        if self._partial > limit:
            self.abort(ConnectionError(f"a reply of more than {limit} bytes"))
        return self._partial <= limit

    def drips(self, now: float) -> bool:
        """Whether a reply has begun and comes so slowly that it counts as missing."""
        return self._partial > 0 and now - self._begun > self._answer_timeout + self._partial / MIN_REPLY_RATE

    def _look_in(self, seconds: float) -> None:
        self._watch = self._loop.call_later(seconds, self._check_answers)

    def _check_answers(self) -> None:
        self._watch = None
        if not self.in_flight:
            # The next write starts counting anew.
            self._unsent = 0
            self._overdue.reset()
            return
        now = self._loop.time()
        if self._has_sent_more():
            self.last_activity = now
        left = self.last_activity + self._answer_timeout - now
        is_overdue = left <= 0 or self.drips(now)
        if self._overdue.confirms(is_overdue, now):
            reason = "no answer" if left <= 0 else "no whole reply"
            self.abort(TimeoutError(f"{reason} for {self._answer_timeout:g} s"))
        else:
            self._look_in(LAST_READ if is_overdue else min(left, self._answer_timeout / LOOKS))

    def _has_sent_more(self) -> bool:
        """Whether some of the bytes that were unsent at the last check have been sent since."""
        was_unsent, had_gone = self._unsent, self._gone
        self._unsent = unsent_bytes(self._transport)
        self._gone = self._written - self._unsent
        return was_unsent > 0 and self._gone != had_gone


class PushLink(Link):
    """A live socket on which the server pushes messages: each reply goes to ``on_push``."""

    def write(self, data: bytes, requests: Sequence[Answerable]) -> None:
        """Write commands. No reply is matched to them: the subscriber checks for itself whether the server is alive."""
        self._stats.bytes_sent += len(data)
        self._transport.write(data)


def _yes() -> bool:
    return True


def _may_have_ended(descriptor: int, expects_bytes: bool) -> bool:
    if not hasattr(select, "poll"):
        return bool(select.select([descriptor], [], [], 0)[0])
    # Not select(), which accepts no descriptor above 1,023.
    poll = select.poll()
    poll.register(descriptor, select.POLLIN | END)
    found = poll.poll(0)
    return bool(found) and not (expects_bytes and END and found[0][1] == select.POLLIN)


def unsent_bytes(transport: Any) -> int:
    """Return how many bytes of a socket the peer has not acknowledged: in the process and in the kernel."""
    # TLS in asyncio writes to a transport of its own, and counts only the bytes that it has not yet passed to that one.
    below = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
    waiting = sum(some.get_write_buffer_size() for some in (transport, below) if some is not None)
    sock = transport.get_extra_info("socket")
    if fcntl is not None and sock is not None:
        with contextlib.suppress(OSError, ValueError):
            waiting += int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    return int(waiting)
