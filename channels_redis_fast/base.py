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
import types
import weakref
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from functools import cached_property, partial
from typing import Any, ClassVar, TypeVar, cast

from channels.layers import BaseChannelLayer

from . import options, upstream
from .cluster.seeds import Seeds
from .connection.dialer import Dialer, create_pool
from .connection.hosts import decode_hosts, host_label, is_cluster
from .connection.unset import stand_in, unset_part
from .history import Asked, Histories, History, Stream
from .hot import CapacityTable, shard
from .loops import LoopStates, on_fork
from .messages.codec import Codec, Message, choose
from .serializers import BaseMessageSerializer, make_serializer
from .stats import Stats
from .sync.calls import Layer, SyncLayer
from .sync.routing import RULES, CallRouter, routed


class RedisLayer(BaseChannelLayer):  # type: ignore[misc]
    """Base of the layers. Raises ``TypeError`` or ``ValueError`` naming the option that is wrong."""

    extensions: ClassVar[list[str]] = ["groups", "flush"]

    #: What this layer's connections are called on the server.
    layer_name = "core"

    #: Options that are taken and mean nothing here. channels_redis takes and forgets them, so settings have them.
    without_effect: ClassVar[tuple[str, ...]] = ()

    #: What picks the way of this layer's messages to bytes and back.
    choose_codec: Callable[..., Codec] = staticmethod(choose)

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
        **serializer_options: Any,
    ) -> None:
        self.sync_hub = options.one_of("sync_hub", sync_hub, RULES)
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
        #: What this layer has in each event loop, and for whose calls that is the way to take.
        self._loops: LoopStates[Any] = LoopStates(weakly(self._first_use))
        self._router: CallRouter[Any] = CallRouter(self._loops, self.sync_hub)
        on_fork(self)

    @cached_property
    def sync(self) -> SyncLayer:
        """The sends, groups and histories of this layer as plain functions, for threads without an event loop."""
        return SyncLayer(cast(Layer, self), self._router)

    async def group_send_many(self, messages: Iterable[tuple[str, Message]]) -> None:
        """
        Send ``(group, message)`` pairs, all at once; those of one group arrive in order.

        A wrong name, or a message that is no message, is refused before anything is sent. Then each message is sent
        whether or not the others succeed, and the first error of ``group_send``, in their order, is raised.
        """
        # In the caller's loop, whichever way the call takes: an iterator is the caller's code.
        await self._group_send_many(list(messages))

    @routed
    async def _group_send_many(self, pairs: list[tuple[str, Message]]) -> None:
        for group, message in pairs:
            self._check_group_message(group, message)
        outcomes = await asyncio.gather(*(self.group_send(*pair) for pair in pairs), return_exceptions=True)
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

    def stats(self) -> dict[str, int]:
        """
        Return this process' counters by name, and two numbers of this moment.

        ``connections_open`` counts sockets, ``commands_in_flight`` the commands that were written and not yet
        answered, blocking waits not among them.
        """
        states = list(self._loops.values())
        return {
            **self._stats.as_dict(),
            "connections_open": sum(connection.is_open for state in states for connection in state.connections()),
            "commands_in_flight": sum(connection.in_flight for state in states for connection in state.commands),
        }

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

    def _capacities_changed(self) -> None:
        """Called after the capacities were set: when the layer is made, and whenever they change."""

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
        return self._make_state(loop)

    def _make_state(self, loop: asyncio.AbstractEventLoop) -> Any:
        """Return what this layer has in an event loop."""
        raise NotImplementedError

    def after_fork(self) -> None:
        """In a forked child: leave the parent's sockets alone."""
        self._loops.forget()

    def _group(self, group: str) -> tuple[Any, bytes]:
        """Check the name of a group; return the way to its server in this event loop, and its key there."""
        raise NotImplementedError

    def _stream(self, group: str) -> Stream:
        """Return the history of a group. Raises ``RuntimeError`` for a group that has none."""
        return self._require_histories().get(group, self._group(group)[1])

    def _counted(self, history: History) -> History:
        """Count what somebody gets who was away, and return it."""
        self._stats.recovered += len(history.messages)
        self._stats.incomplete += not history.complete
        return history

    def _require_histories(self) -> Histories:
        if self._histories is None:
            raise RuntimeError("No group has a history: this layer has no option 'history'.")
        return self._histories

    def _make_histories(self, rules: Mapping[Any, Any]) -> Histories | None:
        if not rules:
            return None
        serializer = self._serializer
        if isinstance(serializer, BaseMessageSerializer) and serializer.expiry is not None:
            # What is kept outlives the messages on their way, and so must what it is encrypted with.
            serializer = copy(serializer)
            serializer.expiry = None
        codec = self.choose_codec(
            serializer, weakly(self._replaced("serialize")), weakly(self._replaced("deserialize"))
        )
        for host in [self._dialers] if isinstance(self._dialers, Seeds) else self._dialers:
            host.ask_identity()
        return Histories(rules, self.prefix, codec, self._stats)

    def _check_group_message(self, group: str, message: Message) -> None:
        """Raise for a wrong name, and for what is not a message."""
        raise NotImplementedError

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


def say_where(error: Exception, where: str) -> None:
    """Add to a serializer's error where the message was going; its type and the rest stay."""
    place = f"message for {where}"
    if isinstance(error, (UnicodeDecodeError, UnicodeEncodeError)):
        error.reason = f"{error.reason} ({place})"
    elif len(error.args) == 1 and isinstance(error.args[0], str):
        error.args = (f"{error.args[0]} ({place})",)
    else:
        error.args = (*error.args, place)
