"""The interface of `_ext/waiters.pyx` for the other compiled modules."""

cimport cython


cdef enum:
    PENDING
    FINISHED
    FAILED
    CANCELLED


@cython.final
cdef class Waker:
    cdef readonly object loop
    cdef object _call_soon
    cdef object _run_soon
    cdef list _done
    cdef list _cancelled
    cdef object _a_future

    cdef int _add(self, Waiter waiter) except -1
    cdef int _hurry(self, Waiter waiter) except -1
    cdef list _next_slice(self)
    cdef int _call(self, object callback, object context, Waiter waiter) except -1
    cdef object _done_future(self)


@cython.final
cdef class Waiter:
    cdef readonly Py_ssize_t number
    cdef public bint _asyncio_future_blocking
    cdef bint _is_shared
    cdef int _state
    cdef Waker _waker
    cdef object _outcome
    cdef object _callback
    cdef object _context
    cdef list _others

    cdef int _tell(self, object callback, object context) except -1
    cdef object _cancelled_error(self)
    cdef object _own(self)
    cdef int _finish(self, int state, outcome) except -1
    cdef int _share(self, dict message) except -1


@cython.final
cdef class Gate:
    cdef public bint _asyncio_future_blocking
    cdef readonly bint is_open
    cdef bint _waits
    cdef object _loop
    cdef object _callback
    cdef object _context
    cdef object _cancelled

    cdef int _open(self, Waker waker) except -1
