"""
The leases of a layer's processes: by these those that live are told from those that are gone.

Each process holds one lease, in a sorted set on shard 0, and renews it every third of its duration, in one command,
which also reads the leases that are overdue. Knows that set and the command connections; not what is done about a
process that is gone.

Rules kept here:

- Time is the server's. What is said of a process was so when the leases were read, and is not continued by this clock:
  a process whose lease had not run out then may have renewed it since.
- Each event loop that keeps the lease has a timer, and whoever finds a renewal due renews. So a loop that is stopped,
  busy or closed is replaced by the others without being asked.
- Whoever held a lease and finds that it had run out, or that the server does not know it, is told: others may have
  taken the process for gone meanwhile.
- A lease that is given back runs out at once, and stays listed as any that is overdue.
- The leases are read at most once in a third of their duration, but for what is asked for (``max_age``, ``refresh``),
  and for one reading when the lease of a process that is late has run out.
"""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from ..connection.futures import ignore
from ..connection.identity import ServerIdentity
from ..connection.replies import UnexpectedReply
from ..connection.script import Script
from ..connection.script_call import ScriptCall, no_scripts
from ..hot import Lock
from ..loops import notice_fork
from . import lease_scripts as scripts

logger = logging.getLogger("channels_redis_fast")

#: Renewals in the duration of a lease, and durations of a lease after which a reading says nothing any more: a little
#: more than the time between two renewals.
RENEWALS, STALE = 3, 0.4

#: By how much of a third of its duration a lease may be renewed late before others look whether it runs out.
TOLERANCE = 0.2

#: Seconds until the next attempt to renew after one that failed; and between two renewals that reconnected sockets ask
#: for, of which an outage has many.
RETRY = 1.0

#: Seconds between two looks at leases where somebody gets nothing for want of one, and may have it again.
REFRESH = 1.0

#: Seconds until a timer at least: some come a little early.
SOON = 0.002

#: Seconds that the end of an event loop waits for the lease to be given back.
GIVE_BACK_TIMEOUT = 0.5

#: How often a loop that did not run goes round to notice that it has lost a connection.
NOTICE = 3


def leases_key(prefix: bytes) -> bytes:
    """Return the key of the leases of a layer's prefix."""
    return prefix + b":leases"


class Lapse(NamedTuple):
    """
    That this process' lease had run out before it was renewed.

    ``overdue``: for how many seconds, as far as is known. ``is_forgotten``: whether the server did not know the lease,
    since it came back without its data for example, or may not have known it.
    """

    overdue: float
    is_forgotten: bool


class LeaseReading(NamedTuple):
    """
    The leases as they were read. ``deadlines``: by process, of those that are overdue, in seconds by the server's
    clock. ``now``: what that showed; ``read_at``: what ``time.monotonic()`` gave then.
    """

    deadlines: Mapping[str, float]
    now: float
    read_at: float
    #: By which the script knows what is known: how many are overdue, and the highest of their deadlines.
    number: int = 0
    last: bytes = b""

    def overdue(self) -> dict[str, float]:
        """Return by process for how many seconds its lease was overdue when it was read."""
        return {process: self.now - deadline for process, deadline in self.deadlines.items()}


#: What is said where nothing was read: nobody is gone.
NOTHING_READ = LeaseReading({}, 0.0, float("-inf"))


