"""
The waiters of one general channel in one event loop.

Any receiver may receive on a general channel: each waiter gets one message, in turn with the workers of other
processes. A message that was popped for a receiver that has gone is put back. Knows the key and the pumps to ask. Does
not know what is in a message, or how it is popped.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Container, Sequence
from functools import partial
from itertools import count
from typing import Any, Protocol

from redis.exceptions import ConnectionError, OutOfMemoryError

from ..connection.futures import fail
from ..hot import Waiter, Waker
from ..messages.codec import Message
from ..messages.mailbox import is_collected

logger = logging.getLogger("channels_redis_fast")

#: Seconds before another attempt to put back a message that did not reach the server, or for which it had no memory.
RETURN_PAUSE = 0.5

#: A message and what is needed to put it back: the pump that brought it, the member, the score.
Popped = tuple[Message, Any, bytes, bytes]


class PoppingConnection(Protocol):
    """A pump, as a general channel sees it."""

    tries: deque[Any]

    @property
    def link(self) -> object: ...
    @property
    def awaited(self) -> Container[bytes]: ...
    def kick(self) -> None: ...
    def may_bring(self, key: bytes) -> bool: ...


class GeneralChannelContext(Protocol):
    """What a general channel needs from its event loop."""

    loop: asyncio.AbstractEventLoop
    waker: Waker
    retired: bool

    @property
    def pumps(self) -> Sequence[PoppingConnection]: ...

    def put_back(self, key: bytes, popped: Popped) -> asyncio.Future[list[Any]]: ...


class GeneralChannel:
    """
    The waiters of one general channel in one event loop.

    If there are several shards, they are tried in rotation without waiting, and waited on together only when all were
    empty: a wait on all of them at once would pop from each, although only one message was requested.
    """

    def __init__(self, receiver: GeneralChannelContext, key: bytes) -> None:
        self.key = key
        self.waiting: deque[Waiter[Popped]] = deque()
        #: Waiters of receives that the garbage collector has ended; see ``abandon_later``.
        self._abandoned: deque[Waiter[Popped]] = deque()
        self._receiver = receiver
        self._alone = len(receiver.pumps) == 1
        #: Whether the pumps should wait for this channel.
        self.blocking = self._alone
        #: Messages on their way back to Redis. Nothing is popped in the meantime: a later message would overtake them.
        self.returning = 0
        #: Messages given to receivers that have not run since, and may turn out to have been cancelled.
        self.given = 0
        #: Whether this process has stopped taking messages; and the waiters, which stay until they are cancelled.
        self.is_stopped = False
        self._stopped: deque[Waiter[Popped]] = deque()
        self._trying: PoppingConnection | None = None
        self._left = len(receiver.pumps)
        self._rotation = count()

    def is_idle(self) -> bool:
        """Whether nobody waits here and no pump asks for this channel."""
        return not self._stopped and self.is_at_rest()

    def is_at_rest(self) -> bool:
        """Whether no waiter can still get a message, none is being put back, and no pump can bring one."""
        return (
            not self.waiting
            and not self.returning
            and not self.given
            and not self._abandoned
            and self._trying is None
            and not any(pump.may_bring(self.key) for pump in self._receiver.pumps)
        )

    def stop(self) -> None:
        """Stop taking messages permanently. Waiters keep waiting, and get none."""
        self.is_stopped = True
        self._stopped += self.waiting
        self.waiting.clear()
        self._leave()

    def wait(self) -> Waiter[Popped]:
        """Add a waiter. It gets the message and what is needed to put it back."""
        waiter: Waiter[Popped] = self._receiver.waker.waiter()
        if self.is_stopped:
            # Nothing else references it, and thereby the task that waits.
            self._stopped.append(waiter)
            return waiter
        self.waiting.append(waiter)
        if self._abandoned:
            # After adding the new one, which gets what an abandoned one was given.
            self._clear_abandoned()
        self._pursue()
        return waiter

    def abandon(self, waiter: Waiter[Popped]) -> None:
        """Remove a waiter. A message that it was given but did not take goes to the next one, or is put back."""
        if self._receiver.retired:
            return
        for waiters in (self.waiting, self._stopped):
            if waiter in waiters:
                waiters.remove(waiter)
        if waiter.has_result():
            self.given -= 1
            self.give(waiter.take())
        elif not self.waiting:
            self._leave()

    def ended(self, waiter: Waiter[Popped], error: BaseException) -> None:
        """Called when a receive has raised ``error`` instead of returning a message."""
        if is_collected(error):
            self.abandon_later(waiter)
        else:
            self.abandon(waiter)

    def took(self) -> None:
        """Called when a receiver has taken the message that it was given."""
        self.given -= 1

    def decline(self, waiter: Waiter[Popped]) -> Waiter[Popped]:
        """
        Called by a receiver that was given a message before the channel was stopped: put the message back, and keep
        waiting.
        """
        self.given -= 1
        self.give(waiter.take())
        return self.wait()

    def abandon_later(self, waiter: Waiter[Popped]) -> None:
        """
        Like ``abandon``, for a receive that the garbage collector ends: at any point, in any thread.

        It takes effect before the next waiter is added or the next message is given, or in the next tick.
        """
        self._abandoned.append(waiter)
        try:
            self._receiver.loop.call_soon_threadsafe(self._clear_abandoned)
        except RuntimeError:
            if waiter.has_result():
                logger.error("A message on key %r was lost: its event loop was closed", self.key.decode())

    def give(self, popped: Popped) -> None:
        """Hand a message to the first waiter that can take it, or put it back."""
        if self._abandoned:
            self._clear_abandoned()
        while self.waiting:
            waiter = self.waiting.popleft()
            if not waiter.done():
                self.given += 1
                waiter.set_result(popped)
                break
        else:
            self.returning += 1
            self._receiver.put_back(self.key, popped).add_done_callback(partial(self._returned, popped))
        self.found()

    def found(self) -> None:
        """Called when there was a message: try the next shard if more are wanted."""
        self.blocking = self._alone
        self._left = len(self._receiver.pumps)
        if self.waiting:
            self._pursue()
        else:
            self._leave()

    def tried(self) -> None:
        """Called when a try has been answered with a message."""
        self._trying = None

    def nothing_found(self, pump: PoppingConnection) -> None:
        """Called when a try on a shard found nothing, or could not be made."""
        if self._trying is pump:
            self._trying = None
            self._left -= 1
            self._pursue()

    def fail_waiters(self, error: Exception) -> None:
        """Let every waiter raise ``error``."""
        waiting, self.waiting = self.waiting, deque()
        fail(waiting, error)

    def _pursue(self) -> None:
        pumps = self._receiver.pumps
        while self.waiting and not self.blocking and not self.returning and self._trying is None:
            if self._left <= 0:
                self.blocking = True
                break
            pump = pumps[next(self._rotation) % len(pumps)]
            if pump.link is None or self.key in pump.awaited:
                # A shard that is not connected cannot be tried; one with a wait on this key is empty.
                self._left -= 1
            else:
                self._trying = pump
                pump.tries.append(self)
                pump.kick()
        if self.blocking and self.waiting and not self.returning:
            for pump in pumps:
                if self.key not in pump.awaited:
                    pump.kick()

    def _clear_abandoned(self) -> None:
        abandoned, self._abandoned = self._abandoned, deque()
        # First the waiters that were given nothing, so that they are given nothing now; then by score.
        for waiter in sorted(abandoned, key=lambda waiter: float(waiter.take()[3]) if waiter.has_result() else 0.0):
            self.abandon(waiter)

    def _returned(self, popped: Popped, future: asyncio.Future[list[Any]]) -> None:
        error = None if future.cancelled() else future.exception()
        if isinstance(error, (ConnectionError, OutOfMemoryError)) and not self._receiver.retired:
            # It is kept until the server is back and has room, or somebody receives here.
            self._receiver.loop.call_later(RETURN_PAUSE, self._return_again, popped)
            return
        self.returning -= 1
        if error is not None:
            logger.error("A message could not be put back on key %r: %s", self.key.decode(), error)
        self._pursue()

    def _return_again(self, popped: Popped) -> None:
        self.returning -= 1
        self.give(popped)

    def _leave(self) -> None:
        """Withdraw from the pumps, unless somebody waits again by the time they look."""
        self.blocking = self._alone
        self._left = len(self._receiver.pumps)
        for pump in self._receiver.pumps:
            if self.key in pump.awaited:
                pump.kick()
