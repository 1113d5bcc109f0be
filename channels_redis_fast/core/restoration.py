"""
Restores groups after a server has lost them, in one event loop.

If Redis restarts without its data, or a replica is promoted that lacks the last writes, channels drop out of their
groups, and their consumers do not notice. ``GroupRestorer`` identifies each server when a connection to it is opened.
If it is a different process than before, the groups are compared with the layer's ``Memberships``. Knows groups. Does
not know how a connection is restored.

Rules kept here:

- The groups are compared before anything else is sent on the new connection.
- A group whose key is missing, or was created again after the data were lost, is restored in full. In a group that has
  survived, only members added in the ``RECENT`` seconds before the loss are restored: older ones that are missing have
  been removed by some other process.
- A channel whose last receive was cancelled is restored if it is received on again within ``RETURN_TIME``.
- Members are added only if they are missing, so it is harmless if several processes and event loops do it at once.
- A server that deletes its data and keeps running (FLUSHALL, ``flush``) does not count as restarted.
"""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

from redis.exceptions import MovedError

from ..cluster.cluster import Cluster
from ..cluster.node import Node
from ..cluster.slots import slot_of
from ..connection.commands import CommandConnection
from ..connection.futures import ignore
from ..connection.identity import ServerIdentity, field_of, started_at
from ..connection.link import Command
from ..connection.replies import NOT_DONE, REDIRECTIONS
from ..hot import assemble
from .memberships import Dataset, GroupRecord, Memberships

logger = logging.getLogger("channels_redis_fast")

#: In a group that survived a loss, members added this many seconds before it, or later, are restored.
RECENT = 60.0

#: If a connection is lost more than this many seconds after its server has restarted, the loss was noticed late.
LATE = 2.0

#: Maximum number of groups read, and of members added, with one write.
AT_ONCE = 500

#: Seconds until the next attempt after a server refused to restore groups; and after a cluster was down.
RETRY, RETRY_SOON = 5.0, 0.1

#: How often the scores of members are renewed before they expire, and the minimum seconds between two renewals.
RENEWALS, RENEW_INTERVAL = 4, 0.1

#: Seconds within which a consumer whose receive was cancelled may come back and be restored.
RETURN_TIME = 1.0

#: Seconds for which a membership that the server does not have may still be on its way there.
UNDER_WAY = 60.0


