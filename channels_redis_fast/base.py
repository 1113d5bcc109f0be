"""
What both layers have in common: hosts, serializer, capacities, and the methods that a site may override.

A method that a subclass overrides is called; where none is, the compiled function stands in its place. Knows
nothing of what a layer does with messages, and opens nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
import types
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from functools import cached_property, partial
from typing import Any, ClassVar, TypeVar, cast

from channels.layers import BaseChannelLayer

from . import options, upstream
from .cluster.seeds import Seeds
from .connection.dialer import Dialer, create_pool
from .connection.hosts import decode_hosts, host_label, is_cluster
from .connection.unset import stand_in, unset_part
from .drain import HANDLERS, LOOK, Drain
from .history import Asked, Histories, History, Stream
from .hot import CapacityTable, shard
from .loops import LoopStates, notice_fork, on_fork
from .messages.codec import Codec, Message, choose
from .messages.exclusion import NOBODY, GroupSend, checked, listed
from .messages.mailbox import MailboxLimits
from .presence import Leases, PresenceRules, Presences
from .presence.groups import GroupPresence
from .presence.keys import User, user_field
from .presence.rules import one_lease
from .presence.scripts import KEPT
from .serializers import BaseMessageSerializer, make_serializer
from .stats import LayerStats, Stats
from .sync.calls import Layer, SyncLayer
from .sync.routing import RULES, CallRouter, routed

#: Seconds for which a process that has ended stays known by its lease where no option of the layer says.
DAY = 86400.0


class LimitedLayer(BaseChannelLayer):  # type: ignore[misc]
    """The capacities of channels: a layer has them by its options, and a site may change or override them."""

    #: How the layer is called in the names of connections and in metrics.
    layer_name = ""

    def get_capacity(self, channel: str) -> int:
        """Return how many messages may wait on a channel: the first match in ``channel_capacity``, or ``capacity``."""
        return self._capacities.lookup(channel)

    @property
    def capacity(self) -> int:
        """Messages that may wait where no entry of ``channel_capacity`` matches."""
        return self._capacities.default

    @capacity.setter
    def capacity(self, value: int) -> None:
        self._set_capacities(options.count("capacity", value), self.channel_capacity)

    @property
    def channel_capacity(self) -> list[tuple[re.Pattern[str], int]]:
        """The capacities by pattern, in the form that Channels' ``compile_capacities`` gives."""
        return self._channel_capacity  # type: ignore[no-any-return]

    @channel_capacity.setter
    def channel_capacity(self, value: Any) -> None:
        self._set_capacities(self.capacity, value)

    def occupancy(self) -> dict[str, int]:
        """Return by group how many channels of this process are present there."""
        raise NotImplementedError

    def stats(self) -> LayerStats:
        """
        Return this process' counters and measurements by name, and numbers of this moment.

        ``connections_open`` counts sockets, ``commands_in_flight`` the commands that were written and not yet
        answered, blocking waits not among them. ``mailbox_messages`` counts the messages that nobody has received yet,
        ``mailbox_deepest`` those of the channel that has most, ``mailbox_bytes`` about the memory that they take.
        ``present`` counts the channels of this process that are present in groups.
        ``lag``, ``batch_messages`` and ``loop_stalls`` are each a ``Summary``: ``count`` since the layer was made, and
        ``p50``, ``p99`` and ``max`` of the last minute, None where there was nothing; ``round_trips`` has one for each
        server. Times are in seconds.
        """
        states = list(self._loops.values())
        limits = self._mailbox_limits()
        messages, deepest = limits.depths()
        numbers = {
            **self._stats.as_dict(),
            "connections_open": sum(connection.is_open for state in states for connection in state.connections()),
            "commands_in_flight": sum(connection.in_flight for state in states for connection in state.commands),
            "mailbox_messages": messages,
            "mailbox_deepest": deepest,
            "mailbox_bytes": limits.held(),
            "present": sum(self.occupancy().values()),
        }
        return cast(LayerStats, numbers)

    def _set_capacities(self, default: int, patterns: Any) -> None:
        # A dict is compiled here and kept in Channels' form beside; a list in that form is used as it is.
        self._capacities = CapacityTable(patterns, default)
        self._capacity_of = self._replaced("get_capacity") or self._capacities.lookup
        self._capacities_changed()
        self._channel_capacity = self.compile_capacities(patterns) if isinstance(patterns, Mapping) else patterns

    def _current_capacity(self, channel: str) -> int:
        return self._capacity_of(channel)

    def _mailbox_capacity(self) -> Callable[[str], int]:
        """Return what gives the capacities of mailboxes: it must not keep the layer alive."""
        if self._replaced("get_capacity") is None:
            return self._capacities.lookup
        return weakly(self._current_capacity, instead=1)

    def _counted(self, history: History) -> History:
        """Count what somebody gets who was away, and return it."""
        self._stats.recovered += len(history.messages)
        self._stats.incomplete += not history.complete
        return history

    def _mailbox_limits(self) -> MailboxLimits:
        """Return what the mailboxes of this layer have in common."""
        raise NotImplementedError

    def _capacities_changed(self) -> None:
        """Called after the capacities were set: when the layer is made, and whenever they change."""

    def _replaced(self, name: str) -> Any:
        """Return a method of this layer if something has replaced the one that is defined for it, else None."""
        raise NotImplementedError


