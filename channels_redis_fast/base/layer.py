"""
What both layers have in common: hosts, serializer, codec, and the methods that a site may override.

A method that a subclass overrides is called; where none is, the compiled function stands in its place. Knows
nothing of what a layer does with messages, and opens nothing.

A layer has many attributes, and CPython reads those of an object of more than 30 more slowly: what is None for most
layers is an attribute of the class (``draining``, ``presence``).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, ClassVar, cast

from .. import options, upstream
from ..cluster.seeds import Seeds
from ..connection.dialer import Dialer, create_pool
from ..connection.hosts import decode_hosts, host_label, is_cluster
from ..connection.unset import stand_in, unset_part
from ..hot import shard
from ..loops import LoopStates, on_fork
from ..messages.codec import Codec, Message, choose
from ..messages.exclusion import NOBODY, GroupSend, checked, listed
from ..names import unique_name
from ..presence import PresenceRules
from ..presence.rules import one_lease
from ..serializers import make_serializer
from ..stats import Stats
from ..sync.calls import Layer, SyncLayer
from ..sync.routing import RULES, CallRouter, routed
from .draining import DrainMethods
from .histories import HistoryMethods
from .overriding import overrides, weakly
from .presence import PresenceMethods


class RedisLayer(HistoryMethods, PresenceMethods, DrainMethods):
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
                f"{type(self).__name__}.create_pool creates the pool of one host and cannot serve a cluster, which has "
                "many: move what it does into the host's keywords, or use hosts other than a cluster."
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

        A wrong name or an invalid message is refused before anything is sent. After that each message is sent whether
        or not the others succeed, and the first error of ``group_send``, in their order, is raised.
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

    def create_pool(self, index: int) -> Any:
        """
        Return a redis-py connection pool of one host (``redis.asyncio.ConnectionPool``), its connections unopened.

        If a layer overrides this, the pools that it returns open the layer's sockets. The host cannot be a cluster,
        which has as many pools as nodes. Raises ``ValueError`` there, and for a host that is empty.
        """
        unset = unset_part(self.hosts[index], f"hosts[{index}]")
        if unset is not None:
            raise ValueError(unset)
        if is_cluster(self.hosts[index]):
            raise ValueError(
                f"{host_label(self.hosts[index])} is a cluster and has no single pool: use the client that the "
                "core layer's connection(0) returns."
            )
        return create_pool(self.hosts[index])

    def serialize(self, message: Message) -> bytes:
        """Return a message (a dict) as bytes. Raises the serializer's error for a value that it cannot pack."""
        return self._serializer.serialize(message)  # type: ignore[no-any-return]

    def deserialize(self, message: bytes) -> Message:
        """Return the message that such bytes hold. Raises the serializer's error for invalid bytes."""
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
                f"{type(self).__name__}.ring_size is {self.ring_size}, but there are {len(self.hosts)} hosts: list as "
                "many, or override connection() or create_pool(), which are called for each shard."
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

    def _way_to(self, shard: int, key: bytes) -> Any:
        """Return the way to the server of a key in this event loop."""
        return self._loops[asyncio.get_running_loop()].commands[shard].at(key)

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

    def _hosts_of_layer(self) -> Sequence[Dialer | Seeds]:
        return [self._dialers] if isinstance(self._dialers, Seeds) else self._dialers

    def _ask_identities(self) -> None:
        for host in self._hosts_of_layer():
            host.ask_identity()

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
