"""
Messages to groups with a history that are made together with a position, which their sender proposes (encryption, JSON,
a site's own serializer). Knows streams and Redis channels, no layer.

Rules kept here:

- Each message is a call of its own, among all others that leave in the same tick; it is done only if the one before it
  to the same group is.
- What was not done waits, and goes in one call when all calls to the group have been answered. Nothing that is sent to
  the group meanwhile overtakes it.
- A message that cannot be made, or that is refused too often, fails for its sender, and for nobody else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from redis.exceptions import RedisError, ResponseError

from ..connection.commands import MAX_MESSAGES
from ..connection.identity import ServerIdentity
from ..connection.replies import UnexpectedReply
from ..connection.requests import Pending
from ..connection.script_call import ScriptCall, Way, no_scripts
from ..history import Stream
from ..history.placement import with_position
from ..history.positions import epoch_of, position_text
from ..history.proposals import Contest, Entry, Proposer
from ..hot import Waiter, Waker
from ..messages.codec import Message
from ..stats import Stats
from ..subscriptions.dialect import Dialect
from . import scripts
from .publisher import MAX_BYTES, MakeRequest

#: Makes what is published of a message; whatever it raises is the sender's.
Encode = Callable[[Message], bytes]

#: What the script says where nothing was done: it is another's turn, and the message before it was not recorded.
NOT_ITS_TURN, NOT_YET = -1, -2


class Outlet(Protocol):
    """What hands requests to the server of a Redis channel, in order."""

    #: The request that was handed in last, if more may join it, and nothing was handed in behind it.
    last: Pending | None

    def submit(self, channel: bytes, make: MakeRequest, is_joined: bool = False) -> None:
        """Hand in a request of its own. ``is_joined``: whether more may join it."""


class Proposed(NamedTuple):
    """A message on its way. The waiter raises redis-py's errors."""

    message: Message
    encode: Encode
    waiter: Waiter[None]

    def fail(self, error: Exception) -> None:
        if not self.waiter.done():
            self.waiter.set_exception(error)


class ProposingRecorder:
    """Records and publishes the messages of one event loop."""

    def __init__(self, dialect: Dialect, waker: Waker, stats: Stats) -> None:
        self.script = scripts.proposed(dialect)
        self.dialect = dialect
        self.waker = waker
        self.stats = stats
        self.proposer = Proposer()
        #: By stream, the groups to which something is on its way.
        self.groups: dict[bytes, ProposedGroup] = {}

    def send(self, outlet: Outlet, channel: bytes, stream: Stream, message: Message, encode: Encode) -> Waiter[None]:
        """Record and publish one message. The waiter raises redis-py's errors, and what ``encode`` does."""
        group = self.groups.get(stream.key)
        if group is None:
            group = self.groups[stream.key] = ProposedGroup(self, outlet, channel, stream)
        waiter: Waiter[None] = self.waker.waiter()
        group.send(Proposed(message, encode, waiter))
        return waiter


class ProposedGroup:
    """The messages of one event loop to one group; exists while there are any."""

    def __init__(self, recorder: ProposingRecorder, outlet: Outlet, channel: bytes, stream: Stream) -> None:
        self.recorder = recorder
        self.channel = channel
        self.stream = stream
        self.contest = Contest(stream.group, recorder.waker.loop.time)
        #: The call that was written last and is not answered.
        self.last: ProposedCall | None = None
        self._outlet = outlet
        #: Calls that are not over.
        self._calls = 0
        #: What was not done, and what was sent since.
        self._returned: deque[Proposed] = deque()
        self._held: deque[Proposed] = deque()
        self._is_pausing = False

    def send(self, proposed: Proposed) -> None:
        """Send a message after those that wait."""
        if self._returned or self._held or self._is_pausing:
            self._held.append(proposed)
        else:
            self._submit([proposed])

    def not_taken(self, rest: list[Proposed]) -> None:
        """Called with what a call was too small for."""
        self._held.extendleft(reversed(rest))

    def ended(self, call: ProposedCall, rest: list[Proposed]) -> None:
        """Called when a call is over, with what it has not done and is to be tried again."""
        if self.last is call:
            self.last = None
        self._calls -= 1
        self._returned.extend(rest)
        if self._calls:
            return
        if not self._returned and not self._held:
            self.recorder.groups.pop(self.stream.key, None)
        elif self.contest.pause:
            self._is_pausing = True
            self.recorder.waker.loop.call_later(self.contest.pause, self._go_on)
        else:
            self._go_on()

    def _go_on(self) -> None:
        self._is_pausing = False
        self.contest.pause = 0.0
        waiting = [*self._returned, *self._held]
        self._returned.clear()
        self._held = deque(waiting[MAX_MESSAGES:])
        self._submit(waiting[:MAX_MESSAGES])

    def _submit(self, messages: list[Proposed]) -> None:
        self._calls += 1
        self._outlet.submit(self.channel, lambda way: ProposedCall(self, way, messages))


