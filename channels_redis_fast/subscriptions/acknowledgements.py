"""
The futures of subscriptions that a server has not acknowledged yet. Knows names. Does not know servers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from ..connection.futures import fail


class Acknowledgements:
    """The futures of an event loop that wait for the acknowledgement of names, by name."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[bytes, list[asyncio.Future[None]]] = {}
        #: When the wait for each name began, the oldest first.
        self._since: dict[bytes, float] = {}
        #: Done when a server could not be reached after ``wait_for`` was called.
        self._attempt: asyncio.Future[None] | None = None

    def future(self, name: bytes) -> asyncio.Future[None]:
        """Return a future that is done when ``name`` is acknowledged or no longer wanted."""
        future: asyncio.Future[None] = asyncio.Future(loop=self._loop)
        waiting = self._waiting.get(name)
        if waiting is None:
            self._waiting[name] = [future]
            self._since[name] = self._loop.time()
        else:
            waiting.append(future)
        return future

    def is_awaited(self, name: bytes) -> bool:
        """Return whether a caller waits for a name."""
        return any(not future.done() for future in self._waiting.get(name, ()))

    def settle(self, name: bytes) -> None:
        """End the wait for a name."""
        self._since.pop(name, None)
        for future in self._waiting.pop(name, ()):
            if not future.done():
                future.set_result(None)

    def fail(self, name: bytes, error: Exception) -> None:
        """Fail the futures of a name with an error like ``error``."""
        self._since.pop(name, None)
        fail(self._waiting.pop(name, ()), error)

    def fail_all(self, error: Exception) -> None:
        """Fail all futures."""
        for name in list(self._waiting):
            self.fail(name, error)

    def oldest(self) -> float | None:
        """Return when the longest current wait began, in loop time; None without waits."""
        return next(iter(self._since.values()), None)

    def overdue(self, since: float) -> list[bytes]:
        """Return the names whose waits began at that time or earlier."""
        return list(takewhile(lambda name: self._since[name] <= since, self._since))

    # Resubscribing everything on new sockets.

    async def wait_for(self, futures: Sequence[asyncio.Future[None] | None]) -> None:
        """
        Return when all of these futures are done, or when a server could not be reached at the first attempt.

        ``futures``: None stands for a name that is already acknowledged. Does not raise the errors of the futures.
        """
        waiting = [future for future in futures if future is not None]
        if waiting:
            self._attempt = self._loop.create_future()
            either: list[asyncio.Future[Any]] = [asyncio.gather(*waiting, return_exceptions=True), self._attempt]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)

    def attempt_failed(self) -> None:
        """Called when a server could not be reached: attempts continue, but ``wait_for`` does not wait for them."""
        if self._attempt is not None and not self._attempt.done():
            self._attempt.set_result(None)
