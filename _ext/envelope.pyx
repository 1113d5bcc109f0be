"""Members of a channel's sorted set: prefix, message, `__asgi_channel__`. Twin: `hot/envelope.py`.

It knows msgpack's format and the reserved entry. It does not know Redis, encryption, or what a message means.

Both directions handle the types that messages are made of. If anything else turns up, valid or not, the whole message
goes to `msgpack` itself, so that its results and its exceptions are the only ones.

Threads: the GIL guards the pool of random bytes, the count and, while a message is packed, its containers (no Python
code runs meanwhile). The module does not declare that it can run without the GIL.
"""

import os
import sys

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Copy, PyDict_Next, PyDict_Size, PyDict_Update
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.object cimport PyObject, PyObject_Hash
from libc.string cimport memcpy

from msgpack import packb, unpackb

from channels_redis_fast._ext.interpreter cimport PyUnicode_GET_LENGTH, PyUnicode_IS_COMPACT_ASCII
from channels_redis_fast._ext.packer cimport put_entries, put_map_size, put_value
from channels_redis_fast._ext.scratch cimport (
    Scratch, scratch_bytes, scratch_close, scratch_open, scratch_reserve, scratch_write,
)
from channels_redis_fast._ext.unpacker cimport Input, read_map_apart, read_map_size


cdef enum:
    POOL = 4096
    ORDERED_LENGTH = 10
    MAX_DEPTH = 32  # levels of containers that are packed and unpacked here
    MAX_CLONE = 512  # levels that `clone` follows; 512 of its frames do not nearly fill a C stack
    MAX_WEIGHED = 1000000  # values that `footprint` looks at

cdef str FIELD = sys.intern("__asgi_channel__")
cdef bytes PACKED_FIELD = packb(FIELD)


# ---------------------------------------------------------------------------------------------------------- prefixes

ORDERED_FROM = ORDERED_LENGTH

cdef unsigned char[POOL] pool
cdef Py_ssize_t pool_used = POOL
cdef unsigned long long prefixes = 0  # the count of prefixes, from a random start; 0: not started yet


cdef int check_length(Py_ssize_t length) except -1:
    if length < 0:
        raise ValueError(f"a prefix has no negative length: {length}")
    return 0


cdef int put_random(unsigned char *out, Py_ssize_t length) except -1:
    """Write random bytes that nobody else gets."""
    global pool_used
    cdef bytes fresh
    if length > POOL - pool_used:
        # `os.urandom` can let another thread run, which may use or replace the pool. So only `fresh`, which no other
        # thread has, is used here, and what is left of it becomes the pool.
        fresh = os.urandom(length if length > POOL else POOL)
        memcpy(out, PyBytes_AS_STRING(fresh), length)
        if length <= POOL:
            memcpy(pool, PyBytes_AS_STRING(fresh), POOL)
            pool_used = length
        return 0
    memcpy(out, pool + pool_used, length)
    pool_used += length
    return 0


