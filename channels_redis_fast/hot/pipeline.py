"""The reference twin of `_ext/pipeline.pyx`: encodes Redis commands as RESP bytes, and checks the types in replies.

It knows the protocol. It does not know what the commands mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Word = bytes | str | int | float


def assemble(commands: list[list[Word] | tuple[Word, ...]] | tuple[list[Word] | tuple[Word, ...], ...], /) -> bytes:
    """Redis commands as one run of bytes, each a RESP array of bulk strings.

    A str is written as UTF-8, an int in decimal, a float as its `repr`, whatever its subclass.

    Raises TypeError for a word of another type, bool included, and for a command that is neither list nor tuple;
    ValueError for a command without words; UnicodeEncodeError for lone surrogates.
    """
    parts: list[bytes] = []
    for command in _sequence(commands, "commands"):
        words = [_word(word) for word in _sequence(command, "a command")]
        if not words:
            raise ValueError("a command has at least one word")
        parts.append(b"*%d\r\n" % len(words))
        parts.extend(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
    return b"".join(parts)


def payload_size(commands: Sequence[Any], /) -> int:
    """Approximately how many bytes `assemble` makes of commands: the size of those of their words that are bytes.

    Raises TypeError if the commands are neither list nor tuple. Errors in a single command are left to `assemble`.
    """
    return sum(
        len(word)
        for command in _sequence(commands, "commands")
        if type(command) is list or type(command) is tuple
        for word in command
        if type(word) is bytes
    )


def are_strings(reply: Any, /) -> bool:
    """Whether a reply is a list of strings, each of exactly the type bytes. The list may be empty."""
    return isinstance(reply, list) and {*map(type, reply)} <= {bytes}


def _sequence(value: Any, what: str) -> Any:
    if not isinstance(value, list | tuple):
        raise TypeError(f"{what} must be a list or a tuple, not {type(value).__name__}")
    return value


def _word(word: Word) -> bytes:
    if isinstance(word, bytes):
        return word
    if isinstance(word, str):
        return str.encode(word)
    if isinstance(word, bool):
        raise TypeError("a command's word must be bytes, str, int or float, not bool")
    # The base types' own text: that of an IntEnum member, say, would be its name.
    if isinstance(word, int):
        return int.__repr__(word).encode()
    if isinstance(word, float):
        return float.__repr__(word).encode()
    raise TypeError(f"a command's word must be bytes, str, int or float, not {type(word).__name__}")
