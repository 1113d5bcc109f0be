"""A Lua script and its SHA-1, and bytes in its text. Text only, no I/O."""

from __future__ import annotations

from hashlib import sha1


class Script:
    """A Lua script: ``text`` for SCRIPT LOAD and EVAL, ``sha`` (hex) for EVALSHA."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text.strip().encode()
        self.sha = sha1(self.text).hexdigest().encode()


def in_lua(data: bytes) -> str:
    """Return bytes as a Lua string literal."""
    return "'" + "".join(f"\\{byte:03d}" for byte in data) + "'"
