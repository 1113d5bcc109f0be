"""
Events of presence: how a script gives them, what groups are told, and what a receiver does not hear twice. No I/O.

An event is delivered again where nobody knows whether it was: who was to deliver it has gone, or its connection has.
Each has a number in its group, which its message carries under ``FIELD``; receivers drop what they have had, and
remove it. After a server has lost its data nobody knows what was told before: an event of which that is true says that
it is in doubt, and a receiver drops it where it has heard the same of that user last.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from ..messages.codec import Delivery
from .keys import user_of

#: The key of a message that says which event it is.
FIELD = "__presence__"

#: The types of the messages by what a script calls them.
TYPES = {b"j": "presence.join", b"l": "presence.leave"}

#: Events, and users of groups, that a process remembers to have heard of: some five megabytes each.
MAX_SEEN = 20_000

#: What the number of an event that is in doubt ends with.
_DOUBT = "?"


class Event(NamedTuple):
    """
    That a user has come, or has left. ``number``: its place among those of its group in one ``epoch``.

    ``kind``: as a script calls it; in capitals where the group may know it already.
    """

    epoch: str
    number: int
    kind: bytes
    user: bytes
    info: bytes

    @classmethod
    def of(cls, epoch: str, number: int, raw: bytes) -> Event:
        """Return an event as a script gives it. Raises ``ValueError`` for what is none."""
        length, space, rest = raw[1:].partition(b" ")
        kind, size = raw[:1], int(length)
        if kind.lower() not in TYPES or not space or len(rest) < size:
            raise ValueError(f"no event: {raw!r}")
        return cls(epoch, number, kind, rest[:size], rest[size:])

    def message(self, group: str, info: Any) -> dict[str, Any]:
        """Return what the group is told; ``info``: as it is when it was decoded."""
        return {
            "type": TYPES[self.kind.lower()],
            "group": group,
            "user": user_of(self.user),
            "info": info,
            FIELD: f"{self.epoch}-{self.number}" + (_DOUBT if self.kind.isupper() else ""),
        }


class SeenEvents:
    """The events that the receivers of a layer have had. For any thread."""

    def __init__(self) -> None:
        #: By receiver and event, the oldest first; and by receiver and user of a group, what was heard last.
        self._seen: dict[tuple[str, str], None] = {}
        self._last: dict[tuple[str, str], object] = {}

    def is_new(self, receiver: str, message: dict[str, Any]) -> bool:
        """Return whether an event tells a receiver something; remove what says which one it is."""
        identifier = message.pop(FIELD)
        if not isinstance(identifier, str):
            return True
        key = (receiver, identifier)
        if key in self._seen:
            return False
        self._seen[key] = None
        kind = message.get("type")
        user = (receiver, f"{message.get('group')!r} {message.get('user')!r}")
        # Only what is in doubt: who heard something else last may have missed what was in between.
        is_known = identifier.endswith(_DOUBT) and self._last.get(user) == kind
        self._last.pop(user, None)
        self._last[user] = kind
        for remembered in (self._seen, self._last):
            if len(remembered) > MAX_SEEN:
                _forget_some(remembered)
        return not is_known

    def new(self, receiver: str, deliveries: list[Delivery]) -> list[Delivery]:
        """Return the deliveries without those events that a receiver has had. What is no event is left alone."""
        if not any(FIELD in message for _, message in deliveries):
            return deliveries
        return [each for each in deliveries if FIELD not in each[1] or self.is_new(receiver, each[1])]


def _forget_some(remembered: dict[tuple[str, str], Any]) -> None:
    # Some at a time: the first key of a dict is found slowly where many before it were deleted.
    for key in list(remembered)[: MAX_SEEN // 10]:
        remembered.pop(key, None)


def without_repeats(events: Iterable[Event]) -> list[list[Event]]:
    """
    Return events in parts, in their order, no user twice in one.

    The events of a part may be delivered side by side: which of two users came first matters to nobody.
    """
    parts: list[list[Event]] = []
    users: set[bytes] = set()
    for event in events:
        if not parts or event.user in users:
            parts.append([])
            users = set()
        parts[-1].append(event)
        users.add(event.user)
    return parts
