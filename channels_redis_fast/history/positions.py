"""
Positions in the history of a group: their text, and the key of the history. No I/O.

A position is text of fixed width that sorts in the order of the messages: the stream's entry ID (milliseconds and
sequence number, as given by XADD), then the group that it belongs to and the epoch in which it was written. An epoch is
one run of a server process. A restart ends it, and so does a failover, since both may have lost the last writes.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import sha1
from typing import NamedTuple

from ..cluster.slots import key_behind, key_beside
from ..connection.identity import ServerIdentity

#: The key of a message that holds its position.
FIELD = "__position__"

#: The length of a position in characters, and the text that a message holds until the script knows its position.
WIDTH = 41
PLACEHOLDER = "0" * WIDTH

#: The epoch of a server that does not tell its run id: nothing can be proven complete there.
NO_EPOCH = "0" * 8

#: Where a position holds its group and its epoch, and the part that sorts like the entries of a stream.
_GROUP, _EPOCH, ENTRY = slice(25, 33), slice(33, WIDTH), slice(0, 24)
_MILLISECONDS = slice(0, 13)

_FORM = re.compile(r"(\d{13})-(\d{10})-([0-9a-f]{8})([0-9a-f]{8})", re.ASCII)


class Position(NamedTuple):
    """A place in the history of a group. ``group``: a digest of the group's key; ``epoch``: one run of a server."""

    milliseconds: int
    number: int
    group: str
    epoch: str

    def __str__(self) -> str:
        return f"{self.milliseconds:013d}-{self.number:010d}-{self.group}{self.epoch}"

    @property
    def entry(self) -> str:
        """The ID of the entry in the stream."""
        return f"{self.milliseconds}-{self.number}"

    @classmethod
    def parse(cls, text: str) -> Position | None:
        """Return the position that a text represents, None if it is not one."""
        found = _FORM.fullmatch(text)
        return None if found is None else cls(int(found[1]), int(found[2]), found[3], found[4])


def position_text(entry: bytes, group: str, epoch: str) -> str:
    """Return the position of an entry by its ID. Raises ``ValueError`` for an invalid ID."""
    milliseconds, _, number = entry.decode().partition("-")
    if not (milliseconds.isdigit() and number.isdigit()):
        raise ValueError(f"not the ID of an entry: {entry!r}")
    return f"{milliseconds:0>13}-{number:0>10}-{group}{epoch}"


def unix_time(position: str) -> float:
    """Return when a message was recorded (Unix time in seconds, by the server's clock), given its position."""
    milliseconds = position[_MILLISECONDS]
    return int(milliseconds) / 1000 if milliseconds.isdecimal() else 0.0


def belongs(position: object, group: str) -> bool:
    """Return whether a value has the form of a position of a group, given the group's digest."""
    return type(position) is str and len(position) == WIDTH and position[_GROUP] == group


def group_in(position: str) -> str:
    """Return the group's digest in a position."""
    return position[_GROUP]


def epoch_in(position: str) -> str:
    """Return the epoch of a position."""
    return position[_EPOCH]


def same_epoch(position: str, other: str) -> bool:
    """Return whether two positions are in the same epoch."""
    return position[_EPOCH] == other[_EPOCH]


def epoch_of(server: ServerIdentity) -> str:
    """Return the epoch of a server, ``NO_EPOCH`` if it does not tell its run id."""
    return _epoch(server.run_id, server.replication_id) if server.run_id else NO_EPOCH


@lru_cache(maxsize=1000)
def _epoch(run_id: bytes, replication_id: bytes) -> str:
    return _digest(run_id + replication_id)


def digest_of(group_key: bytes) -> str:
    """Return the group's digest, as positions contain it."""
    return _digest(group_key)


def histories_prefix(prefix: bytes) -> bytes:
    """Return the beginning of the keys of all streams with a layer's prefix."""
    return prefix + b":history:"


def history_key(prefix: bytes, group_key: bytes) -> bytes:
    """
    Return the key of a group's stream, which in a cluster is in the slot of the group's own key.

    ``group_key``: the key of the group, or its channel on Pub/Sub.
    """
    return key_beside(histories_prefix(prefix), group_key)


def turn_key(prefix: bytes, group_key: bytes) -> bytes:
    """Return the key that says whose turn it is to record in a group's stream, in the same slot."""
    return key_beside(prefix + b":turn:", group_key)


def _digest(data: bytes) -> str:
    return sha1(data).hexdigest()[:8]


def group_key_of(prefix: bytes, key: bytes) -> bytes | None:
    """Return the key of the group that a stream's key belongs to; None if it is not a stream of this prefix."""
    return key_behind(histories_prefix(prefix), key)
