"""
The command connection: one socket for everything that is not a blocking wait, shared by all coroutines of a loop.

A ``Request`` is one or more commands and the future for their replies. ``CommandConnection`` collects the requests of
one tick of the event loop, assembles them into one buffer and writes it once. Knows no channel and no message.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from time import monotonic
from typing import Any, Protocol

from redis.exceptions import ConnectionError, TimeoutError

from ..hot import assemble, payload_size
from ..process import current_number
from ..stats import Stats
from .backoff import BACKOFF_LAST
from .clock import ServerClock
from .dialer import Dialer
from .identity import UNKNOWN, ServerIdentity
from .link import END, MAX_IN_FLIGHT, Command, Link
from .reconnecting import CLOSE_TIMEOUT, Connection
from .replies import CLUSTER_ONLY, ELSEWHERE, UnexpectedReply
from .requests import Pending, Request
from .script import Script

#: Messages in one batch of sends: a script's ``unpack`` fails near 4,000 values.
MAX_MESSAGES = 1000

#: A batch of this many messages does not wait for the end of the tick, so that the server works while the process
#: continues. Each further batch in the same tick may be twice as large. Measured on an idle machine: twice as many
#: sends with 64 or 256 coroutines. On a machine whose processors are all busy, 64 would cost a tenth less with 50
#: senders and receivers.
EARLY = 32

#: The limits for one buffer: the number of requests, and the number of bytes after which it takes no more. They let the
#: connection notice between two buffers that a socket cannot keep up, and keep few bytes in memory twice.
MAX_REQUESTS_PER_WRITE, MAX_BYTES_PER_WRITE = 512, 1_000_000

#: Seconds of silence after which a write first checks whether the connection has ended. A loop that runs freely has
#: already read the end by then; one that was busy or stopped has not. Replies that a busy loop has not read yet delay
#: nothing: the server has to work while the process continues. It is less than what the shortest outage takes, and far
#: more than a round trip. Where the kernel does not tell replies from the end, they do delay a write, so it is longer.
QUIET = 0.001 if END else 0.01

#: Seconds of silence after which a PING is sent first, and how long its answer may take. Something in between (NAT, a
#: load balancer) may have forgotten the connection without saying so.
SILENCE, PROBE_TIMEOUT = 30.0, 1.0


class Keeper(Protocol):
    """Prepares a server before requests are written to it."""

    def opened(self, connection: CommandConnection) -> bool:
        """Called when a socket has been opened; return whether requests wait until ``release`` is called."""

    def lost(self, connection: CommandConnection) -> None:
        """Called when a socket has been lost."""

    def is_wanted(self, connection: CommandConnection) -> bool:
        """Return whether the connection should reconnect even if no request waits for it."""


class _Expected:
    """A written command. Holds its request and its connection until the reply arrives."""

    __slots__ = ("_connection", "_request")

    def __init__(self, connection: CommandConnection, request: Pending) -> None:
        self._connection = connection
        self._request = request

    def resolve(self, reply: Any) -> None:
        try:
            if reply.__class__ in ELSEWHERE:
                self._connection.not_done(self._request, reply)
            elif self._request.reply(reply):
                self._connection.repeat(self._request)
        except Exception as error:
            raise self._connection.unexpected(self._request, reply, error) from error

    def lost(self, error: Exception) -> None:
        self._connection.unanswered(self._request, error)

    def cannot_be_written(self, error: Exception) -> None:
        self._request.fail(error)


class _Last:
    """The last command before a socket is closed."""

    __slots__ = ("_answered",)

    def __init__(self, answered: asyncio.Future[None]) -> None:
        self._answered = answered

    def resolve(self, reply: Any) -> None:
        if not self._answered.done():
            self._answered.set_result(None)

    def lost(self, error: Exception) -> None:
        self.resolve(error)


class _Probe:
    """A PING after a long silence. The commands behind it wait for its reply."""

    __slots__ = ("_connection",)

    def __init__(self, connection: CommandConnection) -> None:
        self._connection = connection

    def resolve(self, reply: Any) -> None:
        self._connection.is_alive()

    def lost(self, error: Exception) -> None:
        """Do nothing: the next socket is new and needs no PING."""


class _Ignored:
    """A written command whose reply is ignored."""

    def resolve(self, reply: Any) -> None:
        pass

    def lost(self, error: Exception) -> None:
        pass


class CommandConnection(Connection):
    """The one multiplexed connection of a shard in an event loop."""

    role = "commands"

    def __init__(
        self, dialer: Dialer, loop: asyncio.AbstractEventLoop, stats: Stats, scripts: Sequence[Script] = ()
    ) -> None:
        super().__init__(dialer, loop, stats)
        self._scripts = scripts
        self._unwritten: deque[Pending] = deque()
        self._repeat: list[Pending] = []
        self._scheduled = False
        #: Whether the last check found what may be the end of the connection: the loop reads the bytes before it first.
        self._end_is_near = False
        #: The timeout of a PING; None while no PING is unanswered.
        self._probe: asyncio.TimerHandle | None = None
        #: Prepares each new socket before the requests are written, which wait meanwhile.
        self.keeper: Keeper | None = None
        self._is_held = False
        self._clock = ServerClock()
        #: When a server first refused to carry out a command in this outage, and when one last did.
        self._not_done_since = self._not_done_last = float("-inf")

    @property
    def in_flight(self) -> int:
        """The number of commands that were written and not yet answered."""
        return 0 if self.link is None else len(self.link.in_flight)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits to be written or answered."""
        return not (self._scheduled or self._unwritten or self._repeat or self.in_flight)

    @property
    def identity(self) -> ServerIdentity:
        """The identity of its server, as far as it is known."""
        return UNKNOWN if self.link is None else self.link.identity

    @property
    def clock(self) -> ServerClock:
        """
        The clock of its server, as far as it is known. Accessing this property sends TIME when a new reading is due.

        It does not open a socket: without one, nothing is read.
        """
        link = self.link
        now = monotonic()
        if link is not None and self._clock.is_due(now) and link.leaving is None and not link.is_ending():
            link.write(assemble([(b"TIME",)]), [self._clock.ask(now)])
        return self._clock

    def at(self, key: bytes) -> CommandConnection:
        """Return the connection to the server that holds a key. There is one here; a cluster has more."""
        return self

    def announce(self, key: bytes) -> None:
        """Announce that a key has messages. Does nothing here: receivers on a single server wait in Redis."""

    async def servers(self) -> Sequence[CommandConnection]:
        """Return the connections to all servers."""
        return [self]

    def call(self, *commands: Command, repeatable: bool = False, raises: bool = True) -> asyncio.Future[list[Any]]:
        """
        Write commands together with everything else that leaves in this tick.

        The future returns their replies in order, or raises ``redis.exceptions.ConnectionError`` naming the host. If
        ``raises`` is true, it also raises the first error reply.
        """
        future: asyncio.Future[list[Any]] = self.loop.create_future()
        self.submit(Request(commands, future, repeatable, raises))
        return future

    def submit(self, request: Pending) -> None:
        """Queue a request. It is written at the end of this tick, or as soon as a socket can take it."""
        self._unwritten.append(request)
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._write)

    def submit_urgent(self, request: Pending) -> None:
        """Queue a request whose caller waits for the answer. It is written at once if nothing is in flight."""
        if self.is_idle:
            self.submit_unscheduled(request)
            self._write()
        else:
            self.submit(request)

    def submit_unscheduled(self, request: Pending) -> None:
        """Queue a request whose caller is about to call ``write_now``."""
        self._unwritten.append(request)

    def write_now(self) -> None:
        """Write what was submitted without waiting for the end of the tick."""
        self._write()

    def opened(self) -> None:
        assert self.link is not None
        # Scripts are loaded on every connection before the first call, so that no call has to be repeated behind later
        # ones. A server that forbids SCRIPT gets the text with the call.
        loads: list[Command] = [(b"SCRIPT", b"LOAD", script.text) for script in self._scripts]
        if loads:
            self.link.write(assemble(loads), [_Ignored() for _ in loads])
        self._clock = ServerClock()
        self.link.time_commands(self.stats.round_trips_to(self.dialer.label))
        self._is_held = self.keeper is not None and self.keeper.opened(self)
        self._write()

    def release(self) -> None:
        """Write the requests that waited for the keeper."""
        if self._is_held:
            self._is_held = False
            self._write()

    def writable(self) -> None:
        if (self._unwritten or self._repeat) and not self._scheduled:
            self._write()

    def refused(self, error: Exception) -> bool:
        if not self.trouble_lasts():
            return True
        self._fail_unwritten(error)
        return self._is_kept()

    def unanswered(self, request: Pending, error: Exception) -> None:
        """
        Keep a repeatable request for the next connection and fail any other, since it may have been carried out.

        A request that loses one connection after another fails once this has gone on for as long as an answer may take.
        """
        now = self.loop.time()
        if request.repeatable and (not request.first_lost or now - request.first_lost < self.answer_timeout):
            request.first_lost = request.first_lost or now
            self.repeat(request)
        else:
            request.fail(error)

    def unexpected(self, request: Pending, reply: Any, cause: Exception) -> UnexpectedReply:
        """Fail a request because its reply makes no sense. Return the error to drop the socket with."""
        error = cause if isinstance(cause, UnexpectedReply) else UnexpectedReply.to("a command", reply)
        request.fail(UnexpectedReply(f"{self.dialer.label}: {error}"))
        return error

    def repeat(self, request: Pending) -> None:
        """Write a request again, before everything that has not been written yet."""
        if not self._repeat or self._repeat[-1] is not request:
            self._repeat.append(request)

    def not_done(self, request: Pending, error: Exception) -> None:
        """
        Keep the next command of a request for the next connection, because the server refused to carry it out.

        Its other commands get replies of their own. Once servers have refused for as long as an answer may take, the
        error becomes the reply. It becomes the reply at once if the host is not what the option ``hosts`` says.
        """
        if error.__class__ in CLUSTER_ONLY:
            self._answer(request, self.is_in_cluster())
            return
        now = self.loop.time()
        if now - self._not_done_last > self.answer_timeout + 2 * BACKOFF_LAST:
            # The gap is longer than any pause between attempts, so this is a new outage.
            self._not_done_since = now
        self._not_done_last = now
        if now - self._not_done_since > self.answer_timeout:
            self._answer(request, error)
        else:
            request.not_done()
            self.repeat(request)
        self.look_again(error)

    def leave_server(self, link: Link) -> None:
        # Wait for the answers that are on their way: a send without an answer raises.
        link.leave(ConnectionError("the primary has moved"))

    def is_alive(self) -> None:
        """Called when the server has answered after a long silence."""
        self._end_probe()
        self._write()

    def after_loss(self) -> None:
        self._end_probe()
        self._end_is_near = False
        self._is_held = False
        if self.keeper is not None:
            self.keeper.lost(self)
        self._put_first()
        if self._unwritten or self._is_kept():
            self.connect()

    async def aclose(self) -> None:
        """
        Write what was submitted, wait for the answers, close the socket.

        Requests submitted meanwhile wait for ``resume``.
        """
        if self._unwritten and self._opening is not None:
            await asyncio.wait([self._opening], timeout=CLOSE_TIMEOUT)
        self._write(at_once=True)
        self.closing = True
        try:
            if self.link is not None and self.link.in_flight:
                answered = self.loop.create_future()
                self.link.write(assemble([(b"PING",)]), [_Last(answered)])
                await asyncio.wait([answered], timeout=CLOSE_TIMEOUT)
            await super().aclose()
        finally:
            self.closing = self.is_over

    def resume(self) -> None:
        """Open a socket again after ``aclose``, if requests were submitted meanwhile."""
        if self._unwritten:
            self.connect()

    def keep_open(self) -> None:
        """Open a socket if there is none and the keeper wants one. Called when somebody receives."""
        if self._is_kept():
            self.connect()

    def give_up(self) -> None:
        """Fail what could not be written, since there will be no other socket."""
        self.is_over = self.closing = True
        self._fail_unwritten(ConnectionError(f"{self.dialer.label}: the event loop was closed"))

    def _answer(self, request: Pending, error: Exception) -> None:
        if request.reply(error):
            self.repeat(request)

    def _is_kept(self) -> bool:
        return self.keeper is not None and self.keeper.is_wanted(self)

    def _write(self, at_once: bool = False) -> None:
        self._scheduled = False
        if self._process.number != current_number[0]:
            self._put_first()
            self._fail_unwritten(self._process.error(self.dialer.label))
            return
        if self._is_held:
            return
        link = self.link
        if self._repeat and link is not None:
            if link.in_flight:
                # Their answers may say that these have to be repeated too, and nothing may come in between.
                return
            self._put_first()
        if not self._unwritten or self.closing:
            return
        if link is None:
            self.connect()
            return
        if not at_once:
            if self._probe is not None or link.is_ending():
                # ``_write`` is called again when that is over.
                return
            # What is written to a dead socket may or may not have been carried out, so check first.
            silence = self.loop.time() - link.last_activity
            if (silence >= QUIET or self._end_is_near) and not self._is_fit(link, silence):
                return
        while self._unwritten and link.writable and link.leaving is None and len(link.in_flight) < MAX_IN_FLIGHT:
            self._write_some(link)

    def _write_some(self, link: Link) -> None:
        commands: list[Command] = []
        expected: list[_Expected] = []
        unwritten = self._unwritten
        count = size = 0
        while True:
            request = unwritten.popleft()
            mine = request.commands(link.identity)
            commands += mine
            expected += [_Expected(self, request)] * len(mine)
            if not unwritten:
                break
            count += 1
            size += payload_size(mine)
            if size >= MAX_BYTES_PER_WRITE or count == MAX_REQUESTS_PER_WRITE:
                break
        if not commands:
            # No request produced a command; their senders have already been told why.
            return
        try:
            data = assemble(commands)
        except Exception as error:
            # One of the commands holds something that cannot be written, so repeating them is no use. The error says
            # which.
            for command in expected:
                command.cannot_be_written(error)
            return
        link.write(data, expected)

    def _is_fit(self, link: Link, silence: float) -> bool:
        """
        Whether a socket that has been silent for this many seconds may be written to now.

        If not, ``_write`` is called again: after what is unread has been read, since it may be the end of the
        connection, or after the PING was answered or timed out.
        """
        self._end_is_near = link.may_have_ended()
        if self._end_is_near:
            self._scheduled = True
            self.loop.call_soon(self._write)
            return False
        if silence < SILENCE or link.in_flight or link.leaving is not None:
            return True
        self._probe = self.loop.call_later(PROBE_TIMEOUT, self._is_gone, link)
        link.write(assemble([(b"PING",)]), [_Probe(self)])
        return False

    def _is_gone(self, link: Link) -> None:
        self._end_probe()
        link.abort(TimeoutError(f"no answer to PING for {PROBE_TIMEOUT:g} s after a long silence"))

    def _end_probe(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
            self._probe = None

    def _put_first(self) -> None:
        self._unwritten.extendleft(reversed(self._repeat))
        self._repeat.clear()

    def _fail_unwritten(self, error: Exception) -> None:
        while self._unwritten:
            self._unwritten.popleft().fail(error)