class GroupRestorer:
    """Restores and renews the group memberships of one layer on all its shards, over one event loop's connections."""

    def __init__(
        self, memberships: Memberships, loop: asyncio.AbstractEventLoop, prefix: bytes, shards: Sequence[Any]
    ) -> None:
        self._memberships = memberships
        self._loop = loop
        self._marker = prefix + b":epoch"
        self._shards = shards
        #: The data of each connected server; None while they are being identified.
        self._datasets: weakref.WeakKeyDictionary[CommandConnection, Dataset | None] = weakref.WeakKeyDictionary()
        #: When (Unix time) a connection was last lost.
        self._lost_at: weakref.WeakKeyDictionary[CommandConnection, float] = weakref.WeakKeyDictionary()
        self._renewal: asyncio.TimerHandle | None = None
        self._is_closed = False
        for shard in shards:
            shard.keeper = self
            if isinstance(shard, Cluster):
                shard.follow(self._look_everywhere)

    def watch(self, group: GroupRecord) -> None:
        """Called in the restorer's event loop when a group has a member of this layer."""
        if self._is_closed:
            return
        connection = self._connection_of(group)
        if connection is not None:
            if connection.link is None:
                connection.connect()
            elif connection not in self._datasets:
                self._ask(connection)
            else:
                dataset = self._datasets[connection]
                if group.dataset is None:
                    group.dataset = dataset
        if self._renewal is None:
            delay = max(self._memberships.group_expiry / RENEWALS, RENEW_INTERVAL)
            self._renewal = self._loop.call_later(delay, self._renew)

    def restore_all(self) -> None:
        """
        Add all members of this process again: others have removed them because it did not renew its lease.

        They get new scores even if they are still there: a process about to remove them sees that they were added
        later.
        """
        for group in self._memberships.all_groups():
            channels, gone = self._memberships.living(group)
            commands = _additions(group, channels, self._memberships.group_expiry, anew=True)
            if commands:
                self._shards[group.shard].at(group.key).call(*commands, repeatable=True).add_done_callback(ignore)
            if gone:
                self.look_for_returned(group, gone)

    def close(self) -> None:
        """Stop renewing, because the event loop closes."""
        self._is_closed = True
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None

    # Called by connections.

    def opened(self, connection: CommandConnection) -> bool:
        """Called when a socket was opened. Return whether requests wait until ``connection.release()`` is called."""
        self._datasets.pop(connection, None)
        groups = self._groups_of(connection)
        if not groups:
            return False
        if connection.identity.run_id:
            return self._identified(connection, _dataset_of(connection.identity))
        self._ask(connection)
        return any(group.dataset is not None for group in groups)

    def lost(self, connection: CommandConnection) -> None:
        """Called when a socket was lost."""
        self._datasets.pop(connection, None)
        self._lost_at[connection] = time.time()

    def is_wanted(self, connection: CommandConnection) -> bool:
        """Whether a connection should be reopened even if nothing waits for it."""
        return not self._is_closed and bool(self._groups_of(connection))

    # Identifying servers.

    def _ask(self, connection: CommandConnection) -> None:
        if connection.identity.run_id:
            # The connection's greeting has already asked.
            self._identified(connection, _dataset_of(connection.identity))
            return
        self._datasets[connection] = None
        self._write(connection, [(b"INFO", b"server")], self._asked)

    def _asked(self, connection: CommandConnection, replies: list[Any]) -> None:
        (reply,) = replies
        if reply.__class__ in NOT_DONE:
            self._datasets.pop(connection, None)
            connection.look_again(reply)
            return
        run_id = field_of(reply, b"run_id")
        if run_id:
            self._identified(connection, Dataset(run_id, started_at(reply)))
        elif isinstance(connection, Node):
            # No single key can identify the data of all slots of a server, so the data count as new after each connect.
            self._identified(connection, Dataset(uuid4().hex.encode()))
        else:
            marks: list[Command] = [(b"SET", self._marker, uuid4().hex, b"NX"), (b"GET", self._marker)]
            self._write(connection, marks, self._marked)

    def _marked(self, connection: CommandConnection, replies: list[Any]) -> None:
        marker = replies[1]
        self._identified(connection, Dataset(marker if isinstance(marker, bytes) else uuid4().hex.encode()))

    def _identified(self, connection: CommandConnection, dataset: Dataset) -> bool:
        """Store the identity of a server's data. Return whether its groups are being compared."""
        self._datasets[connection] = dataset
        return self._compare(connection)

    # Comparing.

    def _compare(self, connection: CommandConnection) -> bool:
        """Begin to compare the groups of a server with the record. Return whether there is anything to do."""
        dataset = self._datasets.get(connection)
        if dataset is None:
            return False
        suspects: list[GroupRecord] = []
        for group in self._groups_of(connection):
            if group.dataset is None or group.dataset == dataset:
                group.dataset = dataset
            else:
                suspects.append(group)
        if suspects:
            _Comparison(
                self._memberships, connection, suspects, dataset, self._lost_at.get(connection, time.time()), self
            )
        else:
            connection.release()
        return bool(suspects)

    def compared(self, connection: CommandConnection, error: Exception | None) -> None:
        """Called when the groups of a server are restored, or could not be."""
        if error is not None:
            if error.__class__ in NOT_DONE:
                connection.look_again(error)
                return
            is_down = error.__class__ in REDIRECTIONS and not isinstance(error, MovedError)
            self._loop.call_later(RETRY_SOON if is_down else RETRY, self._compare, connection)
            dataset = self._datasets.get(connection)
            if is_down and dataset is not None and time.time() - dataset.known_at < connection.answer_timeout:
                # A cluster that is down would refuse the requests too.
                return
        connection.release()

    def look_for_returned(self, group: GroupRecord, channels: list[str]) -> None:
        """
        Restore channels after ``RETURN_TIME``, if they are received on again by then.

        Between a cancelled receive and its successor there is a moment without a receive.
        """
        dataset = group.dataset

        def look() -> None:
            if self._is_closed or group.dataset != dataset:
                return
            living = set(self._memberships.living(group)[0])
            returned = [channel for channel in channels if channel in living]
            if returned:
                commands = _additions(group, returned, self._memberships.group_expiry)
                self._shards[group.shard].at(group.key).call(*commands, repeatable=True).add_done_callback(ignore)

        self._loop.call_later(RETURN_TIME, look)

    def write(self, connection: CommandConnection, commands: list[Command], done: Callable[[list[Any]], None]) -> None:
        """Write commands ahead of all requests; ``done`` gets their replies, unless the connection is lost."""
        self._write(connection, commands, lambda _, replies: done(replies))

    def _write(
        self,
        connection: CommandConnection,
        commands: list[Command],
        done: Callable[[CommandConnection, list[Any]], None],
    ) -> None:
        if connection.link is not None and connection.link.leaving is None:
            replies = _Replies(connection, len(commands), done)
            connection.link.write(assemble(commands), [replies] * len(commands))

    def _groups_of(self, connection: CommandConnection) -> list[GroupRecord]:
        return [group for group in self._memberships.all_groups() if self._connection_of(group) is connection]

    def _connection_of(self, group: GroupRecord) -> CommandConnection | None:
        shard: CommandConnection | Cluster = self._shards[group.shard]
        return shard.owner(slot_of(group.key)) if isinstance(shard, Cluster) else shard

    def _look_everywhere(self) -> None:
        """Called when slots of a cluster have moved to other servers, which may have lost something."""
        if self._is_closed:
            return
        owners = dict.fromkeys(map(self._connection_of, self._memberships.all_groups()))
        for connection in owners:
            if connection is None:
                continue
            if connection.link is None:
                connection.connect()
            elif connection not in self._datasets:
                self._ask(connection)
            else:
                self._compare(connection)

    # Renewing.

    def _renew(self) -> None:
        self._renewal = None
        interval = max(self._memberships.group_expiry / RENEWALS, RENEW_INTERVAL)
        now = time.monotonic()
        groups = self._memberships.all_groups()
        for group in groups:
            if now - group.refreshed < interval * 0.9:
                continue
            connection = self._connection_of(group)
            # Not while it is unknown whether the server has lost the group: all members would seem to be missing.
            if connection is None or group.dataset is None or self._datasets.get(connection) != group.dataset:
                continue
            channels = self._memberships.received_on(group)
            group.refreshed = now
            for start in range(0, len(channels), AT_ONCE):
                self._renew_some(group, channels[start : start + AT_ONCE])
        self._memberships.end_round()
        if groups and not self._is_closed:
            self._renewal = self._loop.call_later(interval, self._renew)

    def _renew_some(self, group: GroupRecord, channels: list[str]) -> None:
        way = self._shards[group.shard].at(group.key)
        score = time.time()
        scores = [part for channel in channels for part in (score, channel)]
        dataset = group.dataset

        def renewed(future: asyncio.Future[list[Any]]) -> None:
            # The remaining members are read separately, because ZADD only returns how many were changed.
            if future.cancelled() or future.exception() is not None or group.dataset != dataset:
                return
            found = future.result()[2:]
            missing = [channel for channel, reply in zip(channels, found, strict=True) if reply is None]
            self._memberships.discard_unchanged(group.key, missing, score - UNDER_WAY)

        way.call(
            [b"ZADD", group.key, b"XX", *scores],
            (b"EXPIRE", group.key, self._memberships.group_expiry),
            *((b"ZSCORE", group.key, channel) for channel in channels),
            repeatable=True,
        ).add_done_callback(renewed)


