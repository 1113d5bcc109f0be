"""Subscribing again on new sockets to all that is wanted. Knows names, and no server."""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Collection

from ..connection.futures import ignore
from .acknowledgements import Acknowledgements


class Resumable(abc.ABC):
    """What has subscriptions that outlive its sockets."""

    _acknowledgements: Acknowledgements

    @abc.abstractmethod
    def wanted(self) -> Collection[bytes]:
        """Return the names that are to be subscribed."""

    @abc.abstractmethod
    def subscribe(self, name: bytes) -> asyncio.Future[None] | None:
        """Want a name. Returns None if it is acknowledged, else the future of that."""

    def reopen(self) -> None:
        """Begin to open sockets again after ``stop``, if anything is wanted."""
        for name in list(self.wanted()):
            acknowledged = self.subscribe(name)
            if acknowledged is not None:
                acknowledged.add_done_callback(ignore)

    async def resume(self) -> None:
        """
        Open sockets again after ``stop``, if anything is wanted.

        Returns when all of that is acknowledged, or a server cannot be reached at the first attempt; the attempts go
        on then.
        """
        await self._acknowledgements.wait_for([self.subscribe(name) for name in list(self.wanted())])
