"""
Changes of a group's presence on their way to its server: those of one tick of an event loop in one call.

Knows the format of a call and its reply (``scripts``), and what each change means for the record of its group. Does not
know when changes are made or how events are delivered.

Rules kept here:

- Each event loop has one call for each group under way. Changes requested meanwhile go in the next call, in order.
- A change is recorded when the server has carried it out. A change that cannot reach the server is not forgotten.
- Lost data is restored before anything else is changed: the call that discovers the loss has changed nothing.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from redis.exceptions import ConnectionError, NoScriptError, ResponseError, TimeoutError

from ..connection.identity import ServerIdentity
from ..connection.replies import UnexpectedReply
from ..connection.script import Script
from ..connection.script_call import ScriptCall, is_refusal, no_scripts
from .events import NO_INPUTS, Event, EventInputs
from .groups import Entry, GroupPresence, Waiting

#: Operations in one call, so that no call blocks the server for long.
MAX_OPERATIONS = 1_000

#: Seconds after its start in which a server may have come back empty without a new process knowing.
YOUNG = 60.0

#: How lost data is restored: without events, because groups were told before; or with events, because other processes
#: may since have announced that this one is gone.
QUIETLY, LOUDLY = "q", "l"

#: The script's result for a user whose presence it cannot determine yet.
UNCERTAIN = 2


class Operation:
    """One change, or several in one. ``future``, if any, gets the script's result for it."""

    __slots__ = ("first", "future", "gone", "kind", "second", "third")

    def __init__(
        self,
        kind: bytes,
        future: asyncio.Future[int] | None = None,
        first: Any = b"",
        second: Any = b"",
        third: Any = b"",
    ) -> None:
        self.kind = kind
        self.first = first
        self.second = second
        self.third = third
        self.future = future
        #: Owners that are known to be gone.
        self.gone: Sequence[bytes] = ()

    def users(self) -> tuple[tuple[bytes, bytes], ...]:
        """Return the users that this may cause to join or leave, each with the info known here."""
        if self.kind == b"j":
            return ((self.second, self.third),)
        if self.kind == b"l" and self.second:
            return ((self.second, b""),)
        if self.kind in (b"u", b"w"):
            return ((self.first, b""),)
        return ()

    def settle(self, result: int) -> None:
        if self.future is not None and not self.future.done():
            self.future.set_result(result)

    def fail(self, error: Exception) -> None:
        if self.future is not None and not self.future.done():
            self.future.set_exception(error)


class Keeper(Protocol):
    """The presence of a layer in one event loop, from the point of view of a group's queue."""

    has_events: bool
    #: Milliseconds for which a user stays present after the last channel has left.
    grace: int
    #: Whether the event loop is closing.
    is_closed: bool

    @property
    def came_back_at(self) -> float:
        """When (monotonic) a lost connection was last restored."""

    @property
    def owner(self) -> str:
        """The name of this process in entries."""

    @property
    def claimant(self) -> str:
        """The name of this event loop in claims."""

    @property
    def script(self) -> Script:
        """The script that changes a group."""

    def event_inputs(self, group: GroupPresence) -> EventInputs | None:
        """Return what the script needs to deliver a group's events itself; None if it must not."""

    def count_over_capacity(self, keys: int, group: GroupPresence) -> None:
        """Called with the number of keys that did not get an event because they were at capacity."""

    def way_to(self, group: GroupPresence) -> Any:
        """Return the way to the server of a group."""

    def delay_on(self, group: GroupPresence, server: ServerIdentity) -> int:
        """Return for how many milliseconds announcements are delayed because the server may have lost its data."""

    def way_back(self, group: GroupPresence) -> str:
        """Return how lost data of a group is restored: ``QUIETLY`` or ``LOUDLY``."""

    def remind(self, group: GroupPresence, user: bytes, seconds: float) -> None:
        """Schedule a check of a user's change after that time."""

    def look_again(self, group: GroupPresence, seconds: float) -> None:
        """Query a group again after that time: the claimant of its events may have failed to deliver them."""

    def deliver(self, queue: GroupQueue, events: list[Event]) -> None:
        """Deliver events that this event loop has claimed."""

    def confirm(self, group: GroupPresence, users: dict[bytes, bytes]) -> None:
        """Tell a group about users whose events may be lost, once processes have restored their parts."""

    def was_lost(self, group: GroupPresence) -> None:
        """Called when the data of a group has another epoch than before."""

    def joined(self, group: GroupPresence, owners: list[bytes]) -> None:
        """Called when a group is new to this process, with the processes that have a part in it."""

    def is_idle(self, queue: GroupQueue) -> None:
        """Called when a queue has nothing left to do."""


