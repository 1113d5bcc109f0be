"""The state of an in-memory layer in one event loop: the waker of its receivers. There is nothing to close."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, cast

from ..hot import Waker
from ..loops import Closable
from .mailboxes import ChannelMailboxes


class NoLoop:
    """Takes the place of an event loop in which nobody receives, so that nobody has to be woken."""

    def call_soon(self, *arguments: Any) -> Any:
        raise RuntimeError("nobody receives without an event loop")


#: The waker for code outside any event loop, or in one where nobody has received yet.
NOWHERE = Waker(cast(asyncio.AbstractEventLoop, NoLoop()))


class MemoryLoop:
    """One event loop of an in-memory layer."""

    __slots__ = ("_mailboxes", "loop", "waker")

    #: There are no connections for commands.
    commands: ClassVar[tuple[()]] = ()

    def __init__(self, loop: asyncio.AbstractEventLoop, mailboxes: ChannelMailboxes) -> None:
        self.loop = loop
        self.waker = Waker(loop)
        self._mailboxes = mailboxes

    def connections(self) -> list[Closable]:
        """Return no connections."""
        return []

    async def disconnect(self) -> None:
        """Close nothing."""

    async def retire(self) -> None:
        """Forget the receivers, because the event loop is closing: a message given to one of them would be lost."""
        self._mailboxes.drop_waiters(self.loop)
