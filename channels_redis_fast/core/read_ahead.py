"""
Decides how much of a specific key is read ahead, and how much is removed at once. Both are bounded in bytes.

Used by the pump of a single server and by that of a cluster. Knows the sizes of members. Does not know sockets or
commands.

Rules kept here:

- Nothing is read ahead until the size of a message is known, or while messages are large.
- The expected size of a reply is at most ``READ_BYTES``. The expected size of a member rises at once and falls slowly.
- The number of members grows only while replies are full, so an idle key starts with few.
- While nothing is found behind popped messages, most looks are left out: messages that arrive one at a time cost one
  command less. A burst after that waits a few more round trips, once.
"""

from __future__ import annotations

from ..hot import payload_size

#: Members read at once from a key: initially, and at most.
FEWEST_MEMBERS, MOST_MEMBERS = 8, 512

#: Factor by which the number of members grows after a full reply.
GROWTH = 4

#: After EMPTY_LOOKS looks in a row that found nothing behind a popped message, LEFT_OUT are left out for each one made.
EMPTY_LOOKS, LEFT_OUT = 2, 3

#: Maximum expected size of a reply in bytes.
READ_BYTES = 1_000_000

#: Bytes removed by one command, unless a single member is larger.
REMOVAL_BYTES = 1_000_000


class ReadAhead:
    """How many members of one key to read at once, estimated from previous replies."""

    __slots__ = ("_empty", "_left_out", "_most", "_size")

    def __init__(self) -> None:
        self._most = FEWEST_MEMBERS
        #: Looks in a row that found nothing, and how many looks were left out since the last one.
        self._empty = 0
        self._left_out = 0
        # Expected size of a member in bytes; None until one is known.
        self._size: float | None = None

    @property
    def count(self) -> int:
        """The number of members to read now; 0 if the next one may be too large to be read ahead."""
        return 0 if self._size is None else min(self._most, int(READ_BYTES / self._size))

    def count_behind(self) -> int:
        """Return how many members to read behind the message that the next wait pops; 0 for no look."""
        if self._empty >= EMPTY_LOOKS:
            if self._left_out < LEFT_OUT:
                self._left_out += 1
                return 0
            self._left_out = 0
        return self.count

    def popped(self, member: bytes) -> None:
        """Learn from a member that came alone."""
        self._learn(len(member))

    def read(self, asked: int, members: list[bytes]) -> None:
        """Learn from the reply to a request for ``asked`` members."""
        if members:
            self._learn(payload_size([members]) / len(members))
            self._empty = 0
        else:
            self._empty += 1
        if len(members) == asked:
            self._most = min(self._most * GROWTH, MOST_MEMBERS)
        else:
            self._most = max(self._most // 2, FEWEST_MEMBERS)

    def _learn(self, size: float) -> None:
        self._size = max(size, (size if self._size is None else self._size + size) / 2, 1.0)


def take_removals(removals: dict[int, list[bytes]], shard: int) -> list[bytes]:
    """
    Take the members for the next removal command from a shard's list; the others stay there.

    Returns those that were delivered first, up to ``REMOVAL_BYTES`` bytes, but at least one if there is any.
    """
    members = removals.pop(shard, None)
    if not members:
        return []
    if payload_size([members]) <= REMOVAL_BYTES:
        return members
    size = 0
    for at, member in enumerate(members):
        size += len(member)
        if size > REMOVAL_BYTES and at:
            removals[shard] = members[at:]
            return members[:at]
    return members
