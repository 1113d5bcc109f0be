"""
Who is present in the groups of a layer: the records of this process, and what callers ask for.

Every change goes through the script of the group's shard (``calls``), which says what the group is to be told. The
event loop that has claimed these events delivers them (``outbox``). ``upkeep`` does the work that nobody asks for.
Knows a layer only through what it is passed, and no messages but events.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import logging
import weakref
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from ..cluster.slots import slot_of
from ..connection.identity import ServerIdentity
from ..connection.script import Script
from ..hot import Lock, pack
from ..messages.codec import Codec
from ..stats import Stats
from .calls import GroupQueue, Operation
from .events import Event, EventInputs, SeenEvents
from .groups import GroupPresence
from .keys import PresenceKeys, User, owner_name, owners_in, process_of, user_of
from .leases import Leases
from .outbox import Outbox
from .rules import PresenceRules
from .scripts import CHANGE
from .upkeep import Upkeep, weak_callback

logger = logging.getLogger("channels_redis_fast")

_NO_INFO = b""


class Presences:
    """
    The presence of one layer in all its event loops.

    ``codec``: encodes info to bytes, and decodes it. ``way_to``: returns the way to the server of a group, from the
    shard and the group's key. ``send``: sends a message to a group given by name, shard and key. ``members``: returns
    shards and keys of groups that have channels of this process. None of these may keep the layer alive.
    """

    def __init__(
        self,
        rules: PresenceRules,
        prefix: bytes,
        leases: Leases,
        is_cluster: bool,
        stats: Stats,
        codec: Codec,
        way_to: Callable[[int, bytes], Any],
        send: Callable[[str, int, bytes, dict[str, Any]], Coroutine[Any, Any, None]],
        members: Callable[[], Iterable[tuple[int, bytes]]],
    ) -> None:
        self.rules = rules
        self.leases = leases
        #: The script that changes a group, and a function from a group's shard and key to what that script needs to
        #: deliver the group's events itself: None if it cannot.
        self.script = CHANGE
        self._inputs_of: Callable[[int, bytes], EventInputs | None] | None = None
        #: The events that receivers have had.
        self.seen = SeenEvents()
        self._prefix = prefix
        self._is_cluster = is_cluster
        self._stats = stats
        self.codec = codec
        self._way_to = way_to
        self._send = send
        self.members = members
        self._begin()
        leases.on_lapse(weak_callback(self, lambda self, lapse: self.upkeep.lapsed(lapse)))
        leases.follow(weak_callback(self, lambda self: self.upkeep.look_at_once()))

    def _begin(self) -> None:
        #: The groups of this process, by key and by name.
        self._groups: dict[bytes, GroupPresence] = {}
        self._names: dict[str, GroupPresence] = {}
        self._lock = Lock()
        self._loops: dict[asyncio.AbstractEventLoop, PresenceLoop] = {}
        #: Closing event loops, in which nothing may be started any more.
        self._left: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        self._numbers = itertools.count()
        self.upkeep = Upkeep(self)

    @property
    def owner(self) -> str:
        """The name of this process in the entries of groups."""
        return owner_name(self.leases.process, self.upkeep.generation)

    # Called by the layer in the running event loop.

    def find(self, name: str) -> GroupPresence | None:
        """Return the presence of a group, if this process has a part in it."""
        return self._names.get(name)

    def occupancy(self) -> dict[str, int]:
        """Return how many channels of this process are present, by group. Thread-safe."""
        return {group.name: len(group.channels) for group in list(self._groups.values()) if group.channels}

    def group(self, name: str, shard: int, key: bytes) -> GroupPresence:
        """Return the presence of a group by its name, shard and key: its record, or a new one that is not kept."""
        group = self._groups.get(key)
        if group is None:
            place = slot_of(key) if self._is_cluster else shard
            group = GroupPresence(name, shard, place, key, PresenceKeys.of(self._prefix, key))
        return group

    def used(self, group: GroupPresence) -> GroupPresence:
        """Return the record of a group. It is kept at least until ``let_go`` has been called once per call of this."""
        with self._lock:
            group = self._groups.setdefault(group.group_key, group)
            self._names[group.name] = group
            group.users += 1
            return group

    async def held(self) -> None:
        """Return when this process has its lease. Raises redis-py's errors."""
        if not self.leases.is_held:
            await self.leases.hold()

    def stored(self, info: Any) -> bytes:
        """Return info in its stored form. Raises the serializer's error."""
        return _NO_INFO if info is None else self.codec.encode({"info": info}, None)

    def change(self, group: GroupPresence, kind: bytes, *arguments: Any) -> asyncio.Future[int]:
        """Make a change (see ``scripts``). The future's result is that of the script; it raises redis-py's errors."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        self._here(loop).queue(group).put(Operation(kind, future, *arguments))
        return future

    def end(self, group: GroupPresence, channel: str, is_own: bool) -> asyncio.Future[int]:
        """End the presence of a channel. The future says whether there was one, and raises redis-py's errors."""
        if not is_own:
            return self.change(group, b"k", channel)
        entry = group.channels.get(channel)
        return self.change(group, b"l", channel, b"" if entry is None else entry.user)

    async def leave_own(self, group: GroupPresence, channel: str) -> None:
        """End the presence of a channel of this process. Raises redis-py's errors, but keeps trying after them."""
        await self.end(group, channel, True)

    async def read(self, group: GroupPresence) -> dict[User, Any]:
        """Return the present users and their info. Raises redis-py's errors."""
        (fields,) = await self._look_at(group, (b"HGETALL", group.keys.users))
        present: dict[User, Any] = {}
        for field, info in zip(fields[::2], fields[1::2], strict=True):
            try:
                user = user_of(field)
                if user is not None:
                    present[user] = self._info(group.name, info)
            except ValueError:
                self._stats.undecodable += 1
                logger.error("Skipped an invalid user in the presence of group %r: %r", group.name, field)
        return present

    async def count(self, group: GroupPresence) -> int:
        """Return how many users are present. Raises redis-py's errors."""
        (count,) = await self._look_at(group, (b"HLEN", group.keys.users))
        return int(count)

    async def _look_at(self, group: GroupPresence, command: Sequence[Any]) -> list[Any]:
        """Return the reply to a command, after cleaning up what processes that are gone have left."""
        way = self.way_to(group)
        deadlines = await self.leases.gone()
        reply: list[Any] = []
        for is_last in (False, True):
            *reply, head = await way.call(command, (b"HKEYS", group.keys.head), repeatable=True)
            if is_last or not any(process_of(owner) in deadlines for owner in owners_in(head)):
                break
            await self.upkeep.sweep([group])
        return reply

    def way_to(self, group: GroupPresence) -> Any:
        """
        Return the way to a group's server in the running event loop. Raises ``ReferenceError`` if the loop is closing.
        """
        self._check(asyncio.get_running_loop())
        return self._way_to(group.shard, group.group_key)

    def deliver_in_script(self, script: Script, inputs_of: Callable[[int, bytes], EventInputs | None]) -> None:
        """
        Let the script that changes a group deliver its events, where ``inputs_of`` returns what it needs for that.

        ``inputs_of`` gets the shard and the key of a group, and must not keep the layer alive. It returns None if
        messages are anything but plain msgpack, since a script can produce nothing else.
        """
        self.script = script
        self._inputs_of = inputs_of

    def event_inputs(self, group: GroupPresence) -> EventInputs | None:
        """
        Return what the script needs to deliver a group's events; None if it must not.

        It must not while members may have to rejoin the group.
        """
        if self._inputs_of is None or not self.rules.events or self.upkeep.pause(group) > 0:
            return None
        inputs = self._inputs_of(group.shard, group.group_key)
        if inputs is None:
            return None
        # The value is the last thing in a stored info, and None is one byte.
        start = len(self.codec.encode({"info": None}, None))
        # The name as the only key of a map, without the map's first byte and the value.
        name = pack({group.name: None})[1:-1]
        return EventInputs(inputs.keys, (start, name, *inputs.arguments))

    def count_over_capacity(self, keys: int, group: GroupPresence) -> None:
        """Count and log the keys that did not get an event because they were at capacity."""
        self._stats.over_capacity += keys
        logger.info("%s channels over capacity in group %s", keys, group.name)

    def clear(self) -> None:
        """Forget everything, because the layer's data is deleted."""
        with self._lock:
            for group in list(self._groups.values()):
                group.channels.clear()
                group.waiting.clear()
                group.ending.clear()
                group.untold.clear()
                group.is_doubtful = False
            for key, group in list(self._groups.items()):
                if not group.users:
                    self._drop(key, group)

    # Event loops that close, forks and reconnects.

    def leave(self, loop: asyncio.AbstractEventLoop) -> None:
        """Called in an event loop that is about to close."""
        self._left.add(loop)
        here = self._loops.pop(loop, None)
        if here is not None:
            here.close()
            for queue in here.queues.values():
                # Its pending changes are finished from another event loop or, when the lease ends, by other processes.
                queue.group.is_doubtful = True
                self.let_go(queue.group)
            if not self._loops:
                # Nobody receives on these channels any more.
                self.clear()
        self.upkeep.leave(loop, list(self._loops))

    def after_fork(self) -> None:
        """In a forked child: have no part in any group."""
        self._begin()

    def watch(self) -> None:
        """Look after everything in the running event loop, unless another loop does."""
        self.upkeep.watch()

    def came_back(self) -> None:
        """Called when a lost connection is restored, in its event loop."""
        self.upkeep.came_back()

    # Used by the upkeep.

    def records(self) -> list[GroupPresence]:
        """Return the groups in which this process has a part."""
        return list(self._groups.values())

    def queue(self, group: GroupPresence) -> GroupQueue:
        """Return the queue of a group in the running event loop. Raises ``ReferenceError`` if the loop is closing."""
        return self._here(asyncio.get_running_loop()).queue(group)

    def is_closing(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Return whether nothing may be started in an event loop any more."""
        return loop in self._left

    # Called by the queues of an event loop.

    def confirm(self, group: GroupPresence, users: dict[bytes, bytes]) -> None:
        """Called by a timer, to tell a group about users whose events may be lost."""
        loop = asyncio.get_running_loop()
        if loop in self._left:
            return
        queue = self._here(loop).queue(group)
        for user, info in users.items():
            queue.put(Operation(b"c", None, user, info))

    def let_go(self, group: GroupPresence) -> None:
        """Called when a queue of a group is gone."""
        with self._lock:
            group.users -= 1
        self.let_go_if_unused(group)

    def let_go_if_unused(self, group: GroupPresence) -> None:
        """Drop the record of a group that contains nothing and has no queue."""
        with self._lock:
            if not group.users and group.is_empty and not group.is_doubtful:
                self._drop(group.group_key, group)

    def _drop(self, key: bytes, group: GroupPresence) -> None:
        self._groups.pop(key, None)
        self._names.pop(group.name, None)

    async def send_event(self, queue: GroupQueue, event: Event) -> None:
        """Tell a group of an event. Raises whatever prevents that."""
        if not event.kind:
            logger.error("Skipped an invalid event in the presence of group %r: %r", queue.group.name, event.info)
            return
        group = queue.group
        self._check(asyncio.get_running_loop())
        message = event.message(group.name, self._info(group.name, event.info))
        await self._send(group.name, group.shard, group.group_key, message)

    def _info(self, group: str, stored: bytes) -> Any:
        """Return stored info, decoded. Returns None for undecodable info, which is counted and logged."""
        if not stored:
            return None
        try:
            return self.codec.decode(stored)[1]["info"]
        except Exception as error:
            self._stats.undecodable += 1
            logger.error(
                "Skipped an undecodable info in the presence of group %r: %s: %s", group, type(error).__name__, error
            )
            return None

    def due(self, key: bytes, user: bytes) -> None:
        """Called by a timer when a user's change is due."""
        group = self._groups.get(key)
        loop = asyncio.get_running_loop()
        if group is not None and user in group.waiting and loop not in self._left:
            self._here(loop).queue(group).put(Operation(b"w", None, user))

    def ask(self, group: GroupPresence) -> None:
        """Called by a timer when the claims of others on events should have been fulfilled."""
        loop = asyncio.get_running_loop()
        if loop not in self._left:
            self._here(loop).asked(group)

    def _here(self, loop: asyncio.AbstractEventLoop) -> PresenceLoop:
        here = self._loops.get(loop)
        if here is None:
            self._check(loop)
            here = self._loops[loop] = PresenceLoop(self, loop, str(next(self._numbers)))
            self.upkeep.look_from_here()
        return here

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop in self._left:
            raise ReferenceError("the event loop closes")


class PresenceLoop:
    """The presence of a layer in one event loop: the queues of its groups, and the events that it delivers."""

    def __init__(self, presences: Presences, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._name = name
        self.has_events = presences.rules.events
        self.grace = int(presences.rules.grace * 1000)
        self.queues: dict[bytes, GroupQueue] = {}
        self._loop = loop
        self._presences = presences
        self._outboxes: dict[bytes, Outbox] = {}
        #: Groups that are to be queried again later.
        self._asking: set[bytes] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.is_closed = False

    def queue(self, group: GroupPresence) -> GroupQueue:
        """Return the queue of a group."""
        queue = self.queues.get(group.group_key)
        if queue is None:
            queue = self.queues[group.group_key] = GroupQueue(self, self._presences.used(group))
        return queue

    def asked(self, group: GroupPresence) -> None:
        """Query whether a group has anything to deliver."""
        self._asking.discard(group.group_key)
        self.queue(group).put(Operation(b"e"))

    def close(self) -> None:
        """Stop delivering, because the event loop is closing: others take over."""
        self.is_closed = True
        for task in list(self._tasks):
            task.cancel()

    # Used by the queues.

    @property
    def came_back_at(self) -> float:
        return self._presences.upkeep.came_back_at

    @property
    def owner(self) -> str:
        return self._presences.owner

    @property
    def claimant(self) -> str:
        return f"{self._presences.leases.process}/{self._name}"

    @property
    def script(self) -> Script:
        return self._presences.script

    def event_inputs(self, group: GroupPresence) -> EventInputs | None:
        return self._presences.event_inputs(group)

    def count_over_capacity(self, keys: int, group: GroupPresence) -> None:
        self._presences.count_over_capacity(keys, group)

    def way_to(self, group: GroupPresence) -> Any:
        return self._presences.way_to(group)

    def delay_on(self, group: GroupPresence, server: ServerIdentity) -> int:
        return self._presences.upkeep.delay_on(group, server)

    def way_back(self, group: GroupPresence) -> str:
        return self._presences.upkeep.way_back(group)

    def remind(self, group: GroupPresence, user: bytes, seconds: float) -> None:
        due = weak_callback(self._presences, Presences.due)
        self._loop.call_later(max(seconds, 0.0) + 0.005, due, group.group_key, user)

    def confirm(self, group: GroupPresence, users: dict[bytes, bytes]) -> None:
        self._loop.call_later(
            self._presences.upkeep.settling_time, weak_callback(self._presences, Presences.confirm), group, users
        )

    def look_again(self, group: GroupPresence, seconds: float) -> None:
        key = group.group_key
        if key not in self._asking:
            self._asking.add(key)
            self._loop.call_later(seconds + 0.005, weak_callback(self._presences, Presences.ask), group)

    def deliver(self, queue: GroupQueue, events: list[Event]) -> None:
        if self.is_closed:
            return
        key = queue.group.group_key
        outbox = self._outboxes.get(key)
        if outbox is None:
            outbox = self._outboxes[key] = Outbox(queue, self._presences.upkeep, self._presences.send_event)
            outbox.put(events)
            # An empty context: the task outlives the request that starts it.
            task = contextvars.Context().run(self._loop.create_task, self._run(key, outbox))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            outbox.put(events)

    async def _run(self, key: bytes, outbox: Outbox) -> None:
        try:
            await outbox.run()
        except ReferenceError:
            # The layer has been collected, or the event loop is closing.
            return
        finally:
            if self._outboxes.get(key) is outbox:
                del self._outboxes[key]

    def was_lost(self, group: GroupPresence) -> None:
        self._presences.upkeep.was_lost(group)

    def joined(self, group: GroupPresence, owners: list[bytes]) -> None:
        self._presences.upkeep.joined(group, owners)

    def is_idle(self, queue: GroupQueue) -> None:
        if self.queues.get(queue.group.group_key) is queue and queue.is_idle:
            del self.queues[queue.group.group_key]
            self._presences.let_go(queue.group)
