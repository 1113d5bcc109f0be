"""
One of the tool's own connections to one server, opened and checked exactly like those of a layer.

If it connects, the layer connects too, and the errors are the layer's: one sentence with the host, never a password.
``servers`` knows which servers a layer has. Knows no command.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from ..cluster.seeds import Seeds
from ..cluster.slots import Address, slot_of
from ..connection.commands import CommandConnection
from ..connection.dialer import Dialer
from ..connection.hosts import HostOptions
from ..connection.link import Command, Link
from ..connection.replies import CLUSTER_ONLY
from ..connection.requests import Pending
from ..stats import Stats


class _Link(Link):
    """A socket that remembers how it is encrypted."""

    #: ``ssl.SSLObject``, None for a socket without TLS.
    encryption: Any = None

    def attach(self, writer: asyncio.StreamWriter) -> None:
        self.encryption = writer.get_extra_info("ssl_object")
        super().attach(writer)


class Line(CommandConnection):
    """
    A connection to one server of a layer, in the running event loop. ``role`` ends its name in CLIENT LIST.

    ``index``: the number of the shard, or of a cluster's primary. ``host``: redis-py's keywords for it; ``where``:
    their place in the settings. The first ``ask`` opens the connection.
    """

    link_class = _Link

    def __init__(self, dialer: Dialer, index: int, role: str, host: HostOptions, where: str) -> None:
        super().__init__(dialer, asyncio.get_running_loop(), Stats())
        self.role = role
        self.index = index
        self.host = host
        self.where = where

    def another(self) -> Line:
        """Return another connection to the same server."""
        return Line(self.dialer, self.index, self.role, self.host, self.where)

    @property
    def label(self) -> str:
        """The host, for output."""
        return self.dialer.label

    @property
    def encryption(self) -> Any:
        """The TLS state of the open socket (``ssl.SSLObject``), or None."""
        return self.link.encryption if isinstance(self.link, _Link) else None

    @property
    def slots(self) -> int | None:
        """How many of a cluster's slots the server has; None without a cluster, or if unknown."""
        return None

    def has(self, name: str | bytes) -> bool:
        """Whether a key, or a sharded channel, can be on this server."""
        return True

    async def ask(self, *commands: Command) -> list[Any]:
        """
        Write commands together and return their replies as the server gave them, errors as exceptions.

        Raises ``redis.exceptions.ConnectionError`` naming the host.
        """
        return await self.call(*commands, raises=False) if commands else []


class NodeLine(Line):
    """A connection to one server of a cluster; ``ranges``: the first and last slot of each range, if known."""

    def __init__(
        self, seeds: Seeds, address: Address, index: int, role: str, ranges: Sequence[tuple[int, int]] = ()
    ) -> None:
        super().__init__(seeds.dialer(address), index, role, seeds.options(address), "hosts[0]")
        self.address = address
        self.ranges = ranges
        self.seeds = seeds

    def another(self) -> Line:
        return NodeLine(self.seeds, self.address, self.index, self.role, self.ranges)

    @property
    def slots(self) -> int | None:
        return sum(last - first + 1 for first, last in self.ranges) or None

    def has(self, name: str | bytes) -> bool:
        slot = slot_of(name.encode() if isinstance(name, str) else name)
        return not self.ranges or any(first <= slot <= last for first, last in self.ranges)

    def not_done(self, request: Pending, error: Exception) -> None:
        # A redirection is an ordinary answer here: the key has moved meanwhile.
        if error.__class__ not in CLUSTER_ONLY:
            super().not_done(request, error)
        elif request.reply(error):
            self.repeat(request)
