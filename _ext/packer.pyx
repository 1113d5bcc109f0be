"""Packs Python objects as msgpack, for the types that messages are made of.

It knows the format and the exact types of the interpreter. It does not know what a message is. Every put_* returns
whether it succeeded. False means an object that only `msgpack` itself can pack or refuse, or a lack of memory; the
buffer is then incomplete.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Next, PyDict_Size
from cpython.float cimport PyFloat_AS_DOUBLE
from cpython.list cimport PyList_GET_SIZE
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from channels_redis_fast._ext.interpreter cimport (
    PyLong_AsLongLongAndOverflow, PyLong_AsUnsignedLongLong, PyUnicode_1BYTE_DATA, PyUnicode_GET_LENGTH,
    PyUnicode_IS_COMPACT_ASCII,
)
from channels_redis_fast._ext.scratch cimport Scratch, scratch_reserve, scratch_write


cdef inline bint put_number(Scratch *out, uint8_t tag, uint64_t value, int width) noexcept:
    """Write a tag and a big-endian number of `width` bytes."""
    cdef unsigned char *at
    cdef int i
    if not scratch_reserve(out, 9):
        return False
    at = out.data + out.used
    at[0] = tag
    for i in range(width):
        at[1 + i] = <unsigned char>(value >> (8 * (width - 1 - i)))
    out.used += 1 + width
    return True


cdef inline bint put_size(
    Scratch *out, uint8_t fixed, size_t below, uint8_t tag8, uint8_t tag16, size_t size
) noexcept:
    """Write the shortest header for a size: within `fixed` if less than `below`, after `tag8` (0: none), and so on."""
    if size < below:
        return put_number(out, fixed | <uint8_t>size, 0, 0)
    if size < 0x100 and tag8:
        return put_number(out, tag8, size, 1)
    if size < 0x10000:
        return put_number(out, tag16, size, 2)
    if size < 0x100000000:
        return put_number(out, tag16 + 1, size, 4)
    return False


cdef bint put_map_size(Scratch *out, size_t size) noexcept:
    return put_size(out, 0x80, 16, 0, 0xDE, size)


cdef inline bint put_str(Scratch *out, object text) noexcept:
    cdef Py_ssize_t size
    cdef const char *data
    if PyUnicode_IS_COMPACT_ASCII(text):
        size = PyUnicode_GET_LENGTH(text)
        data = <const char *>PyUnicode_1BYTE_DATA(text)
    else:
        try:
            data = PyUnicode_AsUTF8AndSize(text, &size)
        except Exception:
            return False
    return put_size(out, 0xA0, 32, 0xD9, 0xDA, size) and scratch_write(out, data, size)


cdef inline bint put_int(Scratch *out, object number) noexcept:
    cdef int overflow = 0
    cdef long long value
    cdef unsigned long long large
    try:
        value = PyLong_AsLongLongAndOverflow(number, &overflow)
        if overflow > 0:
            large = PyLong_AsUnsignedLongLong(number)
            return put_number(out, 0xCF, large, 8)
    except OverflowError:
        return False
    if overflow:
        return False
    if value >= 0:
        if value < 0x80:
            return put_number(out, <uint8_t>value, 0, 0)
        if value < 0x100:
            return put_number(out, 0xCC, value, 1)
        if value < 0x10000:
            return put_number(out, 0xCD, value, 2)
        if value < 0x100000000:
            return put_number(out, 0xCE, value, 4)
        return put_number(out, 0xCF, value, 8)
    if value >= -0x20:
        return put_number(out, <uint8_t>value, 0, 0)
    if value >= -0x80:
        return put_number(out, 0xD0, <uint64_t>value, 1)
    if value >= -0x8000:
        return put_number(out, 0xD1, <uint64_t>value, 2)
    if value >= -<long long>0x80000000:
        return put_number(out, 0xD2, <uint64_t>value, 4)
    return put_number(out, 0xD3, <uint64_t>value, 8)


cdef bint put_value(Scratch *out, object value, int levels) noexcept:
    """Write a value and everything in it, up to `levels` levels of containers.

    Only exact types of the interpreter itself are handled, and nothing that is called here allocates a container or
    runs Python code. So nothing can change a container while it is being packed.
    """
    cdef double number
    cdef uint64_t bits
    if type(value) is str:
        return put_str(out, value)
    if type(value) is int:
        return put_int(out, value)
    if value is None:
        return put_number(out, 0xC0, 0, 0)
    if value is True:
        return put_number(out, 0xC3, 0, 0)
    if value is False:
        return put_number(out, 0xC2, 0, 0)
    if type(value) is float:
        number = PyFloat_AS_DOUBLE(value)
        memcpy(&bits, &number, 8)
        return put_number(out, 0xCB, bits, 8)
    if type(value) is bytes:
        return (
            put_size(out, 0, 0, 0xC4, 0xC5, PyBytes_GET_SIZE(value))
            and scratch_write(out, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
        )
    if levels == 0:
        return False
    if type(value) is dict:
        return put_map_size(out, PyDict_Size(value)) and put_entries(out, value, levels - 1)
    if type(value) is list:
        if not put_size(out, 0x90, 16, 0, 0xDC, PyList_GET_SIZE(value)):
            return False
        for item in <list>value:
            if not put_value(out, item, levels - 1):
                return False
        return True
    if type(value) is tuple:
        if not put_size(out, 0x90, 16, 0, 0xDC, PyTuple_GET_SIZE(value)):
            return False
        for item in <tuple>value:
            if not put_value(out, item, levels - 1):
                return False
        return True
    return False


cdef bint put_entries(Scratch *out, object mapping, int levels) noexcept:
    cdef PyObject *key
    cdef PyObject *value
    cdef Py_ssize_t place = 0
    while PyDict_Next(mapping, &place, &key, &value):
        if not put_value(out, <object>key, levels) or not put_value(out, <object>value, levels):
            return False
    return True