class RedisLayer(LimitedLayer):
    """Base of the layers. Raises ``TypeError`` or ``ValueError`` naming the option that is wrong."""

    extensions: ClassVar[list[str]] = ["groups", "flush"]

    #: What this layer's connections are called on the server.
    layer_name = "core"

    #: Options that are taken and mean nothing here. channels_redis takes and forgets them, so settings have them.
    without_effect: ClassVar[tuple[str, ...]] = ()

    #: What picks the way of this layer's messages to bytes and back.
    choose_codec: Callable[..., Codec] = staticmethod(choose)

    # A layer has many attributes, and CPython reads those of an object of more than 30 more slowly: what is None for
    # most layers is one of the class.

    #: The type of the message that channels get when the layer is drained; None for no message.
    on_drain: str | None = None
    #: The drain of this process, once there is one.
    _drain: Drain | None = None
    #: Who is present in groups; None without the option.
    _presences: Presences | None = None

    def __init__(
        self,
        hosts: Iterable[Any] | None,
        prefix: str,
        capacity: int,
        channel_capacity: Mapping[str | re.Pattern[str], int],
        serializer_format: str,
        sync_hub: str,
        sync_timeout: float | None,
        history: Mapping[str | re.Pattern[str], Mapping[str, Any]] | None,
        lease: float | None,
        presence: Mapping[str, Any] | None,
        on_drain: str | None,
        **serializer_options: Any,
    ) -> None:
        if on_drain is not None:
            self.on_drain = options.text("on_drain", on_drain)
        rule = options.one_of("sync_hub", sync_hub, RULES)
        self.sync_timeout = None if sync_timeout is None else options.duration("sync_timeout", sync_timeout)
        self.prefix = options.text("prefix", prefix)
        self._set_capacities(capacity, channel_capacity)
        self.hosts = decode_hosts(hosts)
        self._refuse_overrides()
        # A property of a subclass may not be settable.
        with contextlib.suppress(AttributeError):
            self.ring_size = len(self.hosts)
        on_cluster = is_cluster(self.hosts[0])
        self._check_ring_size(on_cluster)
        if on_cluster and self._replaced("create_pool") is not None:
            raise ValueError(
                f"{type(self).__name__}.create_pool makes the pool of one host and cannot serve a cluster, which has "
                "many: put what it does into the host's keywords, or list hosts that are no cluster."
            )
        self._serializer = make_serializer(serializer_format, **serializer_options)
        self._codec = self.choose_codec(
            self._serializer, weakly(self._replaced("serialize")), weakly(self._replaced("deserialize"))
        )
        #: What leads to each shard; or, if the one host is a cluster, to each of its servers.
        self._dialers: list[Dialer] | Seeds = (
            Seeds(stand_in(self.hosts[0]), "hosts[0]", self.layer_name)
            if on_cluster
            else [self._dialer(index) for index in range(self.ring_size)]
        )
        # Called with the ring's size, so that nothing of ours stands between a send and the compiled function.
        self._shard_of: Callable[[str, int], int] = (
            shard if self._replaced("consistent_hash") is None else self._own_shard
        )
        self._stats = Stats()
        #: The histories of groups; None where no group has one.
        self._histories = self._make_histories(options.mapping("history", history))
        #: The leases of this layer's processes; None where they have none.
        rules = PresenceRules.of(presence)
        is_said = presence is not None and "lease" in presence
        self._leases = self._make_leases(one_lease(options.lease("lease", lease), rules, is_said), rules)
        presences = self._make_presences(rules)
        if presences is not None:
            self._presences = presences
        #: What this layer has in each event loop, and for whose calls that is the way to take.
        self._loops: LoopStates[Any] = LoopStates(weakly(self._first_use))
        self._router: CallRouter[Any] = CallRouter(self._loops, rule)
        on_fork(self)

    @cached_property
    def sync(self) -> SyncLayer:
        """The sends, groups and histories of this layer as plain functions, for threads without an event loop."""
        return SyncLayer(cast(Layer, self), self._router)

    async def group_send_many(self, messages: Iterable[GroupSend]) -> None:
        """
        Send ``(group, message)`` pairs, all at once; those of one group arrive in order.

        A third element is an ``exclude``, as ``group_send`` takes it.

        A wrong name, or a message that is no message, is refused before anything is sent. Then each message is sent
        whether or not the others succeed, and the first error of ``group_send``, in their order, is raised.
        """
        # In the caller's loop, whichever way the call takes: an iterator is the caller's code.
        await self._group_send_many(listed(messages))

    @routed
    async def _group_send_many(self, sends: list[tuple[Any, ...]]) -> None:
        for group, message, *more in sends:
            self._check_group_message(group, message)
            for exclude in more:
                self._excluded(group, message, exclude)
        # A subclass that overrides ``group_send`` may not know of ``exclude``.
        calls = [
            self.group_send(group, message, exclude=more[0]) if more else self.group_send(group, message)
            for group, message, *more in sends
        ]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        error = next((outcome for outcome in outcomes if isinstance(outcome, BaseException)), None)
        if error is not None:
            raise error

    @routed
    async def group_history(self, group: str, since: str | None = None, limit: int | None = None) -> History:
        """
        Return messages that were sent to a group: those behind the position ``since``, or all that are kept.

        ``limit``: how many at most: with ``since`` the oldest of them, to go on from the history's position; without,
        the newest. ``complete`` is True only if it is proven that none is missing; see ``History``.

        Raises ``RuntimeError`` for a group without a history, ``TypeError`` or ``ValueError`` for a wrong argument,
        ``redis.exceptions.ConnectionError`` naming the host.
        """
        histories = self._require_histories()
        way, key = self._group(group)
        stream = histories.get(group, key)
        history = await histories.ask(way, stream, Asked.of(stream.digest, since, limit))
        return history if since is None else self._counted(history)

    @routed
    async def group_forget(self, group: str) -> None:
        """
        Delete the history of a group; what is sent to it later is recorded again.

        Raises ``RuntimeError`` for a group without a history, ``redis.exceptions.ConnectionError`` naming the host.
        """
        histories = self._require_histories()
        way, key = self._group(group)
        await histories.forget(way, histories.get(group, key))

    @routed
    async def presence_join(self, group: str, channel: str, user: User | None, info: Any = None) -> None:
        """
        Have a user be present in a group by a channel of this process, until the channel leaves or the process ends.

        Several channels of one user are one presence. With the first of them the group is told, with a message of the
        type ``presence.join``; whoever is to receive it joins the group by ``group_add``. ``info``: what others are to
        know of the user; that of the last channel holds. None for the user stands for somebody without a name: each
        such channel is one more who is counted, and whom ``presence`` leaves out.

        Raises ``RuntimeError`` without the option ``presence``, ``TypeError`` for a wrong name or a user that is
        neither a str nor an int, ``ValueError`` for a channel of another process, the serializer's error for an info
        that it cannot pack, ``redis.exceptions.ConnectionError`` naming the host.
        """
        presences, found = self._presence("presence_join", group)
        if not self._is_own(channel):
            raise ValueError(f"presence_join() takes channels of this process only, and {channel!r} is none.")
        field = user_field(user, channel)
        try:
            stored = presences.stored(info)
        except Exception as error:
            say_where(error, f"user {user!r} in group {group}", "info")
            raise
        if self.max_message_size is not None:
            options.check_size(stored, self.max_message_size, f"user {user!r} in group {group}")
        await presences.held()
        await presences.change(found, b"j", channel, field, stored)

    @routed
    async def presence_leave(self, group: str, channel: str | None = None, *, user: User | None = None) -> None:
        """
        End the presence of a channel in a group, or of all channels of a user; do nothing if there is none.

        Who was present by this channel alone is so for the ``grace`` of the option ``presence``; then the group is
        told, with a message of the type ``presence.leave``. A user whose channels are all ended leaves at once. Of
        any process' channel, and ``group_discard`` does the same.

        Raises ``RuntimeError`` without the option, ``TypeError`` for a wrong name or user, and where not exactly one
        of ``channel`` and ``user`` is given; ``redis.exceptions.ConnectionError`` naming the host. A channel of this
        process leaves all the same, as soon as that is possible.
        """
        presences, found = self._presence("presence_leave", group)
        if (channel is None) == (user is None):
            raise TypeError("presence_leave() takes either a channel or a user")
        if channel is None:
            field = user_field(user)
            await presences.held()
            await presences.change(found, b"u", field)
        elif self._is_own(channel):
            await presences.leave_own(found, channel)
        else:
            await presences.held()
            await presences.change(found, b"k", channel)

    @routed
    async def presence(self, group: str) -> dict[User, Any]:
        """
        Return the users who are present in a group, each with its info; but for those without a name.

        Raises ``RuntimeError`` without the option ``presence``, ``TypeError`` for a wrong name,
        ``redis.exceptions.ConnectionError`` naming the host.
        """
        presences, found = self._presence("presence", group)
        return await presences.read(found)

    @routed
    async def presence_count(self, group: str) -> int:
        """
        Return how many users are present in a group, those without a name among them. Raises what ``presence`` does.
        """
        presences, found = self._presence("presence_count", group)
        return await presences.count(found)

    def occupancy(self) -> dict[str, int]:
        """
        Return by group how many channels of this process are present there. Asks no server, and is for any thread.

        The sum over all processes is that of the users' channels: one user may have several. Empty without the option
        ``presence``.
        """
        return {} if self._presences is None else self._presences.occupancy()

    async def drain(self, over: float = 20.0) -> None:
        """
        Prepare for the end of this process: take no more jobs, and have its clients go, spread over ``over`` seconds.

        Receives on general channels stop in all event loops: they neither return nor raise any more. What was popped
        for them goes back to Redis (core); what a process has of Pub/Sub is still received. Specific channels go on,
        and with the option ``on_drain`` each gets ``{"type": on_drain, "after": seconds}`` once, new ones too; the
        seconds are its random share of ``over``.

        Returns when nobody receives on a specific channel and no handler runs, as far as that is known, or when
        ``over`` seconds have passed. Called again, it waits again and tells nobody twice. When it is cancelled, only
        the waiting ends. A forked child is not drained.

        Raises ``TypeError`` or ``ValueError`` for an ``over`` that is no number of seconds.
        """
        over = options.delay("over", over)
        notice_fork()
        if self._drain is None:
            self._drain = Drain(self.on_drain)
        drain = self._drain
        until = drain.extend(over)
        self._drain_channels(drain)
        # What ends may be in any thread, and some of it says nothing.
        while self._is_occupied(drain) and (left := until - time.monotonic()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(min(left, LOOK))

    @property
    def is_draining(self) -> bool:
        """Whether this process takes no more jobs, since ``drain`` was called: for what says that it is ready."""
        notice_fork()
        return self._drain is not None

    def _is_occupied(self, drain: Drain) -> bool:
        """Whether somebody is left in this process, or something is on its way back to Redis."""
        if HANDLERS.are_running() or self._is_returning():
            return True
        return self._is_received_on(None if HANDLERS.are_counted else drain)

    def _drain_channels(self, drain: Drain) -> None:
        """Stop the receives on general channels, and tell the specific ones. May be called again."""
        raise NotImplementedError

    def _is_returning(self) -> bool:
        """Return whether a message of a general channel is, or may be, on its way back to Redis."""
        return False

    def _is_received_on(self, drain: Drain | None) -> bool:
        """Return whether somebody receives on a specific channel; with ``drain``, or did and has not left since."""
        raise NotImplementedError

    def _left(self, channel: str) -> None:
        """Called, in its event loop, when nobody receives on a specific channel any more."""
        raise NotImplementedError

    def create_pool(self, index: int) -> Any:
        """
        Return a redis-py connection pool of one host (``redis.asyncio.ConnectionPool``), its connections unopened.

        A layer that overrides this has its sockets opened by the pools that it returns. Its host cannot be a cluster:
        that has as many pools as servers. Raises ``ValueError`` there, and for a host that is empty.
        """
        unset = unset_part(self.hosts[index], f"hosts[{index}]")
        if unset is not None:
            raise ValueError(unset)
        if is_cluster(self.hosts[index]):
            raise ValueError(
                f"{host_label(self.hosts[index])} has no one pool: the core layer's connection(0) is a client."
            )
        return create_pool(self.hosts[index])

    def serialize(self, message: Message) -> bytes:
        """Return a message (a dict) as bytes. Raises the serializer's error for a value that it cannot pack."""
        return self._serializer.serialize(message)  # type: ignore[no-any-return]

    def deserialize(self, message: bytes) -> Message:
        """Return the message of such bytes. Raises the serializer's error for what is none."""
        return self._serializer.deserialize(message)  # type: ignore[no-any-return]

    def consistent_hash(self, value: str | bytes) -> int:
        """Return the shard of a name, an index into ``hosts``: the one that channels_redis picks for it."""
        return shard(value, self.ring_size)

    @property
    def sync_hub(self) -> str:
        """The option of that name."""
        return self._router.rule

    def __str__(self) -> str:
        return f"{type(self).__name__}(hosts={[host_label(host) for host in self.hosts]})"

    def _refuse_overrides(self) -> None:
        """Raise ``TypeError`` for an override of a subclass that channels_redis honours and that cannot be here."""
        for name, rule in upstream.OVERRIDES[self.layer_name].items():
            if rule.fate is upstream.Fate.REFUSED and overrides(type(self), name):
                raise TypeError(f"{type(self).__name__}.{name} is never called by this layer: {rule.instead}")

    def _check_ring_size(self, on_cluster: bool) -> None:
        """Raise ``ValueError`` for a ``ring_size`` of a subclass for which there are no hosts."""
        if self.ring_size == len(self.hosts):
            return
        if on_cluster or self.ring_size < 1 or self._own_pools() is None:
            raise ValueError(
                f"{type(self).__name__}.ring_size is {self.ring_size}, and there are {len(self.hosts)} hosts: list as "
                "many, or override connection() or create_pool(), which are asked for each shard."
            )

    def _own_pools(self) -> Callable[[int], Any] | None:
        """Return what gives the pool of a shard where a subclass says so, by ``create_pool`` or ``connection``."""
        return self._replaced("create_pool")  # type: ignore[no-any-return]

    def _dialer(self, index: int) -> Dialer:
        own_pools = self._own_pools()
        make_pool = None if own_pools is None else partial(weakly(own_pools), index)
        host = min(index, len(self.hosts) - 1)
        return Dialer(stand_in(self.hosts[host]), f"hosts[{host}]", self.layer_name, make_pool)

    @property
    def unset_host(self) -> str | None:
        """What is wrong with the first host that is empty, as a sentence; None where every host has an address."""
        if self._own_pools() is not None:
            # Where these lead to does not stand in ``hosts``.
            return None
        sentences = (unset_part(host, f"hosts[{index}]") for index, host in enumerate(self.hosts))
        return next(filter(None, sentences), None)

    def _require_hosts(self) -> None:
        """Raise ``ValueError`` naming a host that is empty: not when the layer is made, but whenever it is used."""
        unset = self.unset_host
        if unset is not None:
            raise ValueError(unset)

    def _first_use(self, loop: asyncio.AbstractEventLoop) -> Any:
        """Called for what this layer has in an event loop, before anything is done there."""
        self._require_hosts()
        state = self._make_state(loop)
        if self._leases is not None:
            self._leases.enter(loop, state.commands[0])
        return state

    def _make_state(self, loop: asyncio.AbstractEventLoop) -> Any:
        """Return what this layer has in an event loop."""
        raise NotImplementedError

    def after_fork(self) -> None:
        """In a forked child: leave the parent's sockets alone."""
        self._drain = None
        self._loops.forget()
        if self._leases is not None:
            self._leases.after_fork(self._process_name())
        if self._presences is not None:
            self._presences.after_fork()

    def _process_name(self) -> str:
        """Return what this process is called by its lease."""
        return unique_name()

    def _group(self, group: str) -> tuple[Any, bytes]:
        """Check the name of a group; return the way to its server in this event loop, and its key there."""
        raise NotImplementedError

    def _group_shard(self, group: str) -> int:
        """Return the shard of a group by its name."""
        raise NotImplementedError

    def _is_own(self, channel: str) -> bool:
        """Return whether a channel is one of this process. Raises ``TypeError`` for what is no name of a channel."""
        raise NotImplementedError

    def _member_groups(self) -> Iterable[tuple[int, bytes]]:
        """Return shard and key of the groups that have channels of this process, as far as is known."""
        raise NotImplementedError

    async def _send_event(self, group: str, shard: int, key: bytes, message: Message) -> None:
        """Send a message to a group by its name, shard and key, past any history."""
        raise NotImplementedError

    def _way_to(self, shard: int, key: bytes) -> Any:
        """Return the way to the server of a key in this event loop."""
        return self._loops[asyncio.get_running_loop()].commands[shard].at(key)

    def _presence(self, caller: str, group: str) -> tuple[Presences, GroupPresence]:
        """Return what the methods of presence need. Raises ``RuntimeError`` without the option."""
        presences = self._presences
        if presences is None:
            raise RuntimeError(f"{caller}() needs the option 'presence', which this layer does not have.")
        found = presences.find(group) if isinstance(group, str) else None
        if found is None:
            _, key = self._group(group)
            found = presences.group(group, self._group_shard(group), key)
        return presences, found

    def _end_presence(self, group: str, channel: str) -> asyncio.Future[int] | None:
        """End the presence of a channel that leaves a group; return None if it has none."""
        presences = self._presences
        if presences is None:
            return None
        found = presences.find(group)
        is_own = self._is_own(channel)
        if is_own and (found is None or not found.may_have(channel)):
            return None
        if found is None:
            found = self._presence("group_discard", group)[1]
        return presences.end(found, channel, is_own)

    def _stream(self, group: str) -> Stream:
        """Return the history of a group. Raises ``RuntimeError`` for a group that has none."""
        return self._require_histories().get(group, self._group(group)[1])

    def _require_histories(self) -> Histories:
        if self._histories is None:
            raise RuntimeError("No group has a history: this layer has no option 'history'.")
        return self._histories

    def _make_histories(self, rules: Mapping[Any, Any]) -> Histories | None:
        if not rules:
            return None
        self._ask_identities()
        return Histories(rules, self.prefix, self._keeping_codec(), self._stats)

    def _keeping_codec(self) -> Codec:
        """Return what makes bytes of what is kept in Redis for longer than messages are on their way."""
        serializer = self._serializer
        if isinstance(serializer, BaseMessageSerializer) and serializer.expiry is not None:
            # What is kept outlives the messages on their way, and so must what it is encrypted with.
            serializer = copy(serializer)
            serializer.expiry = None
        return self.choose_codec(serializer, weakly(self._replaced("serialize")), weakly(self._replaced("deserialize")))

    def _hosts_of_layer(self) -> Sequence[Dialer | Seeds]:
        return [self._dialers] if isinstance(self._dialers, Seeds) else self._dialers

    def _ask_identities(self) -> None:
        for host in self._hosts_of_layer():
            host.ask_identity()

    def _make_presences(self, rules: PresenceRules | None) -> Presences | None:
        if rules is None or self._leases is None:
            return None
        self._ask_identities()
        presences = Presences(
            rules,
            self.prefix.encode(),
            self._leases,
            isinstance(self._dialers, Seeds),
            self._stats,
            self._keeping_codec(),
            weakly(self._way_to),
            weakly(self._send_event),
            weakly(self._member_groups),
        )
        for host in self._hosts_of_layer():
            host.on_reconnect(presences.came_back)
        return presences

    def _make_leases(self, duration: float | None, rules: PresenceRules | None) -> Leases | None:
        if duration is None:
            return None
        retention = self._named_for() if rules is None else max(self._named_for(), KEPT)
        leases = Leases(duration, self.prefix.encode(), unique_name(), retention)
        # Those of shard 0; on a cluster, of whichever server.
        host = self._dialers if isinstance(self._dialers, Seeds) else self._dialers[0]
        host.on_reconnect(leases.came_back)
        return leases

    def _keep_lease(self) -> None:
        """Called where this process begins to receive in the running event loop, which renews its lease."""
        if self._leases is not None:
            self._leases.keep()
        if self._presences is not None:
            self._presences.watch()

    def _named_for(self) -> float:
        """Return for how many seconds after the end of a process anything in Redis may name it."""
        return DAY

    def _check_group_message(self, group: str, message: Message) -> None:
        """Raise for a wrong name, and for what is not a message."""
        raise NotImplementedError

    def _check_excluded(self, channel: str) -> None:
        """Raise for what is not the name of a channel."""
        raise NotImplementedError

    def _excluded(self, group: str, message: Message, exclude: Iterable[str] | None) -> frozenset[str]:
        """Return who is not to get a message to a group. Raises ``TypeError`` for what are no names of channels."""
        return NOBODY if exclude is None else checked(exclude, self._check_excluded)

    def _own_shard(self, value: str, ring_size: int) -> int:
        return self.consistent_hash(value)

    def _replaced(self, name: str) -> Any:
        """
        Return a method of this layer if something has replaced the one defined here, else None.

        A subclass, or a wrapper that was assigned to the class or the layer, as tracing does: what it is to see must
        not pass it by. ``overrides`` does not count such wrappers.
        """
        method = getattr(self, name)
        return None if getattr(method, "__func__", None) is getattr(RedisLayer, name) else method


def overrides(layer: type, name: str) -> bool:
    """
    Return whether a subclass of this package's layers defines a method or a property.

    A wrapper assigned to one of these layers does not count: it watches a method, and configures nothing by it.
    """
    owner = next((base for base in layer.__mro__ if name in vars(base)), None)
    return owner is not None and not owner.__module__.startswith(("channels_redis_fast.", "channels."))


Function = TypeVar("Function", bound="Callable[..., Any] | None")


def weakly(function: Function, instead: object = None) -> Function:
    """
    Return what calls a bound method and does not keep its object alive; anything else as it is.

    What an event loop has of a layer reaches the layer like this: a socket must not be what keeps its layer, and so
    itself. When the object is gone it returns ``instead``, or raises ``ReferenceError`` where there is no such thing.
    """
    if not isinstance(function, types.MethodType):
        return function
    # What WeakMethod does, without a bound method for each call.
    owner, method = weakref.ref(function.__self__), weakref.ref(function.__func__)

    def call(*args: Any) -> Any:
        found, called = owner(), method()
        if found is None or called is None:
            if instead is None:
                raise ReferenceError("the channel layer is gone")
            return instead
        return called(found, *args)

    return cast(Function, call)


def unique_name() -> str:
    """Return 32 hex digits, as ``uuid4().hex`` gives them to channels_redis' names, at a third of the cost."""
    return os.urandom(16).hex()


def say_where(error: Exception, where: str, what: str = "message") -> None:
    """Add to a serializer's error where the message was going; its type and the rest stay."""
    place = f"{what} for {where}"
    if isinstance(error, (UnicodeDecodeError, UnicodeEncodeError)):
        error.reason = f"{error.reason} ({place})"
    elif len(error.args) == 1 and isinstance(error.args[0], str):
        error.args = (f"{error.args[0]} ({place})",)
    else:
        error.args = (*error.args, place)
