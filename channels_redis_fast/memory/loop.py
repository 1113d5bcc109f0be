"""What an in-memory layer has in one event loop: what wakes its receivers. There is nothing to close."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from ..hot import Waker
from ..loops import Closable
from .mailboxes import ChannelMailboxes


class NoLoop:
    """Stands for an event loop in which nobody receives, so that nobody has to be woken."""

    def call_soon(self, *arguments: Any) -> Any:
        raise RuntimeError("nobody receives without an event loop")


#: The waker of code that runs in no event loop, or in one where nobody has received yet.
NOWHERE = Waker(cast(asyncio.AbstractEventLoop, NoLoop()))


class MemoryLoop:
    """One event loop of an in-memory layer."""

    __slots__ = ("_mailboxes", "loop", "waker")

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
        """Forget the receivers, since the event loop closes: a message given to one of them would be lost."""
        self._mailboxes.drop_waiters(self.loop)
