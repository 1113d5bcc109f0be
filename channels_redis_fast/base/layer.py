"""
What both layers have in common: hosts, serializer, codec, and the methods that an application may override.

A method that a subclass overrides is called; otherwise, the compiled function replaces it. Does not know what a layer
does with messages. Opens no connections.

A layer has many attributes, and CPython reads the attributes of an object with more than 30 of them more slowly. Those
that are None for most layers are therefore attributes of the class (``draining``, ``presence``).
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
    """Base of the layers. Raises ``TypeError`` or ``ValueError`` naming the wrong option."""

    extensions: ClassVar[list[str]] = ["groups", "flush"]

    #: The name of this layer's connections on the server.
    layer_name = "core"

    #: Options that are accepted without effect. channels_redis accepts and ignores them, so existing settings have
    #: them.
    without_effect: ClassVar[tuple[str, ...]] = ()

    #: Chooses the codec that converts this layer's messages to bytes and back.
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
        #: The dialer of each shard; or, if the only host is a cluster, the ``Seeds`` that lead to its servers.
        self._dialers: list[Dialer] | Seeds = (
            Seeds(stand_in(self.hosts[0]), "hosts[0]", self.layer_name)
            if on_cluster
            else [self._dialer(index) for index in range(self.ring_size)]
        )
        # Takes the ring's size as an argument, so that a send calls the compiled function directly.
        self._shard_of: Callable[[str, int], int] = (
            shard if self._replaced("consistent_hash") is None else self._own_shard
        )
        self._stats = Stats()
        #: The histories of groups; None if no group has one.
        self._histories = self._make_histories(options.mapping("history", history))
        #: The leases of this layer's processes; None if they have none.
        rules = PresenceRules.of(presence)
        is_said = presence is not None and "lease" in presence
        self._leases = self._make_leases(one_lease(options.lease("lease", lease), rules, is_said), rules)
        presences = self._make_presences(rules)
        if presences is not None:
            self._presences = presences
        #: This layer's state in each event loop; and the router, which decides whether a loop's calls use it or the
        #: hub.
        self._loops: LoopStates[Any] = LoopStates(weakly(self._first_use))
        self._router: CallRouter[Any] = CallRouter(self._loops, rule)
        on_fork(self)

    @cached_property
    def sync(self) -> SyncLayer:
        """This layer's sends, groups and histories as plain functions, for threads without an event loop."""
        return SyncLayer(cast(Layer, self), self._router)

    async def group_send_many(self, messages: Iterable[GroupSend]) -> None:
        """
        Send ``(group, message)`` pairs, all at once; those of one group arrive in order.

        A third element is the ``exclude`` argument of ``group_send``.

        An invalid name or message is refused before anything is sent. After that, each message is sent whether or not
        the others succeed, and the first error of ``group_send``, in message order, is raised.
        """
        # Consumed in the caller's loop, even if the call goes through the hub: an iterator is the caller's code.
        await self._group_send_many(listed(messages))

    @routed
    async def _group_send_many(self, sends: list[tuple[Any, ...]]) -> None:
        for group, message, *more in sends:
            self._check_group_message(group, message)
            for exclude in more:
                self._excluded(group, message, exclude)
        # A subclass that overrides ``group_send`` may not accept ``exclude``.
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
        Return a redis-py connection pool of one host (``redis.asyncio.ConnectionPool``), without opening connections.

        If a layer overrides this, the pools that it returns open the layer's sockets. The host cannot be a cluster,
        which has as many pools as nodes. Raises ``ValueError`` for a cluster and for an empty host.
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
        """
        Return the message that ``serialize`` has turned into bytes. Raises the serializer's error for invalid bytes.
        """
        return self._serializer.deserialize(message)  # type: ignore[no-any-return]

    def consistent_hash(self, value: str | bytes) -> int:
        """Return the shard of a name, an index into ``hosts``: the same one that channels_redis picks."""
        return shard(value, self.ring_size)

    @property
    def sync_hub(self) -> str:
        """The option ``sync_hub``."""
        return self._router.rule

    def __str__(self) -> str:
        return f"{type(self).__name__}(hosts={[host_label(host) for host in self.hosts]})"

    def _refuse_overrides(self) -> None:
        """Raise ``TypeError`` for an override by a subclass that works in channels_redis but cannot work here."""
        for name, rule in upstream.OVERRIDES[self.layer_name].items():
            if rule.fate is upstream.Fate.REFUSED and overrides(type(self), name):
                raise TypeError(f"{type(self).__name__}.{name} is never called by this layer: {rule.instead}")

    def _check_ring_size(self, on_cluster: bool) -> None:
        """Raise ``ValueError`` if a subclass sets a ``ring_size`` for which there are no hosts."""
        if self.ring_size == len(self.hosts):
            return
        if on_cluster or self.ring_size < 1 or self._own_pools() is None:
            raise ValueError(
                f"{type(self).__name__}.ring_size is {self.ring_size}, but there are {len(self.hosts)} hosts: list as "
                "many, or override connection() or create_pool(), which are called for each shard."
            )

    def _own_pools(self) -> Callable[[int], Any] | None:
        """
        Return a function that makes the pool of a shard, if a subclass overrides ``create_pool`` or ``connection``.
        """
        return self._replaced("create_pool")  # type: ignore[no-any-return]

    def _dialer(self, index: int) -> Dialer:
        own_pools = self._own_pools()
        make_pool = None if own_pools is None else partial(weakly(own_pools), index)
        host = min(index, len(self.hosts) - 1)
        return Dialer(stand_in(self.hosts[host]), f"hosts[{host}]", self.layer_name, make_pool)

    @property
    def unset_host(self) -> str | None:
        """A sentence about the first empty host; None if every host has an address."""
        if self._own_pools() is not None:
            # The addresses of these pools are not in ``hosts``.
            return None
        sentences = (unset_part(host, f"hosts[{index}]") for index, host in enumerate(self.hosts))
        return next(filter(None, sentences), None)

    def _require_hosts(self) -> None:
        """Raise ``ValueError`` naming an empty host: not when the layer is made, but whenever it is used."""
        unset = self.unset_host
        if unset is not None:
            raise ValueError(unset)

    def _first_use(self, loop: asyncio.AbstractEventLoop) -> Any:
        """Make the state of this layer in an event loop. Called before anything is done there."""
        self._require_hosts()
        state = self._make_state(loop)
        if self._leases is not None:
            self._leases.enter(loop, state.commands[0])
        return state

    def _make_state(self, loop: asyncio.AbstractEventLoop) -> Any:
        """Return a new state of this layer for an event loop."""
        raise NotImplementedError

    def _way_to(self, shard: int, key: bytes) -> Any:
        """Return this event loop's connection to the server of a key."""
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
        """Return the name that this process has in its lease."""
        return unique_name()

    def _group(self, group: str) -> tuple[Any, bytes]:
        """Check the name of a group. Return this event loop's connection to its server, and its key."""
        raise NotImplementedError

    def _group_shard(self, group: str) -> int:
        """Return the shard of a group, given its name."""
        raise NotImplementedError

    def _is_own(self, channel: str) -> bool:
        """Return whether a channel belongs to this process. Raises ``TypeError`` for an invalid name."""
        raise NotImplementedError

    def _member_groups(self) -> Iterable[tuple[int, bytes]]:
        """Return the shard and key of each group that is known to have channels of this process."""
        raise NotImplementedError

    async def _send_event(self, group: str, shard: int, key: bytes, message: Message) -> None:
        """Send a message to a group, given its name, shard and key, without recording it in a history."""
        raise NotImplementedError

    def _hosts_of_layer(self) -> Sequence[Dialer | Seeds]:
        return [self._dialers] if isinstance(self._dialers, Seeds) else self._dialers

    def _ask_identities(self) -> None:
        for host in self._hosts_of_layer():
            host.ask_identity()

    def _check_group_message(self, group: str, message: Message) -> None:
        """Raise an error for an invalid group name or message."""
        raise NotImplementedError

    def _check_excluded(self, channel: str) -> None:
        """Raise an error for an invalid channel name."""
        raise NotImplementedError

    def _excluded(self, group: str, message: Message, exclude: Iterable[str] | None) -> frozenset[str]:
        """Return the channels that do not get a message to a group. Raises ``TypeError`` for invalid channel names."""
        return NOBODY if exclude is None else checked(exclude, self._check_excluded)

    def _own_shard(self, value: str, ring_size: int) -> int:
        return self.consistent_hash(value)

    def _replaced(self, name: str) -> Any:
        """
        Return a method of this layer if something has replaced the one defined here, otherwise None.

        That is a subclass, or a wrapper assigned to the class or the layer, as tracing does: it must see every call.
        ``overrides`` does not count such wrappers.
        """
        method = getattr(self, name)
        return None if getattr(method, "__func__", None) is getattr(RedisLayer, name) else method
