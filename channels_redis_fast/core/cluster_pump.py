"""
Reads the messages that a receiver wants from a cluster, where no command can wait on keys of different slots.

Every send to an empty key is followed by an announcement on the key's sharded channel. A process that receives it looks
at the key, and keeps looking until it is empty. Messages of a specific key are read with ZRANGE, delivered, and removed
with the next look; messages of a general channel are popped one at a time. This class replaces ``pump.Pump`` of a
single server. Knows keys and members. What is in a member, and who gets it, is up to the receiver; which server has a
key is up to the cluster.

Rules kept here:

- Looking at a key ends when the key is empty, or when its receiver wants no more. The next announcement or the next
  receiver starts it again; so does an acknowledged subscription, since announcements may have been missed.
- On a specific key, nothing is lost with a connection: messages stay in Redis until they are delivered. On a general
  channel, one message can be in flight at any time.
- A delivered message is not delivered again if it comes back because the server that had removed it was replaced by one
  without the removal.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Iterable
from time import monotonic
from typing import Any

from redis.exceptions import ConnectionError, NoPermissionError

from ..cluster.cluster import Cluster
from ..cluster.slots import slot_of
from ..connection.futures import ignore
from ..connection.link import Command
from ..connection.reconnecting import CLOSE_TIMEOUT
from ..connection.requests import Exchange
from ..messages.mailbox import Inbox
from ..subscriptions.cluster_subscriber import ClusterSubscriber
from .pump import ERROR_PAUSE, General, ReceiverContext, Target
from .read_ahead import ReadAhead, take_removals

logger = logging.getLogger("channels_redis_fast")

#: Seconds that a key nobody wants stays subscribed: a general channel's receiver comes back after it has done its work.
LINGER = 10.0

#: Seconds between two looks at specific keys that also ask for scores, to measure how old messages are.
MEASURE_INTERVAL = 0.05

#: Seconds for which a new server may have members that were removed from the previous one: a promoted replica may lack
#: the removal.
DOUBTFUL = 5.0


#: Seconds that a worker that came too late waits longer next time (half of that on average), and how often the wait
#: grows.
HERD_PAUSE, HERD_PAUSES = 0.001, 8


class ClusterPump:
    """Asks a cluster for the messages that a receiver wants."""

    #: There is one pump for all servers of a cluster.
    shard = 0

    def __init__(self, cluster: Cluster, receiver: ReceiverContext) -> None:
        self.loop = cluster.loop
        #: The keys whose next message is delivered as soon as it arrives.
        self.awaited: dict[bytes, Target] = {}
        #: Whether the next look at what is wanted is already scheduled.
        self.scheduled = False
        #: Used by general channels to try several shards in turn. A cluster is one shard, so this stays empty.
        self.tries: deque[General] = deque()
        self.link = self.is_opening = None
        self.subscriber = ClusterSubscriber(
            cluster,
            self._announced,
            on_lost=_nothing,
            on_back=_nothing,
            on_subscribed=self._announced,
        )
        #: Whether members of equal messages differ, so that the same member is never a different message.
        self.distinguishes_equal_messages = receiver.distinguishes_equal_messages
        self._cluster = cluster
        self._receiver = receiver
        self._views: dict[bytes, View] = {}
        self._poll: asyncio.TimerHandle | None = None
        self._looking = 0
        #: When the age of a specific key's messages was last measured.
        self._measured_at = 0.0
        self._stopped: asyncio.Future[None] | None = None

    @property
    def is_open(self) -> int:
        """How many sockets are open."""
        return self.subscriber.is_open

    def kick(self) -> None:
        """Look again at what is wanted, after the coroutines that are now ready have run."""
        if not self.scheduled:
            self.scheduled = True
            self.loop.call_soon(self._ask)

    async def stop(self) -> None:
        """Wait for looks in flight, remove what was delivered, and close the subscriber's sockets."""
        end = self.loop.time() + CLOSE_TIMEOUT
        try:
            while True:
                self._stopped = self.loop.create_future()
                self._ask()
                if not self._looking or self.loop.time() >= end:
                    break
                await asyncio.wait([self._stopped], timeout=end - self.loop.time())
            if self._poll is not None:
                self._poll.cancel()
                self._poll = None
            for view in list(self._views.values()):
                self._drop(view)
            await self.subscriber.stop()
        finally:
            self._stopped = None

    async def aclose(self) -> None:
        """Close the sockets."""
        await self.subscriber.stop()

    def may_bring(self, key: bytes) -> bool:
        """Return whether a message of a general channel may be on its way here. Thread-safe."""
        view = self._views.get(key)
        return key in self.awaited or (view is not None and view.is_looking)

    # Asking.

    def _ask(self) -> None:
        self.scheduled = False
        wanted = [] if self._stopped is not None else self._receiver.wanted(self)
        self.awaited = {target.key: target for target in wanted}
        if self.awaited and not self._views:
            # Perhaps after a close. Losses of groups are detected on connections to the servers that have them.
            self._cluster.keep_open()
        for key, target in self.awaited.items():
            view = self._views.get(key)
            if view is None:
                view = self._views[key] = View(self, target)
                acknowledged = self.subscriber.subscribe(key)
                if acknowledged is not None:
                    # ``_announced`` is called when it is acknowledged; if it fails, the poll covers for it.
                    acknowledged.add_done_callback(ignore)
            elif view.target is not target:
                view.change(target)
            view.stay()
            if not view.is_at_end:
                view.look()
        for view in self._views.values():
            if view.key not in self.awaited:
                view.rest()
        if self._poll is None and self.awaited:
            self._poll_later()

    def _announced(self, key: bytes, payload: bytes = b"") -> None:
        view = self._views.get(key)
        if view is not None:
            view.is_at_end = False
            if key in self.awaited:
                view.announced()

    def _poll_later(self) -> None:
        # At random, so that not all processes poll at once. ``_ask`` schedules the next poll only while keys are
        # awaited.
        self._poll = self.loop.call_later(self._receiver.block_time * random.uniform(0.5, 1.0), self._poll_all)

    def _poll_all(self) -> None:
        """Look at all keys without an announcement, which may have been lost, and find those no longer wanted."""
        self._poll = None
        for view in self._views.values():
            view.is_at_end = False
        self._ask()

    def _drop(self, view: View) -> None:
        self.subscriber.unsubscribe(view.key)
        view.stay()
        view.is_dropped = True
        self._views.pop(view.key, None)

    # Called by views.

    def linger_is_over(self, view: View) -> None:
        """Called when nobody has wanted a key for a long time."""
        if view.key not in self.awaited:
            self._drop(view)

    def is_to_measure(self) -> bool:
        """
        Whether to measure the age of a specific key's messages now. If so, the next measurement is due an interval
        later.
        """
        now = monotonic()
        if now - self._measured_at < MEASURE_INTERVAL:
            return False
        self._measured_at = now
        return True

    def sent_at(self, key: bytes, score: bytes) -> float:
        """Return when a message with this score was sent, on the monotonic clock; 0.0 if that is unknown."""
        return self._cluster.at(key).clock.began(score)

    def send(self, look: Look) -> None:
        """Send a look."""
        self._looking += 1
        self._cluster.at(look.target.key).submit(look)

    def ended(self, again: bool) -> None:
        """
        Called when a look has ended. ``again``: whether another may find more, once the receivers it woke have run.
        """
        self._looking -= 1
        if self._stopped is not None:
            if not self._looking and not self._stopped.done():
                self._stopped.set_result(None)
        elif again:
            self.kick()

    def deliver(self, inbox: Inbox, members: list[bytes], score: bytes) -> None:
        """Hand members of a specific key to their channels. ``score``: that of the first member, empty if unknown."""
        sent_at = self.sent_at(inbox.key, score) if score else 0.0
        if sent_at and len(members) > 1:
            self._receiver.deliver(inbox, members[:1], sent_at)
            members, sent_at = members[1:], 0.0
        self._receiver.deliver(inbox, members, sent_at)

    def deliver_general(self, general: General, member: bytes, score: bytes) -> None:
        """Hand a popped message to a receiver of its channel."""
        self._receiver.deliver_general(general, self, member, score)

    def failed(self, target: Target, error: Exception) -> None:
        """Called when a look has failed."""
        if not self._cluster.is_mapped:
            self._receiver.unreachable(self, error)
        elif isinstance(error, NoPermissionError):
            target.fail_waiters(error)
            if isinstance(target, Inbox):
                target.disarm()
        elif not isinstance(error, ConnectionError):
            logger.error("Redis refuses to return the messages of %r: %s", target.key.decode(), error)
        self.ended(again=self._cluster.is_mapped)

    def is_mine(self, inbox: Inbox) -> bool:
        """Whether this loop reads a specific key."""
        return inbox.receiver is self._receiver

    def server_of(self, key: bytes) -> object:
        """Return an object that identifies the server that has a key now."""
        return self._cluster.owner(slot_of(key))


