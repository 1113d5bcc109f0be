"""
What a layer has in each event loop, and the two moments when it has to let go: loop close and fork.

Knows connections and receivers only as things to make and to close; what they do is theirs.
"""

from __future__ import annotations

import asyncio
import os
import types
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ._hot import reseed
from .commands import CommandConnection
from .connection import Dialer
from .receiver import Receiver
from .sender import Sender
from .stats import Stats


class LoopState:
    """The connections of one layer in one event loop. Their sockets are opened when they are first needed."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        dialers: Sequence[Dialer],
        expiry: int,
        ordered: bool,
        stats: Stats,
        make_receiver: Callable[[LoopState], Receiver],
    ) -> None:
        self.loop = loop
        #: By shard: the command connection, and what gathers the sends.
        self.commands = [CommandConnection(dialer, loop, stats.count_reconnect) for dialer in dialers]
        self.senders = [Sender(connection, expiry, ordered, stats) for connection in self.commands]
        self._make_receiver = make_receiver
        self._receiver: Receiver | None = None

    @property
    def receiver(self) -> Receiver:
        """Everything that this loop receives."""
        if self._receiver is None:
            self._receiver = self._make_receiver(self)
        return self._receiver

    async def disconnect(self) -> None:
        """Close the sockets; they are opened again when they are needed, at once by those who wait."""
        if self._receiver is not None:
            await self._receiver.disconnect()
        await self._close_commands()

    async def retire(self) -> None:
        """Close for good, since the event loop closes."""
        if self._receiver is not None:
            await self._receiver.retire()
        await self._close_commands()
        for connection in self.commands:
            connection.give_up()

    async def _close_commands(self) -> None:
        # After the pumps: what they popped for nobody goes back through these.
        await asyncio.gather(*(connection.aclose() for connection in self.commands))


class LoopStates(dict[asyncio.AbstractEventLoop, LoopState]):
    """The states of one layer by event loop; one that is missing is made."""

    def __init__(self, make_state: Callable[[asyncio.AbstractEventLoop], LoopState]) -> None:
        super().__init__()
        self._make_state = make_state

    def __missing__(self, loop: asyncio.AbstractEventLoop) -> LoopState:
        state = self[loop] = self._make_state(loop)
        _before_close(loop, self)
        return state

    async def disconnect(self) -> None:
        """Close the sockets of all running loops; this returns when those of the calling loop are closed."""
        here = asyncio.get_running_loop()
        for loop, state in list(self.items()):
            if loop is not here and loop.is_running():
                # Nobody waits for the other loops: one of them may wait for this one.
                asyncio.run_coroutine_threadsafe(state.disconnect(), loop)
        if here in self:
            await self[here].disconnect()

    def closing(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close what the layer has in a loop that is about to close."""
        state = self.pop(loop, None)
        if state is not None and not loop.is_closed() and not loop.is_running():
            loop.run_until_complete(state.retire())

    def forget(self) -> None:
        """
        In a forked child: let go of the parent's states without touching their sockets.

        They stay referenced for ever: a destructor would close a transport, and with it take the parent's
        socket out of the epoll set that both share, or send a TLS goodbye in the parent's name.
        """
        _inherited.append(dict(self))
        self.clear()


_inherited: list[Any] = []


def _before_close(loop: asyncio.AbstractEventLoop, states: LoopStates) -> None:
    """Make ``loop.close()`` close the layer's connections first, as channels_redis does."""
    close = loop.close

    def closing(self: asyncio.AbstractEventLoop) -> None:
        # The hook of an earlier layer is under this one, so each restores what it found.
        self.close = close  # type: ignore[method-assign]
        states.closing(self)
        self.close()

    loop.close = types.MethodType(closing, loop)  # type: ignore[method-assign]


class Forkable(Protocol):
    """Something that has to change in a forked child."""

    def after_fork(self) -> None: ...


_forkables: weakref.WeakSet[Forkable] = weakref.WeakSet()


def on_fork(forkable: Forkable) -> None:
    """Have ``after_fork`` called in every forked child, for as long as the object lives."""
    _forkables.add(forkable)


def _after_fork() -> None:
    reseed()
    for forkable in list(_forkables):
        forkable.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
