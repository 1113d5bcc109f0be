"""Encodes Redis commands as RESP bytes, and checks the types in replies. Twin: `hot/pipeline.py`.

It knows the protocol. It does not know what the commands mean, nor the connection that they go to.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.float cimport PyFloat_AS_DOUBLE
from cpython.mem cimport PyMem_Free
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.string cimport strlen

from channels_redis_fast._ext.interpreter cimport PyLong_AsLongLongAndOverflow, PyOS_double_to_string, Py_DTSF_ADD_DOT_0
from channels_redis_fast._ext.scratch cimport (
    Scratch, scratch_bytes, scratch_close, scratch_open, scratch_reserve, scratch_write,
)


cdef enum:
    DIGITS = 24  # More than a sign and the digits of any 64-bit number.


def assemble(object commands, /):
    """Redis commands as one run of bytes, each a RESP array of bulk strings.

    A str is written as UTF-8, an int in decimal, a float as its `repr`, whatever its subclass.

    Raises TypeError for a word of another type, bool included, and for a command that is neither list nor tuple;
    ValueError for a command without words; UnicodeEncodeError for lone surrogates.
    """
    cdef Scratch out
    scratch_open(&out)
    try:
        for command in sequence(commands, "commands"):
            put_command(&out, sequence(command, "a command"))
        return scratch_bytes(&out)
    finally:
        scratch_close(&out)


def payload_size(object commands, /):
    """Approximately how many bytes `assemble` makes of commands: the size of those of their words that are bytes.

    Raises TypeError if the commands are neither list nor tuple. Errors in a single command are left to `assemble`.
    """
    cdef Py_ssize_t size = 0
    for command in sequence(commands, "commands"):
        # `assemble` reports anything that is not a command.
        if type(command) is list or type(command) is tuple:
            for word in command:
                if type(word) is bytes:
                    size += PyBytes_GET_SIZE(word)
    return size


def are_strings(object reply, /):
    """Whether a reply is a list of strings, each of exactly the type bytes. The list may be empty."""
    if not isinstance(reply, list):
        return False
    for string in <list>reply:
        if type(string) is not bytes:
            return False
    return True


cdef object sequence(object value, str what):
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{what} must be a list or a tuple, not {type(value).__name__}")
    return value


cdef int put_command(Scratch *out, object command) except -1:
    cdef Py_ssize_t words = len(command)
    if words == 0:
        raise ValueError("a command has at least one word")
    put_line(out, c"*", words)
    for word in command:
        put_word(out, word)
    return 0


cdef int put_word(Scratch *out, object word) except -1:
    cdef Py_ssize_t size
    cdef const char *text
    cdef char *number
    cdef char[DIGITS] digits
    cdef int start, overflow = 0
    cdef long long value
    if isinstance(word, bytes):
        return put_bulk(out, PyBytes_AS_STRING(word), PyBytes_GET_SIZE(word))
    if isinstance(word, str):
        text = PyUnicode_AsUTF8AndSize(word, &size)
        return put_bulk(out, text, size)
    if isinstance(word, bool):
        raise TypeError("a command's word must be bytes, str, int or float, not bool")
    # The base types' own text: that of an IntEnum member, say, would be its name.
    if isinstance(word, int):
        value = PyLong_AsLongLongAndOverflow(word, &overflow)
        if overflow:
            return put_word(out, int.__repr__(word))
        start = decimal(digits, value)
        return put_bulk(out, digits + start, DIGITS - start)
    if isinstance(word, float):
        number = PyOS_double_to_string(PyFloat_AS_DOUBLE(word), c"r", 0, Py_DTSF_ADD_DOT_0, NULL)
        try:
            return put_bulk(out, number, strlen(number))
        finally:
            PyMem_Free(number)
    raise TypeError(f"a command's word must be bytes, str, int or float, not {type(word).__name__}")


cdef int put_bulk(Scratch *out, const char *text, size_t size) except -1:
    put_line(out, c"$", <long long>size)
    if not scratch_write(out, text, size) or not scratch_write(out, b"\r\n", 2):
        raise MemoryError
    return 0


cdef int put_line(Scratch *out, unsigned char sort, long long count) except -1:
    """Write a RESP header: the type of what follows, and its size."""
    cdef char[DIGITS] digits
    cdef int start = decimal(digits, count)
    if not scratch_reserve(out, DIGITS + 3):
        raise MemoryError
    out.data[out.used] = sort
    out.used += 1
    # Both fit into the space that was just reserved.
    scratch_write(out, digits + start, DIGITS - start)
    scratch_write(out, b"\r\n", 2)
    return 0


cdef int decimal(char *digits, long long value) noexcept nogil:
    """Write a number so that it ends at `digits + DIGITS`; return the index at which it begins."""
    # Negated as unsigned: the lowest long long has no positive counterpart.
    cdef unsigned long long rest = <unsigned long long>value if value >= 0 else 0 - <unsigned long long>value
    cdef int start = DIGITS
    while True:
        start -= 1
        digits[start] = <char>(c"0" + rest % 10)
        rest //= 10
        if rest == 0:
            break
    if value < 0:
        start -= 1
        digits[start] = c"-"
    return start
