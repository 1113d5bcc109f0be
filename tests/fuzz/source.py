"""Bytes as a source of decisions: what a fuzzer changes byte by byte becomes texts, numbers and whole messages.

The same bytes give the same values for ever, with or without a fuzzer, so that a saved input stays a test. It knows
plain objects; not what they are tried on.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, TypeVar

T = TypeVar("T")
Guarded = TypeVar("Guarded", bytes, str)

poison = getattr(ctypes.CDLL(None), "__asan_poison_memory_region", None)
if poison is not None:
    poison.argtypes = ctypes.c_void_p, ctypes.c_size_t

MAX_DEPTH = 40  # beyond the 32 levels that are packed and unpacked without msgpack


def guarded(data: Guarded) -> Guarded:
    """Return these bytes, or this text, with the zero that the interpreter keeps behind it out of bounds.

    AddressSanitizer would not see a read of one byte too many without this. Only a text of ASCII has its bytes here.
    """
    if poison is not None and len(data) > 1:
        if isinstance(data, bytes):
            poison(id(data) + sys.getsizeof(b"") - 1 + len(data), 1)
        elif data.isascii():
            poison(id(data) + sys.getsizeof("") - 1 + len(data), 1)
    return data


class Text(str):
    """A str that is not exactly one."""

    __slots__ = ()


class Table(dict):  # type: ignore[type-arg]
    """A dict that is not exactly one."""


class Number(IntEnum):
    """An int that is not exactly one."""

    THREE = 3


class Source:
    """Takes values from bytes; beyond their end everything is zero, empty or None."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer at the end."""
        taken = guarded(self._data[self._at : self._at + size])
        self._at += size
        return taken

    def byte(self) -> int:
        """Return the next byte as a number, 0 at the end."""
        return int.from_bytes(self.take(1), "big")

    def pick(self, choices: Sequence[T]) -> T:
        """Return one of at most 256 choices."""
        return choices[self.byte() % len(choices)]

    def binary(self) -> bytes:
        """Return bytes of any length: short as a rule, sometimes one at which a header grows."""
        size = self.byte()
        if size < 250:
            return self.take(size)
        return (self.take(2) or b"x") * (255, 256, 1024, 2048, 32768, 65536)[size - 250]

    def text(self) -> str:
        """Return a str of any kind, with lone surrogates too."""
        return guarded(self.letters())

    def letters(self) -> str:
        """Return a text that may be copied whole, with the zero behind it."""
        data = self.binary()
        width = self.byte() % 4
        if width < 2:
            return bytes(byte & 127 for byte in data).decode()
        if width == 2:
            return data.decode("latin-1")
        return data.decode("utf-16-le", "surrogatepass") if len(data) % 2 == 0 else data.decode("utf-8", "replace")

    def integer(self) -> int:
        """Return an int of at most ten bytes, of either sign."""
        return int.from_bytes(self.take(self.byte() % 11), "big", signed=True)

    def number(self) -> float:
        """Return any float."""
        value: float = struct.unpack(">d", self.take(8).ljust(8, b"\0"))[0]
        return value

    def value(self, depth: int = MAX_DEPTH) -> Any:
        """Return what a message may hold, and what it may not."""
        kind = self.byte() % 20
        if kind < 4:
            return self.text()
        if kind < 6:
            return self.integer()
        if kind < 7:
            return self.number()
        if kind < 8:
            return self.binary()
        if kind < 12 or depth == 0:
            return (None, True, False, "")[kind % 4]
        if kind < 14:
            return [self.value(depth - 1) for _ in range(self.byte() % 20)]
        if kind < 15:
            return tuple(self.value(depth - 1) for _ in range(self.byte() % 20))
        if kind < 18:
            return self.entries(depth - 1)
        return self.odd(depth - 1)

    def entries(self, depth: int = MAX_DEPTH) -> dict[Any, Any]:
        """Return a dict whose keys are nearly always texts."""
        found: dict[Any, Any] = {}
        for _ in range(self.byte() % 20):
            key = self.pick(("type", "text", "n", None))
            found[self.key() if key is None else key] = self.value(depth)
        return found

    def key(self) -> Any:
        """Return any key."""
        return self.pick((self.text, self.text, self.text, self.binary, self.integer, self.number))()

    def odd(self, depth: int) -> Any:
        """Return what only msgpack itself can pack, or refuse."""
        kind = self.byte() % 9
        if kind == 0:
            return Text(self.letters())
        if kind == 1:
            return Table(self.entries(depth))
        if kind == 2:
            return bytearray(self.binary())
        if kind == 3:
            return memoryview(self.binary())
        # Repeated in place, the biggest of ints and the deepest of nests are few bytes.
        if kind == 4:
            return 1 << (self.byte() * 8)
        if kind == 5:
            nest: Any = self.integer()
            for _ in range(self.byte() * 3):
                nest = [nest]
            return nest
        return (Number.THREE, {1, 2}, 1j)[kind - 6]

    def channel(self) -> Any:
        """Return what a member is addressed to: a name, several, none, or nothing of the sort."""
        kind = self.byte() % 8
        if kind < 2:
            return "specific.abc!" + self.text()
        if kind < 5:
            return ["specific.abc!" + self.text() for _ in range(self.byte() % 20)]
        return None if kind < 7 else self.value(2)
