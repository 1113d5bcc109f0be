"""
A layer for code without an event loop: ``layer.sync``. Each method runs the layer's coroutine of the same name on the
process' ``hub`` while the calling thread waits, and returns its result. Knows only these names of the layer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import Any, Protocol

from ..history import History
from ..messages.codec import Message
from ..messages.exclusion import GroupSend, listed, names_in
from .hub import Work
from .routing import WaitExpired


class Layer(Protocol):
    """What the layers have in common."""

    sync_timeout: float | None

    async def send(self, channel: str, message: Message) -> None: ...
    async def send_many(self, messages: Iterable[tuple[str, Message]]) -> None: ...
    async def group_add(self, group: str, channel: str) -> None: ...
    async def group_discard(self, group: str, channel: str) -> None: ...
    async def group_send(self, group: str, message: Message, *, exclude: Iterable[str] | None = None) -> None: ...
    async def group_send_many(self, messages: Iterable[GroupSend]) -> None: ...
    async def group_history(self, group: str, since: str | None = None, limit: int | None = None) -> History: ...
    async def group_resume(self, group: str, channel: str, since: str | None) -> History: ...
    async def group_forget(self, group: str) -> None: ...
    async def presence_join(self, group: str, channel: str, user: str | int | None, info: Any = None) -> None: ...
    async def presence_leave(
        self, group: str, channel: str | None = None, *, user: str | int | None = None
    ) -> None: ...
    async def presence(self, group: str) -> dict[str | int, Any]: ...
    async def presence_count(self, group: str) -> int: ...
    async def drain(self, over: float = 20.0) -> None: ...


class Calls(Protocol):
    """Runs a layer's coroutine for a thread without an event loop: a ``CallRouter``."""

    def wait_for(self, function: Work, timeout: float | None) -> Any: ...


class Unset:
    """Stands for no timeout argument: the layer's ``sync_timeout`` applies."""


UNSET = Unset()


class SyncLayer:
    """
    The layer's sends, groups and histories as plain functions, for any thread in which no event loop runs.

    ``timeout``: seconds, None for as long as the layer itself waits; by default the layer's ``sync_timeout``. Messages
    of one thread arrive in the order in which they were sent.

    Raises the errors of the coroutine of the same name; ``TimeoutError`` if it did not finish in time, although it may
    still be carried out; ``RuntimeError`` in a thread with a running event loop, which it would block, and if no other
    thread is possible (gevent).
    """

    def __init__(self, layer: Layer, router: Calls) -> None:
        self._layer = layer
        self._router = router

    def send(self, channel: str, message: Message, *, timeout: float | Unset | None = UNSET) -> None:
        """Send a message to a channel. Raises the errors of the layer's ``send``, including ``ChannelFull``."""
        self._run("send", channel, timeout, self._layer.send, channel, message)

    def send_many(self, messages: Iterable[tuple[str, Message]], *, timeout: float | Unset | None = UNSET) -> None:
        """Send messages to channels, all at once. Raises the errors of the layer's ``send_many``."""
        self._run("send_many", None, timeout, self._layer.send_many, list(messages))

    def group_add(self, group: str, channel: str, *, timeout: float | Unset | None = UNSET) -> None:
        """Add a channel to a group."""
        self._run("group_add", group, timeout, self._layer.group_add, group, channel)

    def group_discard(self, group: str, channel: str, *, timeout: float | Unset | None = UNSET) -> None:
        """Remove a channel from a group."""
        self._run("group_discard", group, timeout, self._layer.group_discard, group, channel)

    def group_send(
        self,
        group: str,
        message: Message,
        *,
        exclude: Iterable[str] | None = None,
        timeout: float | Unset | None = UNSET,
    ) -> None:
        """Send a message to all channels of a group except those in ``exclude``."""
        send: Any = self._layer.group_send
        if exclude is not None:
            # Iterated in this thread: it may be the caller's code.
            send = partial(send, exclude=names_in(exclude))
        self._run("group_send", group, timeout, send, group, message)

    def group_send_many(self, messages: Iterable[GroupSend], *, timeout: float | Unset | None = UNSET) -> None:
        """Send messages to groups. Raises the errors of the layer's ``group_send_many``."""
        self._run("group_send_many", None, timeout, self._layer.group_send_many, listed(messages))

    def group_history(
        self,
        group: str,
        since: str | None = None,
        limit: int | None = None,
        *,
        timeout: float | Unset | None = UNSET,
    ) -> History:
        """Return messages that were sent to a group, as the layer's ``group_history`` does."""
        history: History = self._run("group_history", None, timeout, self._layer.group_history, group, since, limit)
        return history

    def group_resume(
        self, group: str, channel: str, since: str | None, *, timeout: float | Unset | None = UNSET
    ) -> History:
        """Add a channel to a group and return what it has missed, as the layer's ``group_resume`` does."""
        history: History = self._run("group_resume", group, timeout, self._layer.group_resume, group, channel, since)
        return history

    def group_forget(self, group: str, *, timeout: float | Unset | None = UNSET) -> None:
        """Delete the history of a group."""
        self._run("group_forget", None, timeout, self._layer.group_forget, group)

    def presence_join(
        self,
        group: str,
        channel: str,
        user: str | int | None,
        info: Any = None,
        *,
        timeout: float | Unset | None = UNSET,
    ) -> None:
        """Make a user present in a group through a channel of this process, as the layer's ``presence_join`` does."""
        self._run("presence_join", group, timeout, self._layer.presence_join, group, channel, user, info)

    def presence_leave(
        self,
        group: str,
        channel: str | None = None,
        *,
        user: str | int | None = None,
        timeout: float | Unset | None = UNSET,
    ) -> None:
        """End the presence of a channel in a group, or of a user, as the layer's ``presence_leave`` does."""
        leave = partial(self._layer.presence_leave, group, channel, user=user)
        self._run("presence_leave", group, timeout, leave)

    def presence(self, group: str, *, timeout: float | Unset | None = UNSET) -> dict[str | int, Any]:
        """Return the users who are present in a group, each with its info."""
        present: dict[str | int, Any] = self._run("presence", None, timeout, self._layer.presence, group)
        return present

    def presence_count(self, group: str, *, timeout: float | Unset | None = UNSET) -> int:
        """Return how many users are present in a group."""
        count: int = self._run("presence_count", None, timeout, self._layer.presence_count, group)
        return count

    def drain(self, over: float = 20.0) -> None:
        """Prepare for the end of this process and wait at most ``over`` seconds, as the layer's ``drain`` does."""
        # It ends by itself, so the layer's timeout does not apply.
        self._run("drain", None, None, self._layer.drain, over)

    def _run(self, name: str, target: str | None, timeout: float | Unset | None, function: Any, *args: Any) -> Any:
        if _has_running_loop():
            raise RuntimeError(
                f"sync.{name}() would block the event loop that runs in this thread: use await layer.{name}() here."
            )
        seconds = self._layer.sync_timeout if isinstance(timeout, Unset) else timeout

        async def call() -> Any:
            # Called in here, so that all errors of the layer's method, even for missing arguments, are raised here.
            return await function(*args)

        try:
            return self._router.wait_for(call, seconds)
        except WaitExpired:
            whereto = "" if target is None else f" to {target}"
            raise TimeoutError(
                f"{name}{whereto} did not finish within {seconds:g} s; it may still happen, or have happened"
            ) from None


def _has_running_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
