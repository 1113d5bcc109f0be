"""
The leases of a layer's processes, which tell live processes from those that are gone.

Each process holds one lease, in a sorted set on shard 0. It renews it every third of its duration, with one command
that also reads the overdue leases. Knows that set and the command connections. Does not know what is done about a
process that is gone.

Rules kept here:

- Times are the server's. A statement about a process holds for the moment at which the leases were read, and is not
  extrapolated with the local clock: a process whose lease had not run out then may have renewed it since.
- Each event loop that keeps the lease has a timer, and any loop that finds a renewal due renews. So the others replace
  a loop that is stopped, busy or closed without being asked.
- A process that held a lease and finds that it had run out, or that the server does not know it, is told: others may
  have considered the process gone meanwhile.
- After an outage, in which nobody could renew, each process has a whole lease duration for renewing (``absences``). A
  process that has just started, perhaps during an outage, gives the others a few seconds.
- A lease that is given back runs out at once, and stays listed like any overdue lease.
- The leases are read at most once in a third of their duration, except on request (``max_age``, ``refresh``), and once
  when the lease of a late process has run out.
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
from .absences import Absences

logger = logging.getLogger("channels_redis_fast")

#: Renewals per lease duration; and the age at which a reading is no longer valid, in lease durations: a little more
#: than the time between two renewals.
RENEWALS, STALE = 3, 0.4

#: How late a lease may be renewed, as a fraction of the renewal interval, before others check whether it runs out.
TOLERANCE = 0.2

#: The part of a lease that is always left while renewals succeed, with some tolerance. If less is left when a
#: connection comes back, it was away for so long that others may not have renewed theirs.
MISSED = 0.6

#: Seconds for which a process that has just started takes no other for gone: several times the longest pause between
#: attempts to connect, but no more than this part of a lease.
FIRST_SECONDS, FIRST_PART = 5.0, 1 / 3

#: Seconds until the next attempt after a failed renewal; and between renewals that are due to reconnected sockets, of
#: which an outage has many.
RETRY = 1.0

#: Minimum seconds between reads of the leases that are requested because a receiver gets nothing for lack of a lease,
#: which it may have again.
REFRESH = 1.0

#: Minimum seconds until a timer: some fire a little early.
SOON = 0.002

#: Seconds for which a closing event loop waits for the lease to be given back.
GIVE_BACK_TIMEOUT = 0.5

#: Iterations that a loop which did not run needs to notice that it has lost a connection.
NOTICE = 3


def leases_key(prefix: bytes) -> bytes:
    """Return the key of the leases for a layer's prefix."""
    return prefix + b":leases"


class Lapse(NamedTuple):
    """
    This process' lease had run out before it was renewed.

    ``overdue``: for how many seconds, as far as is known. ``is_forgotten``: whether the server did not know the lease
    (for example because it came back without its data), or may not have known it.
    """

    overdue: float
    is_forgotten: bool


class LeaseReading(NamedTuple):
    """
    The leases as they were read. ``deadlines``: the deadlines of overdue leases by process, in seconds by the server's
    clock. ``now``: the server's time of the reading; ``read_at``: the value of ``time.monotonic()`` at that moment.
    """

    deadlines: Mapping[str, float]
    now: float
    read_at: float
    #: Identifies the reading for the script: the number of overdue leases, and the highest of their deadlines.
    number: int = 0
    last: bytes = b""

    def overdue(self) -> dict[str, float]:
        """Return for how many seconds each overdue lease was overdue when it was read, by process."""
        return {process: self.now - deadline for process, deadline in self.deadlines.items()}


#: Used if nothing was read: no process is gone.
NOTHING_READ = LeaseReading({}, 0.0, float("-inf"))


