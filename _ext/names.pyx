"""Names: validation, Redis keys, shards, and a group's members sorted by shard and key. Twin: `hot/names.py`.

It knows the form of names that are valid beyond doubt, and the CRC-32 ring. It does not know which layer asks, nor what
is sent.
"""

import binascii

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItemWithError, PyDict_Next, PyDict_Size
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint32_t
from libc.string cimport memchr, memcmp, memcpy, memset

from channels_redis_fast._ext.interpreter cimport (
    PyUnicode_1BYTE_DATA, PyUnicode_GET_LENGTH, PyUnicode_IS_COMPACT_ASCII, PyUnicode_Substring,
)


cdef enum:
    FEW = 4  # entries of a table that is searched without hashing
    MAX_NAME = 100  # Channels' own limit: a name of this many characters or more is invalid.

cdef unsigned char[128] STRANGE
cdef uint32_t[8][256] CRC


cdef void fill_tables() noexcept:
    cdef const unsigned char *allowed = (
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."
    )
    cdef uint32_t crc
    cdef int i, j, _bit
    memset(STRANGE, 1, 128)
    for i in range(65):
        STRANGE[allowed[i]] = 0
    for i in range(256):
        crc = <uint32_t>i
        for _bit in range(8):
            crc = (crc >> 1) ^ (0xEDB88320U if crc & 1 else 0)
        CRC[0][i] = crc
    # CRC[j][i] is the checksum of byte i followed by j zeros, so that eight bytes can be looked up side by side.
    for i in range(256):
        for j in range(1, 8):
            CRC[j][i] = (CRC[j - 1][i] >> 8) ^ CRC[0][CRC[j - 1][i] & 0xFF]


fill_tables()


cdef inline bint is_plain(const unsigned char *text, const unsigned char *end) noexcept nogil:
    """Whether there are only name characters up to `end`. The text must be ASCII: its bytes index 128 flags."""
    cdef unsigned char strange = 0
    # No early exit: a name has few characters, and nearly all names are valid.
    while end - text >= 4:
        strange |= STRANGE[text[0]] | STRANGE[text[1]] | STRANGE[text[2]] | STRANGE[text[3]]
        text += 4
    while text < end:
        strange |= STRANGE[text[0]]
        text += 1
    return not strange


cdef inline Py_ssize_t sort_of(object name) noexcept:
    """Return what `kind` returns."""
    cdef const unsigned char *text
    cdef const unsigned char *mark
    cdef Py_ssize_t length
    if type(name) is not str or not PyUnicode_IS_COMPACT_ASCII(name):
        return -1
    length = PyUnicode_GET_LENGTH(name)
    if length == 0 or length >= MAX_NAME:
        return -1
    text = PyUnicode_1BYTE_DATA(name)
    mark = <const unsigned char *>memchr(text, c"!", length)
    if mark == NULL:
        return 0 if is_plain(text, text + length) else -1
    if mark == text or not is_plain(text, mark) or not is_plain(mark + 1, text + length):
        return -1
    return mark - text + 1


def kind(object name, /):
    """Which kind of channel a name is, if that is beyond doubt.

    Returns 0 for a general channel; for a specific one the length, in characters, of its non-local part including `!`;
    -1 for everything else, valid or not: Channels' `require_valid_channel_name` then decides. Never raises.
    """
    return sort_of(name)


def find(dict table not None, object name, /):
    """The value in a table for the non-local part, including `!`, of a specific channel's name.

    Returns None if there is none, and for every name that `kind` does not call specific. Never raises.
    """
    cdef Py_ssize_t length = sort_of(name), place = 0
    cdef PyObject *key
    cdef PyObject *found
    if length <= 0:
        return None
    if PyDict_Size(table) <= FEW:
        # Compared, not hashed: it is nearly always the first entry.
        while PyDict_Next(table, &place, &key, &found):
            if begins(name, <object>key, length):
                return <object>found
        return None
    found = PyDict_GetItemWithError(table, PyUnicode_Substring(name, 0, length))
    return None if found == NULL else <object>found


cdef inline bint begins(object name, object key, Py_ssize_t length) noexcept:
    """Whether an ASCII str of at least `length` characters begins with a key of exactly this length."""
    return (
        type(key) is str
        and PyUnicode_IS_COMPACT_ASCII(key)
        and PyUnicode_GET_LENGTH(key) == length
        and memcmp(PyUnicode_1BYTE_DATA(name), PyUnicode_1BYTE_DATA(key), length) == 0
    )


def is_group(object name, /):
    """Whether a group name is valid beyond doubt; `require_valid_group_name` decides about others. Never raises."""
    cdef const unsigned char *text
    cdef Py_ssize_t length
    if type(name) is not str or not PyUnicode_IS_COMPACT_ASCII(name):
        return False
    length = PyUnicode_GET_LENGTH(name)
    text = PyUnicode_1BYTE_DATA(name)
    return 0 < length < MAX_NAME and is_plain(text, text + length)


