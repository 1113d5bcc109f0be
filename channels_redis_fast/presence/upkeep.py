"""
Work that one event loop of a process does for all of its loops: lost data, processes that are gone, changes left
undone.

Knows the records of the groups and the operations of their queues. Does not know what callers ask for or how events are
delivered.

Rules kept here:

- What a process has left is cleaned up only if it counts as gone in a reading of the leases that was requested after
  the group had shown the process' name. A process that resumes after a lapse has another name, so its changes from then
  on are safe from processes that considered it gone.
- A live process restores its part soon after a server has lost something. What it has not confirmed long after that is
  something that it no longer has: the server has lost its departure.
- If a server may have lost data, this process' part is restored without events; with events if the process itself stood
  still for so long that others may have announced that it is gone.
- What was left undone is done later, by the event loop that does the upkeep then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from redis.exceptions import RedisError

from ..connection.futures import ignore
from ..connection.identity import UNKNOWN, ServerIdentity
from ..loops import run_alone
from .calls import LOUDLY, QUIETLY, GroupQueue, Operation
from .groups import GroupPresence
from .keys import OWNER, owners_in, process_of
from .leases import Lapse, Leases
from .scripts import KEPT, UNLESS_CONFIRMED

logger = logging.getLogger("channels_redis_fast")

#: Maximum seconds between checks of everything; and seconds after which something that a timer should have done is
#: late.
LOOK, LATE = 5.0, 1.0

#: Seconds until a check that was requested during another one.
SOON = 0.01

#: How many groups are queried in one write.
MAX_AT_ONCE = 500

#: How often a group's data is renewed before it expires.
RENEWALS = 4


class Records(Protocol):
    """The records of a process, and the ways to the servers of their groups."""

    leases: Leases

    def records(self) -> list[GroupPresence]:
        """Return the groups in which this process has a part."""

    def group(self, name: str, shard: int, key: bytes) -> GroupPresence:
        """Return the presence of a group: its record, or a new one that is not kept."""

    def members(self) -> Iterable[tuple[int, bytes]]:
        """Return shards and keys of groups that have channels of this process."""

    def queue(self, group: GroupPresence) -> GroupQueue:
        """Return the queue of a group in the running event loop. Raises ``ReferenceError`` if the loop is closing."""

    def way_to(self, group: GroupPresence) -> Any:
        """Return the way to a group's server. Raises ``ReferenceError`` if the running event loop is closing."""

    def is_closing(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Return whether nothing may be started in an event loop any more."""

    def let_go_if_unused(self, group: GroupPresence) -> None:
        """Drop the record of a group that contains nothing and has no queue."""


class Upkeep:
    """The upkeep of all groups of a layer in a process."""

    def __init__(self, records: Records) -> None:
        self.leases = records.leases
        #: Part of the name of this process in entries, which makes it a new one after each lapse and each loss.
        self.generation = 0
        self._records = records
        #: By shard, or on a cluster by slot: the server's identity, and when (monotonic) it was found to have changed.
        self._servers: dict[int, tuple[tuple[bytes, bytes], float]] = {}
        #: The event loop that does the upkeep, and its timer.
        self._looker: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_looking = self._is_to_look_again = False
        #: When (monotonic) this process was last seen to run, and when it was found to have stood still.
        self._looked_at = float("inf")
        self._stood_still_at = float("-inf")
        #: When (monotonic) a lost connection was last restored.
        self.came_back_at = float("-inf")
        #: Processes that are gone and whose parts were cleaned up, with the deadlines of their leases; and groups that
        #: are to be cleaned up once more, with the time (monotonic) for that.
        self._swept: dict[str, float] = {}
        self._sweep_again: dict[bytes, float] = {}

    # Choosing the event loop.

    def watch(self) -> None:
        """Do the upkeep in the running event loop, unless another loop does."""
        looker = self._looker
        if looker is None or not looker.is_running():
            self.look_from_here()

    def leave(self, loop: asyncio.AbstractEventLoop, others: Iterable[asyncio.AbstractEventLoop]) -> None:
        """Called in an event loop that is about to close. Another loop takes over the upkeep."""
        if self._looker is not loop:
            return
        self._stop_looking()
        for other in others:
            try:
                other.call_soon_threadsafe(weak_callback(self, Upkeep.look_from_here))
            except RuntimeError:
                continue
            break

    def came_back(self) -> None:
        """Called when a lost connection is restored, in its event loop."""
        self.came_back_at = time.monotonic()
        loop = asyncio.get_running_loop()
        if loop is self._looker and self._records.records():
            # Not before the server's identity is known.
            loop.call_soon(weak_callback(self, Upkeep._look_soon))

    # Cleaning up after processes that are gone.

    async def sweep(self, groups: Iterable[GroupPresence]) -> None:
        """Clean up what processes that are gone have left in groups. Raises redis-py's errors."""
        await self._sweep([(group.group_key, group.shard, group.name) for group in groups])

    async def _sweep(self, places: Sequence[tuple[bytes, int, str]]) -> set[bytes]:
        """``sweep``, for groups by key, shard and name (empty if unknown). Return the groups that needed it."""
        found: list[tuple[GroupPresence, list[bytes], set[bytes]]] = []
        for start in range(0, len(places), MAX_AT_ONCE):
            found += await self._owners_of(places[start : start + MAX_AT_ONCE])
        if not found:
            return set()
        # Requested after the owners were read.
        deadlines = await self.leases.gone(0)
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
                self._records.queue(group).put(operation)
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
        Return the groups in which a process that seems to be gone has a part, each with all owners, and those of them
        that have not confirmed their part for too long.
        """
        deadlines = await self.leases.gone()
        groups = [self._records.group(name, shard, key) for key, shard, name in places]
        ways = [self._records.way_to(group) for group in groups]
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

    # Regular checks.

    def look_from_here(self) -> None:
        """Do the upkeep in the running event loop, unless another loop does."""
        loop = asyncio.get_running_loop()
        if not self._records.is_closing(loop) and (self._looker is None or not self._looker.is_running()):
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
        self._timer = self._looker.call_later(delay, weak_callback(self, Upkeep._look_soon))

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

    def look_at_once(self) -> None:
        """Called in any event loop when there is something to check."""
        looker = self._looker
        if looker is not None:
            with contextlib.suppress(RuntimeError):
                looker.call_soon_threadsafe(weak_callback(self, Upkeep._look_soon))

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            now = time.monotonic()
            self._was_awake(now)
            self._see_to_groups(now)
            await self._see_to_processes()
        except ReferenceError:
            # The layer has been collected, or the event loop is closing.
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
        """Record it if this process, or its event loop, stood still for long."""
        if now - self._looked_at > self.leases.duration:
            self._stood_still_at = now
        self._looked_at = now

    def way_back(self, group: GroupPresence) -> str:
        """
        Return how lost data is restored: with events if others may have considered this process gone since the group
        last answered it.

        What this process enters under its new name from now on is restored; entries under an older name are obsolete.
        """
        now = time.monotonic()
        self._was_awake(now)
        self.generation += 1
        return LOUDLY if group.renewed < self._stood_still_at else QUIETLY

    def _see_to_groups(self, now: float) -> None:
        records = self._records
        unreached: dict[int, Any] = {}
        for group in self._records.records():
            way = self._records.way_to(group)
            identity: ServerIdentity = way.identity
            is_same = _is_same(identity, group.server)
            if is_same or not group.epoch:
                # While no server is available, nobody knows what the next one lacks.
                group.prune(now)
            if group.is_empty and not group.is_doubtful:
                records.let_go_if_unused(group)
                continue
            if identity is UNKNOWN:
                unreached.setdefault(id(way.dialer), way)
            elif not group.is_empty and not is_same:
                records.queue(group).restore()
            for channel in list(group.ending):
                entry = group.channels.get(channel)
                records.queue(group).put(Operation(b"l", None, channel, b"" if entry is None else entry.user))
            for user, waiting in list(group.waiting.items()):
                if waiting.due < now - LATE:
                    records.queue(group).put(Operation(b"w", None, user))
            if group.is_doubtful or group.renewed < now - KEPT / RENEWALS:
                records.queue(group).put(Operation(b"e"))
        for way in unreached.values():
            # Once it is connected, the server's identity is known.
            way.call((b"PING",), repeatable=True).add_done_callback(ignore)

    async def _see_to_processes(self) -> None:
        deadlines = await self.leases.gone()
        now = time.monotonic()
        news = {process for process, deadline in deadlines.items() if self._swept.get(process) != deadline}
        due = [key for key, at in self._sweep_again.items() if at <= now]
        if not news and not due:
            return
        places = [(group.group_key, group.shard, group.name) for group in self._records.records()]
        known = {key for key, _, _ in places}
        places += [(key, shard, "") for shard, key in self._records.members() if key not in known]
        if not news:
            places = [place for place in places if place[0] in due]
        swept = await self._sweep(places)
        self._swept = dict(deadlines)
        for key in due:
            # A server may have taken another's place meanwhile.
            if self._sweep_again.get(key, now) <= now:
                self._sweep_again.pop(key, None)
        if news:
            # What a process had written before it went may arrive after the first sweep.
            for key in swept:
                self._sweep_later(key, now + self.leases.duration)

    def lapsed(self, lapse: Lapse) -> None:
        """Called in an event loop when this process' lease had run out: its part in groups may be gone."""
        self.generation += 1
        records = self._records
        for group in self._records.records():
            if not group.is_empty:
                records.queue(group).restore()

    # Servers that took another's place.

    def delay_on(self, group: GroupPresence, server: ServerIdentity) -> int:
        """
        Return for how many milliseconds announcements are delayed.

        A server that took another's place may lack users who are present. They should not be announced again, so
        processes get time to restore them.
        """
        if not server.run_id:
            return 0
        who, now = (server.run_id, server.replication_id), time.monotonic()
        known = self._servers.get(group.place)
        if known is None:
            # The previous identity is not known, but it is known that the server was away.
            known = self._servers[group.place] = (who, self.came_back_at)
        elif known[0] != who:
            known = self._servers[group.place] = (who, now)
        left = self._settling(known[1], now)
        return int(1000 * left) if left > 0 else 0

    def pause(self, group: GroupPresence) -> float:
        """Return for how many seconds a group is told nothing, since its members may have to rejoin it first."""
        known = self._servers.get(group.place)
        changed_at = self.came_back_at if known is None else max(known[1], self.came_back_at)
        return self._settling(changed_at, time.monotonic())

    def was_lost(self, group: GroupPresence) -> None:
        """Called when a server took another's place: it may lack departures that no process remembers."""
        self._sweep_later(group.group_key, time.monotonic() + self.silence + LATE)

    def _sweep_later(self, key: bytes, at: float) -> None:
        self._sweep_again[key] = max(at, self._sweep_again.get(key, at))

    @property
    def silence(self) -> float:
        """Seconds after which every live process has restored its part, if it has one."""
        return 2 * self.leases.duration + self.settling_time

    @property
    def settling_time(self) -> float:
        """Seconds that processes have for restoring their parts."""
        return min(LOOK, self.leases.interval) + LATE

    def _settling(self, changed_at: float, now: float) -> float:
        return changed_at + self.settling_time - now

    def joined(self, group: GroupPresence, owners: list[bytes]) -> None:
        """Called when a group is new to this process."""
        deadlines = self.leases.gone_now()
        if any(self._is_gone(owner, deadlines) for owner in owners):
            run_alone(asyncio.get_running_loop(), lambda: self._sweep_quietly(group))

    async def _sweep_quietly(self, group: GroupPresence) -> None:
        try:
            await self.sweep([group])
        except (RedisError, ReferenceError) as error:
            logger.debug("Presence in group %r could not be looked after: %s", group.name, error)


def weak_callback(owner: object, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method of an object that does not keep the object alive, for timers and other callbacks."""
    reference = weakref.ref(owner)

    def call(*arguments: Any) -> Any:
        found = reference()
        return None if found is None else function(found, *arguments)

    return call


def _is_same(server: ServerIdentity, other: ServerIdentity) -> bool:
    return server is other or (bool(server.run_id) and server[:2] == other[:2])
