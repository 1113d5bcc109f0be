"""
The I/O thread of this process: one event loop, which runs the calls of event loops that end with the call.

It starts when it is first needed, stops when the interpreter exits, and is left behind in a forked child, which
starts its own. Knows no layer: it runs coroutines that are handed in, each with a callback for its end.
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

#: Seconds that the end of the interpreter waits for calls to be over, and then for connections to be closed.
STOP_TIMEOUT = 3.0


#: What is handed in: not yet a coroutine, which would warn if a signal came before it is awaited.
Work = Callable[[], Coroutine[Any, Any, Any]]


class Hub:
    """A thread with an event loop. Raises ``RuntimeError`` where no thread can be started."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        # A site's event loop policy may have set one that begins tasks at once (eagerly), before they are known here.
        self.loop.set_task_factory(None)
        serves_others(self.loop)
        #: What was handed in and not yet begun. Without a lock: a signal handler may call in the middle of a call.
        self._calls: deque[Call] = deque()
        self._has_ended = False
        # A daemon, since a process that has finished must not wait for it; ``stop`` ends it cleanly before that.
        self._thread = threading.Thread(target=self._work, name="channels_redis_fast", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self.loop.close()
            raise

    def call(self, function: Work, done: Callable[[Call], None]) -> Call:
        """
        Run a coroutine function here, in the calling thread's context; ``done`` gets the call when it is over, in this
        loop.

        Calls of one thread begin in the order in which they were made. Raises ``RuntimeError`` after ``stop``, and
        then has not called the function.
        """
        call = Call(self.loop, function, done)
        self._calls.append(call)
        if self._has_ended:
            # Either it is taken back here, or ``_end`` has begun it.
            with contextlib.suppress(ValueError):
                self._calls.remove(call)
                raise RuntimeError(_ENDING)
        # In a loop that has been closed since, ``_end`` has begun it too.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._begin_calls)
        return call

    def stop(self) -> None:
        """Let what runs end, close the loop and with it what the layers have here."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(2 * STOP_TIMEOUT)

    def _begin_calls(self) -> None:
        while self._calls:
            self._calls.popleft().begin()

    def _work(self) -> None:
        is_stopped = False
        while not is_stopped:
            # A serializer that raises these ends its own call, which raises them too, and no other call.
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
    """One coroutine on the hub, as seen from the thread that handed it in."""

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
        """Begin, in the hub's loop."""
        self._coroutine = self._function()
        self._task = self._context.run(self._loop.create_task, self._run())
        self._task.add_done_callback(self._never_began)

    def cancel(self) -> None:
        """Cancel it, from any thread; ``done`` is called then, too."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._cancel)

    def result(self) -> Any:
        """
        Return or raise, once, what the coroutine did.

        Raises ``redis.exceptions.ConnectionError`` if the interpreter ended before: it may have happened.
        """
        error, self._error = self._error, None
        if isinstance(error, asyncio.CancelledError):
            raise ConnectionError("the answer did not come before the interpreter ended")
        if error is not None:
            try:
                raise error
            finally:
                # Its traceback leads here.
                del error
        return self._result

    def _cancel(self) -> None:
        # The hub was woken to begin it before it was woken for this.
        assert self._task is not None
        self._task.cancel()

    async def _run(self) -> None:
        assert self._task is not None
        try:
            self._result = await self._coroutine
        except GeneratorExit:
            raise
        except BaseException as error:
            # The caller raises it; nothing else is affected.
            self._error = error
        # Called here, and not in the loop's next iteration: a caller waits.
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
        # The thread is the parent's, and so are its sockets. The lock may be held by a thread that is not here.
        never_collect(self.hub)
        self.lock = threading.Lock()
        self.hub = None


_process = _Process()
on_fork(_process)


def current() -> Hub:
    """Return the hub of this process, started if it was not. Raises ``RuntimeError`` where there can be none."""
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
    """Whether that is the hub's event loop."""
    return _process.hub is not None and _process.hub.loop is loop


def has_ended() -> bool:
    """Whether the hub of this process was stopped, since the interpreter ends."""
    return _process.has_ended


def why_not() -> str | None:
    """Return why this process can have no hub, or None if it can."""
    if _process.has_ended:
        return _ENDING
    for library, module, question in _GREEN:
        patcher = sys.modules.get(module)
        if patcher is not None and getattr(patcher, question[0])(question[1]):
            # Its "threads" share one OS thread, and with it the one event loop that asyncio allows to run there.
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
