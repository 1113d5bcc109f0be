"""
The state of a Pub/Sub layer in one event loop: connections by shard, the channels and groups that live here, and who
gets a published message.

A channel belongs to the loop in which it was created or first received on, until its receiver has left and the grace
time is over. Knows Redis channels only as the names of channels and groups, and messages only to deliver them. Names
and shards come from ``pubsub``; the sockets belong to the ``subscriber`` and the command connection; ``recovery``
handles what groups with a history miss.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..cluster.cluster import Cluster
from ..cluster.seeds import Seeds
from ..connection.commands import CommandConnection
from ..connection.dialer import Dialer
from ..connection.script import Script
from ..drain import Drain
from ..history import Asked, Histories, History, Stream
from ..history import scripts as history_scripts
from ..hot import Waiter, Waker, decode
from ..loops import Closable
from ..messages.codec import Delivery, Message, PayloadCodec
from ..messages.exclusion import EXCLUDED, take_excluded
from ..messages.mailbox import Mailboxes, MailboxLimits, is_collected, take_abandoned
from ..messages.memory_limit import PROCESS
from ..presence import FIELD, Leases, Presences, SeenEvents
from ..process import Process, current_number
from ..stalls import StallDetector
from ..stats import Stats
from ..subscriptions.cluster_subscriber import ClusterSubscriber
from ..subscriptions.dialect import Dialect
from ..subscriptions.subscriber import Subscriber
from .outages import Outages
from .proposed_calls import ProposingRecorder
from .publisher import ClusterPublisher, Publisher
from .recorded_calls import FillingRecorder, Recorder
from .recovery import Recovery

logger = logging.getLogger("channels_redis_fast")


class PubSubLoop:
    """The Pub/Sub layer in one event loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        shards: Sequence[Dialer] | Seeds,
        codec: PayloadCodec,
        limits: MailboxLimits,
        shard_of: Callable[[str], int],
        on_disconnect: str | None,
        on_reconnect: str | None,
        grace: float,
        dialect: Dialect,
        histories: Histories | None,
        is_specific: Callable[[str], bool],
        leases: Leases | None = None,
        presences: Presences | None = None,
    ) -> None:
        self.loop = loop
        self.process = Process()
        self.boxes = Mailboxes(limits)
        #: The groups of each channel that lives here, and the channels of each group. Groups are identified by Redis
        #: channel.
        self.channels: dict[str, set[str]] = {}
        self.groups: dict[str, dict[str, None]] = {}
        self._leases = leases
        self._presences = presences
        #: The presence events that were received here; None without presence.
        self._seen = None if presences is None else SeenEvents()
        self._limits = limits
        self._stats: Stats = limits.stats
        self._codec = codec
        #: Whether the compiled function alone decodes a payload, and the message needs no inspection.
        self._is_plain = codec.is_plain and presences is None
        self._shard_of = shard_of
        self._grace = grace
        #: Channels whose receiver has left, with the timer that drops each of them.
        self.leaving: dict[str, asyncio.TimerHandle] = {}
        #: Receives that the garbage collector has ended; see ``left_later``.
        self.abandoned: deque[tuple[str, Waiter[Message]]] = deque()
        self._sweep: asyncio.TimerHandle | None = None
        self._is_specific = is_specific
        #: Set when this process is being drained: who was told, the general channels that lived here at that time, and
        #: the futures that later receivers on general channels wait for.
        self._drain: Drain | None = None
        self._stopped: set[str] = set()
        self._never: set[asyncio.Future[None]] = set()
        self._outages = Outages(self.channels, self.groups, self._notify, on_disconnect, on_reconnect)
        self.waker = Waker(loop)
        self._stalls = StallDetector(loop, limits.stats)
        stats = self._stats
        #: For groups with a history: records their messages, and reads those that were missed.
        recording = FillingRecorder if codec.is_plain else ProposingRecorder
        self.recorder: Recorder = recording(dialect, self.waker, stats)
        self.recovery: Recovery | None = None
        subscribed: Callable[[bytes], None] | None = None
        scripts: Sequence[Script] = ()
        if histories is not None:
            self.recovery = Recovery(loop, histories, self, self._outages, limits)
            subscribed = self._subscribed
            scripts = (self.recorder.script, history_scripts.READ_ONLY)
        if presences is not None:
            scripts = (*scripts, presences.script)
        #: By shard: the command connection, the publisher that batches messages, and the subscriptions. A cluster is
        #: one shard.
        self.commands: list[CommandConnection | Cluster]
        self.publishers: list[Publisher | ClusterPublisher]
        self._subscribers: list[Subscriber | ClusterSubscriber]
        if isinstance(shards, Seeds):
            cluster = Cluster(shards, loop, stats, scripts)
            self.commands = [cluster]
            self.publishers = [ClusterPublisher(cluster, self.waker)]
            self._subscribers = [ClusterSubscriber(cluster, self._message, self._lost, self._back, subscribed)]
        else:
            connections = [CommandConnection(dialer, loop, stats, scripts) for dialer in shards]
            self.commands = [*connections]
            self.publishers = [Publisher(connection, self.waker, dialect) for connection in connections]
            self._subscribers = [
                Subscriber(dialer, loop, stats, self._message, *self._reporters(shard), dialect, subscribed)
                for shard, dialer in enumerate(shards)
            ]

    # Channels.

    def open(self, channel: str) -> asyncio.Future[None] | None:
        """
        Make a channel belong to this loop. Returns None if its subscription is acknowledged, else a future of that.

        If awaiting the future raises, call ``not_opened``.
        """
        # Do this first: a name that cannot be encoded in UTF-8 must not be stored.
        name = channel.encode()
        self.check_process()
        if self._drain is not None and not self._is_specific(channel):
            never: asyncio.Future[None] = self.loop.create_future()
            # Nothing else holds a reference to the future, and through it to the waiting task.
            self._never.add(never)
            never.add_done_callback(self._never.discard)
            return never
        self.channels[channel] = set()
        if self._drain is not None:
            self._tell([channel])
        return self._subscribers[self._shard_of(channel)].subscribe(name)

    def check_process(self) -> None:
        """Raise ``redis.exceptions.ConnectionError`` in a forked process that still uses its parent's event loop."""
        if self.process.number != current_number[0]:
            inherited = self.commands[0].inherited()
            if inherited is not None:
                raise inherited

    def not_opened(self, channel: str, error: BaseException) -> None:
        """Called when a subscription has failed, or its caller was cancelled."""
        if isinstance(error, Exception):
            self._drop(channel)
            self.boxes.fail_waiters(error, channel)
        elif is_collected(error):
            # The loop may be closed.
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self._leave, channel)
        else:
            self._leave(channel)

    def stay(self, channel: str) -> None:
        """Called when a receiver waits on a channel (again)."""
        timer = self.leaving.pop(channel, None)
        if timer is not None:
            timer.cancel()

    def ended(self, channel: str, waiter: Waiter[Message], error: BaseException) -> None:
        """Called when a receive has raised ``error`` instead of returning a message."""
        if is_collected(error):
            self.left_later(channel, waiter)
        else:
            self.left(channel, waiter)

    def left(self, channel: str, waiter: Waiter[Message]) -> None:
        """Called when a receiver has left. Its message is kept, and its channel too, for the grace time."""
        self.boxes.abandon(channel, waiter)
        self._leave(channel)

    def left_later(self, channel: str, waiter: Waiter[Message]) -> None:
        """
        ``left``, for a receive that the garbage collector ends: at any point in the code, in any thread.

        It is processed before anything else happens to a mailbox, or in the next iteration of this loop.
        """
        self.abandoned.append((channel, waiter))
        try:
            self.loop.call_soon_threadsafe(self.clear_abandoned)
        except RuntimeError:
            logger.debug("The event loop of channel %r was closed before its receiver", channel)

    def clear_abandoned(self) -> None:
        """Process the receives that ``left_later`` has recorded."""
        for channel, waiter in take_abandoned(self.abandoned):
            self.left(channel, waiter)

    def gone(self, channel: str) -> None:
        """Called when nobody reads a channel any more, regardless of how the last receive ended."""
        if channel not in self.leaving:
            self._leave(channel)

    # Draining the process.

    def start_drain(self, drain: Drain) -> None:
        """Receive nothing new on general channels, and notify the specific ones. May be called again."""
        is_new, self._drain = self._drain is None, drain
        # The layer has been collected; this object will be soon.
        with contextlib.suppress(ReferenceError):
            if is_new:
                for channel in [channel for channel in self.channels if not self._is_specific(channel)]:
                    self._stop(channel)
            self._tell([channel for channel in self.channels if channel not in self._stopped])

    def is_received_on(self, drain: Drain | None) -> bool:
        """
        Return whether somebody waits on a specific channel or, with ``drain``, handles its last message. Thread-safe.
        """
        if self._drain is None and self.channels:
            # The drain has not reached this loop yet.
            return True
        if drain is None:
            return any(channel not in self._stopped for channel in list(self.boxes.waiting))
        return any(channel not in self.leaving and channel not in self._stopped for channel in list(self.channels))

    def _stop(self, channel: str) -> None:
        """
        Unsubscribe a general channel. Its remaining messages are still received, and waiting receives keep waiting.
        """
        self._stopped.add(channel)
        for group in list(self.channels[channel]):
            self.leave_group(group, channel)
        self._subscribers[self._shard_of(channel)].unsubscribe(channel.encode())

    def _tell(self, channels: list[str]) -> None:
        assert self._drain is not None
        notices = self._drain.arrived(channels)
        if notices:
            self.boxes.deliver(notices, self.waker)

    # Groups, by their Redis channel.

    async def join(self, group: str, channel: str, stream: Stream | None = None) -> None:
        """
        Add a channel to a group. Returns when the group's subscription is acknowledged.

        ``stream``: the group's history, if it has one.

        Raises ``LookupError`` if the channel does not belong to this loop (any more).
        """
        if channel not in self.channels:
            raise LookupError(channel)
        name = group.encode()
        self.check_process()
        members = self.groups.setdefault(group, {})
        is_new = channel not in members
        members[channel] = None
        self.channels[channel].add(group)
        started = None if stream is None or self.recovery is None else self.recovery.follow(group, stream)
        if started is not None:
            # Shared with other callers: when it is done, the group is subscribed, whoever is still waiting.
            await asyncio.shield(started)
            if channel not in self.groups.get(group, ()):
                return
        acknowledged = self._subscribers[self._shard_of(group)].subscribe(name)
        if acknowledged is None:
            return
        try:
            await acknowledged
        except Exception:
            if is_new:
                self.leave_group(group, channel)
            raise

    async def resume(self, group: str, channel: str, stream: Stream, asked: Asked) -> History:
        """
        Add a channel to a group. Returns what the group was sent since a position; the channel receives what follows.

        Raises ``LookupError`` like ``join``.
        """
        assert self.recovery is not None
        with self.recovery.holding(group, channel) as hold:
            await self.join(group, channel, stream)
            history = await self.recovery.read(group, stream, asked)
            hold.was_read("" if asked.since is None else str(asked.since), history)
            return history

    def leave_group(self, group: str, channel: str) -> None:
        """Remove a channel from a group. The group's subscription ends with its last member here."""
        members = self.groups.get(group)
        if members is None or channel not in members:
            return
        del members[channel]
        if self.recovery is not None:
            self.recovery.left(group, channel)
        if not members:
            del self.groups[group]
            if self.recovery is not None:
                self.recovery.forget(group)
            self._outages.ended(group)
            self._subscribers[self._shard_of(group)].unsubscribe(group.encode())
        if channel in self.channels:
            self.channels[channel].discard(group)
            self._outages.left(channel)

    def connections(self) -> list[Closable]:
        """Return all connections, including those without a socket."""
        return [*self.commands, *self._subscribers]

    # Used by the recovery.

    def ways_to(self, group: str) -> tuple[Any, Subscriber | ClusterSubscriber]:
        """Return the ways to the server of a group: for commands, and for its subscription."""
        shard = self._shard_of(group)
        return self.commands[shard].at(group.encode()), self._subscribers[shard]

    def decode(self, name: str, payload: bytes) -> Message | None:
        """
        Return the message of a payload; None for an event that has already been received.

        A payload that cannot be decoded is counted and logged, and None is returned.
        """
        try:
            _, message = self._codec.decode(payload)
        except Exception as error:
            self._stats.undecodable += 1
            logger.error("Skipped an undecodable message on %r: %s: %s", name, type(error).__name__, error)
            return None
        if self._seen is not None and isinstance(message, dict) and FIELD in message:
            return message if self._seen.is_new(name, message) else None
        return message

    def deliver(self, target: str | list[str], message: Message, sent_at: float = 0.0) -> None:
        """Deliver a message to one or several channels. ``sent_at``: as in ``Mailboxes.deliver``."""
        deliveries: list[Delivery] = [(target, message)]
        self._stats.deliveries += self.boxes.deliver(deliveries, self.waker, sent_at)
        if self.boxes.stored:
            self._plan_sweep()

    # Clearing and closing.

    def clear(self) -> None:
        """Forget all groups and messages, and the channels that no receive or subscription waits for."""
        for group, members in list(self.groups.items()):
            for channel in list(members):
                self.leave_group(group, channel)
        with self._limits.lock:
            self.boxes.clear()
        for channel in list(self.channels):
            if not self._is_needed(channel):
                self._drop(channel)

    async def disconnect(self) -> None:
        """Close the sockets, and subscribe the names that live here on new ones."""
        try:
            await self._close()
        finally:
            # Even if all tasks of the loop are cancelled: the channels that live here keep waiting.
            for connection in self.commands:
                connection.resume()
            for subscriber in self._subscribers:
                subscriber.reopen()
        await asyncio.gather(*(subscriber.resume() for subscriber in self._subscribers))

    async def retire(self) -> None:
        """Close permanently, because the event loop is closing."""
        self._stalls.close()
        self.boxes.drop_waiters(self.loop)
        if self.recovery is not None:
            self.recovery.close()
        for timer in self.leaving.values():
            timer.cancel()
        if self._sweep is not None:
            self._sweep.cancel()
        if self._presences is not None:
            self._presences.leave(self.loop)
        if self._leases is not None:
            await self._leases.leave(self.loop)
        await self._close()
        for connection in self.commands:
            connection.give_up()
        # A request that was submitted while the others closed may have begun to open a socket.
        await self._close_commands()

    async def _close(self) -> None:
        await asyncio.gather(*(subscriber.stop() for subscriber in self._subscribers), self._close_commands())

    async def _close_commands(self) -> None:
        await asyncio.gather(*(connection.aclose() for connection in self.commands))

    # Internals.

    def _leave(self, channel: str) -> None:
        if channel in self.channels and channel not in self.boxes.waiting:
            self.stay(channel)
            self.leaving[channel] = self.loop.call_later(self._grace, self._grace_is_over, channel)

    def _grace_is_over(self, channel: str) -> None:
        self.leaving.pop(channel, None)
        # The layer has been collected; this object will be soon.
        with contextlib.suppress(ReferenceError):
            if not self._is_needed(channel):
                self._drop(channel)

    def _is_needed(self, channel: str) -> bool:
        """Whether a receive waits on a channel, or for its subscription."""
        subscriber = self._subscribers[self._shard_of(channel)]
        return channel in self.boxes.waiting or subscriber.is_awaited(channel.encode())

    def _drop(self, channel: str) -> None:
        self.stay(channel)
        for group in list(self.channels.get(channel, ())):
            self.leave_group(group, channel)
        if self.channels.pop(channel, None) is not None:
            self._outages.ended(channel)
            self._subscribers[self._shard_of(channel)].unsubscribe(channel.encode())
        with self._limits.lock:
            self.boxes.forget(channel)

    def _message(self, name: bytes, payload: bytes) -> None:
        if self.abandoned:
            self.clear_abandoned()
        target = name.decode()
        members: list[str] | None = None
        if target in self.channels:
            if self._is_plain and self._hand_in(target, payload):
                return
        else:
            members = list(self.groups.get(target, ()))
            if not members or (self.recovery is not None and self.recovery.takes(target, payload)):
                return
        message = self.decode(target, payload)
        if message is None:
            return
        if members is None:
            self.deliver(target, message)
            return
        if isinstance(message, dict) and EXCLUDED in message:
            excluded = take_excluded(message)
            members = [channel for channel in members if channel not in excluded]
        if members:
            self.deliver(members, message)

    def _hand_in(self, channel: str, payload: bytes) -> bool:
        """For the usual payloads, do what ``decode`` and ``deliver`` do. Return whether this was one of them."""
        limits = self._limits
        try:
            address, message = decode(payload, 0)
            if address is not None:
                return False
            # The latency is not measured: the payload does not say when it was sent.
            grown = self.boxes.hand_in(channel, message, self.waker, limits.capacity_of, limits.expiry, False)
        except Exception:
            return False
        if grown < 0:
            return False
        self._stats.deliveries += 1
        if grown:
            PROCESS.grew(grown)
            self._plan_sweep()
        return True

    def _plan_sweep(self) -> None:
        if self._sweep is None and self._limits.expiry < math.inf:
            self._sweep = self.loop.call_later(self._limits.expiry, self._run_sweep)

    def _run_sweep(self) -> None:
        with self._limits.lock:
            delay = self.boxes.drop_expired()
        self._sweep = None if delay is None else self.loop.call_later(delay, self._run_sweep)

    def _reporters(
        self, shard: int
    ) -> tuple[Callable[[], None], Callable[[Sequence[bytes]], None], Callable[[Sequence[bytes]], None]]:
        return (
            lambda: self._outages.lost([shard]),
            lambda refused: self._outages.back([shard], [name.decode() for name in refused]),
            self._back,
        )

    def _lost(self, names: Iterable[bytes]) -> None:
        self._outages.lost([name.decode() for name in names])

    def _back(self, names: Iterable[bytes]) -> None:
        self._outages.back([name.decode() for name in names])

    def _subscribed(self, name: bytes) -> None:
        if self.recovery is not None:
            self.recovery.acknowledged(name.decode())

    def _notify(self, channels: Iterable[str], kind: str, is_complete: bool = True) -> None:
        self.clear_abandoned()
        more = {} if is_complete else {"complete": False}
        self.boxes.deliver([(channel, {"type": kind, **more}) for channel in channels], self.waker)
