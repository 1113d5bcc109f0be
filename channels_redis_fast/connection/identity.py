"""
Which process of a server a socket leads to, and how its clock differs from ours. No I/O.

A server that has restarted, or a replica that was promoted, is another process: what was known of its data may no
longer hold. It is asked in the greeting of a new socket, and holds as long as that socket does.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple


class ServerIdentity(NamedTuple):
    """A server's process. ``run_id``: 40 hex digits, empty where the server does not tell it."""

    run_id: bytes = b""
    #: Seconds to add to ``time.monotonic()`` for the server's Unix time; None where it does not tell that.
    clock: float | None = None

    def milliseconds(self) -> int:
        """Return the server's Unix time in milliseconds, or this machine's where the server does not tell its own."""
        return int(1000 * (time.time() if self.clock is None else time.monotonic() + self.clock))


#: What is known of a server that was not asked.
UNKNOWN = ServerIdentity()


def identify(info: Any, clock: Any) -> ServerIdentity:
    """Return who a server is by its replies to INFO and TIME, each of which may be an error."""
    try:
        offset: float | None = int(clock[0]) + int(clock[1]) / 1_000_000 - time.monotonic()
    except (IndexError, KeyError, TypeError, ValueError):
        offset = None
    return ServerIdentity(field_of(info, b"run_id"), offset)


def field_of(info: Any, name: bytes) -> bytes:
    """Return a field of what INFO answers, an empty one if it is not there."""
    if isinstance(info, str):
        # Where a site's options have redis-py decode replies.
        info = info.encode()
    if isinstance(info, bytes):
        for line in info.splitlines():
            if line.startswith(name + b":"):
                return line[len(name) + 1 :].strip()
    return b""
