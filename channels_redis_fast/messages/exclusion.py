"""
The channels that a message to a group excludes: usually its sender's.

The core layer does not deliver to them. If nobody knows who will receive a message (Pub/Sub, a history), the names
travel in the message under a reserved key, as its last entry. Receivers and readers obey and remove it. Knows messages
and names. Does not know groups, nor how a message travels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..hot import pack
from .codec import Message

#: The key of a message that holds the names: a list of at least one.
EXCLUDED = "__exclude__"

NOBODY: frozenset[str] = frozenset()

#: What ``group_send_many`` accepts for each message: its group, the message, and optionally whom to exclude.
GroupSend = tuple[str, Message] | tuple[str, Message, Iterable[str] | None]


def listed(sends: Iterable[GroupSend]) -> list[tuple[Any, ...]]:
    """
    Return the arguments of ``group_send_many`` as tuples: group, message and, if there are any, names to exclude.

    Iterates everything that the caller passed. Raises ``ValueError`` for a tuple of another length, ``TypeError`` if
    the names are not an iterable of names.
    """
    tuples: list[tuple[Any, ...]] = [tuple(send) for send in sends]
    for place, send in enumerate(tuples):
        if len(send) != 2:
            group, message, exclude = send
            tuples[place] = (group, message) if exclude is None else (group, message, names_in(exclude))
    return tuples


def names_in(exclude: Iterable[str]) -> list[str]:
    """Return the value of ``exclude``. Raises ``TypeError`` if it is not an iterable of names."""
    # A lone name would be an iterable of its characters.
    if isinstance(exclude, (str, bytes)) or not isinstance(exclude, Iterable):
        raise TypeError(f"exclude must be a list of channel names, not {type(exclude).__name__}")
    return list(exclude)


def checked(exclude: Iterable[str], check: Callable[[str], object]) -> frozenset[str]:
    """Return the names to exclude. Raises ``TypeError`` if they are no iterable of names, and what ``check`` raises."""
    names = names_in(exclude)
    for name in names:
        check(name)
    return frozenset(names)


def with_excluded(message: Message, names: frozenset[str]) -> Message:
    """Return a message with the names of those who must not get it, replacing any names that it has."""
    # Through ``items``, as serializers do: a subclass of dict (Django's QueryDict) may return other values there.
    whole = dict(message.items())
    whole.pop(EXCLUDED, None)
    whole[EXCLUDED] = sorted(names)
    return whole


def entry_size(names: frozenset[str]) -> int:
    """Return how many bytes of msgpack ``with_excluded`` adds after a message's own entries."""
    return len(pack({EXCLUDED: list(names)})) - 1


def take_excluded(message: Message) -> frozenset[str]:
    """Remove and return the names of those who must not get a message. Any other value under that key stays."""
    names: object = message.get(EXCLUDED)
    if type(names) is not list or not names or not all(type(name) is str for name in names):
        return NOBODY
    del message[EXCLUDED]
    return frozenset(names)