class ProposedCall(ScriptCall):
    """Messages to one group, each with the position that is proposed for it."""

    __slots__ = ("_before", "_group", "_is_over", "_messages", "_was_written", "entry")

    def __init__(self, group: ProposedGroup, way: Way, messages: list[Proposed]) -> None:
        super().__init__(group.recorder.script, way)
        self._group = group
        self._messages = messages
        self._was_written = self._is_over = False
        #: The call whose messages go ahead of these.
        self._before: ProposedCall | None = None
        #: The last ID that it proposes.
        self.entry: Entry = (0, 0)

    def arguments(self, server: ServerIdentity) -> list[Any]:
        group = self._group
        recorder, stream = group.recorder, group.stream
        epoch = epoch_of(server)
        if not self._was_written:
            self._was_written = True
            self._before = group.last
        arguments: list[Any] = []
        taken: list[Proposed] = []
        size = 0
        waiting = iter(self._messages)
        for proposed in waiting:
            if proposed.waiter.done():
                # Its sender has given up.
                continue
            entry = recorder.proposer.propose(stream.key, server)
            number = _text(entry)
            try:
                payload = proposed.encode(
                    with_position(proposed.message, position_text(number.encode(), stream.digest, epoch))
                )
            except Exception as error:
                proposed.fail(error)
                continue
            arguments += (number, payload)
            taken.append(proposed)
            self.entry = entry
            size += len(payload)
            if size >= MAX_BYTES:
                break
        group.not_taken(list(waiting))
        self._messages = taken
        if taken and (group.last is self._before or group.last is None):
            group.last = self
        return [
            2,
            stream.key,
            stream.turn,
            group.channel,
            *stream.append_arguments(server),
            group.contest.by,
            "" if self._before is None else _text(self._before.entry),
            *arguments,
        ]

    def done(self, reply: Any) -> None:
        if self._is_over:
            return
        count, wrong = 0, reply
        if isinstance(reply, list) and len(reply) == 2:
            count, wrong = reply
        elif reply.__class__ is int and reply >= 0:
            count, wrong = reply, None
        is_known = wrong is None or wrong in (NOT_ITS_TURN, NOT_YET) or isinstance(wrong, (bytes, Exception))
        left = len(self._messages) - count if isinstance(count, int) else -1
        is_right = is_known and (not self._messages or (left >= 0 and (left == 0) == (wrong is None)))
        if not is_right:
            raise UnexpectedReply.to("the script that records", reply)
        group, contest = self._group, self._group.contest
        group.recorder.stats.recorded += count
        for proposed in self._messages[:count]:
            if not proposed.waiter.done():
                proposed.waiter.set_result(None)
        rest = self._messages[count:]
        if count:
            contest.recorded()
        if isinstance(wrong, Exception):
            self._fail(rest, wrong)
            rest = []
        elif rest and wrong != NOT_YET:
            refused = self._refused(wrong)
            if refused is not None:
                rest.pop(0).fail(refused)
        self._end(rest)

    def refused(self, error: ResponseError | None) -> None:
        self.done(no_scripts(self._way, error, "history"))

    def _refused(self, wrong: Any) -> ResponseError | None:
        group = self._group
        if wrong == NOT_ITS_TURN:
            return group.contest.not_its_turn()
        try:
            group.recorder.proposer.overtaken(group.stream.key, wrong)
        except ValueError:
            raise UnexpectedReply.to("the script that records", wrong) from None
        return group.contest.overtaken()

    def _fail(self, messages: list[Proposed], error: Exception) -> None:
        if isinstance(error, RedisError):
            dialect = self._group.recorder.dialect
            error = dialect.explain(dialect.publish, error, f"Redis at {self._way.dialer.label}")
        for proposed in messages:
            # One for each: a traceback grows on an exception that is raised in several tasks.
            proposed.fail(type(error)(*error.args))

    def _end(self, rest: list[Proposed]) -> None:
        self._is_over = True
        self._group.ended(self, rest)


def _text(entry: Entry) -> str:
    return f"{entry[0]}-{entry[1]}"
