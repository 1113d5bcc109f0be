"""
The core layer: the semantics of send, receive, groups and flush on sorted sets. A thin module: it opens no sockets and
lays out no bytes.

The path of a message: ``send`` checks the names, lets the codec make a member, picks the key, shard and capacity, and
passes everything to the shard's ``sender``. The sender's batch leaves with the tick's single write (``commands``). In
the receiving process, the ``pump`` reads the member, and the ``receiver`` decodes it and puts it into the channel's
mailbox, where ``receive`` waits.

Rules and names follow ``channels_redis.core`` 4.3 and the Channels layer specification
(https://channels.readthedocs.io/en/stable/channel_layer_spec.html).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import time
from asyncio import get_running_loop
from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import Any

from channels.exceptions import ChannelFull

from .. import options
from ..base import RedisLayer, overrides, weakly
from ..cluster.flush import unlink_all
from ..cluster.seeds import Seeds
from ..cluster.slot_queue import SlotQueue
from ..connection.commands import CommandConnection
from ..connection.dialer import open_client
from ..connection.futures import ignore
from ..drain import Drain
from ..history import Asked, History
from ..history.placement import without_position
from ..hot import Waker, key, shard, split
from ..loops import notice_fork
from ..messages.codec import CHANNEL_FIELD, Message
from ..messages.errors import say_where
from ..messages.exclusion import NOBODY
from ..messages.mailbox import InboxRegistry
from ..names import names_of, unique_name
from ..presence import Lapse, Leases
from ..presence.events import EventInputs
from ..presence.leases import leases_key
from ..sync.routing import routed
from ..upstream import explains_absent
from . import keys, scripts
from .dead_members import process_of
from .groups import Group, GroupSender
from .liveness import Liveness
from .loop import CoreLoop
from .memberships import Memberships
from .names import split_by
from .reader import Reader
from .receiver import Receiver
from .recorded_groups import RecordedGroupSender
from .restoration import GroupRestorer

__all__ = ["ChannelFull", "RedisChannelLayer"]


@explains_absent("core")
class RedisChannelLayer(RedisLayer):
    """
    A channel layer on Redis sorted sets, wire-compatible with ``channels_redis.core.RedisChannelLayer`` 4.3.

    ``hosts``: list of URIs, ``(host, port)`` pairs or dicts of redis-py keywords; several hosts are shards. ``prefix``:
    str that every key begins with. ``expiry``: lifetime of a message in seconds. ``group_expiry``: lifetime of a group
    membership in seconds. ``capacity``: number of messages that a channel's key can hold; ``channel_capacity``: dict of
    globs or compiled ``re`` patterns to capacities, the first match wins. ``symmetric_encryption_keys``: list of str or
    bytes. ``random_prefix_length``: length in bytes of the prefix that makes equal messages distinct.
    ``serializer_format``: a name in ``serializers.registry``. ``sync_hub``: whether calls of short-lived event loops go
    through the process' I/O thread: ``"auto"``, ``"always"`` or ``"never"``. ``sync_timeout``: seconds that a call of
    ``layer.sync`` may take; None means as long as the layer itself waits. ``restore_groups``: bool, whether the
    memberships of this process' channels are restored when a server comes back without them. ``history``: dict of globs
    or compiled ``re`` patterns of group names to ``{"size": messages, "ttl": seconds}``: how much of these groups is
    kept for clients that were away; the first match wins. ``lease``: duration in seconds of each process' lease, which
    tells live processes from dead ones; None disables leases. ``presence``: ``{"lease": seconds, "grace": seconds,
    "events": bool}``, each optional: users can be present in groups, and stay present for the grace time after their
    last channel has left; groups are notified. None disables presence. ``on_drain``: type of the message that each
    specific channel of this process receives when the layer is drained (see ``drain``).

    Raises ``TypeError`` or ``ValueError`` naming the wrong option.
    """

    #: Seconds that one blocking wait lasts in Redis before the next one begins.
    brpop_timeout = 5

    #: Returns the shards of general channels in rotation. Not set if there is only one shard, and the other one not
    #: without histories: CPython 3.11 keeps the attributes of a class' first instance outside of a dict, where each
    #: access is faster, if they are at most 29.
    _next_shard: Callable[[], int]
    _recorded_sender: RecordedGroupSender

    @options.explains_unknown
    def __init__(
        self,
        hosts: Iterable[Any] | None = None,
        prefix: str = "asgi",
        expiry: int = 60,
        group_expiry: int = 86400,
        capacity: int = 100,
        channel_capacity: Mapping[str | re.Pattern[str], int] | None = None,
        symmetric_encryption_keys: Iterable[str | bytes] | None = None,
        random_prefix_length: int = 12,
        serializer_format: str = "msgpack",
        *,
        sync_hub: str = "auto",
        sync_timeout: float | None = None,
        max_message_size: int | None = None,
        restore_groups: bool = True,
        history: Mapping[str | re.Pattern[str], Mapping[str, Any]] | None = None,
        lease: float | None = None,
        presence: Mapping[str, Any] | None = None,
        on_drain: str | None = None,
    ) -> None:
        self.max_message_size = options.size("max_message_size", max_message_size)
        self.restore_groups = options.flag("restore_groups", restore_groups)
        self.expiry = options.seconds("expiry", expiry)
        self.group_expiry = options.seconds("group_expiry", group_expiry)
        super().__init__(
            hosts,
            prefix,
            options.count("capacity", capacity),
            options.mapping("channel_capacity", channel_capacity),
            serializer_format,
            sync_hub,
            sync_timeout,
            history,
            lease,
            presence,
            on_drain,
            random_prefix_length=options.count("random_prefix_length", random_prefix_length),
            expiry=self.expiry,
            symmetric_encryption_keys=options.keys("symmetric_encryption_keys", symmetric_encryption_keys),
        )
        self.client_prefix = unique_name()
        liveness = None
        if self._leases is not None:
            if not self.restore_groups:
                raise ValueError(
                    "Option 'lease' needs 'restore_groups': a process that was paused for too long is removed from its "
                    "groups, and has to restore them when it resumes."
                )
            self._leases.on_lapse(weakly(self._lapsed))
            liveness = Liveness(self._leases, self.expiry)
        self._key_prefix = self.prefix.encode()
        self._kind, self._is_group, self._find = names_of(type(self))
        own_hash = self._replaced("consistent_hash") is not None
        self._group_sender = GroupSender(
            self._codec,
            split_by(self.consistent_hash) if own_hash else split,
            self._current_capacity,
            self._key_prefix,
            self.ring_size,
            self._stats,
            self.max_message_size,
            liveness,
        )
        if self._histories is not None:
            self._recorded_sender = RecordedGroupSender(
                self._group_sender,
                self._codec,
                self._current_capacity,
                self._stats,
                self.max_message_size,
                self.expiry,
            )
        if self.ring_size != 1 or self._shard_of is not shard:
            self._next_shard = itertools.cycle(range(self.ring_size)).__next__
        if self._presences is not None and not isinstance(self._dialers, Seeds):
            self._presences.deliver_in_script(scripts.CHANGE_AND_DELIVER, weakly(self._event_inputs))
        self._inboxes = self._make_inboxes()
        self._memberships = Memberships(self._inboxes, self.group_expiry)

    # Channels.

    async def send(self, channel: str, message: Message) -> None:
        """
        Send a message to a general or a specific channel.

        Raises ``ChannelFull`` when the channel's key is at capacity; ``TypeError`` with Channels' text for an
        invalid name; ``AssertionError`` for a message that is not a dict or holds ``__asgi_channel__``; the
        serializer's error for a value that it cannot pack; ``redis.exceptions.ConnectionError`` naming the host.
        """
        loop = get_running_loop()
        state = self._router.get(loop) or await self._router.find(loop)
        if state is None:
            await self._router.through_hub(_send(self, channel, message))
            return
        index, redis_key, member, capacity = self._addressed(channel, message)
        self._stats.sends += 1
        sent = state.senders[index].send(redis_key, member, capacity)
        await sent
        if not sent.take():
            self._stats.channel_full += 1
            raise ChannelFull(channel)

    async def send_many(self, messages: Iterable[tuple[str, Message]]) -> None:
        """
        Send ``(channel, message)`` pairs, in order and all at once: the messages for each shard leave in one batch, if
        it can hold them.

        Arguments that ``send`` would refuse without asking a server are refused before anything is sent. After that,
        each message is sent whether or not the others succeed. Raises the first error, in message order, that is not
        ``ChannelFull``; otherwise ``ChannelFull`` with the names of all channels that were full, each once.
        """
        # Consumed in the caller's loop, even if the call goes through the hub: an iterator is the caller's code.
        await self._send_many(list(messages))

    @routed
    async def _send_many(self, pairs: list[tuple[str, Message]]) -> None:
        senders = self._loops[get_running_loop()].senders
        addressed = [self._addressed(channel, message) for channel, message in pairs]
        self._stats.sends += len(pairs)
        sent = [senders[index].send(*arguments) for index, *arguments in addressed]
        error: Exception | None = None
        full: dict[str, None] = {}
        for (channel, _), waiter in zip(pairs, sent, strict=True):
            try:
                await waiter
                if not waiter.take():
                    self._stats.channel_full += 1
                    full[channel] = None
            except Exception as reason:
                error = error or reason
        if error is not None:
            raise error
        if full:
            raise ChannelFull(", ".join(full))

    async def receive(self, channel: str) -> Message:
        """
        Wait for the next message of a channel and return it. If several receivers wait, the first one gets it.

        Cancelling a receive loses nothing: a message that it was already given goes to the next receiver, or back to
        Redis.

        Raises ``TypeError`` for an invalid name, ``AssertionError`` for a specific channel of another process,
        ``redis.exceptions.ConnectionError`` if no host has ever been reachable; later outages are waited out.
        """
        state = self._loops[get_running_loop()]
        receiver: Receiver = state.receiver or state.open_receiver()
        if self._inboxes.abandoned:
            self._inboxes.clear_abandoned()
        inbox = self._find(receiver.inboxes, channel)
        if inbox is not None and inbox.receiver is receiver:
            # The usual case: a specific channel on a key that this loop already reads.
            coming = inbox.claim(channel, state.waker)
            if not inbox.claimed:
                receiver.serve(inbox)
        else:
            local = self._kind(channel)
            if local < 0:
                local = self._checked_kind(channel)
            if not local:
                return await self._receive_general(receiver, channel)
            inbox = self._inboxes.open(channel[:local], self._client_prefix)
            coming = inbox.claim(channel, state.waker)
            receiver.serve(inbox)
        if self._inboxes.drain is not None:
            self._inboxes.arrived(inbox, channel, state.waker)
        try:
            await coming
        except BaseException as error:
            self._inboxes.ended(inbox, channel, coming, error)
            self._memberships.left(channel)
            raise
        self._stats.receives += 1
        grouped = self._memberships.channels
        if grouped:
            member = grouped.get(channel)
            if member is not None and (member.is_gone or not member.received):
                member.took()
        return coming.take()

    def _reader(self, channel: str) -> Reader | None:
        """
        Return an object that replaces ``receive`` for a specific channel of this process; None for any other channel.
        """
        local = self._kind(channel)
        name = channel[:local] if local > 0 else ""
        if not name.endswith(self._client_prefix + "!"):
            return None
        return Reader(
            get_running_loop(),
            self._loops,
            self._inboxes,
            self._memberships,
            self._stats,
            channel,
            name,
            self._client_prefix,
            self._inboxes.readers,
        )

    async def _receive_general(self, receiver: Receiver, channel: str) -> Message:
        general = receiver.general(key(self._key_prefix, channel))
        popped = general.wait()
        try:
            await popped
            if general.is_stopped:
                popped = general.decline(popped)
                await popped
        except BaseException as error:
            general.ended(popped, error)
            raise
        general.took()
        self._stats.receives += 1
        message: Message = popped.take()[0]
        return message

    async def new_channel(self, prefix: str = "specific") -> str:
        """Return the name of a new specific channel that this process can receive on."""
        # A loop that makes a channel is going to receive on it, so it is long-lived.
        self._loops[get_running_loop()]
        if self._leases is not None:
            self._keep_lease()
        return f"{prefix}.{self.client_prefix}!{unique_name()}"

    # Groups.

    @routed
    async def group_add(self, group: str, channel: str) -> None:
        """
        Add a channel to a group for ``group_expiry`` seconds from now.

        Raises ``TypeError`` for invalid names, ``redis.exceptions.ConnectionError`` naming the host.
        """
        connection, group_key = self._group(group, channel)
        self._end_resumes(connection, group, group_key)
        added = connection.call(
            (b"ZADD", group_key, time.time(), channel), (b"EXPIRE", group_key, self.group_expiry), repeatable=True
        )
        self._record(group, group_key, channel)
        try:
            await added
        except Exception:
            self._memberships.discard(group_key, channel)
            raise

    @routed
    async def group_resume(self, group: str, channel: str, since: str | None) -> History:
        """
        Add a channel to a group as ``group_add`` does, and return what it has missed since a position.

        Each message to the group is either in the returned history or delivered to the channel; neither, if it excludes
        the channel. If ``since`` is None, the whole kept history is returned. ``History`` says what ``complete`` means.

        Raises ``RuntimeError`` for a group without a history, ``TypeError`` for a wrong argument,
        ``redis.exceptions.ConnectionError`` naming the host.
        """
        histories = self._require_histories()
        connection, group_key = self._group(group, channel)
        stream = histories.get(group, group_key)
        resumed = histories.ask(
            connection,
            stream,
            Asked.of(stream.digest, since, None, channel),
            scripts.GROUP_RESUME,
            (group_key,),
            (self.group_expiry,),
            (time.time(), channel),
        )
        self._record(group, group_key, channel)
        try:
            history = await resumed
        except Exception:
            self._memberships.discard(group_key, channel)
            raise
        return self._counted(history)

    @routed
    async def group_discard(self, group: str, channel: str) -> None:
        """
        Remove a channel from a group; nothing happens if it is not a member.

        Raises ``TypeError`` for invalid names, ``redis.exceptions.ConnectionError`` naming the host.
        """
        connection, group_key = self._group(group, channel)
        self._end_resumes(connection, group, group_key)
        self._memberships.discard(group_key, channel)
        removed = connection.call((b"ZREM", group_key, channel), repeatable=True)
        ended = self._end_presence(group, channel)
        if ended is None:
            await removed
        else:
            # Wait until both have been answered: an error of one must not leave the other's outcome unread.
            ended.add_done_callback(ignore)
            await removed
            await ended

    async def group_send(self, group: str, message: Message, *, exclude: Iterable[str] | None = None) -> None:
        """
        Send a message to all channels of a group. Keys at capacity are skipped, counted and logged.

        ``exclude``: names of channels that do not get the message, such as the sender's. They need not be in the group.

        Raises ``TypeError`` for an invalid name, or if ``exclude`` is not an iterable of names; ``AssertionError`` for
        a message that is not a dict or holds ``__asgi_channel__``; the serializer's error;
        ``redis.exceptions.ConnectionError`` naming the host.
        """
        self._check_group_message(group, message)
        excluded = NOBODY if exclude is None else self._excluded(group, message, exclude)
        loop = get_running_loop()
        state = self._router.get(loop) or await self._router.find(loop)
        if state is None:
            await self._router.through_hub(_group_send(self, group, message, exclude=excluded))
            return
        self._stats.group_sends += 1
        leases = self._leases
        if leases is not None and (state.judged_by is not leases.reading or monotonic() >= leases.fresh_until):
            self._judge(state, leases)
        limit = int(time.time()) - self.group_expiry
        target = Group(group, self._group_key(group), self._shard_of(group, self.ring_size), limit, excluded)
        if self._histories is not None:
            message = without_position(message)
            stream = self._histories.find(group, target.key)
            if stream is not None:
                await self._recorded_sender.send(state, target, stream, message)
                return
        await self._group_sender.send(state, target, message)

    # Inspection.

    @routed
    async def group_count(self, group: str) -> int:
        """
        Return how many channels ``group_send`` would send to now. With leases, only channels of live processes count.

        Raises ``TypeError`` for an invalid name, ``redis.exceptions.ConnectionError`` naming the host.
        """
        way, group_key = self._group(group)
        if self._leases is not None and await self._leases.overdue():
            return len(await self._living_members(way, group_key))
        return await keys.count_members(way, group_key, self.group_expiry)

    @routed
    async def group_channels(self, group: str) -> list[str]:
        """
        Return the names of the channels that ``group_count`` counts, the last added at the end. Raises the same errors.
        """
        return await self._living_members(*self._group(group))

    async def _living_members(self, way: CommandConnection | SlotQueue, group_key: bytes) -> list[str]:
        names = await keys.name_members(way, group_key, self.group_expiry)
        overdue = {} if self._leases is None else await self._leases.overdue()
        if not overdue:
            return names
        return [name for name in names if process_of(name[: name.find("!") + 1].encode()).decode() not in overdue]

    @routed
    async def channel_depth(self, channel: str) -> int:
        """
        Return how many messages wait in Redis on a channel's key, on all shards, not counting expired messages.

        All specific channels of a process share one key, so their depth is that of all of them together. Raises the
        same errors as ``group_count``.
        """
        self.require_valid_channel_name(channel)
        redis_key = self._key_prefix + self.non_local_name(channel).encode()
        shards = [commands.at(redis_key) for commands in self._loops[get_running_loop()].commands]
        return await keys.count_waiting(shards, redis_key, self.expiry)

    # Flush.

    @routed
    async def flush(self) -> None:
        """
        Delete all messages, groups and histories of this layer's prefix on all shards; empty mailboxes; close sockets.

        Raises ``redis.exceptions.ConnectionError`` naming the host, ``ResponseError`` if SCAN or UNLINK is refused.
        """
        self._memberships.clear()
        # Wake-up tokens on their way to receivers are spared: they are not data, and without its token a receiver would
        # not wake up. So are the marker that shows whether a server has lost its data, because a flush does not count
        # as a loss, and the leases of processes, which stay valid.
        spared = (self._key_prefix + b":wake:", self._key_prefix + b":epoch", leases_key(self._key_prefix))
        if self._presences is not None:
            self._presences.clear()
        for shard_commands in self._loops[get_running_loop()].commands:
            await unlink_all(shard_commands, self._key_prefix, lambda key: key.startswith(spared))
        self._inboxes.empty()
        await self.close_pools()

    def connection(self, index: int) -> Any:
        """
        Return a redis-py client (``redis.asyncio.Redis``) of one shard, for commands of your own.

        For a cluster, which is shard 0, it is a ``redis.asyncio.RedisCluster``. It has its own connections, separate
        from the layer's; it is closed with them and with the event loop.

        Raises ``ValueError`` for a shard that does not exist, ``RuntimeError`` outside an event loop.
        """
        if not 0 <= index < self.ring_size:
            raise ValueError(f"There is no shard {index}: this layer has {self.ring_size}.")
        clients = self._loops[get_running_loop()].clients
        if index not in clients:
            dialers = self._dialers
            clients[index] = dialers.client() if isinstance(dialers, Seeds) else open_client(self.create_pool(index))
        return clients[index]

    def _own_pools(self) -> Callable[[int], Any] | None:
        if not overrides(type(self), "connection"):
            return super()._own_pools()
        # A subclass may override ``connection`` to configure its hosts: use the pool of its client, which decides what
        # it connects to.
        return lambda index: self.connection(index).connection_pool

    async def close_pools(self) -> None:
        """Close all sockets of the layer. They are opened again when needed: immediately if a receive is waiting."""
        await self._loops.disconnect()

    def _map_channel_keys_to_connection(
        self, channel_names: Iterable[str], message: Message
    ) -> tuple[dict[int, list[str]], dict[str, bytes], dict[str, int]]:
        """
        Map a group message to keys, messages and capacities. Exists for code that calls this method of channels_redis.

        Return the keys by shard; for each key its message (bytes, addressed to all channels on it); for each key its
        capacity.
        """
        keys: dict[int, list[str]] = {}
        channels: dict[str, list[str]] = {}
        for channel in channel_names:
            name = self.non_local_name(channel) if "!" in channel else channel
            redis_key = self.prefix + name
            if redis_key not in channels:
                keys.setdefault(self._shard_of(name, self.ring_size), []).append(redis_key)
            channels.setdefault(redis_key, []).append(channel)
        messages = {
            redis_key: self.serialize({**message, CHANNEL_FIELD: names}) for redis_key, names in channels.items()
        }
        return keys, messages, {redis_key: self._capacity_of(names[0]) for redis_key, names in channels.items()}

    async def wait_received(self) -> None:
        """Do nothing: nothing is left to wait for after a receive. Exists because channels_redis has it."""

    @property
    def client_prefix(self) -> str:
        """The part before the ``!`` that the names of this process' specific channels have in common."""
        notice_fork()
        return self._client_prefix

    @client_prefix.setter
    def client_prefix(self, value: str) -> None:
        self._client_prefix = value
        if self._leases is not None:
            self._leases.process = value

    # Internals.

    def after_fork(self) -> None:
        """In a forked child: become a separate process, and leave the parent's sockets alone."""
        self._client_prefix = unique_name()
        self._inboxes = self._make_inboxes()
        self._memberships = Memberships(self._inboxes, self.group_expiry)
        super().after_fork()

    def _mailbox_limits(self) -> InboxRegistry:
        return self._inboxes

    def _process_name(self) -> str:
        return self._client_prefix

    def _named_for(self) -> float:
        # Members are purged ``group_expiry`` seconds after they were last added.
        return self.group_expiry + self.expiry

    def _judge(self, state: CoreLoop, leases: Leases) -> None:
        """
        Update which processes are dead, based on the last reading of the leases. Start a new reading if it is due.
        """
        liveness = self._group_sender.liveness
        if liveness is not None:
            reading = leases.reading
            dead = liveness.look()
            if dead is not state.dead:
                state.judge(dead)
            state.judged_by = reading

    def _lapsed(self, lapse: Lapse) -> None:
        """Called in an event loop where the lease of this process was renewed after it had run out."""
        state = self._loops.get(get_running_loop())
        liveness = self._group_sender.liveness
        if state is None or state.restorer is None or liveness is None:
            return
        if liveness.may_be_removed(lapse.overdue):
            state.restorer.restore_all()

    def _make_inboxes(self) -> InboxRegistry:
        return InboxRegistry(self._key_prefix, self.expiry, self._mailbox_capacity(), self._stats, self._codec.copy)

    def _capacities_changed(self) -> None:
        if hasattr(self, "_inboxes"):
            self._inboxes.capacity_of = self._mailbox_capacity()

    def _make_state(self, loop: asyncio.AbstractEventLoop) -> CoreLoop:
        return CoreLoop(
            loop,
            self._dialers,
            self.expiry,
            self._codec.ordered,
            self._stats,
            weakly(self._make_receiver),
            self._memberships if self.restore_groups else None,
            self._key_prefix,
            () if self._histories is None else self._recorded_sender.scripts,
            self._leases,
            self._presences,
        )

    def _record(self, group: str, group_key: bytes, channel: str) -> None:
        """
        Record that a channel of this process is added to a group.

        The membership is watched in the event loop that adds it and in those that receive on the channel.
        """
        bang = channel.find("!")
        if bang <= 0 or not self.restore_groups or not channel.endswith(self._client_prefix, 0, bang):
            return
        here = self._loops[get_running_loop()]
        known = self._memberships.groups.get(group_key)
        shard_of_group = self.consistent_hash(group) if known is None else known.shard
        record = self._memberships.add(group_key, shard_of_group, channel)
        if record is None:
            return
        is_new = record.dataset is None
        restorer: GroupRestorer | None = here.restorer
        if restorer is not None:
            restorer.watch(record)
        if not is_new or len(self._loops) == 1:
            return
        for loop, state in list(self._loops.items()):
            if state is not here and state.restorer is not None and state.receives:
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(state.restorer.watch, record)

    def _end_resumes(self, connection: CommandConnection | SlotQueue, group: str, group_key: bytes) -> None:
        """Make later resumes run after whatever is done to the group next."""
        stream = None if self._histories is None else self._histories.find(group, group_key)
        if stream is not None and self._histories is not None:
            self._histories.end(connection, stream, scripts.GROUP_RESUME)

    def _drain_channels(self, drain: Drain) -> None:
        self._inboxes.drain = drain
        here = get_running_loop()
        for loop, state in list(self._loops.items()):
            if state.receiver is not None and loop is here:
                state.receiver.stop_generals()
            elif state.receiver is not None:
                # A closed loop receives nothing.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(state.receiver.stop_generals)
        self._inboxes.tell_all(Waker(here), [reader.address for reader in list(self._inboxes.readers)])

    def _left(self, channel: str) -> None:
        self._memberships.left(channel)
        self._inboxes.left(channel)

    def _is_returning(self) -> bool:
        receivers = [state.receiver for loop, state in list(self._loops.items()) if loop.is_running()]
        return any(receiver is not None and receiver.is_returning() for receiver in receivers)

    def _is_received_on(self, drain: Drain | None) -> bool:
        inboxes = self._inboxes
        return bool(inboxes.readers) or inboxes.is_received_on() or (drain is not None and bool(drain.present))

    def _make_receiver(self, state: CoreLoop) -> Receiver:
        if self._leases is not None:
            self._keep_lease()
        receiver = Receiver(
            state.loop,
            state.commands,
            state.waker,
            self._inboxes,
            self._codec,
            self._key_prefix,
            self.expiry,
            self.brpop_timeout,
            None if self._presences is None else self._presences.seen,
        )
        receiver.is_stopped = self._drain is not None
        return receiver

    def _addressed(self, channel: str, message: Message) -> tuple[int, bytes, bytes, int]:
        """
        Check a channel and a message for it. Return the shard, the key, the member to store there, and the capacity.
        """
        if not isinstance(message, dict):
            raise AssertionError("message is not a dict")
        local = self._kind(channel)
        if local < 0:
            local = self._checked_kind(channel)
        if CHANNEL_FIELD in message:
            raise AssertionError(f"message holds the reserved key {CHANNEL_FIELD}")
        if self._histories is not None:
            message = without_position(message)
        try:
            member = self._codec.encode(message, channel if local else None)
        except Exception as error:
            say_where(error, f"channel {channel}")
            raise
        if self.max_message_size is not None:
            options.check_size(member, self.max_message_size, f"channel {channel}")
        if self.ring_size == 1 and self._shard_of is shard:
            index = 0
        elif local:
            # Hash the non-local name, as receivers do; channels_redis hashes the full name here.
            index = self._shard_of(channel[:local], self.ring_size)
        else:
            index = self._next_shard()
        return index, key(self._key_prefix, channel, local), member, self._capacity_of(channel)

    def _check_group_message(self, group: str, message: Message) -> None:
        if not self._is_group(group):
            self.require_valid_group_name(group)
        if not isinstance(message, dict):
            raise AssertionError("message is not a dict")
        if CHANNEL_FIELD in message:
            raise AssertionError(f"message holds the reserved key {CHANNEL_FIELD}")

    def _check_excluded(self, channel: str) -> None:
        if self._kind(channel) < 0:
            self.require_valid_channel_name(channel)

    def _checked_kind(self, channel: str) -> int:
        """Let Channels check a name that the compiled check cannot decide on. Return what ``kind`` would."""
        self.require_valid_channel_name(channel)
        return channel.find("!") + 1

    def _group(self, group: str, *channels: str) -> tuple[CommandConnection | SlotQueue, bytes]:
        """Check the names; return the connection and the key of the group."""
        if not self._is_group(group):
            self.require_valid_group_name(group)
        for channel in channels:
            if self._kind(channel) < 0:
                self.require_valid_channel_name(channel)
        group_key = self._group_key(group)
        return self._loops[get_running_loop()].commands[self.consistent_hash(group)].at(group_key), group_key

    def _group_shard(self, group: str) -> int:
        return self.consistent_hash(group)

    def _is_own(self, channel: str) -> bool:
        if self._kind(channel) < 0:
            self.require_valid_channel_name(channel)
        bang = channel.find("!")
        return bang > 0 and channel.endswith(self.client_prefix, 0, bang)

    def _member_groups(self) -> Iterable[tuple[int, bytes]]:
        return [(group.shard, group.key) for group in self._memberships.all_groups()]

    async def _send_event(self, group: str, shard: int, key: bytes, message: Message) -> None:
        await self._group_sender.send(self._loops[get_running_loop()], self._at(key, shard, group), message)

    def _event_inputs(self, shard: int, key: bytes) -> EventInputs | None:
        return self._group_sender.event_inputs(self._loops[get_running_loop()], self._at(key, shard))

    def _at(self, key: bytes, shard: int, name: str = "") -> Group:
        """Return a group that is known by its key and shard, as a target of an event."""
        return Group(name, key, shard, int(time.time()) - self.group_expiry)

    def _group_key(self, group: str) -> bytes:
        return f"{self.prefix}:group:{group}".encode()


# What the hub runs: the original methods, since a wrapper that somebody has assigned to the class has already run.
_send, _group_send = RedisChannelLayer.send, RedisChannelLayer.group_send