class View:
    """The state of one key that is read."""

    __slots__ = (
        "_is_pausing",
        "_leaving",
        "_missed",
        "_pump",
        "_server",
        "_was_announced",
        "ahead",
        "is_at_end",
        "is_dropped",
        "is_looking",
        "key",
        "target",
    )

    def __init__(self, pump: ClusterPump, target: Target) -> None:
        self.target = target
        self.key = target.key
        #: Whether the last look found nothing, and no announcement has arrived since it began.
        self.is_at_end = False
        self.ahead = ReadAhead()
        self._pump = pump
        #: Whether a look is in flight; and whether another view may have taken the place of this one.
        self.is_looking = self.is_dropped = False
        self._is_pausing = False
        #: Whether the look in flight was started by an announcement; and how many such looks in a row came too late.
        self._was_announced = False
        self._missed = 0
        self._leaving: asyncio.TimerHandle | None = None
        self._server: object = None

    def change(self, target: Target) -> None:
        """Called when a different target wants the key."""
        self.target = target
        self.is_at_end = False

    def stay(self) -> None:
        """Called when the key is wanted."""
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None

    def rest(self) -> None:
        """Called when the key is not wanted now. What was delivered is still removed."""
        if isinstance(self.target, Inbox) and self.target.removals:
            self.look(only_removes=True)
        if self._leaving is None:
            self._leaving = self._pump.loop.call_later(LINGER, self._pump.linger_is_over, self)

    def announced(self) -> None:
        """
        Called when there is a message on the key. A view that came too late the last times lets other processes go
        first.
        """
        if self._missed:
            longest = HERD_PAUSE * min(self._missed, HERD_PAUSES)
            self._pump.loop.call_later(random.uniform(0, longest), self._look_if_wanted)
        else:
            self.look(announced=True)

    def look(self, only_removes: bool = False, announced: bool = False) -> None:
        """Start a look, unless one is in flight. ``announced``: whether a message should be there."""
        if self.is_looking or self._is_pausing:
            return
        self.is_looking = True
        self._was_announced = announced
        look = Look(self, self.target, only_removes, self._pump.is_to_measure())
        if not look.only_removes:
            # Reset by an announcement that arrives before the reply: the reply may already have been on its way.
            self.is_at_end = True
        self._pump.send(look)

    def found(self, look: Look, members: list[bytes], score: bytes) -> None:
        """Handle what a look has found."""
        self.is_looking = False
        target = look.target
        if isinstance(target, Inbox):
            if not self._pump.is_mine(target) or target.epoch != look.epoch or self.is_dropped:
                # Another loop, or another view, now reads this key, and will read them itself.
                members = []
            elif look.asked:
                self.ahead.read(look.asked, members)
        if members:
            self.is_at_end = False
            if isinstance(target, Inbox):
                target.removals.setdefault(0, []).extend(members)
                self._doubt_another_server(target)
                self._pump.deliver(target, members, score)
            else:
                self._missed = 0
                self._pump.deliver_general(target, members[0], score)
        elif self._was_announced and not isinstance(target, Inbox):
            self._missed += 1
        self._pump.ended(again=not self.is_at_end or (isinstance(target, Inbox) and bool(target.removals)))

    def failed(self, look: Look, error: Exception) -> None:
        """Called when a look has failed. The members that it should have removed are removed later."""
        self.is_looking = False
        self.is_at_end = False
        if isinstance(look.target, Inbox) and look.removed:
            look.target.removals[0] = look.removed + look.target.removals.get(0, [])
        if not isinstance(error, ConnectionError):
            self._is_pausing = True
            self._pump.loop.call_later(ERROR_PAUSE, self._resume)
        self._pump.failed(look.target, error)

    def _look_if_wanted(self) -> None:
        if self.key in self._pump.awaited and not self.is_at_end:
            self.look(announced=True)

    def _resume(self) -> None:
        self._is_pausing = False
        self._pump.kick()

    def _doubt_another_server(self, inbox: Inbox) -> None:
        server = self._pump.server_of(self.key)
        if server is not self._server:
            if self._server is not None and self._pump.distinguishes_equal_messages:
                inbox.delivered.doubt(DOUBTFUL)
            self._server = server


