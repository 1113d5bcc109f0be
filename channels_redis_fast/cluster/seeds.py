"""
The servers of one Redis Cluster: how to connect to each, and which to ask first for the list of servers.

Knows the ``cluster`` entry of the ``hosts`` option. Makes one ``Dialer`` for each address, shared by all event loops of
a layer, so that an outage is logged once. Knows no slots. Opens nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis.asyncio import RedisCluster
from redis.asyncio.connection import parse_url

from ..connection.dialer import Dialer, open_cluster_client
from ..connection.hosts import HostOptions, host_label
from .slots import Address

#: Keywords that do not apply to a connection.
_OF_THE_CLUSTER = ("cluster", "address_remap")


class Seeds:
    """
    The servers of a decoded ``{"cluster": [...]}`` host. ``layer``: the layer's part of the name of their connections.

    The keywords beside ``cluster`` apply to every server. So do the user, the password and the TLS settings of the
    first URI, because the addresses that a cluster reports contain none of these.

    Raises ``ValueError`` at construction, naming ``where``, for options that redis-py does not accept.
    """

    def __init__(self, host: HostOptions, where: str, layer: str) -> None:
        self.label = host_label(host)
        self.remap: Callable[[Address], Address] | None = host.get("address_remap")
        self._where = where
        self._layer = layer
        self._dialers: dict[Address, Dialer] = {}
        self._asks_identity = False
        self._reconnected: list[Callable[[], None]] = []
        seeds = [_parts(seed, where) for seed in host["cluster"]]
        self.addresses: list[Address] = [(str(parts.pop("host")), int(parts.pop("port"))) for parts in seeds]
        common = next((parts for parts, seed in zip(seeds, host["cluster"], strict=True) if "address" in seed), {})
        self._options = {**{name: host[name] for name in host if name not in _OF_THE_CLUSTER}, **common}
        #: Seconds that an answer may take.
        self.answer_timeout = self.dialer(self.addresses[0]).answer_timeout

    def ask_identity(self) -> None:
        """Ask each server for its identity on each new command connection."""
        self._asks_identity = True
        for dialer in self._dialers.values():
            dialer.ask_identity()

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Register a function that is called, in its event loop, when a lost connection to any server is back."""
        self._reconnected.append(callback)
        for dialer in self._dialers.values():
            dialer.on_reconnect(callback)

    def options(self, address: Address) -> HostOptions:
        """Return redis-py's keywords for a connection to one of the servers."""
        host, port = address
        return {**self._options, "host": host, "port": port}

    def client(self) -> RedisCluster:
        """
        Return a redis-py client of the cluster, for an application's own commands.

        Raises ``TypeError`` for a keyword that redis-py accepts for connections but not for this client.
        """
        remap = {} if self.remap is None else {"address_remap": self.remap}
        return open_cluster_client(self.addresses, {**self._options, **remap})

    def dialer(self, address: Address) -> Dialer:
        """Return the dialer of one of the servers."""
        dialer = self._dialers.get(address)
        if dialer is None:
            dialer = self._dialers[address] = Dialer(self.options(address), self._where, self._layer)
            dialer.asks_identity = self._asks_identity
            for callback in self._reconnected:
                dialer.on_reconnect(callback)
        return dialer


def _parts(seed: HostOptions, where: str) -> dict[str, Any]:
    if "address" not in seed:
        return dict(seed)
    try:
        parts: dict[str, Any] = dict(parse_url(seed["address"]))
    except ValueError as error:
        raise ValueError(f"Option {where} is not a Redis host: {error}") from error
    if parts.pop("db", 0):
        raise ValueError(f"{where}: a cluster has only database 0, but one of its URIs names another.")
    parts.setdefault("host", "localhost")
    parts.setdefault("port", 6379)
    return parts
