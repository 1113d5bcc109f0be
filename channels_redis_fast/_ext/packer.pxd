"""The interface of `_ext/packer.pyx` for the other compiled modules."""

from channels_redis_fast._ext.scratch cimport Scratch


cdef bint put_map_size(Scratch *out, size_t size) noexcept
cdef bint put_value(Scratch *out, object value, int levels) noexcept
cdef bint put_entries(Scratch *out, object mapping, int levels) noexcept
