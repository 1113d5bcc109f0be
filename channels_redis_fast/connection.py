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
- A connection never dies of idleness here: only an answer overdue kills it.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import contextvars
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import hiredis
from redis import exceptions
from redis.exceptions import ConnectionError, RedisError, TimeoutError

from .dialer import Dialer
from .stats import Stats

#: Seconds that closing may wait for a server that does not answer.
CLOSE_TIMEOUT = 1.0

#: Seconds between attempts to come back: doubled from the first to the last, with jitter.
BACKOFF_FIRST, BACKOFF_LAST = 0.01, 0.8
BACKOFF_SOON = 0.05

#: Commands that may be written and unanswered on one connection; more wait their turn in the process.
MAX_IN_FLIGHT = 4096

#: Requests assembled into one buffer, so that a socket that cannot keep up is noticed between two of them.
MAX_REQUESTS_PER_WRITE = 512

Command = tuple[Any, ...] | list[Any]

_MORE = object()

_ERRORS: dict[str, type[RedisError]] = {
    "MOVED": exceptions.MovedError,
    "ASK": exceptions.AskError,
    "TRYAGAIN": exceptions.TryAgainError,
    "CLUSTERDOWN": exceptions.ClusterDownError,
    "CROSSSLOT": exceptions.ClusterCrossSlotError,
    "NOSCRIPT": exceptions.NoScriptError,
    "READONLY": exceptions.ReadOnlyError,
    "UNBLOCKED": exceptions.ReadOnlyError,
    "LOADING": exceptions.BusyLoadingError,
    "MASTERDOWN": exceptions.MasterDownError,
    "NOAUTH": exceptions.AuthenticationError,
    "WRONGPASS": exceptions.AuthenticationError,
    "NOPERM": exceptions.NoPermissionError,
    "OOM": exceptions.OutOfMemoryError,
}


#: Errors of a server that is not the one to talk to, or not yet. What it was asked to do, it has not done.
NOT_DONE: frozenset[Any] = frozenset(
    (exceptions.ReadOnlyError, exceptions.BusyLoadingError, exceptions.MasterDownError)
)


#: Where a request is to go instead, or that it can go nowhere yet: answers of a cluster. Nothing was done.
REDIRECTIONS: frozenset[Any] = frozenset(
    (exceptions.MovedError, exceptions.AskError, exceptions.TryAgainError, exceptions.ClusterDownError)
)

#: What only a server of a cluster answers.
CLUSTER_ONLY = REDIRECTIONS | {exceptions.ClusterCrossSlotError}

#: Answers that say that a request was not carried out, and might be elsewhere or later.
ELSEWHERE = NOT_DONE | CLUSTER_ONLY


def reply_error(text: str) -> Exception:
    """Return the redis-py exception for an error reply; unknown codes give ``ResponseError``."""
    code, _, rest = text.partition(" ")
    kind = _ERRORS.get(code)
    if kind is not None and issubclass(kind, exceptions.AskError):
        # It reads slot and address from what follows.
        return kind(rest)
    if kind is None:
        # Redis 6 puts what a script's command was answered into a sentence of its own.
        inner = (code for code in ("READONLY", "OOM") if f"-{code} " in text)
        kind = _ERRORS.get(next(inner, ""), exceptions.ResponseError)
    return kind(text)


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
        self.heard = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._reason: Exception | None = None
        self._transport: Any = None
        self._writer: Any = None

    def attach(self, writer: asyncio.StreamWriter) -> None:
        """Take the socket over from a stream; its reader has to be empty, as it is after a handshake."""
        # Both are kept as long as the socket: a collected StreamWriter closes its transport.
        self._writer = writer
        self._transport = writer.transport
        self._transport.set_protocol(self)
        # The stream protocol may have paused reading; nobody else would resume it.
        with contextlib.suppress(RuntimeError):
            self._transport.resume_reading()

    def write(self, data: bytes, requests: Sequence[Answerable]) -> None:
        """Write commands; ``requests`` has one entry for each reply they will get, in order."""
        if not self.in_flight:
            self.heard = self._loop.time()
            if self._watch is None:
                self._watch = self._loop.call_later(self._answer_timeout, self._check_answers)
        self.in_flight.extend(requests)
        self._stats.bytes_sent += len(data)
        self._transport.write(data)

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
        while True:
            try:
                reply = gets()
            except hiredis.ProtocolError as error:
                self.abort(ConnectionError(f"protocol error: {error}"))
                return
            if reply is _MORE:
                break
            try:
                self.take(reply)
            except Exception as error:
                context = {"message": "channels_redis_fast: a reply could not be handled", "exception": error}
                self._loop.call_exception_handler(context)
        self.heard = self._loop.time()
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
            self.abort(ConnectionError(f"a reply that nobody asked for: {reply!r}"))

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
        if not self.closed.done():
            self.closed.set_result(None)
        self._on_lost(self._reason or error)

    def _check_answers(self) -> None:
        self._watch = None
        if not self.in_flight:
            return
        left = self.heard + self._answer_timeout - self._loop.time()
        if left > 0:
            self._watch = self._loop.call_later(left, self._check_answers)
        else:
            self.abort(TimeoutError(f"no answer for {self._answer_timeout:g} s"))


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
        self._opening: asyncio.Task[None] | None = None
        self._lost_at: float | None = None
        self._opened_at = 0.0
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
        """Hear that the host's primary is another server; what is connected to the old one leaves it."""
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
                if self._lost_at is not None and self._lost_at - self._opened_at < BACKOFF_SOON:
                    # A server that takes connections only to drop them is not asked again at once.
                    await asyncio.sleep(BACKOFF_SOON)
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
            self.dialer.lost(error, self._opened_at, link.server)
        reason = ConnectionError(f"{self.dialer.label}: connection lost ({error or 'closed'}) before the reply")
        unanswered, link.in_flight = link.in_flight, deque()
        for request in unanswered:
            request.lost(reason)
        self.after_loss()


def delays() -> Iterator[float]:
    """Yield the seconds between attempts."""
    delay = BACKOFF_FIRST
    while True:
        yield delay * random.uniform(0.5, 1.0)
        delay = min(delay * 2, BACKOFF_LAST)
