"""
``layer.sync`` of an in-memory layer: nothing has to be waited for, so that a call is over when it returns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, Protocol

from ..messages.codec import Message
from ..sync.calls import UNSET, Layer, SyncLayer, Unset
from ..sync.routing import WaitExpired
from .presence import User


class PresenceLayer(Layer, Protocol):
    """What an in-memory layer has beside what all layers have."""

    async def group_send(self, group: str, message: Message, *, exclude: Iterable[str] | None = None) -> None: ...
    async def presence_join(self, group: str, channel: str, user: User, info: Any = None) -> None: ...
    async def presence_leave(self, group: str, channel: str | None = None, *, user: User | None = None) -> None: ...
    async def presence(self, group: str) -> dict[User, Any]: ...
    async def presence_count(self, group: str) -> int: ...


class MemorySyncLayer(SyncLayer):
    """The layer's methods as plain functions, for any thread in which no event loop runs."""

    _layer: PresenceLayer

    def __init__(self, layer: PresenceLayer, calls: InlineCalls) -> None:
        super().__init__(layer, calls)

    def group_send(
        self,
        group: str,
        message: Message,
        *,
        exclude: Iterable[str] | None = None,
        timeout: float | Unset | None = UNSET,
    ) -> None:
        """Send a message to all channels of a group, but to none of ``exclude``."""
        send: Any = self._layer.group_send
        if exclude is not None:
            send = partial(send, exclude=exclude)
        self._run("group_send", group, timeout, send, group, message)

    def presence_join(
        self, group: str, channel: str, user: User, info: Any = None, *, timeout: float | Unset | None = UNSET
    ) -> None:
        """Have a channel of a user join a group's presence."""
        self._run("presence_join", group, timeout, self._layer.presence_join, group, channel, user, info)

    def presence_leave(
        self,
        group: str,
        channel: str | None = None,
        *,
        user: User | None = None,
        timeout: float | Unset | None = UNSET,
    ) -> None:
        """Have a channel, or all channels of a user, leave a group's presence."""
        self._run("presence_leave", group, timeout, partial(self._layer.presence_leave, group, channel, user=user))

    def presence(self, group: str, *, timeout: float | Unset | None = UNSET) -> dict[User, Any]:
        """Return the users who are present in a group, each with his info."""
        users: dict[User, Any] = self._run("presence", None, timeout, self._layer.presence, group)
        return users

    def presence_count(self, group: str, *, timeout: float | Unset | None = UNSET) -> int:
        """Return how many users are present in a group."""
        count: int = self._run("presence_count", None, timeout, self._layer.presence_count, group)
        return count


class InlineCalls:
    """Runs a layer's coroutines in the calling thread. ``waits``: whether a subclass may have them wait."""

    def __init__(self, waits: bool) -> None:
        self._waits = waits

    def wait_for(self, function: Callable[[], Coroutine[Any, Any, Any]], timeout: float | None) -> Any:
        """
        Run a coroutine function and return what it returns; on an event loop of its own if it may wait.

        Raises ``WaitExpired`` if it waits for longer than ``timeout`` seconds.
        """
        if self._waits:
            return asyncio.run(_within(function, timeout))
        coroutine = function()
        try:
            coroutine.send(None)
        except StopIteration as end:
            return end.value
        coroutine.close()
        raise RuntimeError("a method of the layer was replaced by one that waits; use it in an event loop")


async def _within(function: Callable[[], Coroutine[Any, Any, Any]], timeout: float | None) -> Any:
    try:
        return await asyncio.wait_for(function(), timeout)
    except asyncio.TimeoutError:
        raise WaitExpired from None
