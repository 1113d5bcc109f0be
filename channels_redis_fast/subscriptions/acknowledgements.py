"""
Who waits until a server has acknowledged a subscription. Knows names, and no server.
"""

from __future__ import annotations

import asyncio

from ..connection.futures import fail


class Acknowledgements:
    """The futures of an event loop that wait for names, by name."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[bytes, list[asyncio.Future[None]]] = {}

    def future(self, name: bytes) -> asyncio.Future[None]:
        """Return a future that is done when ``name`` is acknowledged, or no longer wanted."""
        future: asyncio.Future[None] = asyncio.Future(loop=self._loop)
        waiting = self._waiting.get(name)
        if waiting is None:
            self._waiting[name] = [future]
        else:
            waiting.append(future)
        return future

    def is_awaited(self, name: bytes) -> bool:
        """Return whether somebody waits for a name."""
        return any(not future.done() for future in self._waiting.get(name, ()))

    def settle(self, name: bytes) -> None:
        """End the wait for a name."""
        for future in self._waiting.pop(name, ()):
            if not future.done():
                future.set_result(None)

    def fail(self, name: bytes, error: Exception) -> None:
        """Let those who wait for a name raise an error like ``error``."""
        fail(self._waiting.pop(name, ()), error)

    def fail_all(self, error: Exception) -> None:
        """Let all who wait raise it."""
        for name in list(self._waiting):
            self.fail(name, error)
