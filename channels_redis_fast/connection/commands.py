"""
The command connection: everything that is not a blocking wait, of all coroutines of a loop, on one socket.

A ``Request`` is one or more commands and the future of their replies. ``CommandConnection`` collects the
requests of one tick of the event loop, has them assembled into one buffer and writes it once. Knows no
channel and no message.
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
from .link import MAX_IN_FLIGHT, Command, Link
from .reconnecting import CLOSE_TIMEOUT, Connection
from .replies import CLUSTER_ONLY, ELSEWHERE, UnexpectedReply
from .requests import Pending, Request
from .script import Script

#: Messages in one batch of sends: a script's ``unpack`` fails near 4,000 values.
MAX_MESSAGES = 1000

#: A batch of so many messages does not wait for the end of the tick, so that the server works while the process goes
#: on; each further one of the tick may be twice as large. Measured: twice as many sends with 64 or 256 coroutines on an
#: idle machine. On one where all processors are busy anyway, 64 would cost a tenth less with 50 senders and receivers.
EARLY = 32

#: Requests assembled into one buffer, and bytes of them after which it takes no more: so that a socket that cannot keep
#: up is noticed between two buffers, and few bytes lie in memory twice.
MAX_REQUESTS_PER_WRITE, MAX_BYTES_PER_WRITE = 512, 1_000_000

#: Seconds without a byte after which the end of a connection is looked for before a write. A loop that goes round has
#: read it by then; one that was busy, or did not run, has not.
QUIET = 0.01

#: Seconds without a byte after which a PING goes ahead, and how long its answer may take: whatever lies between (NAT, a
#: load balancer) may have forgotten the connection, and says nothing.
SILENCE, PROBE_TIMEOUT = 30.0, 1.0


class Keeper(Protocol):
    """Prepares a server before requests are written to it."""

    def opened(self, connection: CommandConnection) -> bool:
        """Called when a socket is there; return whether requests wait until ``release`` is called."""

    def lost(self, connection: CommandConnection) -> None:
        """Called when a socket is gone."""

    def is_wanted(self, connection: CommandConnection) -> bool:
        """Return whether the connection is to come back though no request waits for it."""


class _Expected:
    """A written command: knows its request and its connection until the reply is there."""

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
    """A PING after a long silence; the commands behind it wait for its reply."""

    __slots__ = ("_connection",)

    def __init__(self, connection: CommandConnection) -> None:
        self._connection = connection

    def resolve(self, reply: Any) -> None:
        self._connection.is_alive()

    def lost(self, error: Exception) -> None:
        """The next socket needs no PING: it is new."""


class _Ignored:
    """A written command whose reply is of no interest."""

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
        #: What ends the wait for the answer to a PING, as long as one is waited for.
        self._probe: asyncio.TimerHandle | None = None
        #: What is done on a new socket ahead of the requests, which wait meanwhile.
        self.keeper: Keeper | None = None
        self._is_held = False
        self._clock = ServerClock()
        #: When a server first answered that it is not the one to talk to, and when one last did.
        self._not_done_since = self._not_done_last = float("-inf")

    @property
    def in_flight(self) -> int:
        """How many commands were written and not yet answered."""
        return 0 if self.link is None else len(self.link.in_flight)

    @property
    def identity(self) -> ServerIdentity:
        """Who its server is, as far as that is known."""
        return UNKNOWN if self.link is None else self.link.identity

    @property
    def clock(self) -> ServerClock:
        """
        The clock of its server, as far as that is known; read again now and then by who asks for it.

        Nothing is read where there is no socket, so none is opened for this.
        """
        link = self.link
        now = monotonic()
        if link is not None and self._clock.is_due(now) and link.leaving is None and not link.is_ending():
            link.write(assemble([(b"TIME",)]), [self._clock.ask(now)])
        return self._clock

    def at(self, key: bytes) -> CommandConnection:
        """Return the way to the server that has a key. There is one here; a cluster has more."""
        return self

    def announce(self, key: bytes) -> None:
        """Announce that a key has messages. Does nothing here: receivers on a single server wait in Redis."""

    async def servers(self) -> Sequence[CommandConnection]:
        """Return the ways to all servers."""
        return [self]

    def call(self, *commands: Command, repeatable: bool = False, raises: bool = True) -> asyncio.Future[list[Any]]:
        """
        Write commands side by side with whatever else leaves in this tick.

        The future gives their replies in order, or raises ``redis.exceptions.ConnectionError`` naming the host; if
        it ``raises``, the first error reply too.
        """
        future: asyncio.Future[list[Any]] = self.loop.create_future()
        self.submit(Request(commands, future, repeatable, raises))
        return future

    def submit(self, request: Pending) -> None:
        """Hand a request in; it is written at the end of this tick, or when there is a socket that takes it."""
        self._unwritten.append(request)
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._write)

    def submit_urgent(self, request: Pending) -> None:
        """Hand in a request whose caller waits for the answer: where nothing is under way, it is written at once."""
        if self._scheduled or self._unwritten or self._repeat or self.in_flight:
            self.submit(request)
        else:
            self._unwritten.append(request)
            self._write()

    def write_now(self) -> None:
        """Write what was handed in without waiting for the end of the tick."""
        self._write()

    def opened(self) -> None:
        assert self.link is not None
        # Loaded ahead of the first call on every connection, so that no call comes back to be repeated
        # behind later ones. A server that forbids SCRIPT gets the text with the call.
        loads: list[Command] = [(b"SCRIPT", b"LOAD", script.text) for script in self._scripts]
        if loads:
            self.link.write(assemble(loads), [_Ignored() for _ in loads])
        self._clock = ServerClock()
        self.link.time_commands(self.stats.round_trips_to(self.dialer.label))
        self._is_held = self.keeper is not None and self.keeper.opened(self)
        self._write()

    def release(self) -> None:
        """Write what has waited for the keeper."""
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
        Keep what may be repeated for the next connection, fail the rest: it may have happened.

        What loses one connection after the other fails when it has done so for as long as an answer may take.
        """
        now = self.loop.time()
        if request.repeatable and (not request.first_lost or now - request.first_lost < self.answer_timeout):
            request.first_lost = request.first_lost or now
            self.repeat(request)
        else:
            request.fail(error)

    def unexpected(self, request: Pending, reply: Any, cause: Exception) -> UnexpectedReply:
        """Fail a request because its reply makes no sense. Return the error that the socket is dropped with."""
        error = cause if isinstance(cause, UnexpectedReply) else UnexpectedReply.to("a command", reply)
        request.fail(UnexpectedReply(f"{self.dialer.label}: {error}"))
        return error

    def repeat(self, request: Pending) -> None:
        """Write a request again, before everything that was not yet written."""
        if not self._repeat or self._repeat[-1] is not request:
            self._repeat.append(request)

    def not_done(self, request: Pending, error: Exception) -> None:
        """
        Keep the next command of a request, which the server would not carry out, for the next connection.

        Its other commands have replies of their own. Where servers have said so for as long as an answer may take, the
        error is its reply; at once where the host is not what the option ``hosts`` says.
        """
        if error.__class__ in CLUSTER_ONLY:
            self._answer(request, self.is_in_cluster())
            return
        now = self.loop.time()
        if now - self._not_done_last > self.answer_timeout + 2 * BACKOFF_LAST:
            # Longer than any pause between attempts: this is a new outage.
            self._not_done_since = now
        self._not_done_last = now
        if now - self._not_done_since > self.answer_timeout:
            self._answer(request, error)
        else:
            request.not_done()
            self.repeat(request)
        self.look_again(error)

    def leave_server(self, link: Link) -> None:
        # The answers on their way are waited for: a send without one raises.
        link.leave(ConnectionError("the primary has moved"))

    def is_alive(self) -> None:
        """Called when the server has answered after a long silence."""
        self._end_probe()
        self._write()

    def after_loss(self) -> None:
        self._end_probe()
        self._is_held = False
        if self.keeper is not None:
            self.keeper.lost(self)
        self._put_first()
        if self._unwritten or self._is_kept():
            self.connect()

    async def aclose(self) -> None:
        """
        Write what was handed in, wait for the answers, close the socket.

        What is handed in meanwhile waits for ``resume``.
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
        """Open a socket again after ``aclose``, if something was handed in meanwhile."""
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
                # Their answers may say that they have to be repeated too, and nothing may come in between.
                return
            self._put_first()
        if not self._unwritten or self.closing:
            return
        if link is None:
            self.connect()
            return
        if not at_once:
            if self._probe is not None or link.is_ending():
                # This is called again when that is over.
                return
            # What is written to a socket that is dead may have happened.
            silence = self.loop.time() - link.last_activity
            if silence >= QUIET and not self._is_fit(link, silence):
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
            # None of them could be made, which their senders know by now.
            return
        try:
            data = assemble(commands)
        except Exception as error:
            # One of them holds something that cannot be written, so repeating them is no use. The error says which.
            for command in expected:
                command.cannot_be_written(error)
            return
        link.write(data, expected)

    def _is_fit(self, link: Link, silence: float) -> bool:
        """
        Whether a socket from which nothing was heard for so many seconds may be written to now.

        Otherwise ``_write`` is called again: when what lies unread has been read, which may be the end of the
        connection; or when the server has answered a PING, or has not.
        """
        if link.has_unread():
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
