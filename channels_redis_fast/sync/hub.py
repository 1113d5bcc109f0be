"""
The I/O thread of this process: one event loop, which runs the calls of event loops that only live for one call.

It starts when it is first needed, and stops when the interpreter exits. A forked child leaves it behind and starts its
own. Does not know layers: it runs the coroutines that it is given, each with a callback for its end.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import sys
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from redis.exceptions import ConnectionError

from ..loops import never_collect, notice_fork, on_fork, serves_others

#: Seconds that the interpreter's exit waits for calls to finish, and then for connections to be closed.
STOP_TIMEOUT = 3.0


#: What the hub is given: not yet a coroutine, which would warn if a signal arrived before it is awaited.
Work = Callable[[], Coroutine[Any, Any, Any]]


class Hub:
    """A thread with an event loop. Raises ``RuntimeError`` if no thread can be started."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        # The application's event loop policy may have set an eager factory, which starts tasks before they are known
        # here.
        self.loop.set_task_factory(None)
        serves_others(self.loop)
        #: Calls that have not begun yet. Without a lock: a signal handler may make a call in the middle of another one.
        self._calls: deque[Call] = deque()
        self._has_ended = False
        # A daemon, because a process that has finished must not wait for it; ``stop`` ends it cleanly before that.
        self._thread = threading.Thread(target=self._work, name="channels_redis_fast", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self.loop.close()
            raise

    def call(self, function: Work, done: Callable[[Call], None]) -> Call:
        """
        Run a coroutine function here, in the calling thread's context. ``done`` gets the finished call, in this loop.

        Calls of one thread begin in the order in which they were made. Raises ``RuntimeError`` after ``stop``, without
        calling the function.
        """
        call = Call(self.loop, function, done)
        self._calls.append(call)
        if self._has_ended:
            # Either it is removed here, or ``_end`` has already begun it.
            with contextlib.suppress(ValueError):
                self._calls.remove(call)
                raise RuntimeError(_ENDING)
        # If the loop has been closed in the meantime, ``_end`` has already begun it.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._begin_calls)
        return call

    def stop(self) -> None:
        """Let running calls finish, then close the loop and with it the layers' connections here."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(2 * STOP_TIMEOUT)

    def _begin_calls(self) -> None:
        while self._calls:
            self._calls.popleft().begin()

    def _work(self) -> None:
        is_stopped = False
        while not is_stopped:
            # A serializer that raises these ends only its own call, which raises them too.
            with contextlib.suppress(KeyboardInterrupt, SystemExit):
                self.loop.run_forever()
                is_stopped = True
        try:
            self.loop.run_until_complete(self._end())
        finally:
            self.loop.close()

    async def _end(self) -> None:
        self._has_ended = True
        self._begin_calls()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        if tasks:
            _, tasks = await asyncio.wait(tasks, timeout=STOP_TIMEOUT)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_TIMEOUT)


class Call:
    """One coroutine on the hub, as the thread that made the call sees it."""

    __slots__ = ("_context", "_coroutine", "_done", "_error", "_function", "_loop", "_result", "_task")

    def __init__(self, loop: asyncio.AbstractEventLoop, function: Work, done: Callable[[Call], None]) -> None:
        self._loop = loop
        self._function = function
        self._done = done
        self._context = contextvars.copy_context()
        self._coroutine: Coroutine[Any, Any, Any]
        self._task: asyncio.Task[None] | None = None
        self._result: Any = None
        self._error: BaseException | None = None

    def begin(self) -> None:
        """Start the coroutine. Called in the hub's loop."""
        self._coroutine = self._function()
        self._task = self._context.run(self._loop.create_task, self._run())
        self._task.add_done_callback(self._never_began)

    def cancel(self) -> None:
        """Cancel the coroutine; ``done`` is still called. Thread-safe."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._cancel)

    def result(self) -> Any:
        """
        Return the coroutine's result or raise its error. May be called once.

        Raises ``redis.exceptions.ConnectionError`` if the interpreter exited first; the call may have taken effect.
        """
        error, self._error = self._error, None
        if isinstance(error, asyncio.CancelledError):
            raise ConnectionError("the answer did not come before the interpreter ended")
        if error is not None:
            try:
                raise error
            finally:
                # Its traceback references this frame.
                del error
        return self._result

    def _cancel(self) -> None:
        # The hub was told to begin it before it was told to cancel it.
        assert self._task is not None
        self._task.cancel()

    async def _run(self) -> None:
        assert self._task is not None
        try:
            self._result = await self._coroutine
        except GeneratorExit:
            raise
        except BaseException as error:
            # The caller raises it. Nothing else is affected.
            self._error = error
        # Called here, and not in the next tick: a caller is waiting.
        self._task.remove_done_callback(self._never_began)
        self._done(self)

    def _never_began(self, task: asyncio.Task[None]) -> None:
        """Called when the task was cancelled before its first step."""
        self._coroutine.close()
        self._error = asyncio.CancelledError()
        self._done(self)


class _Process:
    """The hub of this process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.hub: Hub | None = None
        self.has_ended = False

    def after_fork(self) -> None:
        # The thread and its sockets are the parent's. The lock may be held by a thread that does not exist here.
        never_collect(self.hub)
        self.lock = threading.Lock()
        self.hub = None


_process = _Process()
on_fork(_process)


def current() -> Hub:
    """Return the hub of this process; start it if necessary. Raises ``RuntimeError`` if there can be none."""
    notice_fork()
    hub = _process.hub
    if hub is None:
        reason = why_not()
        if reason is not None:
            raise RuntimeError(reason)
        with _process.lock:
            hub = _process.hub
            if hub is None:
                hub = _process.hub = Hub()
    return hub


def is_hub(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether an event loop is the hub's."""
    return _process.hub is not None and _process.hub.loop is loop


def has_ended() -> bool:
    """Whether the hub of this process was stopped because the interpreter exits."""
    return _process.has_ended


def why_not() -> str | None:
    """Return why this process can have no hub, or None if it can."""
    if _process.has_ended:
        return _ENDING
    for library, module, question in _GREEN:
        patcher = sys.modules.get(module)
        if patcher is not None and getattr(patcher, question[0])(question[1]):
            # Its "threads" share one OS thread, in which asyncio only allows one running event loop.
            return f"{library} has replaced threads with its own, in which no second event loop can run"
    return None


_ENDING = "the interpreter is shutting down, and cannot start a thread any more"

_GREEN = (
    ("gevent", "gevent.monkey", ("is_module_patched", "threading")),
    ("eventlet", "eventlet.patcher", ("is_monkey_patched", "thread")),
)


@atexit.register
def _stop() -> None:
    # The thread of a parent's hub does not exist here: waiting for it would never end.
    notice_fork()
    with _process.lock:
        hub, _process.hub, _process.has_ended = _process.hub, None, True
    if hub is not None:
        hub.stop()
