"""
What a layer has in each event loop, and the two moments when it has to let go: loop close and fork.

Knows what a layer has in a loop only as a thing to make and to close.
"""

from __future__ import annotations

import asyncio
import os
import types
import weakref
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from ._hot import reseed


class LoopState(Protocol):
    """What a layer has in one event loop."""

    async def disconnect(self) -> None:
        """Close the sockets; they are opened again when they are needed, at once by those who wait."""

    async def retire(self) -> None:
        """Close for good, since the event loop closes."""


State = TypeVar("State", bound=LoopState)


class LoopStates(dict[asyncio.AbstractEventLoop, State]):
    """The states of one layer by event loop; one that is missing is made."""

    def __init__(self, make_state: Callable[[asyncio.AbstractEventLoop], State]) -> None:
        super().__init__()
        self._make_state = make_state

    def __missing__(self, loop: asyncio.AbstractEventLoop) -> State:
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


def _before_close(loop: asyncio.AbstractEventLoop, states: LoopStates[Any]) -> None:
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
