"""The reference twin of `_ext/pipeline.pyx`: Redis commands as one run of bytes, in RESP, and what replies are made of.

It knows the protocol; not what the commands mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Word = bytes | str | int | float


def assemble(commands: list[list[Word] | tuple[Word, ...]] | tuple[list[Word] | tuple[Word, ...], ...], /) -> bytes:
    """Redis commands as one run of bytes, each a RESP array of bulk strings.

    A str goes as UTF-8, an int in decimal, a float as its `repr`, whatever subclass it is.

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
    """About how many bytes `assemble` makes of commands: those of their words that are bytes.

    Raises TypeError where the commands are neither list nor tuple. What is wrong with one of them, `assemble` says.
    """
    return sum(
        len(word)
        for command in _sequence(commands, "commands")
        if type(command) is list or type(command) is tuple
        for word in command
        if type(word) is bytes
    )


def are_strings(reply: Any, /) -> bool:
    """Whether a reply is a list of strings, each exactly bytes. The list may be empty."""
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