cdef int put_prefix(unsigned char *out, Py_ssize_t length) except -1:
    """Write a prefix. From ORDERED_FROM bytes on, its first half counts upwards; the rest is random."""
    global prefixes
    cdef Py_ssize_t half = 0
    cdef Py_ssize_t i
    cdef unsigned long long number
    if length >= ORDERED_LENGTH:
        half = min(length // 2, 8)
        if prefixes == 0:
            # Below the middle of the range of the shortest half, so that no process ever counts past its end.
            prefixes = int.from_bytes(os.urandom(8), "big") % (1 << 39) + 1
        number = prefixes
        prefixes += 1
        for i in range(half):
            out[half - 1 - i] = <unsigned char>(number >> (8 * i))
    return put_random(out + half, length - half)


def next_prefix(Py_ssize_t length, /):
    """`length` bytes that distinguish equal messages in a sorted set, across all processes that use it.

    From `ORDERED_FROM` bytes on, the first half (at most 8 bytes) is a big-endian count of the prefixes made in this
    process, from a random start. Members with one score are sorted by their bytes, so those of one process keep the
    order in which they were made. The rest, and every shorter prefix, is random and never repeats the same bytes. It
    comes from `os.urandom`, never from `random`: seeding `random` would make members collide.

    Raises ValueError for a negative length.
    """
    cdef bytes result
    check_length(length)
    result = PyBytes_FromStringAndSize(NULL, length)
    put_prefix(<unsigned char *>PyBytes_AS_STRING(result), length)
    return result


def reseed():
    """Forget the stored random bytes and the count. A forked child must do so, or it would continue its parent's."""
    global pool_used, prefixes
    pool_used = POOL
    prefixes = 0


FINGERPRINT = 8


def fingerprints(list members not None, /):
    """`FINGERPRINT` bytes for each member, one after the other, by which this process recognizes it.

    They depend on every byte of a member: a sender need not give each a prefix of its own.

    Raises TypeError for a member that is not bytes.
    """
    cdef Py_ssize_t count = PyList_GET_SIZE(members), position
    cdef bytes found = PyBytes_FromStringAndSize(NULL, count * 8)
    cdef long long *target = <long long *>PyBytes_AS_STRING(found)
    cdef PyObject *member
    # No Python code runs here that could change the list.
    for position in range(count):
        member = PyList_GET_ITEM(members, position)
        if not PyBytes_CheckExact(<object>member):
            raise TypeError(f"a member must be bytes, not {type(<object>member).__name__}")
        target[position] = PyObject_Hash(<object>member)
    return found


# ---------------------------------------------------------------------------------------------------------- encoding

def pack(object message, /):
    """The message as msgpack: the same bytes and exceptions as `msgpack.packb(message)`."""
    cdef Scratch out
    cdef bint packed
    scratch_open(&out)
    try:
        packed = put_value(&out, message, MAX_DEPTH)
        if packed:
            return scratch_bytes(&out)
    finally:
        scratch_close(&out)
    return packb(message)


def encode(object message, object channel, Py_ssize_t prefix_length):
    """A whole member of a channel's sorted set: a prefix of `prefix_length` bytes (`next_prefix`), then the message.

    `channel` becomes the last entry, `__asgi_channel__`, unless it is None; the message must not have that entry
    already. The message is not changed. Exceptions are those of `msgpack.packb`; ValueError for a negative prefix
    length.
    """
    return encoded(message, channel, prefix_length)


cdef object encoded(object message, object channel, Py_ssize_t prefix_length):
    cdef Scratch out
    check_length(prefix_length)
    scratch_open(&out)
    try:
        if type(message) is dict and put_message(&out, message, channel, prefix_length):
            put_prefix(out.data, prefix_length)
            return scratch_bytes(&out)
    finally:
        scratch_close(&out)
    if channel is not None:
        message = with_channel(message, channel)
    return next_prefix(prefix_length) + packb(message)


cdef dict with_channel(object message, object channel):
    """
    Return what `{**message, FIELD: channel}` is in Python; Cython's own version also accepts an iterable of pairs.

    For a subclass of dict, use its `items()`, which is what msgpack packs if no channel is added.
    """
    cdef dict whole = {}
    if isinstance(message, dict) and type(message) is not dict:
        message = dict(message.items())
    try:
        PyDict_Update(whole, message)
    except AttributeError:
        raise TypeError(f"'{type(message).__name__}' object is not a mapping") from None
    whole[FIELD] = channel
    return whole


cdef bint put_message(Scratch *out, object message, object channel, Py_ssize_t prefix_length) noexcept:
    if not scratch_reserve(out, prefix_length):
        return False
    out.used = prefix_length
    if channel is None:
        return put_map_size(out, PyDict_Size(message)) and put_entries(out, message, MAX_DEPTH - 1)
    return (
        put_map_size(out, PyDict_Size(message) + 1)
        and put_entries(out, message, MAX_DEPTH - 1)
        and put_channel(out, channel)
    )


# ---------------------------------------------------------------------------------------------------------- splicing

cdef inline bint put_channel(Scratch *out, object channel) noexcept:
    return (
        scratch_write(out, PyBytes_AS_STRING(PACKED_FIELD), PyBytes_GET_SIZE(PACKED_FIELD))
        and put_value(out, channel, MAX_DEPTH)
    )


cdef struct Map:
    size_t count  # the number of entries
    Py_ssize_t start  # where the entries begin


cdef Map read_map_header(object body) except *:
    """Read the header of a packed map, and nothing after it."""
    cdef Map header
    cdef Input source
    if type(body) is not bytes:
        raise TypeError(f"a packed message must be bytes, not {type(body).__name__}")
    open_input(&source, body, 0)
    try:
        header.count = <size_t>read_map_size(&source)
    except Exception:
        raise ValueError("the body is not a packed map") from None
    if header.count == 0xFFFFFFFF:
        raise ValueError("the packed map has no room for one more entry")
    header.start = <const char *>source.at - PyBytes_AS_STRING(body)
    return header


cdef inline void open_input(Input *source, object data, Py_ssize_t start) noexcept:
    """Read from the bytes of `data`, beginning at `start`, which must not be beyond their end."""
    source.at = <const unsigned char *>PyBytes_AS_STRING(data) + start
    source.end = <const unsigned char *>PyBytes_AS_STRING(data) + PyBytes_GET_SIZE(data)


cdef object spliced(Map header, object body, object channel, Py_ssize_t prefix_length):
    """Return a prefix, the body's entries, and the channel as one more entry."""
    cdef Scratch out
    cdef Py_ssize_t rest = PyBytes_GET_SIZE(body) - header.start
    scratch_open(&out)
    try:
        if not scratch_reserve(&out, prefix_length):
            raise MemoryError
        put_prefix(out.data, prefix_length)
        out.used = prefix_length
        if not (
            put_map_size(&out, header.count + 1)
            and scratch_write(&out, PyBytes_AS_STRING(body) + header.start, rest)
        ):
            raise MemoryError
        if put_channel(&out, channel):
            return scratch_bytes(&out)
        # The type of the channel is not packed here: msgpack packs it, or raises.
        out.used = prefix_length
        put_map_size(&out, header.count + 1)
        return scratch_bytes(&out) + body[header.start:] + PACKED_FIELD + packb(channel)
    finally:
        scratch_close(&out)


def splice(object body, object channel):
    """A packed message with the entry `__asgi_channel__` added at its end.

    Raises ValueError if the body does not begin like a packed map, or if its map is full.
    """
    return spliced(read_map_header(body), body, channel, 0)


def frames(object body, object channels, Py_ssize_t prefix_length):
    """One member for each list of channels: a fresh prefix, then the body spliced with that list.

    Raises the same errors as `splice`; ValueError for a negative prefix length.
    """
    cdef Map header = read_map_header(body)
    check_length(prefix_length)
    return [spliced(header, body, names, prefix_length) for names in channels]


# ----------------------------------------------------------------------------------------------------------- decoding

cdef bint is_channel(object channel) noexcept:
    if type(channel) is str:
        return True
    if type(channel) is not list or len(<list>channel) == 0:
        return False
    for name in <list>channel:
        if type(name) is not str:
            return False
    return True


def decode(object member, Py_ssize_t prefix_length):
    """The contents of a member: the channel that it names, if any, and the message without that entry.

    The channel is a str (one receiver), a list (the members of a group on this key) or None (a general channel).

    Keys may be any hashable values. Raises the errors of `msgpack.unpackb` for bytes that are not msgpack; ValueError
    if they are not a map, if the channel is neither a str nor a non-empty list of strings, and for a
    negative prefix length.
    """
    return decoded(member, prefix_length)


cdef tuple decoded(object member, Py_ssize_t prefix_length):
    cdef Input source
    cdef dict found
    check_length(prefix_length)
    if type(member) is bytes and PyBytes_GET_SIZE(member) > prefix_length:
        open_input(&source, member, prefix_length)
        try:
            found = {}
            channel = read_map_apart(&source, found, FIELD, MAX_DEPTH)
            if source.at == source.end and (channel is None or is_channel(channel)):
                return channel, found
        except Exception:
            pass  # msgpack reports the error, if there is one.
    message = unpackb(member[prefix_length:], strict_map_key=False)
    if type(message) is not dict:
        raise ValueError(f"a message must be a map, not {type(message).__name__}")
    if FIELD not in message:
        return None, message
    channel = message.pop(FIELD)
    if not is_channel(channel):
        raise ValueError(f"{FIELD} must be a name or a list of names")
    return channel, message


def round_trip(object message, /):
    """A message as a receiver would unpack it. Exceptions are those of `encode` and `decode`."""
    cdef Scratch out
    cdef Input source
    cdef dict found
    if type(message) is dict:
        scratch_open(&out)
        try:
            if put_message(&out, message, None, 0):
                source.at = out.data
                source.end = out.data + out.used
                found = {}
                if read_map_apart(&source, found, FIELD, MAX_DEPTH) is None and source.at == source.end:
                    return found
        except Exception:
            pass  # msgpack reports the error, if there is one.
        finally:
            scratch_close(&out)
    return decoded(encoded(message, None, 0), 0)[1]


# ----------------------------------------------------------------------------------------------------------- copying

def clone(object message, /):
    """A copy that shares nothing mutable: every exact dict and list is copied, everything else is the same object.

    This is enough for what a decoder builds, which has no other containers. A value that is reached twice is copied
    twice.

    Raises RecursionError beyond 512 levels.
    """
    return clone_message(message)


cdef object clone_message(object message):
    return clone_value(message, MAX_CLONE)


cdef bint is_flat(object message) noexcept:
    """Whether a message is a dict without containers as values: a copy of the dict is then a clone."""
    cdef PyObject *key
    cdef PyObject *entry
    cdef Py_ssize_t place = 0
    if type(message) is not dict:
        return False
    while PyDict_Next(message, &place, &key, &entry):
        if type(<object>entry) is dict or type(<object>entry) is list:
            return False
    return True


cdef object clone_value(object value, int levels):
    cdef dict entries
    cdef list items
    cdef PyObject *key
    cdef PyObject *entry
    cdef Py_ssize_t place = 0
    if type(value) is not dict and type(value) is not list:
        return value
    if levels == 0:
        raise RecursionError(f"a message is nested deeper than {MAX_CLONE} levels")
    if type(value) is list:
        items = value[:]
        for place in range(len(items)):
            item = items[place]
            if type(item) is dict or type(item) is list:
                items[place] = clone_value(item, levels - 1)
        return items
    # Iterate over the copy, not the original: nobody else has it, and the only change that PyDict_Next allows is a new
    # value for an existing key.
    entries = PyDict_Copy(value)
    while PyDict_Next(entries, &place, &key, &entry):
        item = <object>entry
        if type(item) is dict or type(item) is list:
            entries[<object>key] = clone_value(item, levels - 1)
    return entries


# ----------------------------------------------------------------------------------------------------------- weighing

def footprint(object message, /):
    """Approximately how many bytes of memory a message takes: text, bytes, dicts, lists, and 32 for anything else.

    It is meant for a bound on memory, not for anything exact. It follows 512 levels and looks at about a million values
    at most.
    """
    return footprint_of_message(message)


cdef Py_ssize_t footprint_of_message(object message) noexcept:
    cdef Py_ssize_t left = MAX_WEIGHED
    return footprint_of(message, MAX_CLONE, &left)


cdef Py_ssize_t footprint_of(object value, int levels, Py_ssize_t *left) noexcept:
    # No Python code runs here, so nothing changes meanwhile.
    cdef Py_ssize_t size, place = 0
    cdef PyObject *key
    cdef PyObject *entry
    if type(value) is str:
        return 56 + (1 if PyUnicode_IS_COMPACT_ASCII(value) else 4) * PyUnicode_GET_LENGTH(value)
    if type(value) is bytes:
        return 40 + PyBytes_GET_SIZE(value)
    if type(value) is dict:
        size = 100 + 50 * PyDict_Size(value)
        left[0] -= PyDict_Size(value)
        if levels > 0 and left[0] > 0:
            while PyDict_Next(value, &place, &key, &entry):
                size += footprint_of(<object>key, levels - 1, left)
                size += footprint_of(<object>entry, levels - 1, left)
        return size
    if type(value) is list:
        size = 60 + 8 * PyList_GET_SIZE(value)
        left[0] -= PyList_GET_SIZE(value)
        if levels > 0 and left[0] > 0:
            for place in range(PyList_GET_SIZE(value)):
                size += footprint_of(<object>PyList_GET_ITEM(value, place), levels - 1, left)
        return size
    return 32
