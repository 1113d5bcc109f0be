"""
The queue of requests to one slot of a cluster, whichever server currently has the slot.

Knows the order of a slot's requests and what a cluster's replies mean for them. ``cluster`` decides which server has
the slot, and when to retry. The rules are those of ``cluster``.
"""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from redis.exceptions import AskError, ConnectionError, MovedError

from ..connection.clock import ServerClock
from ..connection.commands import CommandConnection
from ..connection.dialer import Dialer
from ..connection.futures import ignore
from ..connection.identity import UNKNOWN, ServerIdentity
from ..connection.link import Command
from ..connection.replies import REDIRECTIONS
from ..connection.requests import Pending, Request
from ..stats import Stats
from .node import Node
from .seeds import Seeds

_SCRIPTS = (b"EVAL", b"EVALSHA")


class SlotOwners(Protocol):
    """The cluster, from the point of view of a slot's queue."""

    loop: asyncio.AbstractEventLoop
    stats: Stats
    seeds: Seeds
    answer_timeout: float
    announces: bool
    owners: list[Node | None]

    @property
    def dialer(self) -> Dialer:
        """The dialer of any one of the servers."""

    def owner(self, slot: int) -> Node | None:
        """Return the server that has a slot; None while it is unknown."""

    def moved(self, slot: int, host: str, port: int, asked: Node) -> None:
        """Called when a server has answered MOVED."""

    def asked(self, host: str, port: int, asked: Node) -> Node:
        """Return the server that an ASK names."""

    def wait(self, queue: SlotQueue) -> None:
        """Schedule a call of ``go_on``: at once if a newer map of slots is available, later if not."""