class _Comparison:
    """Compares the groups of one server with the record: reads them, then adds the missing members."""

    def __init__(
        self,
        memberships: Memberships,
        connection: CommandConnection,
        groups: list[GroupRecord],
        dataset: Dataset,
        lost_at: float,
        restorer: GroupRestorer,
    ) -> None:
        self._memberships = memberships
        self._connection = connection
        self._groups = groups
        self._dataset = dataset
        self._lost_at = lost_at
        self._restorer = restorer
        self._at = 0
        #: The commands that are left to write.
        self._commands: list[Command] = []
        self._restored = 0
        self._restored_groups: set[bytes] = set()
        #: Channels whose last receive was cancelled, by the group's key.
        self._gone: dict[bytes, list[str]] = {}
        self._failed: set[bytes] = set()
        self._error: Exception | None = None
        self._look()

    def _look(self) -> None:
        part = self._groups[self._at : self._at + AT_ONCE]
        commands: list[Command] = [(b"ZRANGE", group.key, 0, 0, b"WITHSCORES") for group in part]
        self._restorer.write(self._connection, commands, self._found)

    def _found(self, replies: list[Any]) -> None:
        for group, reply in zip(self._groups[self._at :], replies, strict=False):
            if isinstance(reply, Exception):
                self._fail(group.key, reply)
                continue
            channels, gone = self._memberships.living(group, self._added_since(group, reply))
            if gone:
                self._gone[group.key] = gone
            self._commands += _additions(group, channels, self._memberships.group_expiry)
        self._at += AT_ONCE
        self._restore()

    def _added_since(self, group: GroupRecord, oldest: list[Any]) -> float:
        """Return the time since when added members must be in a group. ``oldest``: its oldest member and the score."""
        lost_at, before = self._lost_at, group.dataset
        if before is not None and before.known_at < self._dataset.started < lost_at - LATE:
            # This process or its event loop was stalled when the server restarted. Uptime is in whole seconds.
            lost_at = self._dataset.started - 1
        # If no member was added before the loss, all present members were added or restored afterwards.
        return lost_at - RECENT if oldest and float(oldest[1]) < lost_at else 0.0

    def _restore(self) -> None:
        part, self._commands = self._commands[: 2 * AT_ONCE // 10], self._commands[2 * AT_ONCE // 10 :]
        if part:
            self._restorer.write(self._connection, part, lambda replies: self._restored_some(part, replies))
        elif self._at < len(self._groups):
            self._look()
        else:
            self._end()

    def _restored_some(self, commands: list[Command], replies: list[Any]) -> None:
        for command, reply in zip(commands, replies, strict=True):
            if isinstance(reply, Exception):
                self._fail(command[1], reply)
            elif command[0] == b"ZADD" and reply:
                self._restored += reply
                self._restored_groups.add(command[1])
        self._restore()

    def _fail(self, key: bytes, error: Exception) -> None:
        self._failed.add(key)
        self._error = error

    def _end(self) -> None:
        for group in self._groups:
            if group.key not in self._failed:
                group.dataset = self._dataset
                if group.key in self._gone:
                    self._restorer.look_for_returned(group, self._gone[group.key])
        label = self._connection.dialer.label
        if self._restored:
            logger.warning(
                "Redis at %s came back without %d group memberships of this process, in %d groups; they were restored",
                label,
                self._restored,
                len(self._restored_groups),
            )
        if self._error is not None and self._error.__class__ not in REDIRECTIONS | NOT_DONE:
            logger.error("Group memberships of this process cannot be restored on Redis at %s: %s", label, self._error)
        self._restorer.compared(self._connection, self._error)


class _Replies:
    """Collects the replies of some commands, until the last one is there."""

    __slots__ = ("_connection", "_done", "_left", "_replies")

    def __init__(
        self,
        connection: CommandConnection,
        left: int,
        done: Callable[[CommandConnection, list[Any]], None],
    ) -> None:
        self._connection = connection
        self._left = left
        self._done = done
        self._replies: list[Any] = []

    def resolve(self, reply: Any) -> None:
        self._replies.append(reply)
        if len(self._replies) == self._left:
            try:
                self._done(self._connection, self._replies)
            except Exception:
                # Requests must not be held up by an error here.
                self._connection.release()
                raise

    def lost(self, error: Exception) -> None:
        """Do nothing if the connection is lost: the next one starts over."""


def _dataset_of(identity: ServerIdentity) -> Dataset:
    return Dataset(identity.run_id, identity.started)


def _additions(group: GroupRecord, channels: Sequence[str], expiry: int, anew: bool = False) -> list[Command]:
    """Return the commands, in parts, that add channels to a group: only missing ones, or all of them with ``anew``."""
    now = time.time()
    commands: list[Command] = []
    for start in range(0, len(channels), AT_ONCE):
        members = [part for channel in channels[start : start + AT_ONCE] for part in (now, channel)]
        only_missing = [] if anew else [b"NX"]
        commands += [[b"ZADD", group.key, *only_missing, *members], (b"EXPIRE", group.key, expiry)]
    return commands
