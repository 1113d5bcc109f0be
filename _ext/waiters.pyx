"""What coroutines wait on, woken together. Twin: `hot/waiters.py`.

A future wakes its task through its own handle in the event loop, which costs more than everything else on a message's
way to its receiver. A `Waiter` is the part of a future that one awaiting task needs. All waiters of a loop that are
done in one tick are woken by one callback, up to SLICE of them. It knows asyncio's protocol for what a task may await.
It does not know channels or messages.

Rules:

- A task runs in its own context, in the order in which the waiters were done, and never inside the call that ends its
  wait.
- The loop does its other work between two slices. A task that is cancelled before its slice comes runs with the next
  slice: what it was given then goes to its successor, ahead of anything that comes later.
- An exception that leaves a task's step (KeyboardInterrupt, say) does not keep other tasks from being woken.
- Usually one task awaits a waiter, and that case is fast. Others may await it, too.
- asyncio's own task, in C, is called back with a future that is always done, instead of the waiter: it gets the outcome
  from what it awaits anyway, and takes its fast path for a future.

Like a future, a waiter is only touched in the thread of its loop. The module does not declare that it can run without
the GIL.
"""

from asyncio import CancelledError, Future, InvalidStateError, Task

from cpython.contextvars cimport PyContext_Enter, PyContext_Exit
from cpython.dict cimport PyDict_Copy
from cpython.list cimport PyList_GET_ITEM
from cpython.object cimport PyObject
cimport cython

from channels_redis_fast._ext.interpreter cimport PyCFunction_Check, PyCFunction_GET_SELF


cdef enum:
    SLICE = 5000  # waiters woken by one callback

cdef type TASK = Task


cdef class Waker:
    """Wakes the waiters of one event loop."""

    def __init__(self, loop, /):
        self.loop = loop
        self._call_soon = loop.call_soon
        self._run_soon = self._run
        self._done = []
        self._cancelled = []

    def waiter(self):
        """Return a new waiter."""
        cdef Waiter waiter = Waiter.__new__(Waiter)
        waiter._waker = self
        return waiter

    cdef int _add(self, Waiter waiter) except -1:
        if not self._done:
            self._call_soon(self._run_soon)
        self._done.append(waiter)
        return 0

    cdef int _hurry(self, Waiter waiter) except -1:
        """Wake a done waiter with the next slice, because its task was cancelled meanwhile.

        What it was given then goes to its successor, ahead of anything that comes later.
        """
        if len(self._done) > SLICE:
            self._cancelled.append(waiter)
        return 0

    cdef list _next_slice(self):
        """Take the waiters to wake next; if there are more, schedule the next slice."""
        cdef list done = self._done
        if len(done) <= SLICE and not self._cancelled:
            self._done = []
            return done
        # They are in both lists; the second time, they have already been woken.
        done[:0] = self._cancelled
        self._cancelled = []
        taken = done[:SLICE]
        del done[:SLICE]
        if done:
            self._call_soon(self._run_soon)
        return taken

    def _run(self):
        cdef list done = self._next_slice()
        cdef Py_ssize_t at = 0, count = len(done)
        cdef Waiter waiter
        try:
            while at < count:
                # The index is in bounds: nobody else has this list any more.
                waiter = <Waiter>PyList_GET_ITEM(done, at)
                at += 1
                callback, context = waiter._callback, waiter._context
                if waiter._others:
                    # One at a time, so that an exception affects none of the others.
                    waiter._callback, waiter._context = waiter._others.pop(0)
                    at -= 1
                else:
                    waiter._callback = waiter._context = None
                    # The waiter is freed when its task has its result, and the next one reuses its memory. If the
                    # thousands of a slice were kept, the garbage collector would search them.
                    done[at - 1] = None
                if callback is not None:
                    self._call(callback, context, waiter)
        except BaseException:
            if at < count:
                if not self._done:
                    self._call_soon(self._run_soon)
                self._done[:0] = done[at:]
            raise

    cdef int _call(self, object callback, object context, Waiter waiter) except -1:
        cdef object said = waiter
        if type(callback) is Gate:
            (<Gate>callback)._open(self)
            return 0
        if is_step_of_task(callback):
            said = self._done_future()
        return call_in(context, callback, said)

    cdef object _done_future(self):
        if self._a_future is None:
            self._a_future = Future(loop=self.loop)
            self._a_future.set_result(None)
        return self._a_future


cdef inline int call_in(object context, object callback, object said) except -1:
    """Run a callback in a context."""
    PyContext_Enter(context)
    try:
        callback(said)
    finally:
        PyContext_Exit(context)
    return 0


cdef inline bint is_step_of_task(object callback) noexcept:
    """Whether this is the callback that a C task registers with what it awaits."""
    cdef PyObject *owner
    if not PyCFunction_Check(callback):
        return False
    owner = PyCFunction_GET_SELF(callback)
    return owner != NULL and type(<object>owner) is TASK


