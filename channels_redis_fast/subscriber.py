"""
One shard's subscriptions in one event loop: what is subscribed is kept equal to what is wanted.

Names are wanted and no longer wanted; once a tick the difference goes out as one SUBSCRIBE and one UNSUBSCRIBE of
many names, in the words of plain or of sharded Pub/Sub. Whoever wants a name can wait until the server has
acknowledged it. Messages go straight from the socket to ``on_message``. Knows Redis channels by name; not whose they
are, nor what is in a message.

Rules kept here:

- A subscription is acknowledged when every command about its name has been, so that none is on its way to end it.
- After a loss everything wanted is subscribed again, in batches; ``on_back`` is called when all is acknowledged.
- Reading is never paused: the server would close a subscriber that falls behind. Mailboxes drop instead.
- A silent connection is asked with PING, and dropped when it stays silent.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from redis.exceptions import NoPermissionError, TimeoutError

from ._hot import assemble
from .acknowledgements import Acknowledgements
from .connection import CLUSTER_ONLY, Command, Connection, PushLink
from .dialer import Dialer
from .pubsubwords import PLAIN, Words
from .stats import Stats

logger = logging.getLogger("channels_redis_fast")

#: Names in one SUBSCRIBE, so that a server that resubscribes thousands stays responsive in between.
MAX_NAMES = 1000


#: Names in one line of the log.
NAMES_IN_LOG = 3

PING = b"PING"


class Sent(NamedTuple):
    """A command that was not yet acknowledged, and for which of its names."""

    command: bytes
    names: deque[bytes]


class Subscriber(Connection):
    """The subscribing connection of one shard."""

    link_class = PushLink
    role = "subscriber"

    def __init__(
        self,
        dialer: Dialer,
        loop: asyncio.AbstractEventLoop,
        stats: Stats,
        on_message: Callable[[bytes, bytes], None],
        on_lost: Callable[[], None],
        on_back: Callable[[], None],
        words: Words = PLAIN,
    ) -> None:
        super().__init__(dialer, loop, stats)
        self._words = words
        self._kind_of_messages = words.message
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_back = on_back
        #: Names that are to be subscribed.
        self._wanted: dict[bytes, None] = {}
        #: Names whose last command on this socket was SUBSCRIBE; and by name the commands not yet acknowledged.
        self._subscribed: set[bytes] = set()
        self._outstanding: dict[bytes, int] = {}
        #: The commands on this socket that are not yet acknowledged, oldest first.
        self._sent: deque[Sent] = deque()
        #: Names whose difference between the two is to be looked at.
        self._changed: dict[bytes, None] = {}
        self._acknowledgements = Acknowledgements(loop)
        self._scheduled = False
        self._was_lost = False
        self._watch: asyncio.TimerHandle | None = None
        self._pinged = 0.0
        #: Set when an attempt to open has failed since ``resume``.
        self._attempted: asyncio.Future[None] | None = None

    def subscribe(self, name: bytes) -> asyncio.Future[None] | None:
        """
        Want a name. Returns None if the server has acknowledged it, else the future of that.

        The future raises ``redis.exceptions.ConnectionError`` naming the host. The name stays wanted then:
        who subscribed it first may still want it.
        """
        return None if self.want(name) else self._acknowledgements.future(name)

    def want(self, name: bytes) -> bool:
        """Want a name. Returns whether the server has acknowledged it."""
        self._wanted[name] = None
        if self.has(name):
            return True
        self._change(name)
        return False

    def unsubscribe(self, name: bytes) -> None:
        """No longer want a name. Nobody has to wait for that, nor for an acknowledgement of it any more."""
        self._acknowledgements.settle(name)
        self.unwant(name)

    def unwant(self, name: bytes) -> None:
        """No longer want a name, whoever may wait for it."""
        self._wanted.pop(name, None)
        self._change(name)

    def has(self, name: bytes) -> bool:
        """Return whether the server has acknowledged a name."""
        return name in self._subscribed and name not in self._outstanding

    def is_awaited(self, name: bytes) -> bool:
        """Whether somebody waits for the acknowledgement of a name."""
        return self._acknowledgements.is_awaited(name)

    async def stop(self) -> None:
        """Close the socket; what is wanted stays wanted."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        await self.aclose()

    def reopen(self) -> None:
        """Begin to open a socket again after ``stop``, if anything is wanted."""
        for name in list(self._wanted):
            self.want(name)

    async def resume(self) -> None:
        """
        Open a socket again after ``stop``, if anything is wanted.

        Returns when the server has acknowledged all of that, or cannot be reached at the first attempt; the
        attempts go on then.
        """
        asked = [self.subscribe(name) for name in list(self._wanted)]
        waiting = [future for future in asked if future is not None]
        if waiting:
            self._attempted = self.loop.create_future()
            either: list[asyncio.Future[Any]] = [asyncio.gather(*waiting, return_exceptions=True), self._attempted]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)

    # What the connection reports.

    def opened(self) -> None:
        assert isinstance(self.link, PushLink)
        self.link.on_push = self._pushed
        self.link.heard = self.loop.time()
        self._forget_socket()
        self._changed = dict.fromkeys(self._wanted)
        self._write()
        self._watch = self.loop.call_later(self.answer_timeout / 2, self._check_silence)
        self._report_back()

    def writable(self) -> None:
        """Nothing waits for room here."""

    def refused(self, error: Exception) -> bool:
        if self._attempted is not None and not self._attempted.done():
            self._attempted.set_result(None)
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
        words = self._words
        commands = [*self._commands(words.unsubscribe, less), *self._commands(words.subscribe, more)]
        if commands:
            link.write(assemble(commands), [])

    def _commands(self, command: bytes, names: Sequence[bytes]) -> Iterator[Command]:
        """Yield what says ``command`` for all those names, and expect the answers."""
        for some in self._batches(names):
            self._sent.append(Sent(command, deque(some)))
            yield [command, *some]
        for name in names:
            self._outstanding[name] = self._outstanding.get(name, 0) + 1

    def _batches(self, names: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
        """Yield the names for one command after the other."""
        for start in range(0, len(names), MAX_NAMES):
            yield names[start : start + MAX_NAMES]

    def _pushed(self, reply: Any) -> None:
        if isinstance(reply, list) and len(reply) == 3:
            kind, name, payload = reply
            if kind == self._kind_of_messages:
                self._on_message(name, payload)
            elif kind == self._words.subscribed:
                self._answered(self._words.subscribe, name)
            elif kind == self._words.unsubscribed and not self._answered(self._words.unsubscribe, name):
                self._taken(name)
        elif self._sent:
            sent = self._sent[0]
            if sent.command == PING:
                self._sent.popleft()
            elif isinstance(reply, Exception) and self._may_answer(sent, reply):
                self._sent.popleft()
                self._denied(sent, reply)

    def _answered(self, command: bytes, name: bytes) -> bool:
        """Take what says that a command was carried out for a name. Returns False if nobody has asked for that."""
        sent = self._sent[0] if self._sent else None
        if sent is None or sent.command != command or name not in sent.names:
            return False
        sent.names.remove(name)
        if not sent.names:
            self._sent.popleft()
        self._acknowledged(name)
        return True

    def _taken(self, name: bytes) -> None:
        """Hear that the server has ended a subscription by itself."""
        self._subscribed.discard(name)
        if name in self._wanted:
            self._change(name)

    def _may_answer(self, sent: Sent, error: Exception) -> bool:
        """Return whether an error can be what the server has to say to a command."""
        return True

    def _denied(self, sent: Sent, error: Exception) -> None:
        """Hear that a whole command was refused."""
        command, names = sent
        is_more = command == self._words.subscribe
        if is_more and len(names) > 1 and isinstance(error, NoPermissionError) and self.link is not None:
            # A name that an ACL forbids must not spoil it for the others.
            self._sent.extend(Sent(command, deque([name])) for name in names)
            self.link.write(assemble([(command, name) for name in names]), [])
            return
        some = b", ".join(islice(names, NAMES_IN_LOG)).decode() + (", ..." if len(names) > NAMES_IN_LOG else "")
        logger.error("Redis at %s refuses %s of %s: %s", self.dialer.label, command.decode(), some, error)
        if error.__class__ in CLUSTER_ONLY:
            error = self.is_in_cluster()
        error = self._words.explain(command, error, f"Redis at {self.dialer.label}")
        for name in names:
            if is_more:
                self._subscribed.discard(name)
                self._wanted.pop(name, None)
                self._fail(name, error)
            self._acknowledged(name)

    def _acknowledged(self, name: bytes) -> None:
        left = self._outstanding.get(name, 0) - 1
        if left > 0:
            self._outstanding[name] = left
            return
        self._outstanding.pop(name, None)
        if name in self._subscribed:
            self._settle(name)
        if not self._outstanding:
            self._report_back()

    def _settle(self, name: bytes) -> None:
        """Tell who waits for a name that the server has acknowledged it."""
        self._acknowledgements.settle(name)

    def _fail(self, name: bytes, error: Exception) -> None:
        """Tell who waits for a name that it is refused, and not wanted any more."""
        self._acknowledgements.fail(name, error)

    def _report_back(self) -> None:
        if self._was_lost and not self._outstanding and not self._changed:
            self._was_lost = False
            self._on_back()

    def _forget_socket(self) -> None:
        self._subscribed.clear()
        self._outstanding.clear()
        self._sent.clear()

    def _check_silence(self) -> None:
        link = self.link
        if link is None:
            return
        now, interval = self.loop.time(), self.answer_timeout / 2
        if self._pinged > link.heard and now - self._pinged >= interval:
            link.abort(TimeoutError(f"silent for {now - link.heard:.1f} s"))
            return
        if now - link.heard >= interval and self._pinged <= link.heard:
            self._pinged = now
            self._sent.append(Sent(PING, deque()))
            link.write(assemble([(PING,)]), [])
        self._watch = self.loop.call_later(interval, self._check_silence)
