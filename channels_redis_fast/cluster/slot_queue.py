"""
The queue of requests to one slot of a cluster, whichever server has it now.

Knows the order of a slot's requests and what the answers of a cluster mean for them; ``cluster`` decides which server
has the slot, and when to try again. The rules are those of ``cluster``.
"""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from redis.exceptions import AskError, ConnectionError, MovedError

from ..connection.clock import ServerClock
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
    """The cluster, as far as the queue of a slot is concerned."""

    loop: asyncio.AbstractEventLoop
    stats: Stats
    seeds: Seeds
    answer_timeout: float
    announces: bool
    owners: list[Node | None]

    @property
    def dialer(self) -> Dialer:
        """What leads to one of the servers, whichever."""

    def owner(self, slot: int) -> Node | None:
        """Return the server that has a slot, None while that is unknown."""

    def moved(self, slot: int, host: str, port: int, asked: Node) -> None:
        """Called when a server has answered MOVED."""

    def asked(self, host: str, port: int, asked: Node) -> Node:
        """Return the server that an ASK names."""

    def wait(self, queue: SlotQueue) -> None:
        """Have ``go_on`` called: at once if there is a newer map of slots to be had, later if there is not."""


class SlotQueue:
    """
    The way to one slot. To who hands requests in it looks like a command connection to the slot's server.

    A queue leads to one server at a time. What it cannot write there waits here, in order.
    """

    __slots__ = ("_asked", "_cluster", "_held", "_node", "_returned", "_unanswered", "loop", "slot", "stats")

    def __init__(self, cluster: SlotOwners, slot: int) -> None:
        self.slot = slot
        self.loop = cluster.loop
        self.stats = cluster.stats
        self._cluster = cluster
        #: Where the requests are that were handed on and not answered, and how many.
        self._node: Node | None = None
        self._unanswered = 0
        #: What came back without having been done, and what was handed in since.
        self._returned: list[QueuedRequest] = []
        self._held: list[QueuedRequest] = []
        #: Who is getting the slot, and has what came back already.
        self._asked: Node | None = None

    @property
    def dialer(self) -> Dialer:
        """What leads to the slot's server, or to one of the cluster's as long as that is not known."""
        node = self._cluster.owner(self.slot)
        return self._cluster.dialer if node is None else node.dialer

    @property
    def identity(self) -> ServerIdentity:
        """Who the slot's server is, as far as that is known."""
        node = self._cluster.owner(self.slot)
        return UNKNOWN if node is None else node.identity

    @property
    def clock(self) -> ServerClock:
        """The clock of the slot's server, as far as that is known."""
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
        """Say on a key's sharded channel, if listeners count on it, that there is something on the key again."""
        if self._cluster.announces:
            self.call((b"SPUBLISH", key, b""), raises=False).add_done_callback(ignore)

    def submit(self, request: Pending) -> None:
        """Hand a request in; it is written at the end of this tick, or when there is a server that takes it."""
        queued = QueuedRequest(self, request)
        node = self.enter()
        if node is None:
            self._hold(queued)
        else:
            queued.hand_on(False)
            node.submit(queued)

    def submit_urgent(self, request: Pending) -> None:
        """Hand a request in like any other: where requests go to several servers, one is not to be ahead."""
        self.submit(request)

    def repeat(self, request: Pending) -> None:
        """Hand a request in ahead of those that were not written yet."""
        self._returned.append(QueuedRequest(self, request))
        self.go_on()

    def write_now(self) -> None:
        """Write what was handed in without waiting for the end of the tick."""
        if self._node is not None:
            self._node.write_now()

    # Called with the outcome of requests.

    def answered(self) -> None:
        """Called when a request has been answered, or never will be."""
        self._unanswered -= 1
        if not self._unanswered and (self._returned or self._held):
            self.go_on()

    def redirected(self, queued: QueuedRequest, error: Exception) -> None:
        """Called when a request was not done, and why."""
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
        """Take a request back that was handed on and not written."""
        self._returned.append(request if isinstance(request, QueuedRequest) else QueuedRequest(self, request))
        self._unanswered -= 1

    # Requests that are handed to the server together with those of other slots.

    def enter(self) -> Node | None:
        """
        Return the server that a request of this slot may be handed to past this queue, and count it; None if none.

        Its outcome is reported by ``answered``, ``came_back`` or ``take_back``.
        """
        # Not by ``owner``: each message that is published comes through here.
        node = self._cluster.owners[self.slot]
        if self._held or self._returned or node is None or (node is not self._node and self._unanswered):
            return None
        self._node = node
        self._unanswered += 1
        return node

    def came_back(self, request: Pending, error: Exception) -> None:
        """Called when such a request was not done, and why: it goes on through this queue."""
        self.redirected(QueuedRequest(self, request), error)

    def go_on(self) -> None:
        """Hand on what waits here, unless something before it is unanswered."""
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
            # What was handed in later waits for these. It would be sent after them, and might come before them.
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
        """Fail what waits here."""
        waiting = [*self._returned, *self._held]
        self._returned.clear()
        self._held.clear()
        for queued in waiting:
            queued.fail(error)

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
    """What a connection of a cluster can be relieved of."""

    __slots__ = ()

    @abc.abstractmethod
    def take_back(self) -> Iterable[SlotQueue]:
        """Be taken from a connection that has not written it. Return the queues that have it now."""


class QueuedRequest(Reclaimable):
    """A request on its way through a queue: as many times as it has to be written, on as many connections."""

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
        #: Whether its connection writes it again.
        self._not_done = False
        self._asking = False
        self._is_handed_on = False
        self._keys: list[bytes] = []
        #: Whether doing it twice is the same as once.
        self.repeatable = request.repeatable
        self.first_lost = 0.0
        #: When it was handed in, and why it waits, if a server has said that.
        self.since = queue.loop.time()
        self.reason: Exception | None = None

    def hand_on(self, asking: bool) -> None:
        """Called when a connection has the request; ``asking``: whether ASKING goes before each command."""
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
            # Carried out in some other way.
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
                    # No receiver is subscribed yet at the server that gets the slot.
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
