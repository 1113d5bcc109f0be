"""Unpacks msgpack to Python objects, for the types that messages are made of.

It knows the format, and that its input may be hostile: it reads and allocates nothing for which the input does not have
the bytes. It does not know what a message is. Irregular input, extension types, and deeper nesting than asked for raise
an exception of any type: the caller then leaves the input to `msgpack` itself.
"""

import sys

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from channels_redis_fast._ext.interpreter cimport (
    PyUnicode_1BYTE_DATA, PyUnicode_GET_LENGTH, PyUnicode_IS_COMPACT_ASCII, PyUnicode_New,
)


cdef enum:
    MAX_PREALLOCATED = 256  # items of a list that are allocated because its header announces them
    SHORT = 31  # bytes of the longest str with a one-byte header
    SLOTS = 512
    SLOT_SHIFT = 32 - 9  # leaves as many bits of a 32-bit hash as a slot number has

cdef str TYPE = sys.intern("type")


class Irregular(Exception):
    """Input that this decoder leaves to `msgpack`. Users of `envelope` never see it."""


cdef inline int require(Input *source, size_t size) except -1:
    """Raise if the input has fewer bytes left. Everything calls this before it reads or allocates."""
    if size > <size_t>(source.end - source.at):
        raise Irregular
    return 0


cdef inline uint64_t big_endian(const unsigned char *data, int width) noexcept:
    cdef uint64_t value = 0
    cdef int i
    for i in range(width):
        value = value << 8 | data[i]
    return value


cdef uint64_t read_number(Input *source, int width) except? 0xFFFFFFFFFFFFFFFF:
    require(source, width)
    source.at += width
    return big_endian(source.at - width, width)


cdef int64_t read_map_size(Input *source) except -1:
    """Read the header of a map and return its number of entries; raise if it is not a map."""
    cdef unsigned char tag
    require(source, 1)
    tag = source.at[0]
    source.at += 1
    if tag & 0xF0 == 0x80:
        return tag & 0x0F
    if tag == 0xDE:
        return read_number(source, 2)
    if tag == 0xDF:
        return read_number(source, 4)
    raise Irregular


cdef inline bint is_ascii(const unsigned char *text, size_t size) noexcept:
    cdef uint64_t word
    while size >= 8:
        memcpy(&word, text, 8)
        if word & 0x8080808080808080U:
            return False
        text += 8
        size -= 8
    while size:
        size -= 1
        if text[size] & 0x80:
            return False
    return True


cdef object read_str(Input *source, size_t size):
    cdef const unsigned char *text = source.at
    cdef object result
    require(source, size)
    source.at += size
    # Most strings are ASCII, which needs no decoder. The interpreter has those of one character ready-made.
    if size > 1 and is_ascii(text, size):
        result = PyUnicode_New(size, 127)
        memcpy(PyUnicode_1BYTE_DATA(result), text, size)
        return result
    return PyUnicode_DecodeUTF8(<const char *>text, size, NULL)


cdef object read_bytes(Input *source, size_t size):
    require(source, size)
    source.at += size
    return PyBytes_FromStringAndSize(<const char *>source.at - size, size)


cdef object read_list(Input *source, size_t size, int levels):
    cdef size_t i
    # A header may announce four billion items, and so may each item: only a few are allocated in advance.
    cdef size_t ready = size if size <= MAX_PREALLOCATED else 0
    cdef list items
    if levels == 0:
        raise Irregular
    require(source, size)
    items = PyList_New(ready)
    for i in range(size):
        item = read_value(source, levels - 1)
        if i < ready:
            Py_INCREF(item)
            PyList_SET_ITEM(items, i, item)
        else:
            items.append(item)
    return items


cdef object read_dict(Input *source, size_t size, int levels):
    cdef size_t _entry
    cdef dict entries = {}
    if levels == 0:
        raise Irregular
    for _entry in range(size):
        key = read_key(source)
        entries[key] = read_value(source, levels - 1)
    return entries