class SlotQueue:
    """
    The way to one slot. To callers that submit requests it looks like a command connection to the slot's server.

    A queue leads to one server at a time. Requests that it cannot write there wait here, in order.
    """

    __slots__ = ("_asked", "_cluster", "_held", "_node", "_returned", "_unanswered", "loop", "slot", "stats")

    def __init__(self, cluster: SlotOwners, slot: int) -> None:
        self.slot = slot
        self.loop = cluster.loop
        self.stats = cluster.stats
        self._cluster = cluster
        #: The server that has the unanswered requests that were passed on, and how many there are.
        self._node: Node | None = None
        self._unanswered = 0
        #: Requests that came back without having been carried out, and those that were submitted since.
        self._returned: list[QueuedRequest] = []
        self._held: list[QueuedRequest] = []
        #: The server that is importing the slot and already has the key of the requests that came back.
        self._asked: Node | None = None

    @property
    def dialer(self) -> Dialer:
        """The dialer of the slot's server; that of any server of the cluster while this is unknown."""
        node = self._cluster.owner(self.slot)
        return self._cluster.dialer if node is None else node.dialer

    @property
    def is_idle(self) -> bool:
        """Whether nothing of this slot, nor of its server, waits to be written or answered."""
        node = self._node
        waits = self._unanswered or self._held or self._returned
        return node is not None and not waits and node.is_idle

    @property
    def identity(self) -> ServerIdentity:
        """The identity of the slot's server, as far as it is known."""
        node = self._cluster.owner(self.slot)
        return UNKNOWN if node is None else node.identity

    @property
    def clock(self) -> ServerClock:
        """The clock of the slot's server, as far as it is known."""
        node = self._cluster.owner(self.slot)
        return ServerClock() if node is None else node.clock

    def at(self, key: bytes) -> SlotQueue:
        """Return the way to the server that has a key of this slot."""
        return self

    def call(self, *commands: Command, repeatable: bool = False, raises: bool = True) -> asyncio.Future[list[Any]]:
        """Do what ``CommandConnection.call`` does, for commands whose keys are all in this slot."""
        future: asyncio.Future[list[Any]] = self.loop.create_future()
        self.submit(Request(commands, future, repeatable, raises))
        return future

    def announce(self, key: bytes) -> None:
        """Announce on a key's sharded channel, if listeners rely on it, that the key has messages again."""
        if self._cluster.announces:
            self.call((b"SPUBLISH", key, b""), raises=False).add_done_callback(ignore)

    def submit(self, request: Pending) -> None:
        """Submit a request. It is written at the end of this tick, or when there is a server that accepts it."""
        self._submit(request, CommandConnection.submit)

    def submit_unscheduled(self, request: Pending) -> None:
        """Submit a request whose caller is about to call ``write_now``."""
        self._submit(request, CommandConnection.submit_unscheduled)

    def submit_urgent(self, request: Pending) -> None:
        """Submit a request like any other: with requests going to several servers, none can be ahead."""
        self.submit(request)

    def repeat(self, request: Pending) -> None:
        """Submit a request ahead of those that have not been written yet."""
        self._returned.append(QueuedRequest(self, request))
        self.go_on()

    def write_now(self) -> None:
        """Write what was submitted, without waiting for the end of the tick."""
        if self._node is not None:
            self._node.write_now()

    # Called with the outcome of requests.

    def answered(self) -> None:
        """Called when a request has been answered, or never will be."""
        self._unanswered -= 1
        if not self._unanswered and (self._returned or self._held):
            self.go_on()

    def redirected(self, queued: QueuedRequest, error: Exception) -> None:
        """Called when a request was not carried out, with the reason."""
        asked = self._node
        assert asked is not None
        self._returned.append(queued)
        if isinstance(error, MovedError):
            self._cluster.moved(self.slot, error.host, error.port, asked)
        elif isinstance(error, AskError):
            self._asked = self._cluster.asked(error.host, error.port, asked)
        else:
            queued.reason = error
        self.answered()

    def take_back(self, request: QueuedRequest | Pending) -> None:
        """Take back a request that was passed on but not written."""
        self._returned.append(request if isinstance(request, QueuedRequest) else QueuedRequest(self, request))
        self._unanswered -= 1

    # Requests that are passed to the server together with those of other slots.

    def enter(self) -> Node | None:
        """
        Return the server that a request of this slot may be passed to directly, bypassing this queue, and count the
        request. Returns None if there is no such server.

        The outcome is reported by ``answered``, ``came_back`` or ``take_back``.
        """
        # Does not call ``owner``: every published message comes through here.
        node = self._cluster.owners[self.slot]
        if self._held or self._returned or node is None or (node is not self._node and self._unanswered):
            return None
        self._node = node
        self._unanswered += 1
        return node

    def came_back(self, request: Pending, error: Exception) -> None:
        """Called when such a request was not carried out, with the reason. It continues through this queue."""
        self.redirected(QueuedRequest(self, request), error)

    def go_on(self) -> None:
        """Pass on the requests that wait here, unless an earlier one is unanswered."""
        if self._unanswered or not (self._returned or self._held):
            return
        now = self.loop.time()
        late = [
            queued for queued in (*self._returned, *self._held) if now - queued.since > self._cluster.answer_timeout
        ]
        for queued in late:
            (self._returned if queued in self._returned else self._held).remove(queued)
            queued.fail(
                queued.reason or ConnectionError(f"{self._cluster.seeds.label}: no server has slot {self.slot}")
            )
        asked, self._asked = self._asked, None
        if asked is not None and self._returned:
            # Requests submitted later wait for these: they would be sent after them, but might arrive before them.
            while self._returned:
                self._write(self._returned.pop(0), asked, asking=True)
            return
        node = self._cluster.owner(self.slot)
        if node is None or any(queued.reason is not None for queued in self._returned):
            for queued in self._returned:
                queued.reason = None
            self._cluster.wait(self)
            return
        waiting = [*self._returned, *self._held]
        self._returned.clear()
        self._held.clear()
        for queued in waiting:
            self._write(queued, node)

    def fail(self, error: Exception) -> None:
        """Fail the requests that wait here."""
        waiting = [*self._returned, *self._held]
        self._returned.clear()
        self._held.clear()
        for queued in waiting:
            queued.fail(error)

    def _submit(self, request: Pending, submit: Callable[[CommandConnection, Pending], None]) -> None:
        queued = QueuedRequest(self, request)
        node = self.enter()
        if node is None:
            self._hold(queued)
        else:
            queued.hand_on(False)
            submit(node, queued)

    def _hold(self, queued: QueuedRequest) -> None:
        self._held.append(queued)
        if not self._unanswered and len(self._held) + len(self._returned) == 1:
            self._cluster.wait(self)

    def _write(self, queued: QueuedRequest, node: Node, asking: bool = False) -> None:
        self._node = node
        self._unanswered += 1
        queued.hand_on(asking)
        node.submit(queued)


