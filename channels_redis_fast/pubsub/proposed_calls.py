"""
Messages to groups with a history that are packed together with a position, which their sender proposes (encryption,
JSON, custom serializers). Knows streams and Redis channels. Does not know a layer.

Rules kept here:

- Each message is a call of its own, among all others that leave in the same tick. It takes effect only if the one
  before it to the same group did.
- Messages that were not recorded wait, and go in a single call when all calls to the group have been answered. Nothing
  sent to the group meanwhile overtakes them.
- A message that cannot be packed, or that is refused too often, fails for its sender only.
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

#: Packs a message for publishing. Its exceptions are raised at the sender.
Encode = Callable[[Message], bytes]

#: The script's replies if it did nothing: it is another sender's turn; the message before it was not recorded.
NOT_ITS_TURN, NOT_YET = -1, -2


class Outlet(Protocol):
    """Submits requests to the server of a Redis channel, in order."""

    #: The last submitted request, if more messages may join it and nothing was submitted after it.
    last: Pending | None

    def submit(self, channel: bytes, make: MakeRequest, is_joined: bool = False) -> None:
        """Submit a request of its own. ``is_joined``: whether more messages may join it."""


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
        #: By stream: the groups with messages on their way.
        self.groups: dict[bytes, ProposedGroup] = {}

    def send(self, outlet: Outlet, channel: bytes, stream: Stream, message: Message, encode: Encode) -> Waiter[None]:
        """Record and publish one message. The waiter raises redis-py's errors and those of ``encode``."""
        group = self.groups.get(stream.key)
        if group is None:
            group = self.groups[stream.key] = ProposedGroup(self, outlet, channel, stream)
        waiter: Waiter[None] = self.waker.waiter()
        group.send(Proposed(message, encode, waiter))
        return waiter


class ProposedGroup:
    """The messages of one event loop to one group. Exists while there are any."""

    def __init__(self, recorder: ProposingRecorder, outlet: Outlet, channel: bytes, stream: Stream) -> None:
        self.recorder = recorder
        self.channel = channel
        self.stream = stream
        self.contest = Contest(stream.group, recorder.waker.loop.time)
        #: The last written call, while it is not answered.
        self.last: ProposedCall | None = None
        self._outlet = outlet
        #: Number of calls that are not finished.
        self._calls = 0
        #: Messages that were not recorded, and those that were sent afterwards.
        self._returned: deque[Proposed] = deque()
        self._held: deque[Proposed] = deque()
        self._is_pausing = False

    def send(self, proposed: Proposed) -> None:
        """Send a message, after those that wait."""
        if self._returned or self._held or self._is_pausing:
            self._held.append(proposed)
        else:
            self._submit([proposed])

    def not_taken(self, rest: list[Proposed]) -> None:
        """Called with the messages that did not fit into a call."""
        self._held.extendleft(reversed(rest))

    def ended(self, call: ProposedCall, rest: list[Proposed]) -> None:
        """Called when a call is finished, with the messages that it did not record and that are to be retried."""
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
    """Messages to one group, each with its proposed position."""

    __slots__ = ("_before", "_group", "_is_over", "_messages", "_was_written", "entry")

    def __init__(self, group: ProposedGroup, way: Way, messages: list[Proposed]) -> None:
        super().__init__(group.recorder.script, way)
        self._group = group
        self._messages = messages
        self._was_written = self._is_over = False
        #: The call whose messages come before these.
        self._before: ProposedCall | None = None
        #: The last ID that this call proposes.
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
            # A separate exception for each: its traceback grows each time it is raised, if several tasks share it.
            proposed.fail(type(error)(*error.args))

    def _end(self, rest: list[Proposed]) -> None:
        self._is_over = True
        self._group.ended(self, rest)


def _text(entry: Entry) -> str:
    return f"{entry[0]}-{entry[1]}"
