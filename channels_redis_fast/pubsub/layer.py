"""
The Pub/Sub layer: the semantics of send, receive, groups and flush on Redis Pub/Sub. A thin module: it opens no socket
and defines no wire format.

The path of a message: ``send`` has the codec make a payload, picks the shard, and passes both to its ``publisher``,
whose batch leaves in the tick's single write. In each subscribed process, the ``subscriber`` passes the payload from
the socket to ``loop``, which decodes it and puts it into the channel's mailbox, where ``receive`` waits.

Rules and names are those of ``channels_redis.pubsub`` 4.3 and of the Channels layer specification
(https://channels.readthedocs.io/en/stable/channel_layer_spec.html).
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import math
import re
from asyncio import get_running_loop
from collections.abc import Callable, Coroutine, Iterable, KeysView, Mapping
from functools import partial
from typing import Any, TypeVar

from .. import options
from ..base import RedisLayer, weakly
from ..cluster.flush import unlink_all
from ..cluster.slot_queue import SlotQueue
from ..connection.commands import CommandConnection
from ..connection.hosts import is_cluster
from ..drain import Drain
from ..history import Asked, History, Stream
from ..history.placement import without_position
from ..history.positions import group_key_of, histories_prefix
from ..hot import encode
from ..loops import LoopStates
from ..messages.codec import Message, PayloadCodec, choose_payload
from ..messages.errors import say_where
from ..messages.exclusion import with_excluded
from ..messages.mailbox import MailboxLimits
from ..names import unique_name
from ..presence.events import EventInputs
from ..presence.keys import all_prefix, group_of_any
from ..process import current_number
from ..subscriptions.dialect import PLAIN, SHARDED
from ..sync.routing import routed
from ..upstream import explains_absent
from .loop import PubSubLoop
from .reader import Reader
from .scripts import CHANGE_AND_PUBLISH
from .views import ChannelsView, GroupsView, WaitingMessages

__all__ = ["RedisPubSubChannelLayer", "RedisPubSubLoopLayer"]

logger = logging.getLogger("channels_redis_fast")

T = TypeVar("T")

#: How many messages may wait for a consumer if no option says otherwise. It bounds memory, not traffic.
DEFAULT_CAPACITY = 10_000


@explains_absent("pubsub")
class RedisPubSubChannelLayer(RedisLayer):
    """
    A channel layer on Redis Pub/Sub, wire-compatible with ``channels_redis.pubsub.RedisPubSubChannelLayer`` 4.3.

    ``hosts``: list of URIs, ``(host, port)`` pairs or dicts of redis-py keywords; several hosts are shards. ``prefix``:
    str that begins the Redis channels of groups and the names of new channels. ``on_disconnect``, ``on_reconnect``:
    types of the messages that channels of this process get when a subscribing connection is lost, and when all
    subscriptions are acknowledged again. On a cluster only affected channels get them (cut off themselves or through a
    group), on shards all channels do. ``symmetric_encryption_keys``: list of str or bytes. ``serializer_format``: a
    name in ``serializers.registry``.
    Messages that wait in this process for a consumer are bounded by ``capacity`` and ``channel_capacity`` (a number;
    the oldest are dropped) and by ``expiry`` (seconds; None: no limit).
    ``sync_hub`` and ``sync_timeout``: as on the core layer. ``sharded``: whether to use sharded Pub/Sub (SPUBLISH and
    SSUBSCRIBE, Redis 7.0 or newer). Plain Pub/Sub, which channels_redis uses, and sharded Pub/Sub do not reach each
    other's subscribers. By default only clusters use sharded Pub/Sub, and they always do. ``history``, ``on_drain``: as
    on the core layer. ``lease``: duration in seconds of each process' lease, which tells live processes from dead ones;
    None for no leases. ``presence``: as on the core layer.

    Raises ``TypeError`` or ``ValueError`` naming the wrong option.
    """

    _codec: PayloadCodec
    _loops: LoopStates[PubSubLoop]

    layer_name = "pubsub"
    without_effect = ("group_expiry", "random_prefix_length")
    choose_codec = staticmethod(choose_payload)

    #: Seconds for which a channel, its groups and its mailbox are kept after a cancelled receive.
    grace = 10.0

    def __init__(
        self,
        hosts: Iterable[Any] | None = None,
        prefix: str = "asgi",
        on_disconnect: str | None = None,
        on_reconnect: str | None = None,
        symmetric_encryption_keys: Iterable[str | bytes] | None = None,
        serializer_format: str = "msgpack",
        capacity: int = DEFAULT_CAPACITY,
        channel_capacity: Mapping[str | re.Pattern[str], int] | None = None,
        expiry: float | None = None,
        *,
        sync_hub: str = "auto",
        sync_timeout: float | None = None,
        sharded: bool | None = None,
        max_message_size: int | None = None,
        history: Mapping[str | re.Pattern[str], Mapping[str, Any]] | None = None,
        lease: float | None = None,
        presence: Mapping[str, Any] | None = None,
        on_drain: str | None = None,
        **others: Any,
    ) -> None:
        self._refuse_unknown(others)
        self.max_message_size = options.size("max_message_size", max_message_size)
        self.expiry = None if expiry is None else options.seconds("expiry", expiry)
        self.on_disconnect = None if on_disconnect is None else options.text("on_disconnect", on_disconnect)
        self.on_reconnect = None if on_reconnect is None else options.text("on_reconnect", on_reconnect)
        if sharded is not None:
            options.flag("sharded", sharded)
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
            symmetric_encryption_keys=options.keys("symmetric_encryption_keys", symmetric_encryption_keys),
        )
        on_cluster = is_cluster(self.hosts[0])
        if on_cluster and sharded is False:
            raise ValueError(
                "Option 'sharded' must not be False on a cluster, where Pub/Sub is always sharded. Leave it out, or "
                "use a host other than a cluster."
            )
        self.sharded = on_cluster or bool(sharded)
        if self._presences is not None and not self.sharded:
            self._presences.deliver_in_script(CHANGE_AND_PUBLISH, weakly(self._event_inputs))
        self._limits = self._make_room()

    # Channels.

    async def send(self, channel: str, message: Message) -> None:
        """
        Send a message to a channel. A process that is not subscribed at that moment misses it.

        A message is a dict or, as in channels_redis, anything else that the serializer accepts, except None.

        Raises the serializer's error for a value that it cannot pack; ``redis.exceptions.ConnectionError`` naming the
        host.
        """
        loop = get_running_loop()
        state = self._router.get(loop) or await self._router.find(loop)
        if state is None:
            await self._router.through_hub(_send(self, channel, message))
            return
        payload = self._payload(message, "channel", channel)
        await state.publishers[self._shard_of(channel, self.ring_size)].publish(channel.encode(), payload)
        self._stats.sends += 1

    async def send_many(self, messages: Iterable[tuple[str, Message]]) -> None:
        """
        Send ``(channel, message)`` pairs in order and at once. As many as fit leave in one batch for each shard.

        What ``send`` would refuse without asking a server is refused before anything is sent. After that each message
        is sent regardless of the others, and the first error, in the order of the messages, is raised.
        """
        # Consumed in the caller's loop even if the call goes through the hub: an iterator is the caller's code.
        await self._send_many(list(messages))

    @routed
    async def _send_many(self, pairs: list[tuple[str, Message]]) -> None:
        publishers = self._loops[get_running_loop()].publishers
        payloads = [self._payload(message, "channel", channel) for channel, message in pairs]
        sent = [
            publishers[self._shard_of(channel, self.ring_size)].publish(channel.encode(), payload)
            for (channel, _), payload in zip(pairs, payloads, strict=True)
        ]
        error: Exception | None = None
        for waiter in sent:
            try:
                await waiter
                self._stats.sends += 1
            except Exception as reason:
                error = error or reason
        if error is not None:
            raise error

    async def receive(self, channel: str) -> Message:
        """
        Wait for the next message of a channel and return it. With several receivers, the one that came first gets it.

        The first receive on a channel that ``new_channel`` did not create here subscribes to it. A channel whose
        receive was cancelled keeps listening for ``grace`` seconds.

        Raises ``redis.exceptions.ConnectionError`` naming the host if it cannot subscribe; it waits through later
        outages.
        """
        state = self._loops[get_running_loop()]
        if state.abandoned:
            state.clear_abandoned()
        if state.process.number != current_number[0]:
            state.check_process()
        if channel not in state.channels:
            _require_text("channel", channel)
            await self._live(state, channel)
        if channel in state.leaving:
            state.stay(channel)
        coming = state.boxes.claim(channel, state.waker)
        try:
            await coming
        except BaseException as error:
            state.ended(channel, coming, error)
            raise
        self._stats.receives += 1
        return coming.take()

    def _reader(self, channel: str) -> Reader:
        """Return a reader that replaces ``receive`` on a channel."""
        return Reader(get_running_loop(), self._loops, channel, self._stats)

    async def new_channel(self, prefix: str = "specific.") -> str:
        """
        Return the name of a new channel that is already subscribed: nothing sent to it from now on is missed.

        Raises ``redis.exceptions.ConnectionError`` naming the host.
        """
        channel = f"{self.prefix}{prefix}{unique_name()}"
        await self._live(self._loops[get_running_loop()], channel)
        return channel

    # Groups.

    async def group_add(self, group: str, channel: str) -> None:
        """
        Add a channel of this process to a group; nothing sent to the group from now on is missed.

        Raises ``RuntimeError`` for a channel that does not live in this process; ``redis.exceptions.ConnectionError``
        naming the host.
        """
        name = self._group_channel(group)
        stream = None if self._histories is None else self._histories.find(group, name.encode())
        await self._at_home("group_add", group, channel, lambda state: state.join(name, channel, stream))

    async def group_resume(self, group: str, channel: str, since: str | None) -> History:
        """
        Add a channel of this process to a group, and return what was sent to the group since a position.

        If ``since`` is None, returns everything that is kept.
        What the channel receives from now on follows directly: nothing is missing between the two, and nothing is
        duplicated. Messages that exclude the channel are in neither.
        ``complete`` is True only if it is proven that nothing is missing after ``since``; see ``History``. If this
        raises or is cancelled, the channel may be in the group, as after ``group_add``.

        Raises ``RuntimeError`` for a group without a history, or a channel that does not live in this process,
        ``TypeError`` for a wrong argument, ``redis.exceptions.ConnectionError`` naming the host.
        """
        name = self._group_channel(group)
        stream = self._require_histories().get(group, name.encode())
        asked = Asked.of(stream.digest, since, None, channel)
        history: History = await self._at_home(
            "group_resume", group, channel, lambda state: state.resume(name, channel, stream, asked)
        )
        return self._counted(history)

    async def group_discard(self, group: str, channel: str) -> None:
        """
        Remove a channel from a group. Does nothing if it is not a member or does not live in this process.

        Raises ``TypeError`` for a group name that is not text.
        """
        name, state = self._group_channel(group), self._home(channel)
        if state is None:
            self._require_hosts()
        elif state.loop is get_running_loop():
            state.leave_group(name, channel)
        else:
            state.loop.call_soon_threadsafe(state.leave_group, name, channel)
        if self._presences is not None:
            await self._leave_presence(group, channel)

    @routed
    async def _leave_presence(self, group: str, channel: str) -> None:
        ended = self._end_presence(group, channel)
        if ended is not None:
            await ended

    async def group_send(self, group: str, message: Message, *, exclude: Iterable[str] | None = None) -> None:
        """
        Send a message to all channels of a group, in all processes.

        A message is a dict or, as in channels_redis, anything else that the serializer accepts, except None. For a
        group with a history it must be a dict, and receivers find its position in it under ``__position__``.

        ``exclude``: names of channels that do not get the message, such as its sender's. They travel in the message,
        which must be a dict, under ``__exclude__``. Processes of channels_redis deliver it to all of their channels,
        including that key.

        Raises ``TypeError`` if ``exclude`` is not an iterable of names, or is used with a message that is not a dict;
        the serializer's error for a value that it cannot pack; ``redis.exceptions.ConnectionError`` naming the host;
        ``redis.exceptions.ResponseError`` if the server refuses scripts, which a history needs.
        """
        name = self._group_channel(group)
        if exclude is not None:
            excluded = self._excluded(group, message, exclude)
            if excluded:
                message = with_excluded(message, excluded)
        stream = None if self._histories is None else self._histories.find(group, name.encode())
        if stream is not None:
            await self._record(name, stream, message)
        else:
            loop = get_running_loop()
            state = self._router.get(loop) or await self._router.find(loop)
            if state is None:
                # The message already contains the names that it excludes.
                await self._router.through_hub(_group_send(self, group, message))
                return
            payload = self._payload(message, "group", group)
            await state.publishers[self._shard_of(name, self.ring_size)].publish(name.encode(), payload)
        self._stats.group_sends += 1

    # Introspection.

    @property
    def groups(self) -> Mapping[str, KeysView[str]]:
        """
        The groups with members in the running event loop, by Redis channel, and their channels. Live and read-only.

        As on ``channels_redis``; ``_get_group_channel_name`` gives the Redis channel. Raises ``RuntimeError`` without a
        running event loop.
        """
        state = self._loops.get(get_running_loop())
        return GroupsView({} if state is None else state.groups)

    @property
    def channels(self) -> Mapping[str, WaitingMessages]:
        """
        The channels that live in the running event loop, each with ``qsize()`` and ``empty()``. Live and read-only.

        As on ``channels_redis``. Raises ``RuntimeError`` without a running event loop.
        """
        state = self._loops.get(get_running_loop())
        return ChannelsView({}, lambda channel: 0) if state is None else ChannelsView(state.channels, state.boxes.depth)

    async def group_count(self, group: str) -> int:
        """
        Raise ``NotImplementedError``: the number is not known anywhere.

        Redis knows how many connections are subscribed to a group (PUBSUB NUMSUB), one for each event loop with
        members, but not how many members each loop has; a process knows only its own.
        """
        raise NotImplementedError(_NO_MEMBERS.format("group_count"))

    async def group_channels(self, group: str) -> list[str]:
        """Raise ``NotImplementedError``, for the same reason as ``group_count``."""
        raise NotImplementedError(_NO_MEMBERS.format("group_channels"))

    async def channel_depth(self, channel: str) -> int:
        """
        Return how many messages wait in this process for the receiver of a channel, not counting what has expired.

        Raises ``TypeError`` for a name that is not text, ``RuntimeError`` for a channel that does not live in this
        process: what waits for it elsewhere is not known here, and nothing waits in Redis.
        """
        _require_text("channel", channel)
        state = self._home(channel)
        if state is None:
            raise RuntimeError(
                f"channel_depth() takes channels of this process only, and {channel!r} is not one of them."
            )
        return state.boxes.depth(channel)

    # Flush.

    async def flush(self) -> None:
        """
        Reset the layer of this event loop to its initial state: no groups, no messages, no sockets.

        A waiting receive keeps waiting, and its channel is subscribed again at once. A layer with ``history`` deletes
        the histories of its groups on all shards, and raises ``redis.exceptions.ConnectionError`` naming the host, or
        ``ResponseError`` if SCAN or UNLINK is refused. Without ``history`` it asks no server.
        """
        state = self._loops.get(get_running_loop())
        if state is None:
            self._require_hosts()
        else:
            state.clear()
        if self._presences is not None:
            self._presences.clear()
            await self._delete(all_prefix(self.prefix.encode()), group_of_any)
        if self._histories is not None:
            await self._delete(histories_prefix(self.prefix.encode()), group_key_of)
        await self.close_pools()

    @routed
    async def _delete(self, start: bytes, group_of: Callable[[bytes, bytes], bytes | None]) -> None:
        """
        Delete all keys that begin with ``start``. ``group_of`` returns the group that a key of a prefix belongs to.
        """
        prefix = self.prefix.encode()

        def is_of_core(key: bytes) -> bool:
            """Return whether a key belongs to a group of a core layer with the same prefix."""
            group_key = group_of(prefix, key)
            return group_key is not None and group_key.startswith(prefix + b":group:")

        for shard_commands in self._loops[get_running_loop()].commands:
            await unlink_all(shard_commands, start, is_of_core)

    async def close_pools(self) -> None:
        """Close all sockets of the layer. They are reopened when needed: at once if any channels live here."""
        await self._loops.disconnect()

    # Internals.

    def after_fork(self) -> None:
        """In a forked child: abandon the parent's sockets, and a lock that a thread of the parent may hold."""
        self._limits = self._make_room()
        super().after_fork()

    def _mailbox_limits(self) -> MailboxLimits:
        return self._limits

    def _drain_channels(self, drain: Drain) -> None:
        here = get_running_loop()
        for loop, state in list(self._loops.items()):
            if loop is here:
                state.start_drain(drain)
            else:
                # A closed loop receives nothing.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(state.start_drain, drain)

    def _is_received_on(self, drain: Drain | None) -> bool:
        return any(state.is_received_on(drain) for loop, state in list(self._loops.items()) if loop.is_running())

    def _left(self, channel: str) -> None:
        state = self._loops.get(get_running_loop())
        if state is not None:
            state.gone(channel)

    def _make_room(self) -> MailboxLimits:
        expiry = math.inf if self.expiry is None else self.expiry
        return MailboxLimits(expiry, self._mailbox_capacity(), self._stats, self._codec.copy)

    async def _live(self, state: PubSubLoop, channel: str) -> None:
        if self._leases is not None:
            self._keep_lease()
        # Repeats if a flush comes between the acknowledgement and this task's next step.
        while channel not in state.channels:
            acknowledged = state.open(channel)
            if acknowledged is not None:
                try:
                    await acknowledged
                except BaseException as error:
                    state.not_opened(channel, error)
                    raise

    async def _record(self, name: str, stream: Stream, message: Message) -> None:
        """Send a message to a group with a history, and record it there."""
        loop = get_running_loop()
        state = self._router.get(loop) or await self._router.find(loop)
        if state is None:
            await self._router.through_hub(self._record(name, stream, message))
            return
        self._check_recorded(stream.group, message)
        channel = name.encode()
        message = without_position(message)
        encode = partial(self._packed, kind="group", name=stream.group)
        publisher = state.publishers[self._shard_of(name, self.ring_size)]
        await state.recorder.send(publisher, channel, stream, message, encode)

    def _check_recorded(self, group: str, message: object) -> None:
        if not isinstance(message, dict):
            raise TypeError(
                f"a message for group {group} must be a dict, since the group has a history and each message carries "
                f"its position; it is {type(message).__name__}"
            )

    def _payload(self, message: Message, kind: str, name: str) -> bytes:
        """Check a message and the name of its channel or group; return what is published."""
        if (
            message.__class__ is dict
            and name.__class__ is str
            and self._codec.is_plain
            and self._histories is None
            and self.max_message_size is None
        ):
            # Fast path for the usual messages, with the same result as the code below.
            try:
                return encode(message, None, 0)
            except Exception as error:
                say_where(error, f"{kind} {name}")
                raise
        _require_text(kind, name)
        payload: object = message
        if payload is None:
            raise TypeError(f"a message must not be None (message for {kind} {name})")
        if self._histories is not None and isinstance(payload, dict):
            # The message may contain the position of another one.
            message = without_position(message)
        return self._packed(message, kind, name)

    def _packed(self, message: Message, kind: str, name: str) -> bytes:
        try:
            payload = self._codec.encode(message, None)
        except Exception as error:
            say_where(error, f"{kind} {name}")
            raise
        if self.max_message_size is not None:
            options.check_size(payload, self.max_message_size, f"{kind} {name}")
        return payload

    def _check_group_message(self, group: str, message: Message) -> None:
        _require_text("group", group)
        payload: object = message
        if not isinstance(payload, dict):
            if self._histories is not None and self._histories.find(group, self._group_channel(group).encode()):
                self._check_recorded(group, payload)
            # Only the serializer knows whether it accepts this type.
            self._payload(message, "group", group)

    def _check_excluded(self, channel: str) -> None:
        _require_text("channel", channel)

    def _excluded(self, group: str, message: Message, exclude: Iterable[str] | None) -> frozenset[str]:
        excluded = super()._excluded(group, message, exclude)
        if excluded and not isinstance(message, dict):
            raise TypeError(
                f"a message for group {group} must be a dict, to carry the names that it excludes; it is "
                f"{type(message).__name__}"
            )
        return excluded

    def _group(self, group: str) -> tuple[CommandConnection | SlotQueue, bytes]:
        """Return the connection and the Redis channel of a group. The Redis channel takes the place of a key."""
        name = self._group_channel(group)
        key = name.encode()
        return self._loops[get_running_loop()].commands[self._shard_of(name, self.ring_size)].at(key), key

    def _group_shard(self, group: str) -> int:
        return self._shard(self._group_channel(group))

    def _is_own(self, channel: str) -> bool:
        _require_text("channel", channel)
        return self._home(channel) is not None

    def _member_groups(self) -> Iterable[tuple[int, bytes]]:
        names = {name for state in list(self._loops.values()) for name in list(state.groups)}
        return [(self._shard(name), name.encode()) for name in names]

    async def _send_event(self, group: str, shard: int, key: bytes, message: Message) -> None:
        state = self._loops[get_running_loop()]
        await state.publishers[shard].publish(key, self._packed(message, "group", group))

    def _event_inputs(self, shard: int, key: bytes) -> EventInputs | None:
        # A script does not know how to refuse what is larger than a message may be.
        is_able = self._codec.is_plain and self.max_message_size is None
        return EventInputs((), (key,)) if is_able else None

    def _group_channel(self, group: str) -> str:
        _require_text("group", group)
        return self._get_group_channel_name(group)

    def _get_group_channel_name(self, group: str) -> str:
        """Return the Redis channel of a group. The name is that of channels_redis, and user code overrides it."""
        return f"{self.prefix}__group__{group}"

    async def _at_home(
        self, caller: str, group: str, channel: str, make: Callable[[PubSubLoop], Coroutine[Any, Any, T]]
    ) -> T:
        """Run a coroutine for a group and a channel in the event loop that the channel lives in."""
        state = self._home(channel)
        try:
            if state is None:
                self._require_hosts()
                raise LookupError(channel)
            if state.loop is get_running_loop():
                return await make(state)
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(make(state), state.loop))
        except LookupError:
            raise RuntimeError(
                f"{caller}() takes channels of this process only, and {channel!r} is not one of them: use "
                f"self.channel_layer.{caller}({group!r}, self.channel_name) in the consumer that has the channel."
            ) from None

    def _home(self, channel: str) -> PubSubLoop | None:
        """Return the loop that a channel lives in: this one if possible, else another running one."""
        here = self._loops.get(get_running_loop())
        if channel in (here.channels if here is not None else {}):
            return here
        for loop, state in list(self._loops.items()):
            if channel in state.channels and loop.is_running():
                return state
        return None

    def _refuse_unknown(self, others: dict[str, Any]) -> None:
        for name in others:
            if name not in self.without_effect:
                known = inspect.signature(RedisPubSubChannelLayer.__init__).parameters
                raise options.unknown_option(type(self).__name__, name, [*known][1:-1])
        if others:
            logger.warning("Options without effect on %s: %s", type(self).__name__, ", ".join(sorted(others)))

    def _shard(self, name: str) -> int:
        return self._shard_of(name, self.ring_size)

    def _capacities_changed(self) -> None:
        if hasattr(self, "_limits"):
            self._limits.capacity_of = self._mailbox_capacity()

    def _make_state(self, loop: asyncio.AbstractEventLoop) -> PubSubLoop:
        state = PubSubLoop(
            loop,
            self._dialers,
            self._codec,
            self._limits,
            weakly(self._shard),
            self.on_disconnect,
            self.on_reconnect,
            self.grace,
            SHARDED if self.sharded else PLAIN,
            self._histories,
            weakly(self._is_specific),
            self._leases,
            self._presences,
        )
        if self._drain is not None:
            state.start_drain(self._drain)
        return state

    def _is_specific(self, channel: str) -> bool:
        """Return whether a channel's name looks like one from ``new_channel``, here or in channels_redis."""
        return channel.startswith(self.prefix) and _UNIQUE.search(channel) is not None


#: The unique part of the name of a specific channel.
_UNIQUE = re.compile(r"[0-9a-f]{32}\Z")

_NO_MEMBERS = (
    "{}() does not exist on the Pub/Sub layer: neither Redis nor any one process has a list of a group's members. Use "
    "the core layer, or count in the application."
)


def _require_text(kind: str, name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"a {kind} name must be a string, not {type(name).__name__}")


# What the hub runs: the original methods, since a wrapper that somebody assigned to the class has already run.
_send, _group_send = RedisPubSubChannelLayer.send, RedisPubSubChannelLayer.group_send


class RedisPubSubLoopLayer(RedisPubSubChannelLayer):
    """
    A Pub/Sub layer under the name that ``channels_redis`` uses for its per-loop part.

    Here every layer serves any number of loops. ``channel_layer``: the layer whose ``serialize`` and ``deserialize``
    are used.
    """

    def __init__(self, *args: Any, channel_layer: Any = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.channel_layer = channel_layer
        if channel_layer is not None:
            codec = self._codec = PayloadCodec(channel_layer.serialize, channel_layer.deserialize, plain=False)
            if self._histories is not None:
                self._histories.codec = codec
            if self._presences is not None:
                self._presences.codec = codec
            self._limits = self._make_room()