cdef object read_value(Input *source, int levels):
    """Read one value and everything in it, up to `levels` levels of containers."""
    cdef unsigned char tag
    cdef uint32_t bits
    cdef uint64_t long_bits
    cdef float single
    cdef double number
    require(source, 1)
    tag = source.at[0]
    source.at += 1
    if tag < 0x80:
        return tag
    if tag >= 0xE0:
        return <int8_t>tag
    if tag >= 0xA0 and tag < 0xC0:
        return read_str(source, tag & 0x1F)
    if tag < 0x90:
        return read_dict(source, tag & 0x0F, levels)
    if tag < 0xA0:
        return read_list(source, tag & 0x0F, levels)
    if tag == 0xC0:
        return None
    if tag == 0xC2:
        return False
    if tag == 0xC3:
        return True
    if tag == 0xC4:
        return read_bytes(source, read_number(source, 1))
    if tag == 0xC5:
        return read_bytes(source, read_number(source, 2))
    if tag == 0xC6:
        return read_bytes(source, read_number(source, 4))
    if tag == 0xCA:
        bits = <uint32_t>read_number(source, 4)
        memcpy(&single, &bits, 4)
        return <double>single
    if tag == 0xCB:
        long_bits = read_number(source, 8)
        memcpy(&number, &long_bits, 8)
        return number
    if tag == 0xCC:
        return read_number(source, 1)
    if tag == 0xCD:
        return read_number(source, 2)
    if tag == 0xCE:
        return read_number(source, 4)
    if tag == 0xCF:
        return read_number(source, 8)
    if tag == 0xD0:
        return <int8_t>read_number(source, 1)
    if tag == 0xD1:
        return <int16_t>read_number(source, 2)
    if tag == 0xD2:
        return <int32_t>read_number(source, 4)
    if tag == 0xD3:
        return <int64_t>read_number(source, 8)
    if tag == 0xD9:
        return read_str(source, read_number(source, 1))
    if tag == 0xDA:
        return read_str(source, read_number(source, 2))
    if tag == 0xDB:
        return read_str(source, read_number(source, 4))
    if tag == 0xDC:
        return read_list(source, read_number(source, 2), levels)
    if tag == 0xDD:
        return read_list(source, read_number(source, 4), levels)
    if tag == 0xDE:
        return read_dict(source, read_number(source, 2), levels)
    if tag == 0xDF:
        return read_dict(source, read_number(source, 4), levels)
    raise Irregular  # extension types, and the one tag that has no meaning


# The messages of a site have few distinct keys. Short keys are cached, interned, and looked up by their bytes. A slot
# holds the last key that fell into it, so hostile keys cost as much as without the cache, and no memory. The GIL guards
# the slots.
cdef PyObject *cached[SLOTS]


cdef inline size_t slot_of(const unsigned char *text, size_t size) noexcept:
    cdef uint32_t first, last
    if size < 4:
        return (text[0] + 31 * text[size - 1]) % SLOTS if size else 0
    memcpy(&first, text, 4)
    memcpy(&last, text + size - 4, 4)
    return (((first ^ last * 3) + <uint32_t>size) * 0x9E3779B1U) >> SLOT_SHIFT


cdef inline bint is_short(Input *source) noexcept:
    """Whether a str with a one-byte header begins here."""
    return source.at < source.end and source.at[0] & 0xE0 == 0xA0


cdef object read_short(Input *source):
    """Read an interned str. `is_short` must have returned true for it."""
    cdef size_t size = source.at[0] & SHORT
    cdef PyObject **slot
    cdef object text
    source.at += 1
    require(source, size)
    slot = &cached[slot_of(source.at, size)]
    if slot[0] != NULL:
        text = <object>slot[0]
        if <size_t>PyUnicode_GET_LENGTH(text) == size and memcmp(PyUnicode_1BYTE_DATA(text), source.at, size) == 0:
            source.at += size
            return text
    text = sys.intern(read_str(source, size))
    if PyUnicode_IS_COMPACT_ASCII(text):
        Py_INCREF(text)
        Py_XDECREF(slot[0])
        slot[0] = <PyObject *>text
    return text


cdef object read_key(Input *source):
    """Read a map's key, interned if it is a str. It is left to msgpack to refuse keys other than str and bytes."""
    if is_short(source):
        return read_short(source)
    key = read_value(source, 0)
    if type(key) is str:
        return sys.intern(key)
    if type(key) is bytes:
        return key
    raise Irregular


cdef object read_map_apart(Input *source, dict entries, object field, int levels):
    """Read a map into `entries`, except the entry `field`; return its value, or None."""
    cdef object apart = None
    cdef object key
    cdef int64_t _entry
    for _entry in range(read_map_size(source)):
        key = read_key(source)
        if key is field:
            apart = read_value(source, levels - 1)
            if apart is None:
                raise Irregular
        elif key is TYPE and is_short(source):
            # It names a consumer's method, so there are few distinct ones, as with keys.
            entries[key] = read_short(source)
        else:
            entries[key] = read_value(source, levels - 1)
    return apart