class Leases:
    """
    The leases of one layer, and that of this process. For any thread; every event loop has its own way to the server.

    ``duration``: seconds that a lease lasts. ``retention``: seconds for which an overdue lease stays listed.
    """

    def __init__(self, duration: float, prefix: bytes, process: str, retention: float) -> None:
        self.duration = duration
        #: Seconds between two renewals.
        self.interval = duration / RENEWALS
        self.key = leases_key(prefix)
        self._retention = int(retention + duration) + 1
        self._callbacks: list[Callable[[Lapse], Any]] = []
        self._followers: list[Callable[[], Any]] = []
        self._begin(process)

    def _begin(self, process: str) -> None:
        self._process = process
        self._lock = Lock()
        #: By event loop: what leads to the server of the leases; the timers of those that keep the lease; and the call
        #: that is under way.
        self._ways: dict[asyncio.AbstractEventLoop, Any] = {}
        self._keepers: dict[asyncio.AbstractEventLoop, asyncio.TimerHandle | None] = {}
        self._calls: dict[asyncio.AbstractEventLoop, _UnderWay] = {}
        #: When (monotonic) the leases are to be read again, and when that was asked for last, in any event loop.
        self._due_at = self._asked_at = float("-inf")
        #: Until when (monotonic) this process surely has its lease, and its deadline; empty where it never had one.
        self._held_until = float("-inf")
        self._deadline: bytes = b""
        #: The leases as they were read last, and until when (monotonic) it is too early to read them again. Plain
        #: attributes, for what cannot afford a call of ``look`` each time.
        self.reading = NOTHING_READ
        self.fresh_until = float("-inf")

    # This process.

    @property
    def process(self) -> str:
        """The name of this process. A forked child has another one."""
        notice_fork()
        return self._process

    @process.setter
    def process(self, name: str) -> None:
        with self._lock:
            if name != self._process:
                self._process, self._deadline, self._held_until = name, b"", float("-inf")

    @property
    def is_held(self) -> bool:
        """Whether this process surely has its lease at this moment."""
        return time.monotonic() < self._held_until

    def on_lapse(self, callback: Callable[[Lapse], Any]) -> None:
        """
        Have a function called when the lease had run out before it was renewed: in the event loop that renewed it.

        It must not keep the layer alive; a ``ReferenceError`` of one whose layer is gone is ignored.
        """
        self._callbacks.append(callback)

    def follow(self, follower: Callable[[], Any]) -> None:
        """Have a function called when other leases are overdue than before: in the event loop that has read them."""
        self._followers.append(follower)

    async def hold(self) -> None:
        """
        Return when this process has its lease, which the running event loop renews from now on.

        That loop is one in which the layer has connections. Raises ``redis.exceptions.ConnectionError`` naming the
        host, ``ResponseError`` where the server refuses scripts or the commands that it takes.
        """
        self.keep()
        while not self.is_held:
            await asyncio.shield(self._ask(asyncio.get_running_loop()))

    def keep(self) -> None:
        """``hold``, without waiting for the lease: what prevents it is logged, and tried again."""
        notice_fork()
        loop = asyncio.get_running_loop()
        if loop not in self._keepers:
            self._keepers[loop] = None
            self.tick(loop)

    # All processes.

    async def overdue(self, max_age: float | None = None) -> Mapping[str, float]:
        """
        Return by process for how many seconds its lease was overdue when the leases were last read.

        ``max_age``: seconds that this may be ago, a third of the duration if not given. Raises what ``hold`` raises.
        """
        return (await self.read(max_age)).overdue()

    async def read(self, max_age: float | None = None) -> LeaseReading:
        """Return the leases as they were at most ``max_age`` seconds ago. Raises what ``hold`` raises."""
        limit = self.interval if max_age is None else max_age
        now = time.monotonic()
        if now - self.reading.read_at <= limit:
            return self.reading
        loop = asyncio.get_running_loop()
        under_way = self._calls.get(loop)
        if under_way is not None and now - under_way.asked_at > limit:
            # The server may have answered that before.
            await asyncio.wait([under_way.future])
        return await asyncio.shield(self._ask(loop))

    def look(self) -> LeaseReading:
        """
        Return the leases as they were read last, at once; ``NOTHING_READ`` if that is too long ago to go by.

        Where it is time to read them again, the running event loop does.
        """
        now = time.monotonic()
        reading = self.reading
        if now >= self._due_at:
            self._ask(asyncio.get_running_loop())
        return reading if now - reading.read_at < self.duration * STALE else NOTHING_READ

    def refresh(self) -> None:
        """Have the leases read again if that was not asked for in the last ``REFRESH`` seconds."""
        if time.monotonic() - self._asked_at >= REFRESH:
            self._ask(asyncio.get_running_loop())

    # Event loops.

    def enter(self, loop: asyncio.AbstractEventLoop, shard: Any) -> None:
        """Called when the layer has connections in an event loop; ``shard``: the command connection of shard 0."""
        self._ways[loop] = shard

    async def leave(self, loop: asyncio.AbstractEventLoop) -> None:
        """Called in an event loop that is about to close. If it is the last that kept the lease, that is given back."""
        end = loop.time() + GIVE_BACK_TIMEOUT
        for _ in range(NOTICE):
            await asyncio.sleep(0)
        shard = self._ways.get(loop)
        # What would wait for a server that is away would be in the way of closing: the lease runs out by itself.
        way = None if shard is None or shard.at(self.key).dialer.is_out else shard.at(self.key)
        under_way = self._calls.get(loop)
        if under_way is not None and way is not None:
            await asyncio.wait([under_way.future], timeout=GIVE_BACK_TIMEOUT)
        with self._lock:
            self._ways.pop(loop, None)
            kept = loop in self._keepers
            timer = self._keepers.pop(loop, None)
            if timer is not None:
                timer.cancel()
            if not kept or way is None or self._keepers or not self._deadline:
                return
            self._held_until = min(self._held_until, time.monotonic())
            process, deadline = self._process, self._deadline
        future: asyncio.Future[Any] = loop.create_future()
        future.add_done_callback(ignore)
        way.submit(_GiveBack(way, self.key, process, deadline, future))
        await asyncio.wait([future], timeout=max(end - loop.time(), 0.0))

    def after_fork(self, process: str) -> None:
        """In a forked child: be another process, which has no lease."""
        self._begin(process)

    def came_back(self) -> None:
        """Called when a connection to the server was lost and is there again, in the event loop of that connection."""
        loop = asyncio.get_running_loop()
        if loop in self._keepers:
            self._schedule(loop, max(self._asked_at + RETRY - time.monotonic(), 0.0))
            self._due_at = min(self._due_at, self._asked_at + RETRY)

    # Internals.

    def tick(self, loop: asyncio.AbstractEventLoop) -> None:
        """Called by the timer of a loop that keeps the lease."""
        if loop not in self._keepers:
            return
        now = time.monotonic()
        if now >= self._due_at or not self.is_held:
            self._ask(loop)
        # What is under way for longer than that has its own limit.
        self._schedule(loop, self._due_at - now if self._due_at > now else RETRY)

    def _schedule(self, loop: asyncio.AbstractEventLoop, delay: float) -> None:
        with self._lock:
            timer = self._keepers.get(loop)
            if timer is not None:
                timer.cancel()
            # Weakly: a timer must not keep a layer alive.
            self._keepers[loop] = loop.call_later(max(delay, SOON), _tick, weakref.ref(self), loop)

    def _ask(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[LeaseReading]:
        """Renew the lease, if this process keeps one, and read those that are overdue."""
        under_way = self._calls.get(loop)
        if under_way is not None:
            return under_way.future
        self._asked_at = time.monotonic()
        self._due_at = self._asked_at + self.interval
        future: asyncio.Future[LeaseReading] = loop.create_future()
        self._calls[loop] = _UnderWay(future, self._asked_at)
        future.add_done_callback(self._asked)
        way = self._ways[loop].at(self.key)
        way.submit(_Renewal(way, self, future))
        return future

    def _asked(self, future: asyncio.Future[LeaseReading]) -> None:
        loop = future.get_loop()
        under_way = self._calls.get(loop)
        if under_way is not None and under_way.future is future:
            del self._calls[loop]
        error = None if future.cancelled() else future.exception()
        if error is None:
            if loop in self._keepers and not self.is_held:
                # It was only to read when it was written.
                self._schedule(loop, 0.0)
            elif loop in self._keepers:
                self._schedule(loop, self._due_at - time.monotonic())
            return
        way = self._ways.get(loop)
        if way is not None and isinstance(error, ResponseError):
            way.dialer.refuses("the leases of its processes", error)
        self._due_at = time.monotonic() + RETRY
        if loop in self._keepers:
            self._schedule(loop, RETRY)

    def renewal_arguments(self, process: str, known: LeaseReading) -> list[Any]:
        """Return what ``RENEW`` takes for a process, empty for one that only reads, that knows a reading."""
        return [1, self.key, process, f"{self.duration:.6f}", self._retention, known.number, known.last]

    @property
    def renewing(self) -> str:
        """The name of this process if it keeps a lease, else an empty one."""
        return self._process if self._keepers else ""

    def answered(self, call: _Renewal, reply: list[Any]) -> LeaseReading:
        """Take a reply to ``RENEW``; return what it says. Raises ``ValueError`` and the like for what says nothing."""
        now, previous, deadline, first, count, last, overdue = reply
        if overdue is None:
            deadlines = call.known.deadlines
        else:
            pairs = zip(overdue[::2], overdue[1::2], strict=True)
            deadlines = {name.decode(): float(score) for name, score in pairs}
        reading = LeaseReading(deadlines, float(now), time.monotonic(), int(count), bytes(last))
        lapse = None
        left = float(first) - reading.now if first else self.duration
        with self._lock:
            self.reading = reading
            self.fresh_until = reading.read_at + self.interval
            if left < self.duration - self.interval * (1 + TOLERANCE):
                # Whoever has it is late, and may be gone.
                self._due_at = min(self._due_at, time.monotonic() + left + SOON)
                self.fresh_until = min(self.fresh_until, self._due_at)
            if call.process and call.process == self._process:
                if self._deadline:
                    # By the server's clock and by this one: the reply that told of it may have been lost.
                    late = 0.0 if previous is None else reading.now - float(previous)
                    away = max(call.written_at - self._held_until, late, 0.0)
                    is_forgotten = previous is None or call.is_repeated
                    if away or is_forgotten:
                        lapse = Lapse(away, is_forgotten)
                self._deadline = bytes(deadline)
                self._held_until = max(self._held_until, call.written_at + self.duration)
        if lapse is not None:
            self._tell(self._callbacks, lapse)
        if overdue is not None:
            self._tell(self._followers)
        return reading

    def _tell(self, callbacks: list[Callable[..., Any]], *what: Any) -> None:
        for callback in callbacks:
            try:
                callback(*what)
            except ReferenceError:
                # The layer was collected.
                continue
            except Exception:
                logger.exception("What follows from the leases of processes could not be done")


class _UnderWay(NamedTuple):
    """A call of one event loop, and when (monotonic) it was asked for."""

    future: asyncio.Future[LeaseReading]
    asked_at: float


def _tick(leases: weakref.ref[Leases], loop: asyncio.AbstractEventLoop) -> None:
    found = leases()
    if found is not None:
        found.tick(loop)


class _LeaseCall(ScriptCall):
    """A call of one of the scripts, and the future of what it returns."""

    __slots__ = ("_future",)

    repeatable = True

    def __init__(self, script: Script, way: Any, future: asyncio.Future[Any]) -> None:
        super().__init__(script, way)
        self._future = future

    def done(self, reply: Any) -> None:
        if self._future.done():
            return
        if isinstance(reply, Exception):
            self._future.set_exception(reply)
            return
        try:
            result = self._result(reply)
        except (AttributeError, TypeError, ValueError):
            raise UnexpectedReply.to("a script of leases", reply) from None
        self._future.set_result(result)

    def refused(self, error: ResponseError | None) -> None:
        self.done(no_scripts(self._way, error, "lease"))

    def _result(self, reply: Any) -> Any:
        return reply


class _Renewal(_LeaseCall):
    """One renewal, or one look at the leases of others."""

    __slots__ = ("_leases", "_writes", "known", "process", "written_at")

    def __init__(self, way: Any, leases: Leases, future: asyncio.Future[LeaseReading]) -> None:
        super().__init__(scripts.RENEW, way, future)
        self._leases = leases
        #: How often it was written, but for what the server said it would not do.
        self._writes = 0
        #: What it was made out for when it was written last, and when (monotonic) that was.
        self.process = ""
        self.known = NOTHING_READ
        self.written_at = 0.0

    @property
    def is_repeated(self) -> bool:
        """Whether it may have been carried out more than once: it was written again for want of an answer."""
        return self._writes > 1

    def reply(self, reply: Any) -> bool:
        again = super().reply(reply)
        self._writes -= again
        return again

    def not_done(self) -> None:
        self._writes -= 1

    def arguments(self, server: ServerIdentity) -> list[Any]:
        self._writes += 1
        self.process, self.known = self._leases.renewing, self._leases.reading
        self.written_at = time.monotonic()
        return self._leases.renewal_arguments(self.process, self.known)

    def _result(self, reply: Any) -> LeaseReading:
        return self._leases.answered(self, reply)


class _GiveBack(_LeaseCall):
    """The end of a lease."""

    __slots__ = ("_arguments",)

    def __init__(self, way: Any, key: bytes, process: str, deadline: bytes, future: asyncio.Future[Any]) -> None:
        super().__init__(scripts.GIVE_BACK, way, future)
        self._arguments: list[Any] = [1, key, process, deadline]

    def arguments(self, server: ServerIdentity) -> list[Any]:
        return self._arguments
