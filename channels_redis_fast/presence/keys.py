"""
The keys and fields in which the presence of a group is kept. No I/O.

Each group has three keys, all in the slot of the group's own: a hash of the users who are present, with what is known
of them; a small hash with what holds for the group, and which processes have a part in it; and a hash of channels, and
of what is under way.
"""

from __future__ import annotations

from typing import NamedTuple

from ..cluster.slots import key_behind, key_beside

User = str | int

#: What the fields of the second key begin with that name processes, as they are called in the entries of a group.
OWNER = b"of "


class PresenceKeys(NamedTuple):
    """The keys of one group. ``users``: by user what is known of them; ``head``: of the group; ``channels``."""

    users: bytes
    head: bytes
    channels: bytes

    @classmethod
    def of(cls, prefix: bytes, group_key: bytes) -> PresenceKeys:
        """Return the keys of a group by its own key, or on Pub/Sub its channel."""
        users, *others = _starts(prefix)
        name = key_beside(users, group_key)
        if b"{" in prefix:
            return cls(name, *[key_beside(start, group_key) for start in others])
        # They differ before any hash tag, and so have one slot.
        return cls(name, *[start + name[len(users) :] for start in others])


def presences_prefix(prefix: bytes) -> bytes:
    """Return what those keys of a layer's prefix begin with that hold the users who are present, one for each group."""
    return prefix + b":presence:"


def all_prefix(prefix: bytes) -> bytes:
    """Return what all keys of presence begin with."""
    return prefix + b":presence"


def group_key_of(prefix: bytes, key: bytes) -> bytes | None:
    """Return the key of the group whose users a key holds; None for a key that is no such one of this prefix."""
    return key_behind(presences_prefix(prefix), key)


def group_of_any(prefix: bytes, key: bytes) -> bytes | None:
    """Return the key of the group of which a key holds anything; None for a key that is no such one of this prefix."""
    found = (key_behind(start, key) for start in _starts(prefix))
    return next((group_key for group_key in found if group_key is not None), None)


def _starts(prefix: bytes) -> list[bytes]:
    return [prefix + b":presence" + kind + b":" for kind in (b"", b"-head", b"-channels")]


def user_field(user: object, channel: str = "") -> bytes:
    """
    Return a user as a field; None for somebody without a name, who is one by the ``channel`` alone.

    Raises ``TypeError`` for what is neither a str nor an int, ``UnicodeEncodeError``.
    """
    if user is None and channel:
        return b"a" + channel.encode()
    if isinstance(user, str):
        return b"s" + user.encode()
    if isinstance(user, int) and not isinstance(user, bool):
        return b"i%d" % user
    raise TypeError(f"a user must be a str or an int, not {type(user).__name__}")


def user_of(field: bytes) -> User | None:
    """Return the user of a field, None for one without a name. Raises ``ValueError`` for a field of something else."""
    if field[:1] == b"a":
        return None
    if field[:1] == b"s":
        return field[1:].decode()
    if field[:1] == b"i":
        return int(field[1:])
    raise ValueError(f"not a user: {field!r}")


def owner_name(process: str, generation: int) -> str:
    """Return what a process is called in the entries of a group; another name after each lapse of its lease."""
    return f"{process}.{generation}"


def process_of(owner: bytes) -> str:
    """Return the process that is called like this in the entries of a group."""
    return owner.rpartition(b".")[0].decode(errors="replace")


def owners_in(head: list[bytes]) -> list[bytes]:
    """Return the processes that have a part in a group, by the fields of its head."""
    return [field[len(OWNER) :] for field in head if field.startswith(OWNER)]