class Reclaimable(abc.ABC):
    """Something that can be taken back from a connection of a cluster."""

    __slots__ = ()

    @abc.abstractmethod
    def take_back(self) -> Iterable[SlotQueue]:
        """
        Called when this is removed from a connection that has not written it. Returns the queues that have it now.
        """


class QueuedRequest(Reclaimable):
    """A request on its way through a queue. It may be written several times, on several connections."""

    __slots__ = (
        "_asking",
        "_is_handed_on",
        "_keys",
        "_left",
        "_not_done",
        "_queue",
        "_redirection",
        "_request",
        "first_lost",
        "reason",
        "repeatable",
        "since",
    )

    def __init__(self, queue: SlotQueue, request: Pending) -> None:
        self._queue = queue
        self._request = request
        self._left = 0
        self._redirection: Exception | None = None
        #: Whether its connection is going to write it again.
        self._not_done = False
        self._asking = False
        self._is_handed_on = False
        self._keys: list[bytes] = []
        #: Whether carrying it out twice has the same effect as once.
        self.repeatable = request.repeatable
        self.first_lost = 0.0
        #: When it was submitted, and why it waits, if a server has given a reason.
        self.since = queue.loop.time()
        self.reason: Exception | None = None

    def hand_on(self, asking: bool) -> None:
        """Called when a connection has the request. ``asking``: whether ASKING precedes each command."""
        self._is_handed_on = True
        self._asking = asking

    def take_back(self) -> Iterable[SlotQueue]:
        self._is_handed_on = False
        self._queue.take_back(self)
        return (self._queue,)

    def commands(self, server: ServerIdentity) -> Sequence[Command]:
        commands = self._request.commands(server)
        self._redirection = None
        self._not_done = False
        if self._asking:
            self._keys = [key for command in commands if command[0] in _SCRIPTS for key in _keys_of(command)]
            commands = [part for command in commands for part in ((b"ASKING",), command)]
        self._left = len(commands)
        if not commands:
            # Completed in some other way.
            self._leave()
        return commands

    def reply(self, reply: Any) -> bool:
        self._left -= 1
        if self._asking and self._left % 2:
            return False
        again = False
        if reply.__class__ in REDIRECTIONS:
            self._redirection = self._redirection or reply
            self._request.not_done()
        else:
            again = self._request.reply(reply)
        if not self._left and not again and not self._not_done:
            if self._redirection is not None:
                self._is_handed_on = False
                self._queue.redirected(self, self._redirection)
            else:
                if self._keys:
                    # No receiver is subscribed at the importing server yet.
                    for key in self._keys:
                        self._queue.announce(key)
                self._leave()
        return again

    def not_done(self) -> None:
        self._left -= 1
        self._not_done = True
        if not (self._asking and self._left % 2):
            self._request.not_done()

    def fail(self, error: Exception) -> None:
        self._request.fail(error)
        self._leave()

    def _leave(self) -> None:
        if self._is_handed_on:
            self._is_handed_on = False
            self._queue.answered()


def _keys_of(command: Command) -> Sequence[bytes]:
    return command[3 : 3 + int(command[2])]
