"""
Receiving on sorted sets, in one event loop: which keys are waited for, and what happens to the messages that arrive.

Specific channels have mailboxes (``mailbox.py``) that belong to the layer. If there are several loops, each Redis key
is read by one of them. General channels are for any worker (``general.py``). Knows keys and channels. The sockets
belong to the pumps.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from typing import Any

from ..cluster.cluster import Cluster
from ..cluster.slot_queue import SlotQueue
from ..connection.commands import CommandConnection
from ..hot import Waker
from ..messages.codec import Codec
from ..messages.mailbox import Inbox, InboxRegistry, MailboxFeeder
from ..presence import FIELD, SeenEvents
from ..process import Process, current_number
from ..stats import Stats
from .cluster_pump import ClusterPump
from .general import GeneralChannel, Popped
from .pump import Pump, Target

logger = logging.getLogger("channels_redis_fast")

#: Seconds between checks whether the loop that reads a key for this one still runs, and how many checks in a row must
#: find it stalled before it loses the key. One is not enough: this process may have been suspended.
OWNER_CHECK, OWNER_CHECKS = 0.25, 2

#: Maximum lifetime in seconds of the token in Redis that ends another loop's wait.
TOKEN_EXPIRY = 60


class Receiver:
    """Everything that one event loop receives."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        commands: Sequence[CommandConnection | Cluster],
        waker: Waker,
        registry: InboxRegistry,
        codec: Codec,
        prefix: bytes,
        expiry: int,
        block_time: float,
        seen: SeenEvents | None = None,
    ) -> None:
        self.loop = loop
        self.commands = commands
        self.waker = waker
        self.prefix = prefix
        self.block_time = block_time
        self.retired = False
        #: Whether this process has stopped receiving on general channels, because it is about to end.
        self.is_stopped = False
        self._process = Process()
        #: How often this loop has handled a request to serve a key.
        self.served = 0
        #: For each other loop that reads keys for this one: its ``served`` at the last check, and the checks since that
        #: changed.
        self._owners: dict[MailboxFeeder, tuple[int, int]] = {}
        #: Keys on their way from another loop, which is stalled, to this one.
        self._taking: set[Inbox] = set()
        #: The keys that this loop reads, by non-local channel name.
        self.inboxes: dict[str, Inbox] = {}
        self.stats: Stats = registry.stats
        self.expiry = expiry
        self._inboxes = registry
        self._codec = codec
        #: Whether members of equal messages differ.
        self.distinguishes_equal_messages = codec.ordered
        #: The presence events that were received; None without presence.
        self._seen = seen
        self._generals: dict[bytes, GeneralChannel] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._guard: asyncio.TimerHandle | None = None
        self.pumps: list[Pump | ClusterPump] = [
            ClusterPump(shard, self) if isinstance(shard, Cluster) else Pump(shard, index, self)
            for index, shard in enumerate(commands)
        ]
        registry.receivers[loop] = self

    # Specific channels.

    def serve(self, inbox: Inbox) -> None:
        """Have the messages of a key read, by this loop or by the one that already reads the key."""
        inbox.claimed = True
        self.served += 1
        if self._process.number != current_number[0]:
            inherited = self.commands[0].inherited()
            if inherited is not None:
                inbox.fail_waiters(inherited)
            return
        if inbox.receiver is not self and not self._adopt(inbox):
            for pump in self.pumps:
                if inbox.key in pump.awaited:
                    # This loop owned the key when that wait began.
                    pump.kick()
            return
        for pump in self.pumps:
            if not pump.scheduled and inbox.key not in pump.awaited:
                pump.kick()

    def deliver(self, inbox: Inbox, members: list[bytes], sent_at: float = 0.0) -> None:
        """
        Decode members of a specific key and hand them to their channels.

        A member that cannot be decoded, or that was delivered before, is skipped. ``sent_at``: as in ``Inbox.deliver``.
        """
        if self._inboxes.abandoned:
            self._inboxes.clear_abandoned()
        deliveries, errors = self._codec.decode_all(inbox.delivered.new(members))
        if self._seen is not None:
            deliveries = self._seen.new(inbox.name, deliveries)
        self.stats.deliveries += inbox.deliver(deliveries, self.waker, sent_at)
        for error in errors:
            self._undecodable(inbox.key, error)
        if inbox.stored and self._sweep is None:
            self._sweep = self.loop.call_later(self._inboxes.expiry, self._run_sweep)

    # General channels.

    def general(self, key: bytes) -> GeneralChannel:
        """
        Return the general channel that has this key.

        Raises ``redis.exceptions.ConnectionError`` in a forked process that continues its parent's event loop.
        """
        inherited = self.commands[0].inherited()
        if inherited is not None:
            raise inherited
        general = self._generals.get(key)
        if general is None:
            general = self._generals[key] = GeneralChannel(self, key)
            if self.is_stopped:
                general.stop()
        return general

    def stop_generals(self) -> None:
        """Take no more messages from general channels. Those that were popped but not yet received are put back."""
        self.is_stopped = True
        for general in list(self._generals.values()):
            if not general.is_stopped:
                general.stop()

    def is_returning(self) -> bool:
        """Return whether a general channel's message is being put back, or may still be popped. Thread-safe."""
        return any(not general.is_at_rest() for general in list(self._generals.values()))

    def deliver_general(self, general: GeneralChannel, pump: Pump | ClusterPump, member: bytes, score: bytes) -> None:
        """Give a popped member to the first waiter of its channel, or put it back."""
        try:
            _, message = self._codec.decode(member)
        except Exception as error:
            self._undecodable(general.key, error)
            general.found()
        else:
            if self._seen is not None:
                # A process that receives it cannot know what the others have received.
                message.pop(FIELD, None)
            self.stats.deliveries += 1
            if general.waiting:
                sent_at = pump.sent_at(general.key, score)
                if sent_at:
                    self.stats.lag.since(sent_at)
            general.give((message, pump, member, score))

    def put_back(self, key: bytes, popped: Popped) -> asyncio.Future[list[Any]]:
        """Return a popped message to its place in Redis, even over capacity: it was there before."""
        _, pump, member, score = popped
        self.stats.put_back += 1
        connection: CommandConnection | SlotQueue = self.commands[pump.shard].at(key)
        returned = connection.call((b"ZADD", key, score, member), (b"EXPIRE", key, self.expiry), repeatable=True)
        connection.announce(key)
        return returned

    # Called by the pumps.

    def wanted(self, pump: Pump | ClusterPump) -> list[Target]:
        """
        Return the targets that a pump should wait for.

        A specific key is wanted while a receiver waits on it, and stays wanted until a message arrives for which nobody
        waits (or the expiry has passed). That way a receiver that comes back finds its message already here.
        """
        if self._inboxes.abandoned:
            self._inboxes.clear_abandoned()
        wanted: list[Target] = []
        now = time.monotonic()
        forgotten: list[Inbox] = []
        for inbox in self.inboxes.values():
            if inbox.receiver is not self:
                forgotten.append(inbox)
                continue
            if inbox.waiting or inbox.claimed:
                inbox.claimed = False
                inbox.seen = now
            if inbox.stored:
                if inbox.is_awaited():
                    wanted.append(inbox)
            elif inbox.waiting or now - inbox.seen <= self.expiry:
                wanted.append(inbox)
            elif not inbox.removals:
                forgotten.append(inbox)
        for inbox in forgotten:
            self._forget(inbox)
        for general in list(self._generals.values()):
            if general.waiting:
                if general.blocking and not general.returning:
                    wanted.append(general)
            elif general.is_idle():
                del self._generals[general.key]
        return wanted

    def unreachable(self, pump: Pump | ClusterPump, error: Exception) -> bool:
        """
        Called when a shard that was never reached cannot be reached. Return whether to keep trying.

        Receivers wait as long as another shard is connected or still connecting. If there is none, they raise
        ``error``.
        """
        if any(other.link is not None or other.is_opening for other in self.pumps if other is not pump):
            return True
        for inbox in self.inboxes.values():
            inbox.fail_waiters(error)
        for general in self._generals.values():
            general.fail_waiters(error)
        return False

    # Coming and going.

    async def disconnect(self) -> None:
        """Close the sockets of the pumps without losing messages. Receives that still wait get new sockets."""
        for inbox in self.inboxes.values():
            inbox.disarm()
        try:
            await asyncio.gather(*(pump.stop() for pump in self.pumps))
        finally:
            for pump in self.pumps:
                if not self.retired and self.wanted(pump):
                    pump.kick()

    def resume(self) -> None:
        """Called when the command sockets were closed: as long as anything is received, groups need them."""
        if not self.retired and any(self.wanted(pump) for pump in self.pumps):
            for connection in self.commands:
                connection.keep_open()

    async def retire(self) -> None:
        """Stop permanently, because the event loop closes. Its keys pass to another loop that waits for them."""
        self.retired = True
        # The receives that still wait will never run again: a message given to one of them would be lost.
        for inbox in list(self._inboxes.inboxes.values()):
            inbox.drop_waiters(self.loop)
        for general in self._generals.values():
            general.waiting.clear()
        await self.disconnect()
        self._inboxes.receivers.pop(self.loop, None)
        for timer in (self._sweep, self._guard):
            if timer is not None:
                timer.cancel()
        for inbox in list(self.inboxes.values()):
            if inbox.receiver is self:
                inbox.receiver = None
                self._hand_on(inbox)

    def _adopt(self, inbox: Inbox) -> bool:
        """Take over a key if no loop reads it. Return whether this loop reads it now."""
        with self._inboxes.lock:
            owner = inbox.receiver
            if owner is None or owner is self or owner.loop.is_closed():
                if owner is not self:
                    self._own(inbox)
                return True
            if self._guard is None:
                self._guard = self.loop.call_later(OWNER_CHECK, self._check_owners)
            _, silent = self._owners.setdefault(owner, (owner.served, 0))
            if owner.loop.is_running() and silent < OWNER_CHECKS:
                # A retiring loop must still end its wait in Redis. What that wait pops precedes what another one would
                # pop, so the loop hands the key on when it is done.
                if not owner.retired:
                    with contextlib.suppress(RuntimeError):
                        owner.loop.call_soon_threadsafe(owner.serve, inbox)
                return False
        self._take_from(owner, inbox)
        return False

    def _own(self, inbox: Inbox) -> None:
        inbox.receiver = self
        inbox.epoch += 1
        self.inboxes[inbox.name] = inbox

    def _check_owners(self) -> None:
        # A loop that is stopped or blocked cannot report that, and nobody would read its keys in the meantime.
        self._guard = None
        waited_for = [
            inbox for inbox in list(self._inboxes.inboxes.values()) if inbox.receiver is not self and inbox.waiting
        ]
        before, self._owners = self._owners, {}
        for owner in {inbox.receiver for inbox in waited_for}:
            if owner is not None and owner in before:
                served, silent = before[owner]
                self._owners[owner] = (served, silent + 1) if owner.served == served else (owner.served, 0)
        for inbox in waited_for:
            self.serve(inbox)

    def _take_from(self, owner: MailboxFeeder, inbox: Inbox) -> None:
        """
        Take a key from a stalled loop, once that loop's wait for it has ended.

        The token that ends the wait is popped instead of a message, which would stay unread on that loop's connection.
        A message that is already on that connection is delivered when the loop runs again.
        """
        if inbox in self._taking:
            return
        loop, serve = owner.loop, owner.serve

        def ended(future: asyncio.Future[Any]) -> None:
            self._taking.discard(inbox)
            if self.retired or any(isinstance(reply, BaseException) for reply in future.result()):
                # The guard timer will retry.
                return
            with self._inboxes.lock:
                if inbox.receiver is not owner:
                    return
                self._own(inbox)
            if self.distinguishes_equal_messages:
                # Their removal may not have reached Redis yet.
                inbox.delivered.doubt(self.expiry)
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(serve, inbox)
            self.serve(inbox)

        self._taking.add(inbox)
        tokens = [
            self.commands[shard].at(key).call((b"ZADD", key, 1, b"1"), (b"EXPIRE", key, TOKEN_EXPIRY), repeatable=True)
            for shard, key in owner.waits_for(inbox)
        ]
        asyncio.gather(*tokens, self._nothing(), return_exceptions=True).add_done_callback(ended)

    def _nothing(self) -> asyncio.Future[None]:
        done: asyncio.Future[None] = self.loop.create_future()
        done.set_result(None)
        return done

    def waits_for(self, inbox: Inbox) -> list[tuple[int, bytes]]:
        """
        Return ``(shard, private key)`` pairs for the private keys that end the waits in Redis for a key. Thread-safe.
        """
        return [
            (pump.shard, pump.wake_key) for pump in self.pumps if isinstance(pump, Pump) and inbox.key in pump.awaited
        ]

    def _hand_on(self, inbox: Inbox) -> None:
        loop = inbox.waiting_loop()
        heir = None if loop is None else self._inboxes.receivers.get(loop)
        if loop is not None and heir is not None:
            try:
                loop.call_soon_threadsafe(heir.serve, inbox)
            except RuntimeError:
                logger.debug("The event loop that was to receive on %r is closed", inbox.name)

    def _forget(self, inbox: Inbox) -> None:
        """Release a key that nobody has received on for a long time, and its inbox."""
        with self._inboxes.lock:
            if inbox.receiver is self and (inbox.waiting or inbox.claimed):
                # A receiver in another thread has come in the meantime, and relies on this loop.
                return
            self.inboxes.pop(inbox.name, None)
            if inbox.receiver is self:
                inbox.receiver = None
                self._inboxes.inboxes.pop(inbox.name, None)

    def _run_sweep(self) -> None:
        delay = self._inboxes.sweep()
        self._sweep = None if delay is None else self.loop.call_later(delay, self._run_sweep)
        for pump in self.pumps:
            pump.kick()

    def _undecodable(self, key: bytes, error: Exception) -> None:
        self.stats.undecodable += 1
        logger.error("Skipped an undecodable message on key %r: %s: %s", key.decode(), type(error).__name__, error)
