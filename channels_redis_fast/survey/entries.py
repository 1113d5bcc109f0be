"""
Keys as a first look has them, in parts that are not too much for one round trip; and what was refused. Asks nothing.
"""

from __future__ import annotations

from typing import NamedTuple

from .reasons import reason_of
from .server_facts import is_refusal
from .snapshot import Shard

#: Bytes of the oldest messages that are asked for in one round trip, as far as their size is known.
PEEK_BYTES = 1_000_000

#: What a message is taken to have where the server does not say.
UNKNOWN_BYTES = 10_000


class Entry(NamedTuple):
    """What the first look at a key told: None is what the server did not say."""

    key: bytes
    members: int | None
    size: int | None
    expires_in_seconds: float | None


def by_size(entries: list[Entry]) -> list[list[Entry]]:
    """Split keys so that a message of each is not too much for one round trip."""
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
    """Return what PTTL means in seconds, None for a key without an expiry."""
    return None if milliseconds is None or milliseconds < 0 else milliseconds / 1000


def note_failure(shard: Shard, error: Exception) -> None:
    """Have a shard say why it could not be looked at."""
    shard.error, shard.reason = str(error), reason_of(error)


def note_refusal(shard: Shard, command: str, error: Exception) -> None:
    """Have a shard say that a command is refused, if that is what an error means."""
    if is_refusal(error) is not None and command not in shard.refused:
        shard.refused.append(command)
