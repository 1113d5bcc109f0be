"""
Positions in the history of a group: how they read, and which key the history has. No I/O.

A position is text of fixed width that sorts as its messages do: the stream's entry ID (milliseconds and sequence
number, as XADD gives them), then which group it belongs to and in which epoch it was written. An epoch is the life of
one server process: a restart ends it, and so does a failover, since both may have lost what was written last.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import sha1
from itertools import count
from typing import NamedTuple

from ..cluster.slots import SLOTS, slot_of
from ..connection.identity import ServerIdentity

#: The key of a message under which its position is.
FIELD = "__position__"

#: Characters of a position; what stands in a message until the script knows its position.
WIDTH = 41
PLACEHOLDER = "0" * WIDTH

#: The epoch of a server that does not tell its run id: nothing is known to be complete there.
NO_EPOCH = "0" * 8

#: Where in a position its group and its epoch are, and what sorts as the entries of a stream do.
_GROUP, _EPOCH, ENTRY = slice(25, 33), slice(33, WIDTH), slice(0, 24)

_FORM = re.compile(r"(\d{13})-(\d{10})-([0-9a-f]{8})([0-9a-f]{8})", re.ASCII)


class Position(NamedTuple):
    """A place in the history of a group. ``group``: a digest of the group's key; ``epoch``: one of a server's life."""

    milliseconds: int
    number: int
    group: str
    epoch: str

    def __str__(self) -> str:
        return f"{self.milliseconds:013d}-{self.number:010d}-{self.group}{self.epoch}"

    @property
    def entry(self) -> str:
        """The ID of the stream's entry."""
        return f"{self.milliseconds}-{self.number}"

    @classmethod
    def parse(cls, text: str) -> Position | None:
        """Return the position that a text is, None if it is none."""
        found = _FORM.fullmatch(text)
        return None if found is None else cls(int(found[1]), int(found[2]), found[3], found[4])


def position_text(entry: bytes, group: str, epoch: str) -> str:
    """Return the position of an entry by its ID. Raises ``ValueError`` for what is no ID of an entry."""
    milliseconds, _, number = entry.decode().partition("-")
    if not (milliseconds.isdigit() and number.isdigit()):
        raise ValueError(f"not the ID of an entry: {entry!r}")
    return f"{milliseconds:0>13}-{number:0>10}-{group}{epoch}"


def belongs(position: object, group: str) -> bool:
    """Return whether something has the form of a position of a group, given the group's digest."""
    return type(position) is str and len(position) == WIDTH and position[_GROUP] == group


def group_in(position: str) -> str:
    """Return what a position says of its group."""
    return position[_GROUP]


def epoch_in(position: str) -> str:
    """Return the epoch of a position."""
    return position[_EPOCH]


def same_epoch(position: str, other: str) -> bool:
    """Return whether two positions are of one epoch."""
    return position[_EPOCH] == other[_EPOCH]


def epoch_of(server: ServerIdentity) -> str:
    """Return the epoch of a server, ``NO_EPOCH`` for one that does not tell its run id."""
    return _epoch(server.run_id, server.replication_id) if server.run_id else NO_EPOCH


@lru_cache(maxsize=1000)
def _epoch(run_id: bytes, replication_id: bytes) -> str:
    return _digest(run_id + replication_id)


def digest_of(group_key: bytes) -> str:
    """Return what positions of a group say of it."""
    return _digest(group_key)


def histories_prefix(prefix: bytes) -> bytes:
    """Return what the keys of all streams of a layer's prefix begin with."""
    return prefix + b":history:"


def history_key(prefix: bytes, group_key: bytes) -> bytes:
    """
    Return the key of a group's stream, which on a cluster is in the slot of the group's own key.

    ``group_key``: the key of the group, or on Pub/Sub its channel. It follows as it is where it has a hash tag, else in
    braces; behind a number in braces where neither leads to its slot. A prefix with a hash tag of its own has all
    streams in one slot, which is that of its groups unless a subclass names them otherwise.
    """
    return _beside(histories_prefix(prefix), group_key)


def turn_key(prefix: bytes, group_key: bytes) -> bytes:
    """Return the key that says whose turn it is to record in a group's stream, in the slot of that as well."""
    return _beside(prefix + b":turn:", group_key)


def _beside(start: bytes, group_key: bytes) -> bytes:
    """Return a key that begins with ``start`` and is in the slot of a group's key, as ``history_key`` says."""
    slot = slot_of(group_key)
    in_braces = start + b"{" + group_key + b"}"
    for key in (start + group_key, in_braces) if b"{" in group_key else (in_braces,):
        if slot_of(key) == slot:
            return key
    if slot_of(start + b"0") == slot_of(start + b"1"):
        return in_braces
    if b"{" not in start:
        return b"%b{%d}%b" % (start, _number_in(slot), group_key)
    numbered = (b"%b{%d}%b" % (start, number, group_key) for number in count())
    return next(key for key in numbered if slot_of(key) == slot)


@lru_cache(SLOTS)
def _number_in(slot: int) -> int:
    """Return the first number that, as text, is in a slot."""
    return next(number for number in count() if slot_of(b"%d" % number) == slot)


def _digest(data: bytes) -> str:
    return sha1(data).hexdigest()[:8]


def group_key_of(prefix: bytes, key: bytes) -> bytes | None:
    """Return the key of the group whose stream a key is; None for a key that is no stream of this prefix."""
    start = histories_prefix(prefix)
    if not key.startswith(start):
        return None
    rest = key[len(start) :]
    candidates = [rest, re.sub(rb"^\{\d+\}", b"", rest)]
    if rest[:1] == b"{" and rest[-1:] == b"}":
        candidates.insert(0, rest[1:-1])
    return next((found for found in candidates if history_key(prefix, found) == key), None)