def key(object prefix, object name, Py_ssize_t length=0):
    """The Redis key `prefix` + `name`, the name cut to its first `length` characters unless that is 0.

    Raises UnicodeEncodeError for a name with lone surrogates.
    """
    cdef Py_ssize_t head, size
    cdef bytes result
    cdef char *out
    if length < 0 or type(prefix) is not bytes or type(name) is not str or not PyUnicode_IS_COMPACT_ASCII(name):
        return prefix + (name[:length] if length else name).encode()
    head = PyBytes_GET_SIZE(prefix)
    size = PyUnicode_GET_LENGTH(name)
    if 0 < length < size:
        size = length
    result = PyBytes_FromStringAndSize(NULL, head + size)
    out = PyBytes_AS_STRING(result)
    memcpy(out, PyBytes_AS_STRING(prefix), head)
    memcpy(out + head, PyUnicode_1BYTE_DATA(name), size)
    return result


cdef uint32_t crc32(const unsigned char *data, Py_ssize_t size) noexcept nogil:
    """The CRC-32 of zlib, eight bytes at a time. Only builds that have zlib's headers could link to zlib itself."""
    cdef uint32_t crc = 0xFFFFFFFFU
    cdef uint32_t low
    while size >= 8:
        # Byte by byte, so that the byte order of the machine does not matter; compilers turn this into one load.
        low = crc ^ (
            <uint32_t>data[0] | <uint32_t>data[1] << 8 | <uint32_t>data[2] << 16 | <uint32_t>data[3] << 24
        )
        crc = (
            CRC[7][low & 0xFF] ^ CRC[6][(low >> 8) & 0xFF] ^ CRC[5][(low >> 16) & 0xFF] ^ CRC[4][low >> 24]
            ^ CRC[3][data[4]] ^ CRC[2][data[5]] ^ CRC[1][data[6]] ^ CRC[0][data[7]]
        )
        data += 8
        size -= 8
    while size > 0:
        crc = (crc >> 8) ^ CRC[0][(crc ^ data[0]) & 0xFF]
        data += 1
        size -= 1
    return crc ^ 0xFFFFFFFFU


cdef inline Py_ssize_t ring(uint32_t crc, Py_ssize_t ring_size) noexcept nogil:
    """The shard by channels_redis' double arithmetic: at most ring_size * 4095/4096, so always below ring_size."""
    return <Py_ssize_t>(<double>(crc & 0xFFF) / (4096.0 / <double>ring_size))


cdef inline int check_ring(Py_ssize_t ring_size) except -1:
    if ring_size < 1:
        raise ValueError(f"a ring has at least one shard, not {ring_size}")
    return 0


def shard(object value, Py_ssize_t ring_size):
    """The shard, from 0 to `ring_size` - 1, that a name lives on.

    The rule is `channels_redis`' `_consistent_hash`: the low 12 bits of the CRC-32 of the UTF-8 name, divided in double
    arithmetic. Integer division would give other shards; the smallest ring for which it does has 186.

    Raises ValueError for a ring of less than one shard, UnicodeEncodeError for lone surrogates.
    """
    check_ring(ring_size)
    if ring_size == 1:
        return 0
    if type(value) is str and PyUnicode_IS_COMPACT_ASCII(value):
        return ring(crc32(PyUnicode_1BYTE_DATA(value), PyUnicode_GET_LENGTH(value)), ring_size)
    if isinstance(value, str):
        value = value.encode()
    if type(value) is bytes:
        return ring(crc32(<const unsigned char *>PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value)), ring_size)
    return ring(binascii.crc32(value), ring_size)


def split(object members, object prefix, Py_ssize_t ring_size):
    """A group's members, sorted by the shard and the Redis key that each is delivered to.

    `members` are raw channel names. The first result has one entry for each shard of the ring: its keys in the order in
    which they were first seen, and for each key the channels on it. A key is `prefix` + the name up to its first `!`,
    or the whole name. The shard is that of the same part without the prefix. The second result holds the members that
    are not UTF-8 and so belong to nobody.

    Raises TypeError for a member that is not bytes, ValueError for a ring of less than one shard.
    """
    cdef list shards, broken, names, keys, channels
    cdef dict seen
    cdef bytes member, local = None
    cdef const char *text
    cdef const char *previous = NULL
    cdef const void *mark
    cdef Py_ssize_t size, cut, previous_size = 0, index
    cdef PyObject *found
    check_ring(ring_size)
    shards = [([], []) for _ in range(ring_size)]
    broken = []
    seen = {}
    names = None
    for item in members:
        if type(item) is not bytes:
            raise TypeError(f"a group member must be bytes, not {type(item).__name__}")
        member = <bytes>item
        text = PyBytes_AS_STRING(member)
        size = PyBytes_GET_SIZE(member)
        try:
            name = PyUnicode_DecodeUTF8(text, size, NULL)
        except UnicodeDecodeError:
            broken.append(member)
            continue
        mark = memchr(text, c"!", size)
        cut = size if mark == NULL else <const char *>mark - text + 1
        # Members of one process tend to be adjacent: compare before hashing. `previous` points into `local`.
        if previous == NULL or cut != previous_size or memcmp(text, previous, cut) != 0:
            local = member if cut == size else PyBytes_FromStringAndSize(text, cut)
            found = PyDict_GetItemWithError(seen, local)
            if found != NULL:
                names = <list>found
            else:
                names = []
                seen[local] = names
                index = 0
                if ring_size > 1:
                    index = ring(crc32(<const unsigned char *>text, cut), ring_size)
                keys, channels = shards[index]
                keys.append(prefix + local)
                channels.append(names)
            previous = PyBytes_AS_STRING(local)
            previous_size = cut
        names.append(name)
    return shards, broken