class Leases:
    """
    The leases of one layer, including that of this process. Thread-safe; each event loop has its own way to the server.

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
        #: By event loop: the way to the server of the leases; the timers of the loops that keep the lease; and the call
        #: under way.
        self._ways: dict[asyncio.AbstractEventLoop, Any] = {}
        self._keepers: dict[asyncio.AbstractEventLoop, asyncio.TimerHandle | None] = {}
        self._calls: dict[asyncio.AbstractEventLoop, _UnderWay] = {}
        #: When (monotonic) the leases are due to be read again, and when any event loop last requested that.
        self._due_at = self._asked_at = float("-inf")
        #: Until when (monotonic) this process certainly has its lease, and its deadline; empty if it never had one.
        self._held_until = float("-inf")
        self._deadline: bytes = b""
        #: The last reading of the leases, and until when (monotonic) it is too early for the next one. Plain
        #: attributes, for callers that cannot afford to call ``look`` each time.
        self.reading = NOTHING_READ
        self.fresh_until = float("-inf")
        self._absences = Absences(self.duration)

    # This process.

    @property
    def process(self) -> str:
        """The name of this process. A forked child has a different one."""
        notice_fork()
        return self._process

    @process.setter
    def process(self, name: str) -> None:
        with self._lock:
            if name != self._process:
                self._process, self._deadline, self._held_until = name, b"", float("-inf")

    @property
    def is_held(self) -> bool:
        """Whether this process certainly has its lease at this moment."""
        return time.monotonic() < self._held_until

    def on_lapse(self, callback: Callable[[Lapse], Any]) -> None:
        """
        Register a function to call, in the event loop that renewed the lease, if the lease had run out before that.

        It must not keep the layer alive. Its ``ReferenceError`` is ignored once its layer is gone.
        """
        self._callbacks.append(callback)

    def follow(self, follower: Callable[[], Any]) -> None:
        """
        Register a function to call, in the event loop that read the leases, when a different set of them is overdue.
        """
        self._followers.append(follower)

    async def hold(self) -> None:
        """
        Return when this process has its lease. The running event loop renews it from now on.

        The layer must have connections in that loop. Raises ``redis.exceptions.ConnectionError`` naming the host,
        ``ResponseError`` if the server refuses scripts or the commands that the lease needs.
        """
        self.keep()
        while not self.is_held:
            await asyncio.shield(self._ask(asyncio.get_running_loop()))

    def keep(self) -> None:
        """``hold``, without waiting for the lease. Whatever prevents it is logged, and it is retried."""
        notice_fork()
        loop = asyncio.get_running_loop()
        if loop not in self._keepers:
            self._keepers[loop] = None
            self.tick(loop)

    # All processes.

    async def overdue(self, max_age: float | None = None) -> Mapping[str, float]:
        """
        Return for how many seconds each overdue lease was overdue when the leases were last read, by process.

        ``max_age``: maximum age of that reading in seconds, by default a third of the duration. Raises what ``hold``
        raises.
        """
        return (await self.read(max_age)).overdue()

    async def read(self, max_age: float | None = None) -> LeaseReading:
        """Return the leases from a reading at most ``max_age`` seconds old. Raises what ``hold`` raises."""
        limit = self.interval if max_age is None else max_age
        now = time.monotonic()
        if now - self.reading.read_at <= limit:
            return self.reading
        loop = asyncio.get_running_loop()
        under_way = self._calls.get(loop)
        if under_way is not None and now - under_way.asked_at > limit:
            # The server may have answered that call before the limit.
            await asyncio.wait([under_way.future])
        return await asyncio.shield(self._ask(loop))

    async def gone(self, max_age: float | None = None) -> Mapping[str, float]:
        """
        Return the processes that count as gone, with the deadlines of their leases: those with an overdue lease, but
        for a lease duration after an outage only those that had one before it. Parameter and errors as for ``read``.
        """
        return self._absences.among((await self.read(max_age)).deadlines)

    def gone_now(self) -> Mapping[str, float]:
        """Return what ``gone`` returns without waiting, from ``look``."""
        return self._absences.among(self.look().deadlines)

    def look(self) -> LeaseReading:
        """
        Return the last reading of the leases without waiting; ``NOTHING_READ`` if it is too old to rely on.

        If it is time to read them again, the running event loop does so.
        """
        now = time.monotonic()
        reading = self.reading
        if now >= self._due_at:
            self._ask(asyncio.get_running_loop())
        return reading if now - reading.read_at < self.duration * STALE else NOTHING_READ

    def refresh(self) -> None:
        """Read the leases again, unless that was requested in the last ``REFRESH`` seconds."""
        if time.monotonic() - self._asked_at >= REFRESH:
            self._ask(asyncio.get_running_loop())

    # Event loops.

    def enter(self, loop: asyncio.AbstractEventLoop, shard: Any) -> None:
        """Called when the layer has connections in an event loop. ``shard``: the command connection of shard 0."""
        self._ways[loop] = shard

    async def leave(self, loop: asyncio.AbstractEventLoop) -> None:
        """
        Called in an event loop that is about to close. If it is the last to keep the lease, it gives the lease back.
        """
        end = loop.time() + GIVE_BACK_TIMEOUT
        for _ in range(NOTICE):
            await asyncio.sleep(0)
        shard = self._ways.get(loop)
        # Waiting for a server that is away would delay closing: the lease then runs out by itself.
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
        """In a forked child: become another process, without a lease."""
        self._begin(process)

    def came_back(self) -> None:
        """Called when a lost connection to the server is restored, in the event loop of that connection."""
        if self._held_until - time.monotonic() < MISSED * self.duration:
            self._absences.came_back(self.reading.deadlines)
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
        # A call that is under way for longer than that has a limit of its own.
        self._schedule(loop, self._due_at - now if self._due_at > now else RETRY)

    def _schedule(self, loop: asyncio.AbstractEventLoop, delay: float) -> None:
        with self._lock:
            timer = self._keepers.get(loop)
            if timer is not None:
                timer.cancel()
            # Weak reference: a timer must not keep a layer alive.
            self._keepers[loop] = loop.call_later(max(delay, SOON), _tick, weakref.ref(self), loop)

    def _ask(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[LeaseReading]:
        """Renew the lease, if this process keeps one, and read the overdue ones."""
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
                # When the call was written, it was only to read.
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
        """
        Return the arguments of ``RENEW``: for a process, or empty for a caller that only reads, and a known reading.
        """
        return [1, self.key, process, f"{self.duration:.6f}", self._retention, known.number, known.last]

    @property
    def renewing(self) -> str:
        """The name of this process if it keeps a lease, otherwise empty."""
        return self._process if self._keepers else ""

    def answered(self, call: _Renewal, reply: list[Any]) -> LeaseReading:
        """
        Process a reply to ``RENEW``. Return the reading. Raises ``ValueError`` and similar errors for a malformed one.
        """
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
            if self.reading is NOTHING_READ:
                self._absences.began(min(FIRST_SECONDS, self.duration * FIRST_PART))
            self.reading = reading
            self.fresh_until = reading.read_at + self.interval
            if left < self.duration - self.interval * (1 + TOLERANCE):
                # The process with the first deadline is late, and may be gone.
                self._due_at = min(self._due_at, time.monotonic() + left + SOON)
                self.fresh_until = min(self.fresh_until, self._due_at)
            if call.process and call.process == self._process:
                if self._deadline:
                    # By the server's clock and by the local one: the reply that reported the lapse may have been lost.
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
                # The layer has been collected.
                continue
            except Exception:
                logger.exception("What follows from the leases of processes could not be done")


class _UnderWay(NamedTuple):
    """A call of one event loop, and when (monotonic) it was requested."""

    future: asyncio.Future[LeaseReading]
    asked_at: float


def _tick(leases: weakref.ref[Leases], loop: asyncio.AbstractEventLoop) -> None:
    found = leases()
    if found is not None:
        found.tick(loop)


class _LeaseCall(ScriptCall):
    """A call of one of the scripts, with a future of its result."""

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
    """One renewal, or one reading of other processes' leases."""

    __slots__ = ("_leases", "_writes", "known", "process", "written_at")

    def __init__(self, way: Any, leases: Leases, future: asyncio.Future[LeaseReading]) -> None:
        super().__init__(scripts.RENEW, way, future)
        self._leases = leases
        #: How often it was written, except for writes that the server declined to carry out.
        self._writes = 0
        #: The process and the reading for which it was last written, and when (monotonic) that was.
        self.process = ""
        self.known = NOTHING_READ
        self.written_at = 0.0

    @property
    def is_repeated(self) -> bool:
        """Whether it may have been carried out more than once: it was written again for lack of an answer."""
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
    """Gives a lease back."""

    __slots__ = ("_arguments",)

    def __init__(self, way: Any, key: bytes, process: str, deadline: bytes, future: asyncio.Future[Any]) -> None:
        super().__init__(scripts.GIVE_BACK, way, future)
        self._arguments: list[Any] = [1, key, process, deadline]

    def arguments(self, server: ServerIdentity) -> list[Any]:
        return self._arguments
