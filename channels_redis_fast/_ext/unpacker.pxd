"""The interface of `_ext/unpacker.pyx` for the other compiled modules."""

from libc.stdint cimport int64_t


cdef struct Input:
    const unsigned char *at
    const unsigned char *end


cdef int64_t read_map_size(Input *source) except -1
cdef object read_map_apart(Input *source, dict entries, object field, int levels)
