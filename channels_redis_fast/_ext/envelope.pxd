"""The interface of `_ext/envelope.pyx` for the other compiled modules."""


cdef object encoded(object message, object channel, Py_ssize_t prefix_length)
cdef tuple decoded(object member, Py_ssize_t prefix_length)
cdef object clone_message(object message)
cdef bint is_flat(object message) noexcept
cdef Py_ssize_t footprint_of_message(object message) noexcept
