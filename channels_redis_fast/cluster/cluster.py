"""
A Redis Cluster in one event loop: which server currently has which slot, and how requests reach it.

Senders and callers use a ``SlotQueue`` for each slot. It accepts what a command connection accepts, and passes it to
the server that has the slot. ``Cluster`` owns the queues, the servers' command connections and the map of slots, which
it reads from the servers. Knows slots, servers and the redirecting replies (MOVED, ASK, TRYAGAIN, CLUSTERDOWN). Does
not know channels or messages.

Rules kept here:

- The requests of one slot are carried out in the order in which they were made, even if the slot moves: requests
  written to one server are answered before the next is written to another.
- A request that a server answered with a redirection was not carried out, and goes where the redirection points.
- The map is requested once per event (a redirection, a lost server), not once per command.
- A request that no server accepts waits as long as an answer may take, and then fails.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from redis.exceptions import ConnectionError, RedisError

from ..connection.backoff import delays
from ..connection.commands import CommandConnection, Keeper
from ..connection.dialer import Dialer
from ..connection.futures import ignore
from ..connection.script import Script
from ..loops import run_alone
from ..process import Process, current_number
from ..stats import Stats
from .node import ASK_NEXT, Node
from .seeds import Seeds
from .slot_queue import Reclaimable, SlotQueue
from .slots import SLOTS, Address, owners_of, slot_of

#: Seconds between reads of the map that only redirections ask for: each redirection is itself a piece of the map.
MAP_INTERVAL = 1.0

#: Seconds for which replies are awaited when the map is requested.
MAP_TIMEOUT = 2.0

#: Seconds for which a server without slots is kept, since it may be about to get some.
KEEP = 10.0


class Cluster:
    """
    The servers of a cluster, as one event loop sees them.

    ``scripts`` are loaded on every connection. ``announces``: whether receivers rely on announcements on a key's
    sharded channel, which say that the key has messages again.
    """

    def __init__(
        self,
        seeds: Seeds,
        loop: asyncio.AbstractEventLoop,
        stats: Stats,
        scripts: Sequence[Script] = (),
        announces: bool = False,
    ) -> None:
        self.seeds = seeds
        self.loop = loop
        self._process = Process()
        self.stats = stats
        self.announces = announces
        self.answer_timeout = seeds.answer_timeout
        self.closing = False
        #: The keeper that every new connection gets.
        self.keeper: Keeper | None = None
        self._scripts = scripts
        self._servers: dict[Address, Node] = {}
        #: The server that has each slot, by slot; None while it is unknown.
        self.owners: list[Node | None] = [None] * SLOTS
        self._queues: dict[int, SlotQueue] = {}
        #: Queues with requests that cannot be written yet.
        self._waiting: dict[SlotQueue, None] = {}
        self._followers: list[Callable[[], None]] = []
        #: When the map was last requested. Events within ``MAP_INTERVAL`` of that count as one.
        self._asked_at = float("-inf")
        self._pauses = delays()
        #: Whether any server has ever returned the map.
        self.is_mapped = False
        #: Whether the map may be wrong, and whether something is waiting for a better one.
        self._is_outdated = self._is_urgent = False
        self._tending: asyncio.Task[None] | None = None

    def inherited(self) -> ConnectionError | None:
        """Return the error to raise in a forked process that still uses its parent's event loop; None elsewhere."""
        return None if self._process.number == current_number[0] else self._process.error(self.seeds.label)

    # Used by senders, callers and subscribers.

    def at(self, key: bytes) -> SlotQueue:
        """Return the way to the server that has a key."""
        return self.queue(slot_of(key))

    def queue(self, slot: int) -> SlotQueue:
        """Return the way to the server that has a slot."""
        queue = self._queues.get(slot)
        if queue is None:
            queue = self._queues[slot] = SlotQueue(self, slot)
        return queue

    async def servers(self) -> Sequence[CommandConnection]:
        """Return the ways to all servers that have slots. Raises ``redis.exceptions.ConnectionError``."""
        if not self.is_mapped:
            # The way to any slot is known once the map is.
            await self.queue(0).call((b"PING",), repeatable=True)
        return self.primaries()

    def primaries(self) -> list[Node]:
        """Return the servers that have slots, as far as is known."""
        return [node for node in dict.fromkeys(self.owners) if node is not None]

    def owner(self, slot: int) -> Node | None:
        """Return the server that has a slot; None while it is unknown."""
        return self.owners[slot]

    def node(self, address: Address) -> Node:
        """Return the server at an address."""
        node = self._servers.get(address)
        if node is None:
            node = self._servers[address] = Node(self, address, self._scripts)
        return node

    def follow(self, follower: Callable[[], None]) -> None:
        """Register a function that is called after slots have moved."""
        self._followers.append(follower)

    @property
    def dialer(self) -> Dialer:
        """The dialer of the first configured server, for properties that all servers share."""
        return self.seeds.dialer(self.seeds.addresses[0])

    @property
    def in_flight(self) -> int:
        """The number of commands that were written and have not been answered."""
        return sum(node.in_flight for node in self._servers.values())

    @property
    def is_open(self) -> int:
        """The number of sockets."""
        return sum(node.is_open for node in self._servers.values())

    # Called by queues and connections.

    def moved(self, slot: int, host: str, port: int, asked: Node) -> None:
        """Called when a slot is at another server (MOVED)."""
        owner = self.node(self._address(host, port, asked))
        if self.owners[slot] is not owner:
            self.owners[slot] = owner
            self._is_outdated = True
            self._tend()
            self._notify_followers()

    def asked(self, host: str, port: int, asked: Node) -> Node:
        """Return the server that is importing a slot and already has the key (ASK)."""
        node = self.node(self._address(host, port, asked))
        node.asked_at = self.loop.time()
        return node

    def wait(self, queue: SlotQueue) -> None:
        """Schedule a retry of a queue: at once if a newer map is available, later if not."""
        self._waiting[queue] = None
        self.doubt()

    def doubt(self) -> None:
        """Request the map, because a server cannot be reached, does not answer, or gives an unexpected answer."""
        if self._waiting or self.is_mapped:
            self._is_urgent = self._is_outdated = True
            self._tend()

    # Closing and reopening.

    async def aclose(self) -> None:
        """Write what was submitted, wait for the answers, close the sockets. Later requests wait for ``resume``."""
        self.closing = True
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.wait([self._tending])
        await asyncio.gather(*(node.aclose() for node in list(self._servers.values())))

    def resume(self) -> None:
        """Open sockets again after ``aclose``, if anything was submitted in the meantime."""
        self.closing = False
        for node in self._servers.values():
            node.resume()
        for queue in list(self._waiting):
            self.wait(queue)

    def keep_open(self) -> None:
        """Open sockets to the servers to which the keeper wants one. Called when somebody receives."""
        for node in self._servers.values():
            node.keep_open()

    def give_up(self) -> None:
        """Fail what could not be written, because the event loop is closing."""
        self.closing = True
        error = ConnectionError(f"{self.seeds.label}: the event loop was closed")
        for queue in self._queues.values():
            queue.fail(error)
        for node in self._servers.values():
            node.give_up()

    # The map.

    def _address(self, host: str, port: int, asked: Node) -> Address:
        address = (host or asked.address[0], port)
        return address if self.seeds.remap is None else self.seeds.remap(address)

    def _tend(self) -> None:
        if self._tending is None and not self.closing:
            # An empty context: the task outlives the request that starts it.
            self._tending = contextvars.Context().run(self.loop.create_task, self._see_to_it())
            self._tending.add_done_callback(self._tended)

    def _tended(self, task: asyncio.Task[None]) -> None:
        self._tending = None
        if not task.cancelled() and task.exception() is not None:
            self.loop.call_exception_handler(
                {"message": "channels_redis_fast: the map of a cluster cannot be read", "exception": task.exception()}
            )
            self.loop.call_later(MAP_INTERVAL, self._tend)
        elif self._waiting or self._is_outdated:
            # Either all tasks of the loop were cancelled, or this came in at the last moment.
            self._tend()

    async def _see_to_it(self) -> None:
        while self._waiting or self._is_outdated:
            left = self._asked_at + MAP_INTERVAL - self.loop.time()
            if left <= 0:
                self._pauses = delays()
            else:
                await asyncio.sleep(min(next(self._pauses), ASK_NEXT) if self._is_urgent else left)
            self._is_outdated = self._is_urgent = False
            error = await self._learn()
            self._asked_at = self.loop.time()
            if error is not None and not self.is_mapped:
                self._is_outdated = self._is_urgent = False
                self._fail_waiting(error)
                return
            waiting, self._waiting = self._waiting, {}
            for queue in waiting:
                queue.go_on()

    async def _learn(self) -> Exception | None:
        """Ask servers for the map, one after the other until one answers. Returns the error if there is none."""
        asked: dict[asyncio.Future[list[Any]], Node] = {}
        candidates = iter(self._candidates())
        error: Exception | None = None
        end = self.loop.time() + MAP_TIMEOUT
        while True:
            node = next(candidates, None)
            if node is not None:
                call = node.call((b"CLUSTER", b"SLOTS"))
                call.add_done_callback(ignore)
                asked[call] = node
            left = end - self.loop.time()
            if not asked or (node is None and left <= 0):
                return error or ConnectionError(f"{self.seeds.label}: no server has answered for {MAP_TIMEOUT:g} s")
            patience = left if node is None else ASK_NEXT
            done, _ = await asyncio.wait(asked, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            for call in done:
                answered = asked.pop(call)
                try:
                    self._apply(owners_of(call.result()[0], answered.address[0], self.seeds.remap))
                except RedisError as reason:
                    error = _describe(reason, answered)
                else:
                    return None

    def _candidates(self) -> Iterable[Node]:
        """Return the servers to ask for the map, those most likely to answer first."""
        known = list(self._servers.values())
        random.shuffle(known)
        known.sort(key=lambda node: (not node.is_open, node.is_silent()))
        return dict.fromkeys((*known, *map(self.node, self.seeds.addresses)))

    def _apply(self, ranges: Iterator[tuple[int, int, Address]]) -> None:
        self.is_mapped = True
        owners: list[Node | None] = [None] * SLOTS
        for first, last, address in ranges:
            owners[first : last + 1] = [self.node(address)] * (last - first + 1)
        self.owners = owners
        self._let_go()
        # Repeat this when the other servers that were asked have answered.
        self.loop.call_later(MAP_TIMEOUT, self._let_go)
        self._reroute()
        self._notify_followers()

    def _let_go(self) -> None:
        """Close the connections to servers without slots."""
        primaries = set(self.primaries())
        for address, node in list(self._servers.items()):
            if node in primaries:
                continue
            if node.link is not None and node.is_silent():
                # What was written there and not answered may have been carried out. Waiting longer does not resolve
                # that.
                node.link.abort(ConnectionError("no answer, and another node has its slots now"))
            elif node.is_idle and self.loop.time() - node.asked_at > KEEP:
                del self._servers[address]
                run_alone(self.loop, node.aclose)

    def _reroute(self) -> None:
        """Take back requests that wait for a server without a connection, and send them where the map points."""
        queues: dict[SlotQueue, None] = {}
        for node in self._servers.values():
            if node.link is None or node.link.leaving is not None:
                node.withdraw(Reclaimable, lambda request: queues.update(dict.fromkeys(request.take_back())))
        for queue in queues:
            queue.go_on()

    def _notify_followers(self) -> None:
        for follower in self._followers:
            follower()

    def _fail_waiting(self, error: Exception) -> None:
        waiting, self._waiting = self._waiting, {}
        for queue in waiting:
            queue.fail(error)


def _describe(error: RedisError, node: Node) -> Exception:
    if isinstance(error, ConnectionError):
        return error
    host, port = node.address
    return ConnectionError(f"{host}:{port} is not a node of a Redis Cluster, or refuses to show its slots: {error}")
