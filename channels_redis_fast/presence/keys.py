"""
The keys and fields that hold the presence of a group. No I/O.

Each group has three keys, all in the slot of the group's own key: a hash of the present users with their info; a small
hash with the state of the group and the processes that have a part in it; and a hash of channels and of changes under
way.
"""

from __future__ import annotations

from typing import NamedTuple

from ..cluster.slots import key_behind, key_beside

User = str | int

#: Prefix of the fields of the second key that name processes, in the form used in the entries of a group.
OWNER = b"of "


class PresenceKeys(NamedTuple):
    """The keys of one group. ``users``: info by user; ``head``: the state of the group; ``channels``."""

    users: bytes
    head: bytes
    channels: bytes

    @classmethod
    def of(cls, prefix: bytes, group_key: bytes) -> PresenceKeys:
        """Return the keys of a group, by its own key or, on Pub/Sub, its Redis channel."""
        users, *others = _starts(prefix)
        name = key_beside(users, group_key)
        if b"{" in prefix:
            return cls(name, *[key_beside(start, group_key) for start in others])
        # The names differ only before any hash tag, so all three are in one slot.
        return cls(name, *[start + name[len(users) :] for start in others])


def presences_prefix(prefix: bytes) -> bytes:
    """Return the prefix of the keys that hold the present users, one for each group of a layer's prefix."""
    return prefix + b":presence:"


def all_prefix(prefix: bytes) -> bytes:
    """Return the prefix of all presence keys."""
    return prefix + b":presence"


def group_key_of(prefix: bytes, key: bytes) -> bytes | None:
    """Return the key of the group whose users a key holds; None for any other key."""
    return key_behind(presences_prefix(prefix), key)


def group_of_any(prefix: bytes, key: bytes) -> bytes | None:
    """Return the key of the group to which a presence key belongs; None for any other key."""
    found = (key_behind(start, key) for start in _starts(prefix))
    return next((group_key for group_key in found if group_key is not None), None)


def _starts(prefix: bytes) -> list[bytes]:
    return [prefix + b":presence" + kind + b":" for kind in (b"", b"-head", b"-channels")]


def user_field(user: object, channel: str = "") -> bytes:
    """
    Return the field that stands for a user. None stands for a user without a name, identified by ``channel`` alone.

    Raises ``TypeError`` for a user that is neither a str nor an int, ``UnicodeEncodeError``, ``ValueError`` for an int
    that no message can carry.
    """
    if user is None and channel:
        return b"a" + channel.encode()
    if isinstance(user, str):
        return b"s" + user.encode()
    if isinstance(user, int) and not isinstance(user, bool):
        # What msgpack can pack.
        if not -(2**63) <= user < 2**64:
            raise ValueError(f"a user must be an int of at most 64 bits, not {user}")
        return b"i%d" % user
    raise TypeError(f"a user must be a str or an int, not {type(user).__name__}")


def user_of(field: bytes) -> User | None:
    """Return the user of a field; None for one without a name. Raises ``ValueError`` for any other field."""
    if field[:1] == b"a":
        return None
    if field[:1] == b"s":
        return field[1:].decode()
    if field[:1] == b"i":
        return int(field[1:])
    raise ValueError(f"not a user: {field!r}")


def owner_name(process: str, generation: int) -> str:
    """Return the name of a process in the entries of a group. It changes after each lapse of the process' lease."""
    return f"{process}.{generation}"


def process_of(owner: bytes) -> str:
    """Return the process that has a name in the entries of a group."""
    return owner.rpartition(b".")[0].decode(errors="replace")


def owners_in(head: list[bytes]) -> list[bytes]:
    """Return the processes that have a part in a group, from the fields of its head."""
    return [field[len(OWNER) :] for field in head if field.startswith(OWNER)]