class PresenceCall(ScriptCall):
    """One call, with the operations that its queue has when it is written."""

    __slots__ = ("_inputs", "_is_over", "_operations", "_queue", "_server")

    repeatable = True

    def __init__(self, queue: GroupQueue, way: Any, script: Script) -> None:
        super().__init__(script, way)
        self._queue = queue
        self._operations: list[Operation] | None = None
        self._server = ServerIdentity()
        #: What the script needs to deliver events itself.
        self._inputs = NO_INPUTS
        self._is_over = False

    def arguments(self, server: ServerIdentity) -> list[Any]:
        if self._operations is None:
            self._operations = self._queue.take()
        self._server = server
        self._inputs = self._queue.event_inputs()
        return self._queue.arguments(self._operations, server, self._inputs)

    def reply(self, reply: Any) -> bool:
        is_error = isinstance(reply, ResponseError) and not isinstance(reply, NoScriptError)
        if is_error and self._inputs.keys and not is_refusal(reply):
            # A receiver's key may be forbidden, or on another server. The change itself must not fail for that.
            self._queue.group.is_told_by_script = False
            return True
        return super().reply(reply)

    def done(self, reply: Any) -> None:
        if self._is_over:
            return
        operations = self._operations or []
        if isinstance(reply, Exception):
            self._is_over = True
            self._queue.failed(operations, reply)
            return
        try:
            outcome = Outcome(reply, len(operations))
        except (AttributeError, IndexError, TypeError, ValueError):
            raise UnexpectedReply.to("the script of presence", reply) from None
        self._is_over = True
        self._queue.answered(operations, outcome, self._server)

    def refused(self, error: ResponseError | None) -> None:
        self.done(no_scripts(self._way, error, "presence"))


class Outcome:
    """
    The script's reply. ``is_lost``: nothing was done, since the data is not what the caller knows.

    ``waits``: users whose change is waiting for this process: user, kind, milliseconds, info.

    Raises ``ValueError`` and similar errors for a reply that does not fit that many operations.
    """

    __slots__ = ("claimed", "epoch", "events", "is_lost", "over_capacity", "owners", "results", "waits")

    def __init__(self, reply: Any, count: int) -> None:
        self.epoch: str = reply[0].decode()
        self.is_lost = len(reply) == 1
        self.results: list[int] = []
        self.waits: list[tuple[bytes, bytes, int, bytes]] = []
        self.owners: list[bytes] = []
        self.events: list[Event] = []
        self.over_capacity = 0
        #: Milliseconds for which another claim of undelivered events lasts; 0 if there is none.
        self.claimed = 0
        if self.is_lost:
            return
        if len(reply) == 2:
            # All were joins, and there is nothing else to say.
            if reply[1] != count:
                raise ValueError("another number of joins")
            reply = [reply[0], [1] * count, [], [], 0, 0]
        _, self.results, waits, self.owners, over_capacity, first, *events = reply
        self.over_capacity = int(over_capacity)
        if len(self.results) != count:
            raise ValueError("another number of results")
        self.waits = list(zip(waits[::4], waits[1::4], waits[2::4], waits[3::4], strict=True))
        self.claimed = max(-int(first), 0)
        # A damaged or foreign event is delivered to nobody, but has to be acknowledged.
        for number, raw in enumerate(events, int(first)):
            try:
                self.events.append(Event.of(self.epoch, number, raw))
            except ValueError:
                self.events.append(Event(self.epoch, number, b"", b"", raw))


