"""
What a core layer has in one event loop: a command connection and a sender per shard, and one receiver.

Knows how these are put together, and in which order they are closed. Does not know what they do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from ..cluster.cluster import Cluster
from ..cluster.seeds import Seeds
from ..connection.commands import CommandConnection
from ..connection.dialer import Dialer, close_client
from ..connection.script import Script
from ..hot import Waker
from ..loops import Closable
from ..presence import LeaseReading, Leases, Presences
from ..stalls import StallDetector
from ..stats import Stats
from . import scripts
from .group_cache import MAX_RECORDED_MEMBERS, GroupMembershipCache
from .liveness import NONE_DEAD, DeadProcesses
from .memberships import Memberships
from .receiver import Receiver
from .restoration import GroupRestorer
from .sender import Sender
from .slot_senders import SlotSenders


class CoreLoop:
    """The connections of one layer in one event loop. Their sockets are opened when they are first needed."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        shards: Sequence[Dialer] | Seeds,
        expiry: int,
        ordered: bool,
        stats: Stats,
        make_receiver: Callable[[CoreLoop], Receiver],
        memberships: Memberships | None = None,
        prefix: bytes = b"",
        history_scripts: Sequence[Script] = (),
        leases: Leases | None = None,
        presences: Presences | None = None,
    ) -> None:
        self.loop = loop
        self.waker = Waker(loop)
        self._stalls = StallDetector(loop, stats)
        #: For each shard: the command connection, and the sender that batches messages. A cluster is one shard.
        self.commands: list[CommandConnection | Cluster]
        self.senders: list[Sender | SlotSenders]
        is_cluster = isinstance(shards, Seeds)
        #: For groups with a history: the cached members; and by the group's key, the queues of waiting messages.
        self.recorded_cache = (
            GroupMembershipCache(0) if is_cluster else GroupMembershipCache(MAX_RECORDED_MEMBERS, least=0)
        )
        self.recorded_queues: dict[bytes, Any] = {}
        more = [*history_scripts]
        if presences is not None:
            more.append(presences.script)
        if isinstance(shards, Seeds):
            cluster = Cluster(shards, loop, stats, [*scripts.OF_A_CLUSTER, *more], announces=True)
            self.commands = [cluster]
            self.senders = [SlotSenders(cluster, expiry, ordered, self.waker)]
            self.group_cache = GroupMembershipCache(0)
        else:
            connections = [CommandConnection(dialer, loop, stats, [*scripts.ALL, *more]) for dialer in shards]
            self.commands = [*connections]
            self.senders = [Sender(connection, expiry, ordered, stats, self.waker) for connection in connections]
            self.group_cache = GroupMembershipCache()
        #: Restores this layer's groups on servers that have lost them; None if that is switched off.
        self.restorer = None if memberships is None else GroupRestorer(memberships, loop, prefix, self.commands)
        self._leases = leases
        self._presences = presences
        #: The dead processes as of the last message to a group, and the reading of the leases that this is based on.
        self.dead = NONE_DEAD
        self.judged_by: LeaseReading | None = None
        #: redis-py clients for the application's own commands, by shard.
        self.clients: dict[int, Any] = {}
        #: The receiver of this loop. A loop that only sends has none.
        self.receiver: Receiver | None = None
        self._make_receiver = make_receiver

    def open_receiver(self) -> Receiver:
        """Return the receiver, after making it if there is none."""
        if self.receiver is None:
            self.receiver = self._make_receiver(self)
        return self.receiver

    def judge(self, dead: DeadProcesses) -> None:
        """Update which processes are dead. Clear the group caches, which left out other members."""
        self.dead = dead
        self.group_cache.forget_all()
        self.recorded_cache.forget_all()

    @property
    def receives(self) -> bool:
        """Whether anything has been received in this loop."""
        return self.receiver is not None

    def connections(self) -> list[Closable]:
        """Return all connections, including those without a socket."""
        pumps = [] if self.receiver is None else self.receiver.pumps
        return [*self.commands, *pumps]

    async def disconnect(self) -> None:
        """Close the sockets. They are opened again when needed, immediately if something is waiting."""
        try:
            if self.receiver is not None:
                await self.receiver.disconnect()
            await self._close_commands()
            await self._close_clients()
        finally:
            # Even if all tasks of the loop are cancelled: requests submitted in the meantime wait for this.
            for connection in self.commands:
                connection.resume()
            if self.receiver is not None:
                self.receiver.resume()

    async def retire(self) -> None:
        """Close permanently, because the event loop closes."""
        self._stalls.close()
        if self.restorer is not None:
            self.restorer.close()
        if self.receiver is not None:
            await self.receiver.retire()
        if self._presences is not None:
            self._presences.leave(self.loop)
        if self._leases is not None:
            await self._leases.leave(self.loop)
        await self._close_commands()
        await self._close_clients()
        for connection in self.commands:
            connection.give_up()
        # Requests submitted while the others closed may have begun to open a socket.
        await self._close_commands()

    async def _close_clients(self) -> None:
        while self.clients:
            await close_client(self.clients.popitem()[1])

    async def _close_commands(self) -> None:
        # After the pumps: messages that they popped for nobody are put back through these connections.
        await asyncio.gather(*(connection.aclose() for connection in self.commands))