class Look(Exchange):
    """One look at a key: removes what was delivered, and asks for what is there."""

    __slots__ = ("_is_over", "_measures", "_view", "asked", "epoch", "only_removes", "removed", "target")

    def __init__(self, view: View, target: Target, only_removes: bool, measures: bool) -> None:
        self._view = view
        #: Whether it also asks for the scores of a specific key's messages.
        self._measures = measures
        self._is_over = False
        self.target = target
        self.only_removes = only_removes
        self.removed: list[bytes] = []
        self.epoch = 0
        #: How many members of a specific key it reads.
        self.asked = 0
        commands: list[Command] = []
        if isinstance(target, Inbox):
            self.removed = take_removals(target.removals, 0)
            self.epoch = target.epoch
            if self.removed:
                commands.append([b"ZREM", target.key, *self.removed])
            if target.removals:
                # A read would return again what has not been removed yet.
                self.only_removes = True
            elif not only_removes:
                self.asked = max(view.ahead.count, 1)
                scores = (b"WITHSCORES",) if measures else ()
                commands.append((b"ZRANGE", target.key, 0, self.asked - 1, *scores))
        elif not only_removes:
            commands.append((b"ZPOPMIN", target.key))
        # A popped message may be lost with the connection, so a pop is not repeated. What is read is still in Redis.
        super().__init__(commands, repeatable=isinstance(target, Inbox))

    def is_over(self) -> bool:
        return self._is_over

    def finish(self, replies: list[Any], error: Exception | None) -> None:
        if self._is_over:
            return
        self._is_over = True
        if error is not None:
            self._view.failed(self, error)
        elif self.only_removes:
            self._view.found(self, [], b"")
        elif self.repeatable and self._measures:
            self._view.found(self, replies[-1][::2], b"".join(replies[-1][1:2]))
        elif self.repeatable:
            self._view.found(self, replies[-1], b"")
        else:
            self._view.found(self, replies[-1][:1], b"".join(replies[-1][1:]))

    def abort(self, error: Exception) -> None:
        self._is_over = True
        self._view.failed(self, error)


def _nothing(names: Iterable[bytes]) -> None:
    """Do nothing. Lost subscriptions only matter to the Pub/Sub layer: here the next look finds what is there."""
