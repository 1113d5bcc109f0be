"""The `channel_capacity` option, compiled. Twin: `hot/capacity.py`.

It knows globs and ASCII names, and leaves anything unusual in a pattern or a name to `re`. It does not know what a
capacity is used for.

A glob becomes a program: a byte below 128 stands for itself, and three others are instructions. Matching goes back only
to the last star, which is all that a glob needs. So a hostile glob costs at most its length times the length of the
name.
"""

import fnmatch
import re
from collections.abc import Mapping

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from channels_redis_fast._ext.interpreter cimport PyUnicode_1BYTE_DATA, PyUnicode_GET_LENGTH, PyUnicode_IS_COMPACT_ASCII


cdef enum:
    STAR = 128  # any run of characters, including none
    ONE = 129  # any single character
    SET = 130  # one of the characters whose bits are set in the 16 bytes that follow
    SET_SIZE = 17


cdef bint matches(
    const unsigned char *step, const unsigned char *last, const unsigned char *text, const unsigned char *end
) noexcept nogil:
    """Whether a program (`step` to `last`) matches all of an ASCII text.

    All reads stay within the two ranges: the program is read only below `last`, and `compile_glob` puts 16 bytes after
    each SET; the text is read only below `end`.
    """
    cdef const unsigned char *star = NULL
    cdef const unsigned char *resume = NULL
    cdef bint fits
    while True:
        if step < last and step[0] == STAR:
            step += 1
            if step == last:
                return True
            star = step
            resume = text
            continue
        if text == end:
            return step == last
        if step == last:
            fits = False
        elif step[0] == SET:
            fits = step[1 + (text[0] >> 3)] >> (text[0] & 7) & 1
        else:
            fits = step[0] == ONE or step[0] == text[0]
        if fits:
            step += SET_SIZE if step[0] == SET else 1
            text += 1
        elif star != NULL:
            # The last star takes one more character. Earlier stars stay: they have matched as early as possible.
            resume += 1
            text = resume
            step = star
        else:
            return False


cdef bytes compile_glob(str glob):
    """Return the program of a glob, or None if the glob is left to the regular expression."""
    cdef bytearray program = bytearray()
    cdef Py_ssize_t place = 0
    if not glob.isascii():
        return None
    # Adjacent stars mean the same as one. A set that this changes is not one of the simple sets below.
    glob = STARS.sub("*", glob)
    while place < len(glob):
        character = glob[place]
        place += 1
        if character == "*":
            program.append(STAR)
        elif character == "?":
            program.append(ONE)
        elif character == "[":
            found = SIMPLE_SET.match(glob, place)
            if found is None:
                return None
            bits = bitmap(found["items"], found["negated"] is not None)
            if bits is None:
                return None
            program.append(SET)
            program += bits
            place = found.end()
        else:
            program.append(ord(character))
    return bytes(program)


cdef bytes bitmap(str items, bint negated):
    """Return sixteen bytes with a bit for each character of a set, None if a range in it runs backwards."""
    cdef bytearray bits = bytearray(16)
    for first, last, single in ITEM.findall(items):
        if first > last:
            return None
        for code in range(ord(first or single), ord(last or single) + 1):
            bits[code >> 3] |= 1 << (code & 7)
    return bytes([byte ^ 0xFF for byte in bits]) if negated else bytes(bits)


STARS = re.compile(r"\*+")
# Anything for which fnmatch has special rules ("]" or "-" as a member, "^", "&&", ...) is not simple.
SIMPLE_SET = re.compile(r"(?P<negated>!)?(?P<items>(?:[A-Za-z0-9]-[A-Za-z0-9]|[A-Za-z0-9_.])+)\]")
ITEM = re.compile(r"(.)-(.)|(.)")


cdef class CapacityTable:
    """CapacityTable(patterns, default)
    --

    The `channel_capacity` option: which capacity applies to which channel name.

    `patterns` maps globs or compiled patterns to capacities in messages (or is an iterable of such pairs); their order
    is their precedence. Globs are translated with `fnmatch.translate` and are case-sensitive. `default` is the layer's
    own `capacity`.

    Raises TypeError for a pattern that is neither a str nor has a `match` method, and for a capacity that is not an
    int; ValueError for a negative capacity. The text begins with the name of the option.
    """

    cdef public object default
    # For each pattern: its program or None, the `match` of its regular expression, its capacity.
    cdef list rules

    def __init__(self, patterns, default):
        self.default = default
        self.rules = []
        for pattern, capacity in patterns.items() if isinstance(patterns, Mapping) else patterns:
            program = None
            if isinstance(pattern, str):
                match = re.compile(fnmatch.translate(pattern)).match
                if type(pattern) is str:
                    program = compile_glob(pattern)
            elif hasattr(pattern, "match"):
                match = pattern.match
            else:
                raise TypeError(f"channel_capacity: {pattern!r} is neither a glob nor a compiled pattern")
            if not isinstance(capacity, int) or isinstance(capacity, bool):
                raise TypeError(f"channel_capacity: the capacity of {pattern!r} must be an int, not {capacity!r}")
            if capacity < 0:
                raise ValueError(f"channel_capacity: the capacity of {pattern!r} must not be negative: {capacity!r}")
            self.rules.append((program, match, int(capacity)))

    def lookup(self, object channel, /):
        """The capacity of a channel, in messages: that of the first matching pattern, otherwise the default."""
        cdef const unsigned char *text = NULL
        cdef const unsigned char *code
        cdef Py_ssize_t length = 0
        cdef tuple rule
        if type(channel) is str and PyUnicode_IS_COMPACT_ASCII(channel):
            text = PyUnicode_1BYTE_DATA(channel)
            length = PyUnicode_GET_LENGTH(channel)
        for rule in self.rules:
            program, match, capacity = rule
            if text == NULL or program is None:
                if match(channel):
                    return capacity
            else:
                code = <const unsigned char *>PyBytes_AS_STRING(program)
                if matches(code, code + PyBytes_GET_SIZE(program), text, text + length):
                    return capacity
        return self.default
