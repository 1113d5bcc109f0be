"""
The command connection to one server of a cluster. Reports when the map of slots may be out of date.

Knows one server; ``cluster`` knows its slots and the other servers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..connection.commands import CommandConnection, Keeper
from ..connection.link import Link
from ..connection.replies import CLUSTER_ONLY
from ..connection.requests import Pending, Request
from ..connection.script import Script
from ..stats import Stats
from .seeds import Seeds
from .slots import Address

#: Seconds of silence with commands unanswered after which the map is requested: the slots may be elsewhere by now.
DOUBT = 1.0

#: Maximum seconds until one more server is asked for the map, or the map is requested again while it is faulty.
ASK_NEXT = 0.25


class NodeOwner(Protocol):
    """The cluster, from the point of view of one of its servers."""

    loop: asyncio.AbstractEventLoop
    stats: Stats
    seeds: Seeds
    keeper: Keeper | None

    def doubt(self) -> None:
        """Called when the map of slots may be out of date."""


class Node(CommandConnection):
    """The command connection to one server of a cluster."""

    def __init__(self, cluster: NodeOwner, address: Address, scripts: Sequence[Script]) -> None:
        super().__init__(cluster.seeds.dialer(address), cluster.loop, cluster.stats, scripts)
        self.address = address
        #: When it was last needed although it had no slots.
        self.asked_at = float("-inf")
        self._cluster = cluster
        self._doubt: asyncio.TimerHandle | None = None
        self._trouble_since: float | None = None
        self.keeper = cluster.keeper

    def opened(self) -> None:
        self._trouble_since = None
        super().opened()

    def refused(self, error: Exception) -> bool:
        now = self.loop.time()
        self._trouble_since = now if self._trouble_since is None else self._trouble_since
        if now - self._trouble_since > self.answer_timeout:
            return super().refused(error)
        # Requests for the map go to another server instead.
        self.withdraw(Request, lambda request: request.fail(error))
        if self._unwritten:
            self._cluster.doubt()
        return bool(self._unwritten) or self._is_kept()

    def trouble_lasts(self) -> bool:
        return self._trouble_since is not None and self.loop.time() - self._trouble_since > self.answer_timeout

    def after_loss(self) -> None:
        self._cluster.doubt()
        super().after_loss()

    def not_done(self, request: Pending, error: Exception) -> None:
        if error.__class__ not in CLUSTER_ONLY:
            super().not_done(request, error)
        elif request.reply(error):
            self.repeat(request)

    def is_silent(self) -> bool:
        """Whether an answer is so long overdue that the server may be gone."""
        link = self.link
        return link is not None and bool(link.in_flight) and self.loop.time() - link.last_activity >= DOUBT

    def withdraw(self, kind: type[Any], take: Callable[[Any], None]) -> None:
        """Remove the unwritten requests of a kind, in order, passing each to ``take``."""
        self._put_first()
        requests = list(self._unwritten)
        self._unwritten.clear()
        for request in requests:
            if isinstance(request, kind):
                take(request)
            else:
                self._unwritten.append(request)

    async def aclose(self) -> None:
        if self._doubt is not None:
            self._doubt.cancel()
            self._doubt = None
        await super().aclose()

    def _write_some(self, link: Link) -> None:
        super()._write_some(link)
        if self._doubt is None:
            self._doubt = self.loop.call_later(DOUBT, self._look_at_silence)

    def _look_at_silence(self) -> None:
        self._doubt = None
        if self.link is not None and self.link.in_flight:
            is_silent = self.is_silent()
            if is_silent:
                self._cluster.doubt()
            # A server that resumes after it was replaced still carries out what it was sent, and then loses the result.
            self._doubt = self.loop.call_later(ASK_NEXT if is_silent else DOUBT, self._look_at_silence)
