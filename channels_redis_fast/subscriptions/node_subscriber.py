"""
The subscribing connection to one server of a cluster.

A ``Subscriber`` that takes names of many slots, and reports names whose slots the server does not have to its owner.
Knows the slots of names, and how a server answers that it does not have a slot. Does not know which server does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from redis.exceptions import MovedError

from ..cluster.node import DOUBT, Node
from ..cluster.slots import slot_of
from ..connection.replies import REDIRECTIONS
from .dialect import SHARDED
from .repeats import RepeatFilter
from .subscriber import Sent, Subscriber

Names = Sequence[bytes]

#: Seconds of silence after which a server is sent a PING: often enough to notice a standstill as long as a failover.
PING_INTERVAL = 1.0

#: Seconds that a server may take to answer a PING before it counts as standing still: the time until a replica is
#: promoted at the smallest ``cluster-node-timeout`` in use, minus ``PING_INTERVAL``.
STILL_TIME = 0.5

#: Iterations in which an event loop that was blocked reads what has come meanwhile.
READING = 3

#: Seconds within which a server that resumes after a standstill learns that its slots are elsewhere.
LEARNING_TIME = 5.0


class SubscriptionListener(Protocol):
    """Takes the reports of a ``NodeSubscriber``."""

    def acknowledged(self, subscriber: NodeSubscriber, name: bytes) -> None:
        """Called when a server has acknowledged a name."""

    def taken(self, subscriber: NodeSubscriber, name: bytes) -> None:
        """Called when a server has ended a subscription by itself. If still wanted, it was already requested again."""

    def redirected(self, subscriber: NodeSubscriber, slot: int, error: Exception) -> None:
        """Called when a server that was asked for names in a slot does not have the slot."""

    def forbidden(self, subscriber: NodeSubscriber, name: bytes, error: Exception) -> None:
        """Called when a server refuses a name. It is asked again after a pause, unless the name is no longer wanted."""

    def lost(self, names: Names) -> None:
        """Called when a connection was lost, with the names that were acknowledged on it."""

    def troubled(self) -> None:
        """Called when a server could not be reached, is silent, or was away. Its slots may be elsewhere."""


class NodeSubscriber(Subscriber):
    """The subscribing connection to one server of a cluster."""

    def __init__(
        self,
        node: Node,
        owner: SubscriptionListener,
        on_message: Callable[[bytes, bytes], None],
        repeats: RepeatFilter,
    ) -> None:
        super().__init__(node.dialer, node.loop, node.stats, self._message, lambda: None, _nothing, _nothing, SHARDED)
        self._ping_interval = min(self._ping_interval, PING_INTERVAL)
        #: Whether the server does not answer a PING, and when it last resumed answering after a standstill.
        self._is_still = False
        self._stood_still_at = float("-inf")
        self.node = node
        #: Why the server cannot be reached, as long as it cannot.
        self.trouble: Exception | None = None
        self._owner = owner
        self._deliver = on_message
        self._repeats = repeats

    @property
    def is_wanted(self) -> bool:
        """Whether any name is wanted at this server."""
        return bool(self._wanted)

    def is_asking_for(self, names: Names) -> bool:
        """Return whether the server has been asked about any of these names and has not answered."""
        return any(name in self._outstanding for name in names)

    def is_at_work(self) -> bool:
        """Return whether the server's last acknowledgement is no older than an answer may take."""
        return self.loop.time() - self._acknowledged_at <= self.answer_timeout

    def stood_still(self) -> bool:
        """Return whether the server does not answer, or did not until recently. Its slots may have been elsewhere."""
        return self._is_still or self.loop.time() - self._stood_still_at < LEARNING_TIME

    def overdue(self, name: bytes) -> Exception | None:
        """Return the error for a name that was not acknowledged in time; None if this server is not to blame."""
        return self._overdue(name) if name in self._refused or name in self._outstanding else None

    def opened(self) -> None:
        if self.trouble is not None:
            # A replica accepts subscriptions too, and would not say that there is a better place.
            self.trouble = None
            self._owner.troubled()
        super().opened()

    def refused(self, error: Exception) -> bool:
        self.trouble = error
        self._owner.troubled()
        return bool(self._wanted)

    def after_loss(self) -> None:
        lost = [name for name in self._wanted if self.has(name)]
        self._is_still = False
        super().after_loss()
        if not self.closing:
            self._owner.lost(lost)

    def _message(self, name: bytes, payload: bytes) -> None:
        # Anything before the reply to the last command about a name belongs to an earlier subscription. The name has
        # been at another server since, which may have sent the same: after a failover both have it for a moment.
        if name in self._wanted and name not in self._outstanding:
            repeats = self._repeats
            if not repeats.slots or repeats.is_new(self, name, payload):
                self._deliver(name, payload)

    def _batches(self, names: Names) -> Iterator[Names]:
        by_slot: dict[int, list[bytes]] = {}
        for name in names:
            by_slot.setdefault(slot_of(name), []).append(name)
        for some in by_slot.values():
            yield from super()._batches(some)

    def _may_answer(self, sent: Sent, error: Exception) -> bool:
        # If the server ends a subscription while the command to end it is on its way, and no longer has the slot, it
        # reports both, and the first report was taken for the answer.
        return not isinstance(error, MovedError) or error.slot_id == slot_of(sent.names[0])

    def _denied(self, sent: Sent, error: Exception) -> None:
        if error.__class__ not in REDIRECTIONS:
            super()._denied(sent, error)
            return
        is_more = sent.command == SHARDED.subscribe
        if is_more:
            self._subscribed.difference_update(sent.names)
        for name in sent.names:
            self._acknowledged(name)
        if is_more:
            self._owner.redirected(self, slot_of(sent.names[0]), error)

    def _taken(self, name: bytes) -> None:
        # The server's answer to the new request says where the slot is now.
        super()._taken(name)
        self._owner.taken(self, name)

    def _settle(self, name: bytes) -> None:
        self._owner.acknowledged(self, name)

    def _fail(self, name: bytes, error: Exception) -> None:
        self._owner.forbidden(self, name, error)

    def _check_silence(self) -> None:
        before = self._pinged
        super()._check_silence()
        if self._pinged != before:
            self.loop.call_later(STILL_TIME, self._look_if_still, self._pinged, READING)
        if self.link is not None and self._pinged > self.link.last_activity:
            self.loop.call_later(DOUBT, self._look_at_silence)

    def _look_if_still(self, pinged: float, iterations: int) -> None:
        """Called when a PING may take no longer. If this event loop was blocked, the answer may have come long ago."""
        if self.link is None or self._pinged != pinged or self.link.last_activity > pinged:
            return
        if iterations:
            self.loop.call_soon(self._look_if_still, pinged, iterations - 1)
        else:
            self._is_still = True

    def _ponged(self) -> None:
        if self._is_still:
            self._is_still = False
            self._stood_still_at = self.loop.time()

    def _look_at_silence(self) -> None:
        if self.link is not None and self._pinged > self.link.last_activity:
            self._owner.troubled()


def _nothing(names: Names) -> None:
    """Do nothing: names are reported to the owner one by one, since each may be at another server by now."""