@cython.freelist(1024)
cdef class Waiter:
    """What one task awaits; created by `Waker.waiter`. Awaiting it returns nothing: `take` has the result."""

    def __init__(self, Waker waker not None):
        self._waker = waker

    # The waiter's own interface.

    def done(self):
        """Return whether there is an outcome."""
        return self._state != PENDING

    def cancelled(self):
        """Return whether the waiting task was cancelled."""
        return self._state == CANCELLED

    def has_result(self):
        """Return whether there is a result to take."""
        return self._state == FINISHED

    def take(self):
        """Return the result. Raises what `result` does."""
        return self._own() if self._state == FINISHED else self.result()

    def set_result(self, result, /):
        """End the wait. Raises `asyncio.InvalidStateError` if it has ended."""
        self._finish(FINISHED, result)

    def set_exception(self, error, /):
        """End the wait with an error. Raises `asyncio.InvalidStateError` if it has ended."""
        self._finish(FAILED, error)

    # The interface that asyncio's tasks need.

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        if self._state == PENDING and not self._asyncio_future_blocking:
            self._asyncio_future_blocking = True
            return self
        if self._state == PENDING:
            raise RuntimeError("await wasn't used with future")
        if self._state != FINISHED:
            self.result()
        raise StopIteration

    # From Python, `Waiter.__new__` makes a waiter without a waker; that must not crash.
    @cython.nonecheck(True)
    def get_loop(self):
        """Return the event loop."""
        return self._waker.loop

    def result(self):
        """Return the result, or raise the error, `asyncio.CancelledError` or `asyncio.InvalidStateError`."""
        if self._state == FINISHED:
            return self._own()
        if self._state == FAILED:
            raise self._outcome
        if self._state == CANCELLED:
            raise self._cancelled_error()
        raise InvalidStateError("Result is not set.")

    def exception(self):
        """Return the error, None for a result; raise `asyncio.CancelledError` or `asyncio.InvalidStateError`."""
        if self._state == FINISHED:
            return None
        if self._state == FAILED:
            return self._outcome
        if self._state == CANCELLED:
            raise self._cancelled_error()
        raise InvalidStateError("Exception is not set.")

    @cython.nonecheck(True)
    def cancel(self, msg=None):
        """End the wait by cancellation; return whether it was still pending."""
        if self._state != PENDING:
            if self._callback is not None:
                self._waker._hurry(self)
            return False
        self._finish(CANCELLED, msg)
        return True

    @cython.nonecheck(True)
    def add_done_callback(self, callback, /, *, context):
        """Register the callback of a waiting task."""
        self._tell(callback, context)

    def remove_done_callback(self, callback, /):
        """Remove a callback; return how often it was registered."""
        kept = [(self._callback, self._context)] if self._callback is not None else []
        kept += self._others or []
        count = len(kept)
        kept = [entry for entry in kept if entry[0] != callback]
        self._callback, self._context = kept[0] if kept else (None, None)
        self._others = kept[1:]
        return count - len(kept)

    @cython.nonecheck(True)
    cdef int _tell(self, object callback, object context) except -1:
        if self._callback is not None:
            if self._others is None:
                self._others = []
            self._others.append((callback, context))
            return 0
        self._callback = callback
        self._context = context
        if self._state != PENDING:
            self._waker._add(self)
        return 0

    cdef object _cancelled_error(self):
        return CancelledError() if self._outcome is None else CancelledError(self._outcome)

    cdef object _own(self):
        """Return the result, which belongs to the caller from now on."""
        if self._is_shared:
            self._outcome = PyDict_Copy(self._outcome)
            self._is_shared = False
        return self._outcome

    cdef int _share(self, dict message) except -1:
        """End the wait with a flat message that others are given too and nobody changes; `take` copies it.

        If it were copied here, the copies that wait for their receivers would be as many more objects for the garbage
        collector to search, and would no longer be in the processor's cache when they are taken.
        """
        self._finish(FINISHED, message)
        self._is_shared = True
        return 0

    @cython.nonecheck(True)
    cdef int _finish(self, int state, outcome) except -1:
        if self._state != PENDING:
            raise InvalidStateError("the wait has ended")
        self._state = state
        self._outcome = outcome
        if self._callback is not None:
            self._waker._add(self)
        return 0


cdef class Gate:
    """Awaited by a task that waits for several things at once. Awaiting it returns nothing: the task looks for itself.

    It opens when one of the waiters that it watches is done, or when it is told to, and stays open until the task
    passes. It can be awaited repeatedly.
    """

    def __init__(self, loop, /):
        self._loop = loop

    def watch(self, Waiter waiter not None, /):
        """Open when a waiter is done, in the callback that wakes its waiters' tasks."""
        waiter._tell(self, None)

    def open(self):
        """Wake the task now if it waits here, otherwise let it pass when it comes. Not from within another task."""
        self._open(None)

    cdef int _open(self, Waker waker) except -1:
        callback, context = self._callback, self._context
        self.is_open = True
        if callback is None:
            return 0
        self._callback = self._context = None
        said = self
        if waker is not None and self._cancelled is None and is_step_of_task(callback):
            said = waker._done_future()
        return call_in(context, callback, said)

    # The interface that asyncio's tasks need.

    def __await__(self):
        self._waits = False
        return self

    def __iter__(self):
        return self

    def __next__(self):
        if self._waits or self.is_open:
            self._waits = self.is_open = False
            raise StopIteration
        self._waits = True
        self._asyncio_future_blocking = True
        return self

    def get_loop(self):
        """Return the event loop."""
        return self._loop

    def result(self):
        """Raise `asyncio.CancelledError` if the wait was cancelled."""
        error = self._cancelled
        if error is not None:
            self._cancelled = None
            raise error

    def cancel(self, msg=None):
        """End the wait by cancellation."""
        self._cancelled = CancelledError() if msg is None else CancelledError(msg)
        self._loop.call_soon(self.open)
        return True

    def add_done_callback(self, callback, /, *, context):
        """Register the callback of the waiting task."""
        self._callback = callback
        self._context = context
