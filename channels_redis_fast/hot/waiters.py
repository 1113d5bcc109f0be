"""The reference twin of `_ext/waiters.pyx`: what coroutines wait on, woken together.

A future wakes its task through its own handle in the event loop, which costs more than everything else on a message's
way to its receiver. A `Waiter` is the part of a future that one awaiting task needs. All waiters of a loop that are
done in one tick are woken by one callback, up to `_SLICE` of them; the loop does its other work before the next slice.
It knows asyncio's protocol for what a task may await. It does not know channels or messages.
"""

from __future__ import annotations

import asyncio
from asyncio import CancelledError, InvalidStateError
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_PENDING, _FINISHED, _FAILED, _CANCELLED = range(4)

#: Waiters woken by one callback: waking 100,000 at once would stop everything else in the loop for seconds.
_SLICE = 5000


class Waker:
    """Wakes the waiters of one event loop."""

    __slots__ = ("_cancelled", "_done", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, /) -> None:
        self.loop = loop
        # The waiters to wake. While there are any, `_run` is scheduled.
        self._done: list[Waiter[Any]] = []
        # Those among them that must not wait for their turn.
        self._cancelled: list[Waiter[Any]] = []

    def waiter(self) -> Waiter[Any]:
        """Return a new waiter."""
        return Waiter(self)

    def _add(self, waiter: Waiter[Any]) -> None:
        if not self._done:
            self.loop.call_soon(self._run)
        self._done.append(waiter)

    def _hurry(self, waiter: Waiter[Any]) -> None:
        """Wake a done waiter with the next slice, because its task was cancelled meanwhile.

        What it was given then goes to its successor, ahead of anything that comes later.
        """
        if len(self._done) > _SLICE:
            self._cancelled.append(waiter)

    def _next_slice(self) -> list[Waiter[Any]]:
        """Take the waiters to wake next; if there are more, schedule the next slice."""
        done = self._done
        if len(done) <= _SLICE and not self._cancelled:
            self._done = []
            return done
        # They are in both lists; the second time, they have already been woken.
        done[:0] = self._cancelled
        self._cancelled = []
        taken = done[:_SLICE]
        del done[:_SLICE]
        if done:
            self.loop.call_soon(self._run)
        return taken

    def _run(self) -> None:
        # Backwards, so that each waiter is freed when its task has its result, and the next one reuses its memory.
        done = self._next_slice()[::-1]
        try:
            while done:
                waiter = done.pop()
                callback, context = waiter._callback, waiter._context
                if waiter._others:
                    # One at a time, so that an exception affects none of the others.
                    waiter._callback, waiter._context = waiter._others.pop(0)
                    done.append(waiter)
                else:
                    waiter._callback = waiter._context = None
                if isinstance(callback, Gate):
                    callback.open()
                elif callback is not None and context is not None:
                    context.run(callback, waiter)
        except BaseException:
            if done:
                if not self._done:
                    self.loop.call_soon(self._run)
                self._done[:0] = done[::-1]
            raise