class GroupQueue:
    """The changes of one group from one event loop. Exists while there are any."""

    def __init__(self, keeper: Keeper, group: GroupPresence) -> None:
        self.group = group
        self._keeper = keeper
        self._way = keeper.way_to(group)
        self._waiting: deque[Operation] = deque()
        self._is_busy = False
        #: How the next call restores the group, and how the one under way does; empty for not at all.
        self._restores = self._restoring = ""
        #: The newest event that this event loop has, and the number of events on their way to the group.
        self._epoch = ""
        self._newest = 0
        self.delivering = 0
        #: When a connection had last come back, as of the start of the call under way.
        self._began_at = float("-inf")

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do and nothing under way."""
        return not (self._is_busy or self._waiting or self.delivering)

    def put(self, operation: Operation) -> None:
        """Make a change, after those that were requested before."""
        self._waiting.append(operation)
        if not self._is_busy:
            self._begin()

    def restore(self) -> None:
        """Tell the server again what this process has in the group, in case the server has lost it."""
        if self._restores != LOUDLY:
            self._restores = self._keeper.way_back(self.group)
        self.put(Operation(b"e"))

    def delivered(self, events: list[Event]) -> None:
        """Called when events that this queue had passed on were delivered."""
        self.delivering -= len(events)
        self.put(Operation(b"a", None, events[-1].number, events[-1].epoch))

    # One call after the other.

    def _begin(self) -> None:
        if self._keeper.is_closed:
            # A call would open a socket that nobody closes.
            self._is_busy = False
            while self._waiting:
                self._waiting.popleft().fail(ConnectionError("the event loop closes"))
            return
        self._is_busy = True
        self._began_at = self._keeper.came_back_at
        self._way.submit(PresenceCall(self, self._way, self._keeper.script))

    def _go_on(self) -> None:
        if self._waiting:
            self._begin()
            return
        self._is_busy = False
        if not self.delivering:
            self._keeper.is_idle(self)

    def take(self) -> list[Operation]:
        """Return the operations to be done now. Called just before the call is written."""
        operations: list[Operation] = []
        self._restoring, self._restores = self._restores, ""
        if self._restoring:
            operations += [
                Operation(b"r", None, channel, entry.user, entry.info) for channel, entry in self.group.channels.items()
            ]
            now = time.monotonic()
            for user, waiting in self.group.waiting.items():
                left = max(int(1000 * (waiting.due - now)), 0)
                operations.append(Operation(waiting.kind.upper(), None, user, waiting.info, left))
            operations.append(Operation(b"z"))
        count = len(operations) + MAX_OPERATIONS
        waiting_ones = self._waiting
        while waiting_ones and len(operations) < count:
            operation = waiting_ones.popleft()
            # If a caller has given up, its change is skipped if it was not made yet, unless it is to leave.
            if operation.kind != b"j" or operation.future is None or not operation.future.done():
                operations.append(operation)
        return operations

    def event_inputs(self) -> EventInputs:
        """Return what the script needs to deliver events itself, if it may."""
        if not self.group.is_told_by_script:
            return NO_INPUTS
        try:
            return self._keeper.event_inputs(self.group) or NO_INPUTS
        except Exception:
            # From a site's own code (``get_capacity``, say), or the layer is gone. Whoever delivers the events gets it.
            return NO_INPUTS

    def arguments(self, operations: list[Operation], server: ServerIdentity, inputs: EventInputs) -> list[Any]:
        """Return the arguments of the script."""
        group, keeper = self.group, self._keeper
        known = "" if group.is_empty else group.epoch
        newest = self._newest if known and known == self._epoch else 0
        gone = b",".join(owner for operation in operations for owner in operation.gone)
        is_young = time.time() - server.started < YOUNG
        rest = (
            f"{self._restoring or '-'} {keeper.delay_on(group, server)} {keeper.claimant} {os.urandom(8).hex()} "
            f"{newest} {keeper.grace} {is_young:d}"
        )
        arguments: list[Any] = [
            3 + len(inputs.keys),
            *group.keys,
            *inputs.keys,
            keeper.owner,
            known,
            server.run_id,
            b"%b %b %b" % (rest.encode(), gone, group.name.encode()),
            len(inputs.arguments) if keeper.has_events else "",
            *inputs.arguments,
        ]
        for operation in operations:
            arguments += (operation.kind, operation.first, operation.second, operation.third)
        return arguments

    def answered(self, operations: list[Operation], outcome: Outcome, server: ServerIdentity) -> None:
        """Called with the script's reply."""
        if outcome.is_lost:
            self._waiting.extendleft(reversed(operations))
            self._restores = self._restores or self._keeper.way_back(self.group)
            self._begin()
            return
        group = self.group
        was_new = group.is_empty
        if group.epoch != outcome.epoch:
            if group.epoch:
                self._keeper.was_lost(group)
            if group.untold:
                self._keeper.confirm(group, {user: info for user, (info, _) in group.untold.items()})
                group.untold = {}
        elif self._keeper.came_back_at != self._began_at:
            # What was published meanwhile may not have reached anybody.
            told = {user: info for operation in operations for user, info in operation.users()}
            if told:
                self._keeper.confirm(group, told)
        group.epoch = outcome.epoch
        group.server = server
        group.renewed = time.monotonic()
        group.is_doubtful = False
        for operation, result in zip(operations, outcome.results, strict=True):
            _RECORD[operation.kind](group, operation, result)
            operation.settle(result)
        uncertain = {
            operation.first: operation.second
            for operation, result in zip(operations, outcome.results, strict=True)
            if operation.kind == b"c" and result == UNCERTAIN
        }
        if uncertain:
            self._keeper.confirm(group, uncertain)
        now = time.monotonic()
        for user, kind, milliseconds, info in outcome.waits:
            group.waiting[user] = Waiting(kind, now + milliseconds / 1000, info)
            self._keeper.remind(group, user, milliseconds / 1000)
        events = outcome.events
        if outcome.epoch == self._epoch:
            events = [event for event in events if event.number > self._newest]
        if events:
            self._epoch, self._newest = outcome.epoch, events[-1].number
            self.delivering += len(events)
            self._keeper.deliver(self, events)
        if self._keeper.has_events:
            for event in events:
                group.untold[event.user] = (event.info, now)
            for operation in operations:
                for user, info in operation.users():
                    group.untold[user] = (info, now)
        if outcome.over_capacity:
            self._keeper.count_over_capacity(outcome.over_capacity, group)
        group.is_pending = bool(outcome.claimed or self.delivering)
        if outcome.claimed:
            self._keeper.look_again(group, outcome.claimed / 1000)
        group.prune(now)
        if was_new and not group.is_empty:
            self._keeper.joined(group, outcome.owners)
        self._go_on()

    def failed(self, operations: list[Operation], error: Exception) -> None:
        """Called when a call has failed. It may have been carried out."""
        group = self.group
        failed = operations
        if isinstance(error, (ConnectionError, TimeoutError)) or not operations:
            # All would fail in the same way. Without operations nothing was taken from the queue, and nothing can be.
            failed = [*operations, *self._waiting]
            self._waiting.clear()
        for operation in failed:
            if operation.kind == b"l" and operation.first in group.channels:
                group.ending.add(operation.first)
            operation.fail(error)
            if self._keeper.has_events:
                for user, info in operation.users():
                    group.untold[user] = (info, time.monotonic())
        self._restores = self._restores or self._restoring
        group.is_doubtful = True
        self._go_on()


