"""
Which server process a socket leads to, and what its clock says. No I/O.

A server that has restarted, or a replica that was promoted, is another process: what was known of its data may no
longer be true. The identity is read in the greeting of a new socket and is valid as long as that socket.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple


class ServerIdentity(NamedTuple):
    """
    A server's process, and its current term as a primary.

    Both IDs have 40 hex digits, and are empty if the server does not tell them. ``replication_id``: a new one each time
    that the server becomes a primary.
    """

    run_id: bytes = b""
    replication_id: bytes = b""
    #: Seconds to add to ``time.monotonic()`` to get the server's Unix time; None if the server does not tell it.
    clock: float | None = None
    #: When the process was started, as this machine's Unix time, within two seconds; 0.0 if its run id is not known.
    started: float = 0.0

    def microseconds(self) -> int:
        """Return the server's Unix time in microseconds, or this machine's if the server does not tell its own."""
        return int(1_000_000 * (time.time() if self.clock is None else time.monotonic() + self.clock))


#: The identity of a server that was not asked.
UNKNOWN = ServerIdentity()


def identify(server: Any, replication: Any, clock: Any) -> ServerIdentity:
    """Return a server's identity from its replies to INFO server, INFO replication and TIME; None for a refused one."""
    try:
        offset: float | None = int(clock[0]) + int(clock[1]) / 1_000_000 - time.monotonic()
    except (IndexError, KeyError, TypeError, ValueError):
        offset = None
    run_id = field_of(server, b"run_id")
    started = started_at(server) if run_id else 0.0
    return ServerIdentity(run_id, field_of(replication, b"master_replid"), offset, started)


def started_at(server: Any) -> float:
    """Return when a server was started (this machine's Unix time), from its INFO server; now if it does not say."""
    uptime = field_of(server, b"uptime_in_seconds")
    return time.time() - (int(uptime) if uptime.isdigit() else 0)


def field_of(info: Any, name: bytes) -> bytes:
    """Return a field of an INFO reply, or an empty one if it is missing."""
    if isinstance(info, str):
        # If a site's options tell redis-py to decode replies.
        info = info.encode()
    if isinstance(info, bytes):
        for line in info.splitlines():
            if line.startswith(name + b":"):
                return line[len(name) + 1 :].strip()
    return b""