class Waiter(Generic[T]):
    """What one task awaits; created by `Waker.waiter`. Awaiting it returns nothing: `take` has the result."""

    __slots__ = (
        "_asyncio_future_blocking",
        "_callback",
        "_context",
        "_is_shared",
        "_others",
        "_outcome",
        "_state",
        "_waker",
        "number",
    )

    def __init__(self, waker: Waker) -> None:
        self._asyncio_future_blocking = False
        self._callback: Callable[[Any], Any] | Gate | None = None
        self._context: Context | None = None
        self._others: list[tuple[Callable[[Any], Any] | Gate, Context | None]] | None = None
        self._is_shared = False
        self._outcome: Any = None
        self._state = _PENDING
        self._waker = waker
        #: Its place among the waiters that came to the same mailboxes; 0 for others.
        self.number = 0

    # The waiter's own interface.

    def done(self) -> bool:
        """Return whether there is an outcome."""
        return self._state != _PENDING

    def cancelled(self) -> bool:
        """Return whether the waiting task was cancelled."""
        return self._state == _CANCELLED

    def has_result(self) -> bool:
        """Return whether there is a result to take."""
        return self._state == _FINISHED

    def take(self) -> T:
        """Return the result. Raises what `result` does."""
        return self.result()

    def set_result(self, result: T, /) -> None:
        """End the wait. Raises `asyncio.InvalidStateError` if it has ended."""
        self._finish(_FINISHED, result)

    def set_exception(self, error: BaseException, /) -> None:
        """End the wait with an error. Raises `asyncio.InvalidStateError` if it has ended."""
        self._finish(_FAILED, error)

    # The interface that asyncio's tasks need.

    def __await__(self) -> Generator[Any, None, None]:
        while self._state == _PENDING:
            if self._asyncio_future_blocking:
                raise RuntimeError("await wasn't used with future")
            self._asyncio_future_blocking = True
            yield self
        if self._state != _FINISHED:
            self.result()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop."""
        return self._waker.loop

    def result(self) -> T:
        """Return the result, or raise the error, `asyncio.CancelledError` or `asyncio.InvalidStateError`."""
        if self._state == _FINISHED:
            if self._is_shared:
                self._outcome = self._outcome.copy()
                self._is_shared = False
            return self._outcome  # type: ignore[no-any-return]
        if self._state == _FAILED:
            raise self._outcome
        if self._state == _CANCELLED:
            raise self._cancelled_error()
        raise InvalidStateError("Result is not set.")

    def exception(self) -> BaseException | None:
        """Return the error, None for a result; raise `asyncio.CancelledError` or `asyncio.InvalidStateError`."""
        if self._state == _FINISHED:
            return None
        if self._state == _FAILED:
            return self._outcome  # type: ignore[no-any-return]
        if self._state == _CANCELLED:
            raise self._cancelled_error()
        raise InvalidStateError("Exception is not set.")

    def cancel(self, msg: Any = None) -> bool:
        """End the wait by cancellation; return whether it was still pending."""
        if self._state != _PENDING:
            if self._callback is not None:
                self._waker._hurry(self)
            return False
        self._finish(_CANCELLED, msg)
        return True

    def add_done_callback(self, callback: Callable[[Any], Any], /, *, context: Context) -> None:
        """Register the callback of a waiting task."""
        self._tell(callback, context)

    def remove_done_callback(self, callback: Callable[[Any], Any], /) -> int:
        """Remove a callback; return how often it was registered."""
        kept = [(self._callback, self._context)] if self._callback is not None else []
        kept += self._others or []
        count = len(kept)
        kept = [entry for entry in kept if entry[0] != callback]
        self._callback, self._context = kept[0] if kept else (None, None)
        self._others = kept[1:]
        return count - len(kept)

    def _tell(self, callback: Callable[[Any], Any] | Gate, context: Context | None) -> None:
        if self._callback is not None:
            if self._others is None:
                self._others = []
            self._others.append((callback, context))
            return
        self._callback = callback
        self._context = context
        if self._state != _PENDING:
            self._waker._add(self)

    def _cancelled_error(self) -> CancelledError:
        return CancelledError() if self._outcome is None else CancelledError(self._outcome)

    def _share(self, message: dict[str, Any]) -> None:
        """End the wait with a flat message that others are given too and nobody changes; `take` copies it."""
        self._finish(_FINISHED, message)
        self._is_shared = True

    def _finish(self, state: int, outcome: Any) -> None:
        if self._state != _PENDING:
            raise InvalidStateError("the wait has ended")
        self._state = state
        self._outcome = outcome
        if self._callback is not None:
            self._waker._add(self)


class Gate:
    """Awaited by a task that waits for several things at once. Awaiting it returns nothing: the task looks for itself.

    It opens when one of the waiters that it watches is done, or when it is told to, and stays open until the task
    passes. It can be awaited repeatedly.
    """

    __slots__ = ("_asyncio_future_blocking", "_callback", "_cancelled", "_context", "_loop", "is_open")

    def __init__(self, loop: asyncio.AbstractEventLoop, /) -> None:
        self._asyncio_future_blocking = False
        self._callback: Callable[[Any], Any] | None = None
        self._cancelled: CancelledError | None = None
        self._context: Context | None = None
        self._loop = loop
        #: Whether the next wait returns at once.
        self.is_open = False

    def watch(self, waiter: Waiter[Any], /) -> None:
        """Open when a waiter is done, in the callback that wakes its waiters' tasks."""
        waiter._tell(self, None)

    def open(self) -> None:
        """Wake the task now if it waits here, otherwise let it pass when it comes. Not from within another task."""
        callback, context = self._callback, self._context
        self.is_open = True
        if callback is not None and context is not None:
            self._callback = self._context = None
            context.run(callback, self)

    # The interface that asyncio's tasks need.

    def __await__(self) -> Generator[Any, None, None]:
        if not self.is_open:
            self._asyncio_future_blocking = True
            yield self
        self.is_open = False

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop."""
        return self._loop

    def result(self) -> None:
        """Raise `asyncio.CancelledError` if the wait was cancelled."""
        error = self._cancelled
        if error is not None:
            self._cancelled = None
            raise error

    def cancel(self, msg: Any = None) -> bool:
        """End the wait by cancellation."""
        self._cancelled = CancelledError() if msg is None else CancelledError(msg)
        self._loop.call_soon(self.open)
        return True

    def add_done_callback(self, callback: Callable[[Any], Any], /, *, context: Context) -> None:
        """Register the callback of the waiting task."""
        self._callback = callback
        self._context = context
