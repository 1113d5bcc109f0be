"""
The blocking connection of one shard in one event loop: waits in Redis for messages, and has at most one in flight that
a lost connection could lose.

One BZPOPMIN waits on all keys at once and takes ONE message. On a specific key, the messages behind it are read with
ZRANGE in the same round trip, delivered, and removed with the next write. A private sorted set, first in the list of
keys, ends the wait when there is something new to wait for. Knows keys and members. What is in a member, and who gets
it, is up to the receiver.

Rules kept here:

- At most one popped message is in flight at any time. A dying connection can lose no more than that.
- The removal of delivered messages precedes everything else, also on the next connection: nothing is delivered twice.
- A message that was delivered before the connection was lost is not delivered again, even if the next server still has
  it: a promoted replica that did not get the removal. This holds for specific keys. On a general channel, another
  process may get the message; and equal messages without a random prefix cannot be told apart.
- The next wait begins after the receivers woken by the last one have run once: then it is known whether they want more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sized
from time import monotonic
from typing import Any, Protocol, TypeAlias
from uuid import uuid4

from redis.exceptions import NoPermissionError

from ..connection.clock import ServerClock
from ..connection.commands import CommandConnection
from ..connection.link import Command
from ..connection.reconnecting import CLOSE_TIMEOUT, Connection
from ..connection.replies import CLUSTER_ONLY, NOT_DONE, UnexpectedReply
from ..connection.round_trips import Answerable
from ..hot import are_strings, assemble
from ..messages.mailbox import Inbox, MailboxFeeder
from ..process import current_number
from ..stats import SAMPLE_INTERVAL, Stats
from .read_ahead import ReadAhead, take_removals

#: Seconds that the reply to a wait may arrive after its timeout in Redis.
BLOCK_MARGIN = 5.0

#: Number of specific keys whose backlog is read in the same round trip: the most recent ones to deliver.
RECENT_KEYS = 8

#: Seconds before the next wait after the server answered one with an error.
ERROR_PAUSE = 1.0


#: The types in the reply to a wait that found something: key, member, score.
_POPPED = (bytes, bytes, bytes)


class General(Protocol):
    """A general channel, as a pump sees it."""

    key: bytes

    @property
    def waiting(self) -> Sized: ...
    def tried(self) -> None: ...
    def nothing_found(self, pump: Pump) -> None: ...
    def fail_waiters(self, error: Exception) -> None: ...


class ReceiverContext(MailboxFeeder, Protocol):
    """What a pump serves: it names what is wanted, and takes what was found."""

    stats: Stats
    block_time: float
    expiry: int
    prefix: bytes
    distinguishes_equal_messages: bool
    inboxes: dict[str, Inbox]

    def wanted(self, pump: Any) -> list[Target]: ...
    def unreachable(self, pump: Any, error: Exception) -> bool: ...
    def deliver(self, inbox: Inbox, members: list[bytes], sent_at: float = ...) -> None: ...
    def deliver_general(self, general: Any, pump: Any, member: bytes, score: bytes) -> None: ...


Target: TypeAlias = "Inbox | General"


class Pump(Connection):
    """Asks one shard for the messages that a receiver wants."""

    role = "receiver"

    def __init__(self, commands: CommandConnection, shard: int, receiver: ReceiverContext) -> None:
        super().__init__(commands.dialer, commands.loop, receiver.stats)
        self.shard = shard
        #: The targets of the current wait in Redis, by key; empty if there is none.
        self.awaited: dict[bytes, Target] = {}
        #: Whether the next look at what is wanted is already scheduled.
        self.scheduled = False
        #: General channels to be popped from without waiting, one at a time.
        self.tries: deque[General] = deque()
        self.answer_timeout = receiver.block_time + BLOCK_MARGIN
        self._receiver = receiver
        self._commands = commands
        self.wake_key = receiver.prefix + b":wake:" + uuid4().hex.encode()
        self._waking = False
        self._blocked = False
        # Number of replies that the next look has to wait for: a message that was peeked, and is not yet known to be
        # delivered, must not be popped by the next wait.
        self._due = 0
        self._turn = 0
        # Only a few, so that the total amount read ahead is bounded too.
        self._recent: dict[Inbox, ReadAhead] = {}
        self._stopped: asyncio.Future[None] | None = None
        self._paused: asyncio.TimerHandle | None = None
        self._clock = ServerClock()
        #: Whether the next wait also asks for the server's time, and the loop time from which on the next message is
        #: measured.
        self._asks_time = True
        self._measure_next = 0.0

    def kick(self) -> None:
        """Look again at what is wanted, after the coroutines that are now ready have run."""
        if not self.scheduled:
            self.scheduled = True
            self.loop.call_soon(self._ask)

    async def stop(self) -> None:
        """End the wait in Redis without losing what it may have popped, then close the socket."""
        self._stopped = self.loop.create_future()
        try:
            if self.link is not None:
                self.kick()
                await asyncio.wait([self._stopped], timeout=CLOSE_TIMEOUT)
            if self._paused is not None:
                self._paused.cancel()
                self._paused = None
            await self.aclose()
        finally:
            self._stopped = None

    def may_bring(self, key: bytes) -> bool:
        """Return whether a message of a general channel may be on its way here. Thread-safe."""
        return key in self.awaited

    # What the connection reports.

    def opened(self) -> None:
        self._waking = False
        self._clock = ServerClock()
        self._asks_time = True
        # If the server lost groups along with the messages, only a command socket detects that.
        self._commands.keep_open()
        if self._receiver.distinguishes_equal_messages:
            # This may be another server, which does not have the last removals.
            for inbox in self._receiver.inboxes.values():
                inbox.delivered.doubt(self._receiver.expiry)
        self.kick()

    def writable(self) -> None:
        """Nothing waits for buffer space here: a wait is written only when the last one has been answered."""

    def refused(self, error: Exception) -> bool:
        if self.dialer.was_reached and not self.dialer.is_out:
            # An outage that no connection has noticed yet, or there is no room for one more. It is waited out.
            self._lost_at = self._lost_at or monotonic()
            self.dialer.refuses("a connection that receives", error)
        if self._lost_at is None:
            self._give_up_tries()
            if not self._receiver.unreachable(self, error):
                return False
        return bool(self._receiver.wanted(self))

    def after_loss(self) -> None:
        self._blocked = False
        self._due = 0
        self.awaited = {}
        self._give_up_tries()
        if self._stopped is not None:
            self._done_stopping()
        elif self._receiver.wanted(self):
            self.connect()

    # Asking.

    def _ask(self) -> None:
        self.scheduled = False
        if self._process.number != current_number[0]:
            # Each receive raises the error itself.
            return
        if self._paused is not None and self._stopped is None:
            return
        wanted = [] if self._stopped is not None else self._receiver.wanted(self)
        if self._blocked:
            if not self._waking and self._is_outdated(wanted):
                self._wake()
            return
        if self._due:
            return
        if self.link is None or self.link.leaving is not None:
            if self._stopped is None and (wanted or self.tries):
                self.connect()
            return
        commands: list[Command] = []
        expected: list[Answerable] = []
        if self._remove_delivered(commands, expected):
            # A wait would deliver again what has not been removed yet.
            self._due = len(expected)
        elif self._stopped is not None:
            if not commands and not self.link.in_flight:
                self._done_stopping()
        elif self.tries:
            channel = self.tries.popleft()
            commands.append((b"ZPOPMIN", channel.key))
            expected.append(_Try(self, channel))
            self._due = 1
        elif wanted:
            self._wait(wanted, commands, expected)
        if commands:
            self.link.write(assemble(commands), expected)

    def _remove_delivered(self, commands: list[Command], expected: list[Answerable]) -> bool:
        """Remove what was delivered. Return whether the next write has to do that too."""
        shard = self.shard
        taken: list[tuple[Inbox, list[bytes]]] = []
        is_partial = False
        for inbox in self._receiver.inboxes.values():
            if shard in inbox.removals:
                if len(taken) < RECENT_KEYS:
                    taken.append((inbox, take_removals(inbox.removals, shard)))
                is_partial = is_partial or shard in inbox.removals
        for inbox, members in taken:
            commands.append([b"ZREM", inbox.key, *members])
            expected.append(_Removal(self, inbox, members, is_partial))
        return is_partial

    def _wait(self, wanted: list[Target], commands: list[Command], expected: list[Answerable]) -> None:
        # Redis serves the first key that has a message, so each key gets its turn to be first.
        self._turn = (self._turn + 1) % len(wanted)
        wanted = wanted[self._turn :] + wanted[: self._turn]
        self.awaited = {target.key: target for target in wanted}
        if self._asks_time:
            # Before the wait, which would delay its reply.
            self._asks_time = False
            commands.append((b"TIME",))
            expected.append(self._clock.ask(monotonic()))
        removals = len(expected)
        commands.append([b"BZPOPMIN", self.wake_key, *self.awaited, self._receiver.block_time])
        expected.append(_Pop(self))
        for target in wanted:
            if len(self._recent) == RECENT_KEYS:
                break
            if isinstance(target, Inbox) and target not in self._recent:
                self._recent[target] = ReadAhead()
        for inbox, ahead in self._recent.items():
            if inbox.key in self.awaited and (count := ahead.count_behind()):
                commands.append((b"ZRANGE", inbox.key, 0, count - 1))
                expected.append(_Peek(self, inbox, inbox.epoch, ahead, count))
        self._due = len(expected) - removals
        self._blocked = True

    def _is_outdated(self, wanted: list[Target]) -> bool:
        """Whether the wait in Redis lacks a wanted key, or could take a message that is no longer wanted here."""
        return (
            self._stopped is not None
            or bool(self.tries)
            or any(target.key not in self.awaited for target in wanted)
            or any(
                target.receiver is not self._receiver if isinstance(target, Inbox) else not target.waiting
                for target in self.awaited.values()
            )
        )

    def _wake(self) -> None:
        # A token and not CLIENT UNBLOCK: it stays until it is popped, even if it arrives before the wait.
        self._waking = True
        self._commands.call(
            (b"ZADD", self.wake_key, 1, b"1"), (b"EXPIRE", self.wake_key, 60), repeatable=True
        ).add_done_callback(self._woken)

    def _woken(self, future: asyncio.Future[list[Any]]) -> None:
        if future.cancelled() or future.exception() is not None:
            self._waking = False

    def sent_at(self, key: bytes, score: bytes) -> float:
        """Return when a popped message was sent, on the monotonic clock; 0.0 if that is unknown or not measured."""
        link = self.link
        if link is None or link.last_activity < self._measure_next:
            return 0.0
        # Decided on arrival: the first message after a stall is always measured.
        self._measure_next = link.last_activity + SAMPLE_INTERVAL
        self._asks_time = self._clock.is_due(monotonic())
        return self._clock.began(score)

    # What Redis answers.

    def popped(self, reply: Any) -> None:
        """Handle the reply to the wait: (key, member, score), or None if it timed out."""
        self._blocked = False
        awaited, self.awaited = self.awaited, {}
        self._answered()
        if reply.__class__ is list:
            self._took(reply, awaited)
        elif reply is None:
            # The wait timed out: it has outlived the wake-up token, if there was one.
            self._waking = False
        elif reply.__class__ in NOT_DONE:
            self.look_again(reply)
        elif reply.__class__ in CLUSTER_ONLY:
            for target in awaited.values():
                target.fail_waiters(self.is_in_cluster())
        elif isinstance(reply, NoPermissionError):
            self._find_forbidden(list(awaited.values()), reply)
        elif isinstance(reply, Exception):
            self._pause("to wait for messages", reply)
        else:
            raise UnexpectedReply.to("BZPOPMIN", reply)

    def _took(self, reply: list[Any], awaited: dict[bytes, Target]) -> None:
        if reply and reply[0] == self.wake_key:
            self._waking = False
        elif (*map(type, reply),) != _POPPED or reply[0] not in awaited:
            raise UnexpectedReply.to("BZPOPMIN", reply)
        else:
            key, member, score = reply
            target = awaited[key]
            if isinstance(target, Inbox):
                ahead = self._recent.pop(target, None) or ReadAhead()
                self._recent[target] = ahead
                ahead.popped(member)
                if len(self._recent) > RECENT_KEYS:
                    del self._recent[next(iter(self._recent))]
                self._receiver.deliver(target, [member], self.sent_at(key, score))
            else:
                self._receiver.deliver_general(target, self, member, score)

    def peeked(self, inbox: Inbox, epoch: int, reply: Any) -> None:
        """Handle the messages behind the popped one. They are still in Redis, and are removed with the next write."""
        self._answered()
        if isinstance(reply, Exception):
            return
        if not are_strings(reply):
            raise UnexpectedReply.to("ZRANGE", reply)
        if not reply:
            return
        if inbox.receiver is not self._receiver or inbox.epoch != epoch:
            # Another loop now reads this key, and will read them itself.
            return
        inbox.removals.setdefault(self.shard, []).extend(reply)
        self._receiver.deliver(inbox, reply)

    def tried(self, channel: General, reply: Any) -> None:
        """Handle the reply to a pop that did not wait: [member, score], or empty."""
        self._answered()
        if reply.__class__ in NOT_DONE:
            self.look_again(reply)
        elif not isinstance(reply, Exception) and (not are_strings(reply) or len(reply) not in (0, 2)):
            channel.nothing_found(self)
            raise UnexpectedReply.to("ZPOPMIN", reply)
        if reply and not isinstance(reply, Exception):
            channel.tried()
            member, score = reply
            self._receiver.deliver_general(channel, self, member, score)
        else:
            channel.nothing_found(self)

    def removed(self, inbox: Inbox, members: list[bytes], done: bool) -> None:
        """Called when a removal has ended. If it was not ``done``, its members are removed first next time."""
        if not done:
            inbox.removals[self.shard] = members + inbox.removals.get(self.shard, [])
        if self._stopped is not None:
            self.kick()

    def removed_in_part(self, reply: Any) -> None:
        """
        Continue with the next removals once all of this write have been answered; after a pause if one was refused.
        """
        if isinstance(reply, Exception):
            self._pause("to remove delivered messages", reply)
        self._answered()

    def _answered(self) -> None:
        self._due -= 1
        if not self._due:
            self.kick()

    def _find_forbidden(self, targets: list[Target], error: NoPermissionError) -> None:
        """
        Fail the receivers whose key the ACL forbids, and continue with the others. The server does not name the key.
        """

        def found(future: asyncio.Future[list[Any]]) -> None:
            replies = [future.exception()] * len(targets) if future.exception() else future.result()
            forbidden = [
                target for target, reply in zip(targets, replies, strict=True) if isinstance(reply, NoPermissionError)
            ]
            for target in forbidden or targets:
                target.fail_waiters(error)
                if isinstance(target, Inbox):
                    target.disarm()
            if self.link is link:
                # Otherwise nothing is due on the current connection.
                self._answered()

        link = self.link
        # No wait begins in the meantime. A pop with count 0 needs the same permission as a pop.
        self._due += 1
        pops = [(b"ZPOPMIN", target.key, 0) for target in targets]
        self._commands.call(*pops, repeatable=True, raises=False).add_done_callback(found)

    def _pause(self, what: str, error: Exception) -> None:
        self.dialer.refuses(what, error)
        if self._paused is None:
            self._paused = self.loop.call_later(ERROR_PAUSE, self._resume)

    def _resume(self) -> None:
        self._paused = None
        self.kick()

    def _give_up_tries(self) -> None:
        tries, self.tries = self.tries, deque()
        for channel in tries:
            channel.nothing_found(self)

    def _done_stopping(self) -> None:
        if self._stopped is not None and not self._stopped.done():
            self._stopped.set_result(None)


class _Pop:
    """A wait that is in Redis."""

    __slots__ = ("_pump",)

    def __init__(self, pump: Pump) -> None:
        self._pump = pump

    def resolve(self, reply: Any) -> None:
        self._pump.popped(reply)

    def lost(self, error: Exception) -> None:
        pass


class _Peek:
    """A read of the messages behind the popped one on a specific key."""

    __slots__ = ("_ahead", "_asked", "_epoch", "_inbox", "_pump")

    def __init__(self, pump: Pump, inbox: Inbox, epoch: int, ahead: ReadAhead, asked: int) -> None:
        self._pump = pump
        self._inbox = inbox
        self._epoch = epoch
        self._ahead = ahead
        self._asked = asked

    def resolve(self, reply: Any) -> None:
        if isinstance(reply, list):
            self._ahead.read(self._asked, reply)
        self._pump.peeked(self._inbox, self._epoch, reply)

    def lost(self, error: Exception) -> None:
        pass


class _Removal:
    """The removal of delivered messages, repeated until it is confirmed."""

    __slots__ = ("_inbox", "_is_partial", "_members", "_pump")

    def __init__(self, pump: Pump, inbox: Inbox, members: list[bytes], is_partial: bool) -> None:
        self._pump = pump
        self._inbox = inbox
        self._members = members
        self._is_partial = is_partial

    def resolve(self, reply: Any) -> None:
        self._pump.removed(self._inbox, self._members, not isinstance(reply, Exception))
        if self._is_partial:
            self._pump.removed_in_part(reply)

    def lost(self, error: Exception) -> None:
        self._pump.removed(self._inbox, self._members, False)


class _Try:
    """A pop that does not wait."""

    __slots__ = ("_channel", "_pump")

    def __init__(self, pump: Pump, channel: General) -> None:
        self._pump = pump
        self._channel = channel

    def resolve(self, reply: Any) -> None:
        self._pump.tried(self._channel, reply)

    def lost(self, error: Exception) -> None:
        self._channel.nothing_found(self._pump)
