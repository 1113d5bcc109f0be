"""The methods of a layer that prepare the end of its process. ``channels_redis_fast.drain`` knows who was told."""

from __future__ import annotations

import asyncio
import time

from .. import options
from ..drain import HANDLERS, LOOK, Drain
from ..loops import notice_fork
from .limits import LimitedLayer


class DrainMethods(LimitedLayer):
    """Stops taking jobs, and tells clients to leave."""

    #: The type of the message that channels receive when the layer is drained; None for no message.
    on_drain: str | None = None
    #: The drain of this process, once there is one.
    _drain: Drain | None = None

    async def drain(self, over: float = 20.0) -> None:
        """
        Prepare for the end of this process: take no more jobs, and ask its clients to leave, spread over ``over``
        seconds.

        Receives on general channels stop in all event loops: they no longer return or raise. Messages that were popped
        for them are put back (core); messages that a process already has are still received (Pub/Sub). Specific
        channels continue. With the option ``on_drain``, each of them receives ``{"type": on_drain, "after": seconds}``
        once, including new ones; the seconds are random, within ``over``.

        Returns when nobody is known to receive on a specific channel and no handler is known to run, or after ``over``
        seconds. If you call it again, it waits again, but tells nobody twice. If you cancel it, only the waiting ends.
        A forked child is not drained.

        Raises ``TypeError`` or ``ValueError`` if ``over`` is not a number of seconds.
        """
        over = options.delay("over", over)
        notice_fork()
        if self._drain is None:
            self._drain = Drain(self.on_drain)
        drain = self._drain
        until = drain.extend(over)
        self._drain_channels(drain)
        # Polled: what ends may be in any thread, and not all of it notifies.
        while self._is_occupied(drain) and (left := until - time.monotonic()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(min(left, LOOK))

    @property
    def is_draining(self) -> bool:
        """Whether ``drain`` was called, so that this process takes no more jobs. For a readiness view."""
        notice_fork()
        return self._drain is not None

    def _is_occupied(self, drain: Drain) -> bool:
        """Whether a client or a handler is left in this process, or a message is being put back."""
        if HANDLERS.are_running() or self._is_returning():
            return True
        return self._is_received_on(None if HANDLERS.are_counted else drain)

    def _drain_channels(self, drain: Drain) -> None:
        """Stop the receives on general channels, and send the message to specific channels. May be called again."""
        raise NotImplementedError

    def _is_returning(self) -> bool:
        """Return whether a message of a general channel is being put back, or may still be."""
        return False

    def _is_received_on(self, drain: Drain | None) -> bool:
        """
        Return whether anybody receives on a specific channel; with ``drain``, also whether anybody did and has not
        left.
        """
        raise NotImplementedError

    def _left(self, channel: str) -> None:
        """Called in the channel's event loop when nobody receives on a specific channel any more."""
        raise NotImplementedError
