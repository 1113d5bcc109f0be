"""
One shard's subscriptions in one event loop: what is subscribed is kept equal to what is wanted.

Names are requested and given up. Once a tick the difference is sent as one SUBSCRIBE and one UNSUBSCRIBE of many names,
for plain or sharded Pub/Sub. A caller that requests a name can wait until the server has acknowledged it. Messages go
straight from the socket to ``on_message``. Knows Redis channels by name. Does not know whose they are or what is in a
message.

Rules kept here:

- A subscription counts as acknowledged when every command about its name has been acknowledged, so that no command to
  end it is on its way.
- After a loss everything wanted is subscribed again, in batches. ``on_back`` is called when the server has answered all
  of it, with the names that it refuses.
- A name that the server refuses stays wanted, and is requested again after a pause. ``on_found`` takes the names that
  ``on_back`` had reported as refused and that have been acknowledged after all.
- A refusal ends a wait at once, except for a temporary one (a busy or loading server), which is waited out.
- While the server acknowledges nothing, no wait is longer than an answer may take, whatever else the server sends. A
  connection on which nothing is acknowledged for that long is dropped.
- Reading is never paused: the server would close a subscriber that falls behind. Mailboxes drop messages instead.
- A silent connection is probed with PING, and dropped if it stays silent.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

from redis.exceptions import ConnectionError, NoPermissionError, TimeoutError

from ..connection.backoff import delays
from ..connection.dialer import Dialer
from ..connection.identity import UNKNOWN, ServerIdentity
from ..connection.link import Command, PushLink
from ..connection.overdue import LAST_READ, OverdueCheck
from ..connection.reconnecting import Connection
from ..connection.replies import CLUSTER_ONLY
from ..hot import assemble
from ..stats import Stats
from .acknowledgements import Acknowledgements
from .dialect import PLAIN, Dialect, passes
from .resumption import Resumable

logger = logging.getLogger("channels_redis_fast")

#: Names in one SUBSCRIBE. With smaller commands, a server that resubscribes thousands of names stays responsive.
MAX_NAMES = 1000

#: Refused names that are requested again per second. One refusal among them makes each name a command of its own.
REPEATS_PER_SECOND = 5000

#: Names in one log line.
NAMES_IN_LOG = 3

PING = b"PING"


class Sent(NamedTuple):
    """A command that has not been acknowledged yet, and the names for which it has not."""

    command: bytes
    names: deque[bytes]


class Subscriber(Connection, Resumable):
    """
    The subscribing connection of one shard.

    ``on_message`` takes the name and the payload of each message. ``on_subscribed`` takes a name each time it is
    acknowledged: before anything that is published on it then, and before ``on_back`` and ``on_found`` report it.
    """

    link_class = PushLink
    role = "subscriber"

    def __init__(
        self,
        dialer: Dialer,
        loop: asyncio.AbstractEventLoop,
        stats: Stats,
        on_message: Callable[[bytes, bytes], None],
        on_lost: Callable[[], None],
        on_back: Callable[[Sequence[bytes]], None],
        on_found: Callable[[Sequence[bytes]], None],
        dialect: Dialect = PLAIN,
        on_subscribed: Callable[[bytes], None] | None = None,
    ) -> None:
        super().__init__(dialer, loop, stats)
        self._dialect = dialect
        self._kind_of_messages = dialect.message
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_back = on_back
        self._on_found = on_found
        self._on_subscribed = on_subscribed
        #: Names that should be subscribed.
        self._wanted: dict[bytes, None] = {}
        #: Names whose last command on this socket was SUBSCRIBE; and, by name, the number of unacknowledged commands.
        self._subscribed: set[bytes] = set()
        self._outstanding: dict[bytes, int] = {}
        #: The unacknowledged commands on this socket, oldest first.
        self._sent: deque[Sent] = deque()
        #: Names for which wanted and subscribed have to be compared.
        self._changed: dict[bytes, None] = {}
        self._acknowledgements = Acknowledgements(loop)
        #: Names that the server refuses, and those of them that are to be requested again after the pause.
        self._refused: set[bytes] = set()
        self._pausing: dict[bytes, None] = {}
        self._pauses = delays()
        self._pause: asyncio.TimerHandle | None = None
        #: Refused names that ``on_back`` has reported.
        self._missing: set[bytes] = set()
        #: Refusals to be logged: names by command and server error.
        self._complaints: dict[tuple[bytes, str], list[bytes]] = {}
        self._scheduled = False
        self._was_lost = False
        self._watch: asyncio.TimerHandle | None = None
        self._pinged = 0.0
        #: Seconds of silence after which the server is sent a PING.
        self._ping_interval = self.answer_timeout / 2
        #: When the server last answered a command, or was sent one while it owed no answer.
        self._answered_at = 0.0
        #: When it last acknowledged a name.
        self._acknowledged_at = 0.0
        self._silence = OverdueCheck()
        #: The timer that checks for waits that have lasted too long.
        self._patience: asyncio.TimerHandle | None = None
        self._delay = OverdueCheck()

    def subscribe(self, name: bytes) -> asyncio.Future[None] | None:
        """
        Request a name. Returns None if the server has acknowledged it, else a future of that.

        The future raises ``redis.exceptions.ConnectionError`` naming the host. The name then stays wanted: another
        caller that subscribed it may still want it.
        """
        if self.want(name):
            return None
        future = self._acknowledgements.future(name)
        if self._patience is None:
            self._patience = self.loop.call_later(self.answer_timeout, self._check_patience)
        return future

    def want(self, name: bytes) -> bool:
        """Request a name. Returns whether the server has acknowledged it."""
        self._wanted[name] = None
        if self.has(name):
            return True
        self._pausing.pop(name, None)
        self._change(name)
        return False

    def unsubscribe(self, name: bytes) -> None:
        """Stop wanting a name. Waits for its acknowledgement end."""
        self._acknowledgements.settle(name)
        self.unwant(name)

    def unwant(self, name: bytes) -> None:
        """Stop wanting a name. Waits for its acknowledgement continue."""
        self._wanted.pop(name, None)
        self._refused.discard(name)
        self._pausing.pop(name, None)
        self._missing.discard(name)
        self._change(name)

    def has(self, name: bytes) -> bool:
        """Return whether the server has acknowledged a name."""
        return name in self._subscribed and name not in self._outstanding

    def server_of(self, name: bytes) -> ServerIdentity:
        """Return the identity of the server at which a name is subscribed, as far as it is known."""
        return UNKNOWN if self.link is None else self.link.identity

    def renew(self, name: bytes) -> None:
        """Reopen the connection on which a name is subscribed, because its server's identity has changed."""
        if self.link is not None:
            self.leave_server(self.link)

    def is_awaited(self, name: bytes) -> bool:
        """Whether a caller waits for the acknowledgement of a name."""
        return self._acknowledgements.is_awaited(name)

    def wanted(self) -> Collection[bytes]:
        """Return the names that should be subscribed."""
        return self._wanted

    async def stop(self) -> None:
        """Close the socket. What is wanted stays wanted."""
        for timer in (self._watch, self._patience):
            if timer is not None:
                timer.cancel()
        self._watch = self._patience = None
        await self.aclose()

    # Reported by the connection.

    def opened(self) -> None:
        assert isinstance(self.link, PushLink)
        self.link.on_push = self._pushed
        self.link.last_activity = self.loop.time()
        self._forget_socket()
        self._changed = dict.fromkeys(self._wanted)
        self._write()
        self._watch = self.loop.call_later(self._ping_interval, self._check_silence)
        self._report_back()

    def writable(self) -> None:
        """Do nothing: no command here waits until the socket takes more."""

    def refused(self, error: Exception) -> bool:
        self._acknowledgements.attempt_failed()
        if self.trouble_lasts():
            self._acknowledgements.fail_all(error)
        if not self._wanted:
            self._report_back()
        return bool(self._wanted)

    def after_loss(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self._forget_socket()
        if self.closing or not self._wanted:
            return
        if self._lost_at is not None and not self._was_lost:
            self._was_lost = True
            self._on_lost()
        self.connect()

    # Keeping what is subscribed equal to what is wanted.

    def _change(self, name: bytes) -> None:
        self._changed[name] = None
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._write)

    def _write(self) -> None:
        self._scheduled = False
        link = self.link
        if link is None:
            if self._wanted:
                self.connect()
            return
        changed, self._changed = self._changed, {}
        more = [name for name in changed if name in self._wanted and name not in self._subscribed]
        less = [name for name in changed if name not in self._wanted and name in self._subscribed]
        self._subscribed.update(more)
        self._subscribed.difference_update(less)
        dialect = self._dialect
        commands = [*self._commands(dialect.unsubscribe, less), *self._commands(dialect.subscribe, more)]
        if commands:
            link.write(assemble(commands), [])

    def _commands(self, command: bytes, names: Sequence[bytes]) -> Iterator[Command]:
        """Yield ``command`` for all these names, and register the expected answers."""
        for some in self._batches(names):
            self._expect(Sent(command, deque(some)))
            yield [command, *some]
        for name in names:
            self._outstanding[name] = self._outstanding.get(name, 0) + 1

    def _expect(self, sent: Sent) -> None:
        if not self._sent:
            self._answered_at = self.loop.time()
        self._sent.append(sent)

    def _batches(self, names: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
        """Yield the names of one command after the other."""
        for start in range(0, len(names), MAX_NAMES):
            yield names[start : start + MAX_NAMES]

    def _pushed(self, reply: Any) -> None:
        if isinstance(reply, list) and len(reply) == 3:
            kind, name, payload = reply
            if kind == self._kind_of_messages:
                self._on_message(name, payload)
            elif kind == self._dialect.subscribed:
                self._answered(self._dialect.subscribe, name)
            elif kind == self._dialect.unsubscribed and not self._answered(self._dialect.unsubscribe, name):
                self._taken(name)
        elif self._sent:
            sent = self._sent[0]
            if sent.command == PING:
                self._sent.popleft()
                self._answered_at = self.loop.time()
                self._ponged()
            elif isinstance(reply, Exception) and self._may_answer(sent, reply):
                self._sent.popleft()
                self._answered_at = self.loop.time()
                self._denied(sent, reply)

    def _answered(self, command: bytes, name: bytes) -> bool:
        """Process the confirmation of a command for a name. Returns False if there was no such command."""
        sent = self._sent[0] if self._sent else None
        if sent is None or sent.command != command or name not in sent.names:
            return False
        self._answered_at = self._acknowledged_at = self.loop.time()
        sent.names.remove(name)
        if not sent.names:
            self._sent.popleft()
        self._acknowledged(name)
        return True

    def _taken(self, name: bytes) -> None:
        """Called when the server has ended a subscription by itself."""
        self._subscribed.discard(name)
        if name in self._wanted:
            self._change(name)

    def _may_answer(self, sent: Sent, error: Exception) -> bool:
        """Return whether an error can be the server's reply to a command."""
        return True

    def _denied(self, sent: Sent, error: Exception) -> None:
        """Called when a whole command has been refused."""
        command, names = sent
        is_more = command == self._dialect.subscribe
        if is_more and len(names) > 1 and isinstance(error, NoPermissionError) and self.link is not None:
            # One name that an ACL forbids must not prevent the others.
            self._sent.extend(Sent(command, deque([name])) for name in names)
            self.link.write(assemble([(command, name) for name in names]), [])
            return
        error_of_server = str(error)
        news = [name for name in names if name not in self._refused]
        if news:
            self._complain(command, news, error_of_server)
        if not self._refused:
            self._pauses = delays()
        is_passing = is_more and passes(error)
        if error.__class__ in CLUSTER_ONLY:
            error = self.is_in_cluster()
        error = self._dialect.explain(command, error, f"Redis at {self.dialer.label}")
        for name in names:
            if is_more:
                self._subscribed.discard(name)
                if name in self._wanted:
                    self._refused.add(name)
                    self._pausing[name] = None
                if not is_passing:
                    self._fail(name, error)
            self._acknowledged(name)
        if self._pausing and self._pause is None:
            self._pause = self.loop.call_later(
                next(self._pauses) + len(self._pausing) / REPEATS_PER_SECOND, self._ask_again
            )

    def _ask_again(self) -> None:
        self._pause = None
        pausing, self._pausing = self._pausing, {}
        if self.link is not None and pausing:
            self._changed.update(pausing)
            self._write()

    def _complain(self, command: bytes, names: Sequence[bytes], error: str) -> None:
        """Log the first refusal of names: one line for all refusals of a tick."""
        if not self._complaints:
            self.loop.call_soon(self._log_complaints)
        self._complaints.setdefault((command, error), []).extend(names)

    def _log_complaints(self) -> None:
        complaints, self._complaints = self._complaints, {}
        for (command, error), names in complaints.items():
            some = ", ".join(repr(name.decode()) for name in names[:NAMES_IN_LOG])
            more = f" and {len(names) - NAMES_IN_LOG} more" if len(names) > NAMES_IN_LOG else ""
            logger.error("Redis at %s refuses %s of %s%s: %s", self.dialer.label, command.decode(), some, more, error)

    def _acknowledged(self, name: bytes) -> None:
        left = self._outstanding.get(name, 0) - 1
        if left > 0:
            self._outstanding[name] = left
            return
        self._outstanding.pop(name, None)
        if name in self._subscribed:
            if self._on_subscribed is not None:
                self._on_subscribed(name)
            self._no_longer_refused(name)
            self._settle(name)
        if not self._outstanding:
            self._report_back()

    def _no_longer_refused(self, name: bytes) -> None:
        self._refused.discard(name)
        if name in self._missing:
            self._missing.discard(name)
            self._on_found([name])

    def _settle(self, name: bytes) -> None:
        """End the wait for a name: the server has acknowledged it."""
        self._acknowledgements.settle(name)

    def _fail(self, name: bytes, error: Exception) -> None:
        """End the wait for a name: the server refuses it."""
        self._acknowledgements.fail(name, error)

    def _report_back(self) -> None:
        if self._was_lost and not self._outstanding and not self._changed:
            self._was_lost = False
            self._missing = self._refused.copy()
            self._on_back(list(self._missing))

    def _forget_socket(self) -> None:
        self._subscribed.clear()
        self._outstanding.clear()
        self._sent.clear()
        self._silence.reset()
        self._pausing.clear()
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None

    # Timeouts.

    def _check_patience(self) -> None:
        """Fail the waits that have lasted too long, unless the server is acknowledging other names."""
        self._patience = None
        oldest, now = self._acknowledgements.oldest(), self.loop.time()
        if oldest is None:
            self._delay.reset()
            return
        left = max(oldest, self._acknowledged_at) + self.answer_timeout - now
        if self._delay.confirms(left <= 0, now):
            for name in self._acknowledgements.overdue(now - self.answer_timeout):
                self._acknowledgements.fail(name, self._overdue(name))
        self._patience = self.loop.call_later(max(left, LAST_READ), self._check_patience)

    def _overdue(self, name: bytes) -> Exception:
        """Return the error for a name that the server has not acknowledged in time."""
        if self.link is None:
            return ConnectionError(f"Redis at {self.dialer.label}: no connection for {self.answer_timeout:g} s")
        what = "refused" if name in self._refused else "not acknowledged"
        command = self._dialect.subscribe.decode()
        return TimeoutError(
            f"Redis at {self.dialer.label}: {command} of {name.decode()!r} was {what} for {self.answer_timeout:g} s"
        )

    def _check_silence(self) -> None:
        link = self.link
        if link is None:
            return
        now = self.loop.time()
        trouble = None
        if self._pinged > link.last_activity and now - self._pinged >= self.answer_timeout - self._ping_interval:
            trouble = f"silent for {now - link.last_activity:.1f} s"
        elif self._sent and now - self._answered_at >= self.answer_timeout:
            trouble = f"no answer to {self._sent[0].command.decode()} for {now - self._answered_at:.1f} s"
        if self._silence.confirms(trouble is not None, now):
            link.abort(TimeoutError(trouble))
            return
        if trouble is not None:
            self._watch = self.loop.call_later(LAST_READ, self._check_silence)
            return
        if now - link.last_activity >= self._ping_interval and self._pinged <= link.last_activity:
            self._pinged = now
            self._expect(Sent(PING, deque()))
            link.write(assemble([(PING,)]), [])
        is_pinged = self._pinged > link.last_activity
        left = self._ping_interval if is_pinged else link.last_activity + self._ping_interval - now
        self._watch = self.loop.call_later(max(left, LAST_READ), self._check_silence)

    def _ponged(self) -> None:
        """Called when the server has answered a PING."""
