"""
Keys as found by the first scan, in parts small enough for one round trip, and refused commands. No I/O.
"""

from __future__ import annotations

from typing import NamedTuple

from .reasons import reason_of
from .server_facts import is_refusal
from .snapshot import Shard

#: The maximum size in bytes of the oldest messages requested in one round trip, as far as their sizes are known.
PEEK_BYTES = 1_000_000

#: The assumed size of a message if the server does not tell it.
UNKNOWN_BYTES = 10_000


class Entry(NamedTuple):
    """The result of the first look at a key. None: the server did not tell."""

    key: bytes
    members: int | None
    size: int | None
    expires_in_seconds: float | None


def by_size(entries: list[Entry]) -> list[list[Entry]]:
    """Split keys into parts so that one message of each key fits into one round trip."""
    parts: list[list[Entry]] = []
    total: float = PEEK_BYTES
    for entry in entries:
        _, members, size, _ = entry
        mean = UNKNOWN_BYTES if size is None else size / max(members or 1, 1)
        if total + mean > PEEK_BYTES:
            parts.append([])
            total = 0
        parts[-1].append(entry)
        total += mean
    return parts


def seconds_left(milliseconds: int | None) -> float | None:
    """Return the reply to PTTL in seconds, None for a key without an expiry."""
    return None if milliseconds is None or milliseconds < 0 else milliseconds / 1000


def note_failure(shard: Shard, error: Exception) -> None:
    """Record in a shard why it could not be examined."""
    shard.error, shard.reason = str(error), reason_of(error)


def note_refusal(shard: Shard, command: str, error: Exception) -> None:
    """Record in a shard that a command is refused, if the error says so."""
    if is_refusal(error) is not None and command not in shard.refused:
        shard.refused.append(command)
