"""
The messages of one subscribed channel, with one claim for each: the equivalent of ``RedisPubSubChannelLayer.receive``
without a coroutine.

For consumers, which wait for other things as well. Knows the layer. Does not know who reads.
"""

from __future__ import annotations

import contextlib
from asyncio import AbstractEventLoop
from collections.abc import MutableMapping

from ..hot import Waiter
from ..messages.codec import Message
from ..stats import Stats
from .loop import PubSubLoop


class Reader:
    """Reads one channel in one event loop, a message at a time: each claim is either taken or abandoned."""

    __slots__ = ("_channel", "_loop", "_loops", "_state", "_stats")

    def __init__(
        self, loop: AbstractEventLoop, loops: MutableMapping[AbstractEventLoop, PubSubLoop], channel: str, stats: Stats
    ) -> None:
        self._loop = loop
        self._loops = loops
        self._channel = channel
        self._stats = stats
        #: The state that the last claim was made in.
        self._state: PubSubLoop | None = None

    def claim(self) -> Waiter[Message] | None:
        """Return the waiter for the next message; None for a channel that has to be subscribed first."""
        state = self._state = self._loops[self._loop]
        channel = self._channel
        if channel not in state.channels:
            return None
        if channel in state.leaving:
            state.stay(channel)
        coming: Waiter[Message] = state.boxes.claim(channel, state.waker)
        return coming

    def take(self, coming: Waiter[Message]) -> Message:
        """Return the message that came, or raise what ended the wait."""
        if not coming.has_result():
            self.abandon(coming)
        else:
            self._stats.receives += 1
        return coming.take()

    def abandon(self, coming: Waiter[Message]) -> None:
        """End a wait. A message that was given to it and not taken goes to the next receiver, or back."""
        assert self._state is not None
        self._state.left(self._channel, coming)

    def abandon_later(self, coming: Waiter[Message]) -> None:
        """``abandon``, for a wait that the garbage collector ends: at any point in the code, in any thread."""
        assert self._state is not None
        self._state.left_later(self._channel, coming)

    def leave(self) -> None:
        """Called when no more messages will be read."""
        if self._state is not None:
            self._state.gone(self._channel)

    def leave_later(self) -> None:
        """``leave``, for a reader that the garbage collector ends: at any point in the code, in any thread."""
        if self._state is not None:
            # The loop may be closed.
            with contextlib.suppress(RuntimeError):
                self._state.loop.call_soon_threadsafe(self._state.gone, self._channel)
