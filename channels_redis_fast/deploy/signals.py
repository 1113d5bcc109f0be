"""
Holds SIGTERM back until something has been done, and then passes it on to its recipient.

ASGI servers handle it in one of two ways, and may set either up before or after they import the application:

- ``signal.signal`` (uvicorn, also as a worker of gunicorn; daphne): the previous handler is called later.
- ``loop.add_signal_handler`` (granian, gunicorn's own worker, hypercorn without worker processes): then the
  Python-level handler does nothing. The loop reads the signal's number from the file descriptor that
  ``signal.set_wakeup_fd`` names. A pipe of ours replaces it: other signals are passed on at once, SIGTERM when it is
  released.

  So both are done for every server, and checked with each connection, since some servers restart their loop after the
  application has started. Knows signals and file descriptors. Does not know what is done in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType


class HeldSignal:
    """
    SIGTERM in this process.

    ``arrived`` is called in the event loop with the first one; ``release`` lets it through. A second one goes through
    at once: somebody is in a hurry.
    """

    def __init__(self, arrived: Callable[[], None]) -> None:
        self._arrived = arrived
        #: Set when the process ends without the signal, so that a signal that nobody handles does not kill it.
        self.is_ending = False
        self._process = os.getpid()
        self._is_held = False
        self._is_released = False
        self._is_passed_on = False
        self._loop: asyncio.AbstractEventLoop | None = None
        #: The previous handler, and the previous wakeup file descriptor, which is the loop's.
        self._handler: Callable[[int, FrameType | None], object] | int | None = None
        self._loop_fd = -1
        #: The read end and the write end of the pipe for signal numbers.
        self._pipe: tuple[int, int] | None = None

    def watch(self, loop: asyncio.AbstractEventLoop) -> bool:
        """
        Take over the signal again, if something has changed its handling. Return whether this thread gets signals.

        After a release, the signal is left to whoever has set a handler.
        """
        if threading.current_thread() is not threading.main_thread():
            return False
        if self._process != os.getpid():
            self._leave_parent()
        if not self._is_released:
            current = signal.getsignal(signal.SIGTERM)
            if current != self._take:
                self._handler = current
                signal.signal(signal.SIGTERM, self._take)
            if os.name == "posix":
                self._watch_wakeups(loop)
            self._loop = loop
        return True

    def release(self) -> None:
        """Pass the signal on to its recipient; call this in the event loop. Later signals go there directly."""
        if not self._is_released:
            self._is_released = True
            self._give_back()
            if self._is_held and not self._is_passed_on:
                self._pass_on(None)

    def _leave_parent(self) -> None:
        """In a forked child: drop our copies of what the parent has set up."""
        handler, pipe = self._handler, self._pipe
        self.__init__(self._arrived)  # type: ignore[misc]
        self._handler = handler
        if pipe is not None:
            current = signal.set_wakeup_fd(-1)
            if current not in (-1, pipe[1]):
                signal.set_wakeup_fd(current, warn_on_full_buffer=False)
            for end in pipe:
                os.close(end)

    def _watch_wakeups(self, loop: asyncio.AbstractEventLoop) -> None:
        old = self._pipe
        if old is None or loop is not self._loop:
            self._pipe = os.pipe()
            for end in self._pipe:
                os.set_blocking(end, False)
            loop.add_reader(self._pipe[0], self._read)
        assert self._pipe is not None
        before = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        if before == -1:
            # The loop does not read numbers. Our Python handler runs and wakes it.
            signal.set_wakeup_fd(-1)
            self._loop_fd = -1
        elif before not in (self._pipe[1], old and old[1]):
            self._loop_fd = before
        if old is not None and old is not self._pipe:
            # The pipe of a loop that ran in this thread before.
            for end in old:
                os.close(end)

    def _take(self, number: int, frame: FrameType | None) -> None:
        """Called by the interpreter, between any two instructions of the main thread."""
        if self._process != os.getpid() or self._is_held or self._is_released or self._loop is None:
            self._pass_on(frame)
            return
        self._is_held = True
        try:
            self._loop.call_soon_threadsafe(self._arrived)
        except RuntimeError:
            # The loop is closed.
            self._pass_on(frame)

    def _read(self) -> None:
        numbers = b""
        if self._pipe is not None:
            with contextlib.suppress(BlockingIOError):
                numbers = os.read(self._pipe[0], 4096)
        self._wake_loop(bytes(number for number in numbers if number != signal.SIGTERM))

    def _wake_loop(self, numbers: bytes) -> None:
        if numbers and self._loop_fd != -1 and self._process == os.getpid():
            with contextlib.suppress(OSError):
                os.write(self._loop_fd, numbers)

    def _pass_on(self, frame: FrameType | None) -> None:
        self._is_passed_on = True
        if callable(self._handler):
            self._handler(signal.SIGTERM, frame)
        elif self._handler == signal.SIG_DFL and not self.is_ending:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        if self._loop is not None and self._loop.is_running():
            self._wake_loop(bytes([signal.SIGTERM]))

    def _give_back(self) -> None:
        """Restore the previous handling, unless somebody has changed it again."""
        if signal.getsignal(signal.SIGTERM) == self._take and self._handler is not None and not self.is_ending:
            signal.signal(signal.SIGTERM, self._handler)
        if self._pipe is None or self._loop is None:
            return
        current = signal.set_wakeup_fd(-1)
        # The loop may have closed its own descriptor meanwhile.
        with contextlib.suppress(OSError, ValueError):
            signal.set_wakeup_fd(self._loop_fd if current == self._pipe[1] else current, warn_on_full_buffer=False)
        # Read what has come until now.
        self._read()
        self._loop.remove_reader(self._pipe[0])
        for end in self._pipe:
            os.close(end)
        self._pipe = None