def _joined(group: GroupPresence, operation: Operation, result: int) -> None:
    group.channels[operation.first] = Entry(operation.second, operation.third)
    group.ending.discard(operation.first)


def _restored(group: GroupPresence, operation: Operation, result: int) -> None:
    if not result:
        # Another process has ended it meanwhile.
        group.forget(operation.first)


def _left(group: GroupPresence, operation: Operation, result: int) -> None:
    group.forget(operation.first)


def _user_left(group: GroupPresence, operation: Operation, result: int) -> None:
    for channel in [channel for channel, entry in group.channels.items() if entry.user == operation.first]:
        group.forget(channel)
    group.waiting.pop(operation.first, None)


def _was_due(group: GroupPresence, operation: Operation, result: int) -> None:
    group.waiting.pop(operation.first, None)


def _nothing(group: GroupPresence, operation: Operation, result: int) -> None:
    """For operations that do not change the record."""


#: The effect of each operation on the record of its group.
_RECORD: dict[bytes, Callable[[GroupPresence, Operation, int], None]] = {
    b"j": _joined,
    b"r": _restored,
    b"l": _left,
    b"k": _left,
    b"u": _user_left,
    b"w": _was_due,
    b"L": _nothing,
    b"J": _nothing,
    b"s": _nothing,
    b"a": _nothing,
    b"c": _nothing,
    b"z": _nothing,
    b"e": _nothing,
}
