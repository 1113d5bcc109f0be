"""Resubscribing everything that is wanted on new sockets. Knows names. Does not know servers."""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Collection

from ..connection.futures import ignore
from .acknowledgements import Acknowledgements


class Resumable(abc.ABC):
    """A base for classes whose subscriptions outlive their sockets."""

    _acknowledgements: Acknowledgements

    @abc.abstractmethod
    def wanted(self) -> Collection[bytes]:
        """Return the names that should be subscribed."""

    @abc.abstractmethod
    def subscribe(self, name: bytes) -> asyncio.Future[None] | None:
        """Request a name. Returns None if it is acknowledged, else a future of that."""

    def reopen(self) -> None:
        """Begin to open sockets again after ``stop``, if anything is wanted."""
        for name in list(self.wanted()):
            acknowledged = self.subscribe(name)
            if acknowledged is not None:
                acknowledged.add_done_callback(ignore)

    async def resume(self) -> None:
        """
        Open sockets again after ``stop``, if anything is wanted.

        Returns when everything is acknowledged, or when a server cannot be reached at the first attempt; further
        attempts then continue.
        """
        await self._acknowledgements.wait_for([self.subscribe(name) for name in list(self.wanted())])
