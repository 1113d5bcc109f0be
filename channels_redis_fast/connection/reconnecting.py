"""
A connection that reconnects: when it opens a socket, when it retries, and how it closes.

``CommandConnection`` (``commands.py``), the receivers' pumps and the subscribers decide what is written to the socket,
and what to do when it was opened or lost. Knows no command, no channel and no message.

Rules kept here:

- There is at most one socket, or one attempt to open one. Attempts back off, with jitter. So do connections that are
  lost soon after they were opened.
- When a socket is lost, everything that waits for a reply on it is failed before the connection acts on the loss.
"""

from __future__ import annotations

import abc
import asyncio
import contextvars
import random
import time
from collections import deque

from redis import exceptions
from redis.exceptions import ConnectionError, RedisError

from ..process import Process, current_number
from ..stats import Stats
from .backoff import BACKOFF_LAST, delays
from .dialer import Dialer
from .link import Link

#: How long closing may wait for a server that does not answer, in seconds.
CLOSE_TIMEOUT = 1.0

#: A socket that lived for less than this many seconds is short-lived. Also the first pause after such a socket.
BACKOFF_SOON = 0.05


class Connection(abc.ABC):
    """A reconnecting connection: at most one socket to one host, in one event loop."""

    link_class: type[Link] = Link

    #: The connection's purpose, as shown by the server's CLIENT LIST.
    role: str

    def __init__(self, dialer: Dialer, loop: asyncio.AbstractEventLoop, stats: Stats) -> None:
        self.dialer = dialer
        self.loop = loop
        self.stats = stats
        self.link: Link | None = None
        self.answer_timeout = dialer.answer_timeout
        self.closing = False
        #: Whether there will be no further socket.
        self.is_over = False
        self._process = Process()
        self._opening: asyncio.Task[None] | None = None
        self._lost_at: float | None = None
        self._opened_at = 0.0
        #: How many sockets in a row were short-lived.
        self._short_lives = 0
        dialer.watch(self)

    @abc.abstractmethod
    def opened(self) -> None:
        """Called when a socket has been opened."""

    @abc.abstractmethod
    def writable(self) -> None:
        """Called when the socket can take more data, or commands have been answered."""

    @abc.abstractmethod
    def refused(self, error: Exception) -> bool:
        """Called when an attempt to open a socket failed; return whether to try again."""

    @abc.abstractmethod
    def after_loss(self) -> None:
        """Called when the socket is gone, after every command on it has been failed or kept."""

    def inherited(self) -> ConnectionError | None:
        """Return the error to raise in a forked process that uses its parent's event loop; None elsewhere."""
        return None if self._process.number == current_number[0] else self._process.error(self.dialer.label)

    @property
    def is_open(self) -> bool:
        """Whether there is a socket."""
        return self.link is not None

    @property
    def is_opening(self) -> bool:
        """Whether an attempt to open a socket is under way."""
        return self._opening is not None

    def connect(self) -> None:
        """Start opening a socket, unless there is one or an attempt is in progress."""
        if self.link is None and self._opening is None and not self.closing:
            # An empty context: the connection outlives the request that first needs it.
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
                        # Also when this is cancelled, so that nothing is left half closed.
                        link.leaving = ConnectionError("closing")
                        link.abort(link.leaving)
                await link.closed
        finally:
            self.closing = self.is_over

    def look_again(self, error: Exception) -> None:
        """Leave a server that answered that it is not a primary, or not ready."""
        if isinstance(error, exceptions.ReadOnlyError):
            self.dialer.asks_role = True
        if self.link is not None:
            # The answers that are on their way may report other commands that were not carried out.
            self.link.leave(error)

    def is_in_cluster(self) -> ConnectionError:
        """Return the error to raise if the host turns out to be a node of a cluster."""
        return ConnectionError(
            f"{self.dialer.label} is a node of a Redis Cluster: in the option 'hosts', write "
            "{'cluster': [" + repr(f"redis://{self.dialer.label}") + "]}"
        )

    def moved(self) -> None:
        """Called when another server has become the host's primary. Connections to the old one leave it."""
        if self.link is not None and self.link.server != self.dialer.primary:
            self.leave_server(self.link)

    def leave_server(self, link: Link) -> None:
        """Drop the socket to a server that is no longer a primary."""
        link.abort(ConnectionError("the primary has moved"))

    def trouble_lasts(self) -> bool:
        """Whether there was never a connection, or none for longer than an answer may take."""
        return self._lost_at is None or time.monotonic() - self._lost_at > self.answer_timeout

    async def _open(self) -> None:
        try:
            for delay in delays():
                if self._short_lives:
                    # A server that accepts connections only to drop them is not retried at once.
                    pause = min(BACKOFF_SOON * 2.0 ** min(self._short_lives - 1, 10), BACKOFF_LAST)
                    await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                link = self.link_class(self.loop, self.answer_timeout, self.stats, self.writable, self._lost)
                try:
                    await self.dialer.dial(link, self.role)
                except (RedisError, OSError, ValueError) as error:
                    if self._lost_at is None:
                        # Other connections had it before the outage.
                        self._lost_at = self.dialer.out_since
                    if self._lost_at is None and isinstance(error, exceptions.BusyLoadingError):
                        # The server exists and will be ready, so treat it like one that was connected before.
                        self._lost_at = time.monotonic()
                    if not self.refused(error):
                        return
                    await asyncio.sleep(delay)
                else:
                    break
        except asyncio.CancelledError:
            # All tasks of the loop were cancelled; whatever waits for this socket may not be a task.
            if not self.closing:
                self.loop.call_soon(self.after_loss)
            raise
        finally:
            self._opening = None
        self.link = link
        self._opened_at = time.monotonic()
        self.stats.server_restarts += self.dialer.take_restarts()
        if self._lost_at is not None:
            self._lost_at = None
            self.stats.reconnects += 1
            self.dialer.restored()
        self.opened()

    def _opening_is_over(self, opening: asyncio.Task[None]) -> None:
        if self._opening is opening:
            # Cancelled before its first step, so its own handler has not run.
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
