"""
One connection of the tool itself to one shard, opened and watched over exactly as those of a layer are.

What connects here connects in the layer, and the errors are the layer's: one sentence with the host, never a password.
Knows no command.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from ..base import RedisLayer
from ..commands import CommandConnection
from ..connection import Command, Link
from ..dialer import Dialer
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
    A connection to one shard of a layer, in the running event loop; ``role`` ends its name in CLIENT LIST.

    It is opened by the first ``ask``.
    """

    link_class = _Link

    def __init__(self, layer: RedisLayer, index: int, role: str) -> None:
        dialer = Dialer(layer.hosts[index], f"hosts[{index}]", layer.layer_name, partial(layer.create_pool, index))
        super().__init__(dialer, asyncio.get_running_loop(), Stats())
        self.role = role
        self.index = index

    @property
    def label(self) -> str:
        """The host, for output."""
        return self.dialer.label

    @property
    def encryption(self) -> Any:
        """What there is of TLS on the open socket (``ssl.SSLObject``), or None."""
        return self.link.encryption if isinstance(self.link, _Link) else None

    async def ask(self, *commands: Command) -> list[Any]:
        """
        Write commands in one go and return their replies as the server gave them, an error among them as exception.

        Raises ``redis.exceptions.ConnectionError`` naming the host.
        """
        return await self.call(*commands, raises=False)


@contextlib.asynccontextmanager
async def lines(layer: RedisLayer, role: str) -> AsyncIterator[list[Line]]:
    """Give a line to each shard of a layer; they are closed at the end, however that comes."""
    opened = [Line(layer, index, role) for index in range(layer.ring_size)]
    try:
        yield opened
    finally:
        await asyncio.gather(*(line.aclose() for line in opened))
