"""A growing byte buffer, in which the compiled modules compose what they return.

It starts on the C stack, where nearly every message fits, and moves to the heap if it must. It knows no format. The
caller frees it on every path. It holds no objects, so no reference is ever lost with it.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy


cdef enum:
    ON_STACK = 2048


cdef struct Scratch:
    unsigned char *data
    size_t used
    size_t room
    unsigned char stack[ON_STACK]


cdef inline void scratch_open(Scratch *scratch) noexcept nogil:
    scratch.data = scratch.stack
    scratch.used = 0
    scratch.room = ON_STACK


cdef inline void scratch_close(Scratch *scratch) noexcept nogil:
    if scratch.data != scratch.stack:
        free(scratch.data)


cdef inline bint scratch_reserve(Scratch *scratch, size_t more) noexcept nogil:
    """Make `more` bytes writable at `data + used`; return False, with the buffer unchanged, if there is no memory."""
    cdef size_t needed = scratch.used + more
    cdef size_t room
    cdef unsigned char *data
    if needed <= scratch.room:
        return True
    if needed < more:
        return False
    # Doubled, so that each byte of a message is moved a constant number of times on average, whatever its size.
    room = scratch.room * 2
    if room < needed:
        room = needed
    if scratch.data == scratch.stack:
        data = <unsigned char *>malloc(room)
        if data != NULL:
            memcpy(data, scratch.data, scratch.used)
    else:
        data = <unsigned char *>realloc(scratch.data, room)
    if data == NULL:
        return False
    scratch.data = data
    scratch.room = room
    return True


cdef inline bint scratch_write(Scratch *scratch, const void *source, size_t size) noexcept nogil:
    """Append bytes; return False if there is no memory."""
    if not scratch_reserve(scratch, size):
        return False
    memcpy(scratch.data + scratch.used, source, size)
    scratch.used += size
    return True


cdef inline bytes scratch_bytes(Scratch *scratch):
    return PyBytes_FromStringAndSize(<char *>scratch.data, <Py_ssize_t>scratch.used)
