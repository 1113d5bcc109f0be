"""
Who is present in the groups of a layer: what this process has a part in, and what it does about others' parts.

Every change goes through the script of the group's shard (``calls``), which says what the group is to be told; that is
delivered by the event loop that has claimed it (``outbox``). One event loop of the process looks after all of it:
whether processes are gone, whether servers have lost anything, whether something was left undone. Knows no layer but
by what it is given, and no message but events.

Rules kept here:

- What a process has left is taken care of when its lease is overdue, and was overdue when the leases were read after
  the group had shown the process' name there. A process that goes on after a lapse has another name: so what it does
  from then on is safe from whoever took it for gone.
- Where a server may have lost data, this process' part is restored without events; with events where the process
  itself stood still so long that others may have said that it is gone.
- What was left undone is done later, by whichever event loop looks after the rest then.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import logging
import time
import weakref
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from redis.exceptions import RedisError

from ..cluster.slots import slot_of
from ..connection.futures import ignore
from ..connection.identity import UNKNOWN, ServerIdentity
from ..hot import Lock
from ..loops import run_alone
from ..messages.codec import Codec
from ..stats import Stats
from .calls import LOUDLY, QUIETLY, GroupQueue, Operation
from .events import Event, SeenEvents
from .groups import GroupPresence
from .keys import OWNER, PresenceKeys, User, owner_name, owners_in, process_of, user_of
from .leases import Lapse, Leases
from .outbox import Outbox
from .rules import PresenceRules
from .scripts import KEPT, UNLESS_CONFIRMED

logger = logging.getLogger("channels_redis_fast")

#: Seconds between two looks at everything at most, and after which something is late that a timer was to do.
LOOK, LATE = 5.0, 1.0

#: Seconds between two looks of which the second is asked for during the first.
SOON = 0.01

#: Groups that are asked for with one write.
MAX_AT_ONCE = 500

#: Renewals of a group's data before they expire.
RENEWALS = 4

_NO_INFO = b""


class Presences:
    """
    The presence of one layer in all its event loops.

    ``codec``: makes bytes of info, and back. ``way_to``: gives what leads to the server of a group, by the
    shard and the group's key. ``send``: sends a message to a group of that name, shard and key. ``members``: gives
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
        #: The events that receivers have had.
        self.seen = SeenEvents()
        self._prefix = prefix
        self._is_cluster = is_cluster
        self._stats = stats
        self.codec = codec
        self._way_to = way_to
        self._send = send
        self._members = members
        self._begin()
        leases.on_lapse(self._weakly(Presences._lapsed))
        leases.follow(self._weakly(Presences._look_at_once))

    def _begin(self) -> None:
        #: By the group's key.
        self._groups: dict[bytes, GroupPresence] = {}
        self._names: dict[str, GroupPresence] = {}
        self._lock = Lock()
        self._generation = 0
        self._loops: dict[asyncio.AbstractEventLoop, PresenceLoop] = {}
        #: Those that close, in which nothing is begun any more.
        self._left: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        self._numbers = itertools.count()
        #: By shard, or on a cluster by slot: who the server was, and when (monotonic) it was found to be another.
        self._servers: dict[int, tuple[tuple[bytes, bytes], float]] = {}
        #: The event loop that looks after everything, and its timer.
        self._looker: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_looking = self._is_to_look_again = False
        #: When (monotonic) this process was last seen to run, and when it had stood still.
        self._looked_at = float("inf")
        self._stood_still_at = float("-inf")
        #: When (monotonic) a connection that was lost was there again.
        self.came_back_at = float("-inf")
        #: Processes that are gone and whose parts were taken care of, with the deadlines of their leases; and groups
        #: where that is done once more, and when (monotonic).
        self._swept: dict[str, float] = {}
        self._sweep_again: dict[bytes, float] = {}

    @property
    def owner(self) -> str:
        """What this process is called in the entries of groups."""
        return owner_name(self.leases.process, self._generation)

    # What a layer asks for, in the running event loop.

    def find(self, name: str) -> GroupPresence | None:
        """Return the presence of a group, if this process has a part in it."""
        return self._names.get(name)

    def occupancy(self) -> dict[str, int]:
        """Return by group how many channels of this process are present. For any thread."""
        return {group.name: len(group.channels) for group in list(self._groups.values()) if group.channels}

    def group(self, name: str, shard: int, key: bytes) -> GroupPresence:
        """Return the presence of a group by its name, shard and key: its record, or a new one that nothing keeps."""
        group = self._groups.get(key)
        if group is None:
            place = slot_of(key) if self._is_cluster else shard
            group = GroupPresence(name, shard, place, key, PresenceKeys.of(self._prefix, key))
        return group

    def used(self, group: GroupPresence) -> GroupPresence:
        """Return the record of a group, which is kept until ``let_go`` is called as often as this, or longer."""
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
        """Return info as it is kept. Raises the serializer's error."""
        return _NO_INFO if info is None else self.codec.encode({"info": info}, None)

    def change(self, group: GroupPresence, kind: bytes, *arguments: Any) -> asyncio.Future[int]:
        """Make a change (``scripts``); the future gives what there was to do. It raises redis-py's errors."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        self._here(loop).queue(group).put(Operation(kind, future, *arguments))
        return future

    def end(self, group: GroupPresence, channel: str, is_own: bool) -> asyncio.Future[int]:
        """End the presence of a channel; the future gives whether there was one, and raises redis-py's errors."""
        if not is_own:
            return self.change(group, b"k", channel)
        entry = group.channels.get(channel)
        return self.change(group, b"l", channel, b"" if entry is None else entry.user)

    async def leave_own(self, group: GroupPresence, channel: str) -> None:
        """End the presence of a channel of this process. Raises redis-py's errors, and goes on trying then."""
        await self.end(group, channel, True)

    async def read(self, group: GroupPresence) -> dict[User, Any]:
        """Return who is present, and what is known of them. Raises redis-py's errors."""
        (fields,) = await self._look_at(group, (b"HGETALL", group.keys.users))
        present: dict[User, Any] = {}
        for field, info in zip(fields[::2], fields[1::2], strict=True):
            try:
                user = user_of(field)
                if user is not None:
                    present[user] = self._info(group.name, info)
            except ValueError:
                self._stats.undecodable += 1
                logger.error("Skipped a user in the presence of group %r that is none: %r", group.name, field)
        return present

    async def count(self, group: GroupPresence) -> int:
        """Return how many users are present. Raises redis-py's errors."""
        (count,) = await self._look_at(group, (b"HLEN", group.keys.users))
        return int(count)

    async def _look_at(self, group: GroupPresence, command: Sequence[Any]) -> list[Any]:
        """Return the reply to a command, when what processes that are gone have left is taken care of."""
        way = self.way_to(group)
        deadlines = (await self.leases.read()).deadlines
        reply: list[Any] = []
        for is_last in (False, True):
            *reply, head = await way.call(command, (b"HKEYS", group.keys.head), repeatable=True)
            if is_last or not any(process_of(owner) in deadlines for owner in owners_in(head)):
                break
            await self.sweep([group])
        return reply

    def way_to(self, group: GroupPresence) -> Any:
        """Return what leads to the server of a group, in the running event loop. ``ReferenceError`` if that closes."""
        self._check(asyncio.get_running_loop())
        return self._way_to(group.shard, group.group_key)

    def clear(self) -> None:
        """Forget everything, since the layer's data are deleted."""
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

    # Coming and going of event loops.

    def leave(self, loop: asyncio.AbstractEventLoop) -> None:
        """Called in an event loop that is about to close."""
        self._left.add(loop)
        here = self._loops.pop(loop, None)
        if here is not None:
            here.close()
            for queue in here.queues.values():
                # What it had under way is looked after from another event loop; or, with the lease, by other processes.
                queue.group.is_doubtful = True
                self.let_go(queue.group)
            if not self._loops:
                # Nobody receives on these channels any more.
                self.clear()
        if self._looker is loop:
            self._stop_looking()
            for other in list(self._loops):
                try:
                    other.call_soon_threadsafe(self._weakly(Presences._look_from_here))
                except RuntimeError:
                    continue
                break

    def after_fork(self) -> None:
        """In a forked child: have a part in nothing."""
        self._begin()

    def watch(self) -> None:
        """Have the running event loop look after everything, if no other does."""
        looker = self._looker
        if looker is None or not looker.is_running():
            self._look_from_here()

    def came_back(self) -> None:
        """Called when a connection that was lost is there again, in its event loop."""
        self.came_back_at = time.monotonic()
        loop = asyncio.get_running_loop()
        if loop is self._looker and self._groups:
            # When what is known of the server is there.
            loop.call_soon(self._weakly(Presences._look_soon))

    # What processes that are gone have left.

    async def sweep(self, groups: Iterable[GroupPresence]) -> None:
        """Take care of what processes that are gone have left in groups. Raises redis-py's errors."""
        await self._sweep([(group.group_key, group.shard, group.name) for group in groups])

    async def _sweep(self, places: Sequence[tuple[bytes, int, str]]) -> set[bytes]:
        """``sweep``, for groups by key, shard and name, empty where it is not known; return those that had any."""
        found: list[tuple[GroupPresence, list[bytes], set[bytes]]] = []
        for start in range(0, len(places), MAX_AT_ONCE):
            found += await self._owners_of(places[start : start + MAX_AT_ONCE])
        if not found:
            return set()
        # Asked for after the owners were read.
        deadlines = (await self.leases.read(0)).deadlines
        loop = asyncio.get_running_loop()
        swept: set[bytes] = set()
        changes: list[asyncio.Future[int]] = []
        for group, owners, silent in found:
            gone = [owner for owner in owners if self._is_gone(owner, deadlines)]
            gone += [UNLESS_CONFIRMED + owner for owner in silent.difference(gone)]
            if gone:
                change: asyncio.Future[int] = loop.create_future()
                operation = Operation(b"s", change)
                operation.gone = gone
                self._here(loop).queue(group).put(operation)
                changes.append(change)
                swept.add(group.group_key)
        for outcome in await asyncio.gather(*changes, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
        return swept

    async def _owners_of(
        self, places: Sequence[tuple[bytes, int, str]]
    ) -> list[tuple[GroupPresence, list[bytes], set[bytes]]]:
        """
        Return those groups in which processes have a part that seem to be gone, who has a part in them, and who of
        these has not confirmed it for too long.
        """
        deadlines = (await self.leases.read()).deadlines
        groups = [self.group(name, shard, key) for key, shard, name in places]
        ways = [self.way_to(group) for group in groups]
        calls = [
            way.call((b"HGETALL", group.keys.head), repeatable=True) for way, group in zip(ways, groups, strict=True)
        ]
        found = []
        replies = await asyncio.gather(*calls, return_exceptions=True)
        for group, way, reply in zip(groups, ways, replies, strict=True):
            if isinstance(reply, BaseException):
                logger.debug("Presence in group %r could not be looked after: %s", group.name, reply)
                continue
            fields = dict(zip(reply[0][::2], reply[0][1::2], strict=True))
            owners = owners_in(list(fields))
            since = int(fields.get(b"since", b"0"))
            silent: set[bytes] = set()
            if way.identity.microseconds() / 1000 - since > 1000 * self.silence:
                silent = {owner for owner in owners if fields[OWNER + owner] != fields.get(b"epoch")}
            if silent or any(self._is_gone(owner, deadlines) for owner in owners):
                group.name = group.name or fields.get(b"group", b"").decode(errors="replace")
                found.append((group, owners, silent))
        return found

    def _is_gone(self, owner: bytes, deadlines: Any) -> bool:
        process = process_of(owner)
        return process in deadlines and process != self.leases.process

    # Looking after everything.

    def _look_from_here(self) -> None:
        """Have the running event loop look after everything, if no other does."""
        loop = asyncio.get_running_loop()
        if loop not in self._left and (self._looker is None or not self._looker.is_running()):
            self._stop_looking()
            self._looker = loop
            self._look_later()

    def _stop_looking(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        self._looker = None
        self._is_looking = False

    def _look_later(self, delay: float | None = None) -> None:
        assert self._looker is not None
        if delay is None:
            delay = min(LOOK, self.leases.interval)
        self._timer = self._looker.call_later(delay, self._weakly(Presences._look_soon))

    def _look_soon(self) -> None:
        loop = asyncio.get_running_loop()
        if loop is not self._looker:
            return
        if self._is_looking:
            self._is_to_look_again = True
        else:
            if self._timer is not None:
                self._timer.cancel()
            self._is_looking = True
            run_alone(loop, self._look)

    def _look_at_once(self) -> None:
        """Called in any event loop when there is something to be seen."""
        looker = self._looker
        if looker is not None:
            with contextlib.suppress(RuntimeError):
                looker.call_soon_threadsafe(self._weakly(Presences._look_soon))

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            now = time.monotonic()
            self._was_awake(now)
            self._see_to_groups(now)
            await self._see_to_processes()
        except ReferenceError:
            # The layer was collected, or the event loop closes.
            if self._looker is loop:
                self._looker = None
        except RedisError as error:
            logger.debug("Presence could not be looked after: %s", error)
        except Exception:
            logger.exception("Presence could not be looked after")
        finally:
            self._is_looking = False
            is_again, self._is_to_look_again = self._is_to_look_again, False
            if self._looker is loop:
                self._look_later(SOON if is_again else None)

    def _was_awake(self, now: float) -> None:
        """Take note of how long this process, or its event loop, stood still, if it did."""
        if now - self._looked_at > self.leases.duration:
            self._stood_still_at = now
        self._looked_at = now

    def way_back(self, group: GroupPresence) -> bytes:
        """
        Return how lost data are restored: with events if others may have taken this process for gone since the group
        has last answered it.

        What this process has under its name from now on is restored; what is left under another is a thing of the past.
        """
        now = time.monotonic()
        self._was_awake(now)
        self._generation += 1
        return LOUDLY if group.renewed < self._stood_still_at else QUIETLY

    def _see_to_groups(self, now: float) -> None:
        here = self._here(asyncio.get_running_loop())
        unreached: dict[int, Any] = {}
        for group in list(self._groups.values()):
            way = self.way_to(group)
            identity: ServerIdentity = way.identity
            is_same = _is_same(identity, group.server)
            if is_same or not group.epoch:
                # While no server is there, nobody knows what the next one lacks.
                group.prune(now)
            if group.is_empty and not group.is_doubtful:
                self._let_go_if_unused(group)
                continue
            if identity is UNKNOWN:
                unreached.setdefault(id(way.dialer), way)
            elif not group.is_empty and not is_same:
                here.queue(group).restore()
            for channel in list(group.ending):
                entry = group.channels.get(channel)
                here.queue(group).put(Operation(b"l", None, channel, b"" if entry is None else entry.user))
            for user, waiting in list(group.waiting.items()):
                if waiting.due < now - LATE:
                    here.queue(group).put(Operation(b"w", None, user))
            if group.is_doubtful or group.renewed < now - KEPT / RENEWALS:
                here.queue(group).put(Operation(b"e"))
        for way in unreached.values():
            # Once it is connected, it is known who the server is.
            way.call((b"PING",), repeatable=True).add_done_callback(ignore)

    async def _see_to_processes(self) -> None:
        deadlines = (await self.leases.read()).deadlines
        now = time.monotonic()
        news = {process for process, deadline in deadlines.items() if self._swept.get(process) != deadline}
        due = [key for key, at in self._sweep_again.items() if at <= now]
        if not news and not due:
            return
        places = [(group.group_key, group.shard, group.name) for group in list(self._groups.values())]
        known = {key for key, _, _ in places}
        places += [(key, shard, "") for shard, key in self._members() if key not in known]
        if not news:
            places = [place for place in places if place[0] in due]
        swept = await self._sweep(places)
        self._swept = dict(deadlines)
        for key in due:
            self._sweep_again.pop(key, None)
        if news:
            # What a process had written before it went may come later than the first look.
            self._sweep_again.update(dict.fromkeys(swept, now + self.leases.duration))

    def _lapsed(self, lapse: Lapse) -> None:
        """Called in an event loop when this process' lease had run out: what it has a part in may be gone."""
        self._generation += 1
        here = self._here(asyncio.get_running_loop())
        for group in list(self._groups.values()):
            if not group.is_empty:
                here.queue(group).restore()

    # Called by the queues of an event loop.

    def delay_on(self, group: GroupPresence, server: ServerIdentity) -> int:
        """
        Return for how many milliseconds announcements are put off.

        A server that took another's place may lack users who are present: these are not to be announced again, and
        processes are given time to restore them.
        """
        if not server.run_id:
            return 0
        who, now = (server.run_id, server.replication_id), time.monotonic()
        known = self._servers.get(group.place)
        if known is None:
            # Who it was before is not known; that it was away is.
            known = self._servers[group.place] = (who, self.came_back_at)
        elif known[0] != who:
            known = self._servers[group.place] = (who, now)
        left = self._settling(known[1], now)
        return int(1000 * left) if left > 0 else 0

    def pause(self, queue: GroupQueue) -> float:
        """Return for how many seconds a group is told nothing, since its members may have to join it again first."""
        known = self._servers.get(queue.group.place)
        changed_at = self.came_back_at if known is None else max(known[1], self.came_back_at)
        return self._settling(changed_at, time.monotonic())

    def was_lost(self, group: GroupPresence) -> None:
        """Called when a server took another's place: it may lack departures that no process remembers."""
        at = time.monotonic() + self.silence + LATE
        self._sweep_again[group.group_key] = max(at, self._sweep_again.get(group.group_key, at))

    @property
    def silence(self) -> float:
        """Seconds after which a process that lives has restored its part, if it has one."""
        return 2 * self.leases.duration + self.settling_time

    @property
    def settling_time(self) -> float:
        """Seconds that processes are given to restore their parts."""
        return min(LOOK, self.leases.interval) + LATE

    def _settling(self, changed_at: float, now: float) -> float:
        return changed_at + self.settling_time - now

    def confirm(self, group: GroupPresence, users: dict[bytes, bytes]) -> None:
        """Called by a timer, when a group is to be told of users whose events may be lost."""
        loop = asyncio.get_running_loop()
        if loop in self._left:
            return
        queue = self._here(loop).queue(group)
        for user, info in users.items():
            queue.put(Operation(b"c", None, user, info))

    def joined(self, group: GroupPresence, owners: list[bytes]) -> None:
        """Called when a group was new to this process."""
        deadlines = self.leases.look().deadlines
        if any(self._is_gone(owner, deadlines) for owner in owners):
            run_alone(asyncio.get_running_loop(), lambda: self._sweep_quietly(group))

    async def _sweep_quietly(self, group: GroupPresence) -> None:
        try:
            await self.sweep([group])
        except (RedisError, ReferenceError) as error:
            logger.debug("Presence in group %r could not be looked after: %s", group.name, error)

    def let_go(self, group: GroupPresence) -> None:
        """Called when a queue of a group has gone."""
        with self._lock:
            group.users -= 1
        self._let_go_if_unused(group)

    def _let_go_if_unused(self, group: GroupPresence) -> None:
        with self._lock:
            if not group.users and group.is_empty and not group.is_doubtful:
                self._drop(group.group_key, group)

    def _drop(self, key: bytes, group: GroupPresence) -> None:
        self._groups.pop(key, None)
        self._names.pop(group.name, None)

    async def send_event(self, queue: GroupQueue, event: Event) -> None:
        """Tell a group of an event. Raises what prevents it."""
        if not event.kind:
            logger.error("Skipped an event in the presence of group %r that is none: %r", queue.group.name, event.info)
            return
        group = queue.group
        self._check(asyncio.get_running_loop())
        message = event.message(group.name, self._info(group.name, event.info))
        await self._send(group.name, group.shard, group.group_key, message)

    def _info(self, group: str, stored: bytes) -> Any:
        """Return info that was kept; None for what cannot be read, which is counted and logged."""
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
        """Called by a timer, when a user's change is due."""
        group = self._groups.get(key)
        loop = asyncio.get_running_loop()
        if group is not None and user in group.waiting and loop not in self._left:
            self._here(loop).queue(group).put(Operation(b"w", None, user))

    def ask(self, group: GroupPresence) -> None:
        """Called by a timer, when events that others have claimed should be delivered."""
        loop = asyncio.get_running_loop()
        if loop not in self._left:
            self._here(loop).asked(group)

    def _here(self, loop: asyncio.AbstractEventLoop) -> PresenceLoop:
        here = self._loops.get(loop)
        if here is None:
            self._check(loop)
            here = self._loops[loop] = PresenceLoop(self, loop, str(next(self._numbers)))
            self._look_from_here()
        return here

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop in self._left:
            raise ReferenceError("the event loop closes")

    def _weakly(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a method of this object that does not keep it alive, for timers and the like."""
        reference = weakref.ref(self)

        def call(*arguments: Any) -> Any:
            found = reference()
            return None if found is None else function(found, *arguments)

        return call


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
        #: Groups that are asked again later.
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
        """Ask a group whether there is anything to deliver."""
        self._asking.discard(group.group_key)
        self.queue(group).put(Operation(b"e"))

    def close(self) -> None:
        """Deliver nothing any more, since the event loop closes: others take it over."""
        self.is_closed = True
        for task in list(self._tasks):
            task.cancel()

    # What the queues ask for.

    @property
    def owner(self) -> str:
        return self._presences.owner

    @property
    def claimant(self) -> str:
        return f"{self._presences.leases.process}/{self._name}"

    def way_to(self, group: GroupPresence) -> Any:
        return self._presences.way_to(group)

    def delay_on(self, group: GroupPresence, server: ServerIdentity) -> int:
        return self._presences.delay_on(group, server)

    def way_back(self, group: GroupPresence) -> bytes:
        return self._presences.way_back(group)

    def remind(self, group: GroupPresence, user: bytes, seconds: float) -> None:
        due = self._presences._weakly(Presences.due)
        self._loop.call_later(max(seconds, 0.0) + 0.005, due, group.group_key, user)

    def confirm(self, group: GroupPresence, users: dict[bytes, bytes]) -> None:
        self._loop.call_later(self._presences.settling_time, self._presences._weakly(Presences.confirm), group, users)

    def look_again(self, group: GroupPresence, seconds: float) -> None:
        key = group.group_key
        if key not in self._asking:
            self._asking.add(key)
            self._loop.call_later(seconds + 0.005, self._presences._weakly(Presences.ask), group)

    def deliver(self, queue: GroupQueue, events: list[Event]) -> None:
        if self.is_closed:
            return
        key = queue.group.group_key
        outbox = self._outboxes.get(key)
        if outbox is None:
            outbox = self._outboxes[key] = Outbox(queue, self._presences)
            outbox.put(events)
            # An empty context: this outlives the request that asks for it.
            task = contextvars.Context().run(self._loop.create_task, self._run(key, outbox))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            outbox.put(events)

    async def _run(self, key: bytes, outbox: Outbox) -> None:
        try:
            await outbox.run()
        except ReferenceError:
            # The layer was collected, or the event loop closes.
            return
        finally:
            if self._outboxes.get(key) is outbox:
                del self._outboxes[key]

    def was_lost(self, group: GroupPresence) -> None:
        self._presences.was_lost(group)

    def joined(self, group: GroupPresence, owners: list[bytes]) -> None:
        self._presences.joined(group, owners)

    def is_idle(self, queue: GroupQueue) -> None:
        if self.queues.get(queue.group.group_key) is queue and queue.is_idle:
            del self.queues[queue.group.group_key]
            self._presences.let_go(queue.group)


def _is_same(server: ServerIdentity, other: ServerIdentity) -> bool:
    return server is other or (bool(server.run_id) and server[:2] == other[:2])
