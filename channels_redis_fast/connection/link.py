"""
Sockets: writing whole ticks at once, replies in order, coming back after a loss.

A ``Dialer`` opens a socket with redis-py and hands it over; from there on bytes go from ``Link.write`` to the
socket and from the socket through hiredis to whoever waits. Knows no channel and no message: what is written
comes with ``Answerable`` objects, what they mean is their business.

Rules kept here:

- Replies resolve in the order of the commands, and one that misbehaves disturbs no other.
- Commands handed in during one tick of the event loop leave in one write, but for those that are told not to wait.
- What was not written when a connection dies goes out on the next one; what was written and not answered is
  repeated only if it is ``repeatable``, and fails otherwise, since it may have happened.
- A connection never dies of idleness here: only an answer overdue kills it. Bytes that move, in either direction, are
  activity; the time in which this process did not run is none; and no reply is read without end.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import contextvars
import random
import reprlib
import select
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from os import getpid
from typing import Any, Protocol

try:
    import fcntl
    import termios
except ImportError:  # Windows: what the kernel has not sent is not known there.
    fcntl = termios = None  # type: ignore[assignment]

import hiredis
from redis import exceptions
from redis.exceptions import ConnectionError, RedisError, TimeoutError

from ..process import Process
from ..stats import Stats
from .dialer import Dialer
from .replies import UnexpectedReply, reply_error

#: Seconds that closing may wait for a server that does not answer.
CLOSE_TIMEOUT = 1.0

#: Seconds between attempts to come back: doubled from the first to the last, with jitter.
BACKOFF_FIRST, BACKOFF_LAST = 0.01, 0.8
BACKOFF_SOON = 0.05

#: Commands that may be written and unanswered on one connection; more wait their turn in the process.
MAX_IN_FLIGHT = 4096

#: Bytes that one reply may have (Redis' own limit for a string is 512 MB), and those that have to come each second of
#: one that takes longer than an answer may.
MAX_REPLY = 640 * 1024 * 1024
MIN_REPLY_RATE = 1000

#: Bytes that a reply of one line (a status, an error, a number) may have: hiredis looks through all of it
#: for each chunk.
MAX_LINE = 1024 * 1024

#: How often, in the time that an answer may take, a connection is looked at.
LOOKS = 4

#: Seconds that a connection whose answer is overdue is still read. A process that was stopped, or a loop that was busy,
#: finds its timers due before it has read what came meanwhile.
LAST_READ = 0.05

#: Seconds by which a timer is so late that this process was stopped.
LATE = 1.0

#: Requests assembled into one buffer, and bytes of them after which it takes no more: so that a socket that cannot keep
#: up is noticed between two buffers, and few bytes lie in memory twice.
MAX_REQUESTS_PER_WRITE, MAX_BYTES_PER_WRITE = 512, 1_000_000

Command = tuple[Any, ...] | list[Any]

_MORE = object()


class Answerable(Protocol):
    """One command on the wire: gets its reply, or hears that none will come."""

    def resolve(self, reply: Any) -> None: ...
    def lost(self, error: Exception) -> None: ...


class Link(asyncio.Protocol):
    """One live socket, from take-over to loss. ``on_lost`` is called once, with the reason."""

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
        #: Why nothing more is to be written.
        self.leaving: Exception | None = None
        #: Where it leads, of a host that may move.
        self.server = ""
        self.closed = loop.create_future()
        self._loop = loop
        self._answer_timeout = answer_timeout
        self._stats = stats
        self._on_writable = on_writable
        self._on_lost = on_lost
        self._reader = hiredis.Reader(replyError=reply_error, notEnoughData=_MORE)
        #: Loop time when bytes came last, or when waiting for them began.
        self.heard = loop.time()
        #: Bytes of a reply that is not whole yet, and when they began to come.
        self._partial = 0
        self._begun = 0.0
        #: Whether the next byte begins a reply, and whether the reply that has begun is known to be one line.
        self._at_start = False
        self._is_line = False
        #: Bytes written, and how many of them had left and had not at the last look.
        self._written = self._gone = self._unsent = 0
        self._watch: asyncio.TimerHandle | None = None
        #: When ``_watch`` is due.
        self._due = 0.0
        self._is_last_read = False
        self._reason: Exception | None = None
        self._transport: Any = None
        self._writer: Any = None
        #: Whether the end of the connection has been read, and ``connection_lost`` is on its way.
        self.is_ending: Callable[[], bool] = _yes

    def attach(self, writer: asyncio.StreamWriter) -> None:
        """Take the socket over from a stream; its reader has to be empty, as it is after a handshake."""
        # Both are kept as long as the socket: a collected StreamWriter closes its transport.
        self._writer = writer
        self._transport = writer.transport
        # The transport's own, since each write asks.
        self.is_ending = self._transport.is_closing
        self._transport.set_protocol(self)
        # The stream protocol may have paused reading; nobody else would resume it.
        with contextlib.suppress(RuntimeError):
            self._transport.resume_reading()

    def write(self, data: bytes, requests: Sequence[Answerable]) -> None:
        """Write commands; ``requests`` has one entry for each reply they will get, in order."""
        if not self.in_flight:
            self.heard = self._loop.time()
            self._at_start = True
            if self._watch is None:
                self._look_in(self._answer_timeout / LOOKS)
        self.in_flight.extend(requests)
        size = len(data)
        self._stats.bytes_sent += size
        self._written += size
        self._transport.write(data)

    def has_unread(self) -> bool:
        """Whether the kernel has something that was not read yet: bytes, or the end of the connection."""
        sock = self._transport.get_extra_info("socket")
        if sock is None:
            return False
        descriptor = sock.fileno()
        return descriptor >= 0 and bool(_readable(descriptor))

    def close(self) -> None:
        """Close in good order: what was written is still sent."""
        self._transport.close()

    def abort(self, reason: Exception) -> None:
        """Drop the socket at once; ``on_lost`` hears the reason."""
        if self._reason is None:
            self._reason = reason
            self._transport.abort()

    def leave(self, reason: Exception) -> None:
        """Have nothing more written, and drop the socket when what was has been answered."""
        self.leaving = reason
        if not self.in_flight:
            self.abort(reason)

    def data_received(self, data: bytes) -> None:
        gets = self._reader.gets
        self._stats.bytes_received += len(data)
        self._reader.feed(data)
        self.heard = self._loop.time()
        try:
            reply = gets()
            if reply is _MORE and not self._is_within_bounds(data):
                return
            while reply is not _MORE:
                # What lies behind the last whole reply is at most what came with it.
                self._partial = 0
                try:
                    self.take(reply)
                except UnexpectedReply as error:
                    # Nothing that comes behind it on this socket can be trusted to belong to whom it is given.
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

    def take(self, reply: Any) -> None:
        """Give a reply to the oldest command that waits for one."""
        if self.in_flight:
            self.in_flight.popleft().resolve(reply)
        else:
            self.abort(ConnectionError(f"a reply that nobody asked for: {reprlib.repr(reply)}"))

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
        """Count bytes that made no reply whole; return False, and drop the socket, where they are too many."""
        if not self._partial:
            self._begun = self.heard
            self._is_line = self._at_start and data[:1] in (b"+", b"-", b":")
        self._partial += len(data)
        limit = MAX_LINE if self._is_line else MAX_REPLY
        if self._partial > limit:
            self.abort(ConnectionError(f"a reply of more than {limit} bytes"))
        return self._partial <= limit

    def drips(self, now: float) -> bool:
        """Whether a reply has begun and comes so slowly that it counts as none."""
        return self._partial > 0 and now - self._begun > self._answer_timeout + self._partial / MIN_REPLY_RATE

    def _look_in(self, seconds: float) -> None:
        self._due = self._loop.time() + seconds
        self._watch = self._loop.call_later(seconds, self._check_answers)

    def _check_answers(self) -> None:
        self._watch = None
        is_last_read, self._is_last_read = self._is_last_read, False
        if not self.in_flight:
            # The next write begins to count anew.
            self._unsent = 0
            return
        now = self._loop.time()
        if self._has_sent_more():
            self.heard = now
        left = self.heard + self._answer_timeout - now
        if left > 0 and not self.drips(now):
            self._look_in(min(left, self._answer_timeout / LOOKS))
        elif is_last_read and now - self._due < LATE:
            reason = "no answer" if left <= 0 else "no whole reply"
            self.abort(TimeoutError(f"{reason} for {self._answer_timeout:g} s"))
        else:
            # Due, or due late: then this process did not run in between, and what came in that time is unread.
            self._is_last_read = True
            self._look_in(LAST_READ)

    def _has_sent_more(self) -> bool:
        """Whether some of what had not left at the last look has left since."""
        was_unsent, had_gone = self._unsent, self._gone
        self._unsent = unsent_bytes(self._transport)
        self._gone = self._written - self._unsent
        return was_unsent > 0 and self._gone != had_gone


class PushLink(Link):
    """A live socket on which the server speaks unasked: each reply goes to ``on_push``."""

    on_push: Callable[[Any], None]

    def write(self, data: bytes, requests: Sequence[Answerable]) -> None:
        """Write commands. Nothing is waited for here: only what comes says that the server is alive."""
        self._stats.bytes_sent += len(data)
        self._transport.write(data)

    def take(self, reply: Any) -> None:
        self.on_push(reply)


class Connection(abc.ABC):
    """A connection that comes back: at most one socket to one host, in one event loop."""

    link_class: type[Link] = Link

    #: What this connection is for, as the server's CLIENT LIST shows it.
    role: str

    def __init__(self, dialer: Dialer, loop: asyncio.AbstractEventLoop, stats: Stats) -> None:
        self.dialer = dialer
        self.loop = loop
        self.stats = stats
        self.link: Link | None = None
        self.answer_timeout = dialer.answer_timeout
        self.closing = False
        self._process = Process()
        self._opening: asyncio.Task[None] | None = None
        self._lost_at: float | None = None
        self._opened_at = 0.0
        #: How many sockets in a row were lost soon after they were opened.
        self._short_lives = 0
        dialer.watch(self)

    @abc.abstractmethod
    def opened(self) -> None:
        """A socket is there."""

    @abc.abstractmethod
    def writable(self) -> None:
        """The socket takes more, or commands have been answered."""

    @abc.abstractmethod
    def refused(self, error: Exception) -> bool:
        """An attempt to open failed; return whether to try again."""

    @abc.abstractmethod
    def after_loss(self) -> None:
        """The socket is gone, and everybody who waited for a reply has heard it."""

    def inherited(self) -> ConnectionError | None:
        """Return what to raise in a forked process that goes on with its parent's event loop, None elsewhere."""
        return None if self._process.number == getpid() else self._process.left(self.dialer.label)

    @property
    def is_open(self) -> bool:
        """Whether there is a socket."""
        return self.link is not None

    @property
    def is_opening(self) -> bool:
        """Whether an attempt to open a socket is under way."""
        return self._opening is not None

    def connect(self) -> None:
        """Begin to open a socket, unless there is one or an attempt is under way."""
        if self.link is None and self._opening is None and not self.closing:
            # An empty context: the connection outlives the request in which it is first needed.
            context = contextvars.Context()
            self._opening = context.run(self.loop.create_task, self._open())
            self._opening.add_done_callback(self._opening_is_over, context=context)

    async def aclose(self) -> None:
        """Close the socket and wait until it is gone. A later ``connect`` opens another."""
        self.closing = True
        try:
            if self._opening is not None:
                self._opening.cancel()
                await asyncio.wait([self._opening])
            if self.link is not None:
                link = self.link
                link.close()
                try:
                    # wait() and not wait_for(): a TLS peer that never answers close_notify must not hold the loop.
                    await asyncio.wait([link.closed], timeout=CLOSE_TIMEOUT)
                finally:
                    if not link.closed.done():
                        # Whoever is cancelled here leaves nothing half closed.
                        link.leaving = ConnectionError("closing")
                        link.abort(link.leaving)
                await link.closed
        finally:
            self.closing = False

    def look_again(self, error: Exception) -> None:
        """Leave a server that answered that it is not the one to talk to, or not yet."""
        if isinstance(error, exceptions.ReadOnlyError):
            self.dialer.asks_role = True
        if self.link is not None:
            # The answers on their way say what else was not done.
            self.link.leave(error)

    def is_in_cluster(self) -> ConnectionError:
        """Return what to raise where the host turns out to be a server of a cluster."""
        return ConnectionError(
            f"{self.dialer.label} is a server of a Redis Cluster: in the option 'hosts' it has to be "
            "{'cluster': [" + repr(f"redis://{self.dialer.label}") + "]}"
        )

    def moved(self) -> None:
        """Called when the host's primary is another server; what is connected to the old one leaves it."""
        if self.link is not None and self.link.server != self.dialer.primary:
            self.leave_server(self.link)

    def leave_server(self, link: Link) -> None:
        """Drop the socket to a server that is no primary any more."""
        link.abort(ConnectionError("the primary has moved"))

    def trouble_lasts(self) -> bool:
        """Whether there was never a connection, or none for longer than an answer may take."""
        return self._lost_at is None or time.monotonic() - self._lost_at > self.answer_timeout

    async def _open(self) -> None:
        try:
            for delay in delays():
                if self._short_lives:
                    # A server that takes connections only to drop them is not asked again at once.
                    pause = min(BACKOFF_SOON * 2.0 ** min(self._short_lives - 1, 10), BACKOFF_LAST)
                    await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                link = self.link_class(self.loop, self.answer_timeout, self.stats, self.writable, self._lost)
                try:
                    await self.dialer.dial(link, self.role)
                except (RedisError, OSError, ValueError) as error:
                    if isinstance(error, exceptions.BusyLoadingError) and self._lost_at is None:
                        # It is there and will be ready: the same as if it had been there before.
                        self._lost_at = time.monotonic()
                    if not self.refused(error):
                        return
                    await asyncio.sleep(delay)
                else:
                    break
        except asyncio.CancelledError:
            # Somebody cancelled every task of the loop; those who wait for this socket are none of them.
            if not self.closing:
                self.loop.call_soon(self.after_loss)
            raise
        finally:
            self._opening = None
        self.link = link
        self._opened_at = time.monotonic()
        if self._lost_at is not None:
            self._lost_at = None
            self.stats.reconnects += 1
            self.dialer.restored()
        self.opened()

    def _opening_is_over(self, opening: asyncio.Task[None]) -> None:
        if self._opening is opening:
            # Cancelled before its first step, it has not come to say so itself.
            self._opening = None
            if not self.closing:
                self.after_loss()

    def _lost(self, error: Exception | None) -> None:
        link, self.link = self.link, None
        if link is None:
            return
        if not self.closing:
            self._lost_at = time.monotonic()
            lived = self._lost_at - self._opened_at
            is_short = lived < (BACKOFF_LAST if self._short_lives else BACKOFF_SOON)
            self._short_lives = self._short_lives + 1 if is_short else 0
            self.dialer.lost(error, self._opened_at, link.server)
        reason = ConnectionError(f"{self.dialer.label}: connection lost ({error or 'closed'}) before the reply")
        unanswered, link.in_flight = link.in_flight, deque()
        for request in unanswered:
            request.lost(reason)
        self.after_loss()


def _yes() -> bool:
    return True


def _readable(descriptor: int) -> Any:
    if not hasattr(select, "poll"):
        return select.select([descriptor], [], [], 0)[0]
    # No select: it takes no descriptor above 1,023.
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return poll.poll(0)


def unsent_bytes(transport: Any) -> int:
    """Return how many bytes of a socket the peer has not acknowledged: those in the process, and in the kernel."""
    # TLS in asyncio writes to a transport of its own, and counts only what it has not yet handed to that.
    below = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
    waiting = sum(some.get_write_buffer_size() for some in (transport, below) if some is not None)
    sock = transport.get_extra_info("socket")
    if fcntl is not None and sock is not None:
        with contextlib.suppress(OSError, ValueError):
            waiting += int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    return int(waiting)


def delays() -> Iterator[float]:
    """Yield the seconds between attempts."""
    delay = BACKOFF_FIRST
    while True:
        yield delay * random.uniform(0.5, 1.0)
        delay = min(delay * 2, BACKOFF_LAST)
