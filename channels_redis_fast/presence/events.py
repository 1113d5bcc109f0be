"""
Events of presence: how a script gives them, what groups are told, and what a receiver does not hear twice. No I/O.

An event is delivered again where nobody knows whether it was: who was to deliver it has gone, or its connection has.
Each has a number in its group, which its message carries under ``FIELD``; receivers drop what they have had, and
remove it.
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

#: Events that a process remembers to have received, of all groups together: some five megabytes.
MAX_SEEN = 20_000


class Event(NamedTuple):
    """That a user has come, or has left. ``number``: its place among those of its group in one ``epoch``."""

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
        if kind not in TYPES or not space or len(rest) < size:
            raise ValueError(f"no event: {raw!r}")
        return cls(epoch, number, kind, rest[:size], rest[size:])

    def message(self, group: str, info: Any) -> dict[str, Any]:
        """Return what the group is told; ``info``: as it is when it was decoded."""
        return {
            "type": TYPES[self.kind],
            "group": group,
            "user": user_of(self.user),
            "info": info,
            FIELD: f"{self.epoch}-{self.number}",
        }


class SeenEvents:
    """The events that the receivers of a layer have had. For any thread."""

    def __init__(self) -> None:
        #: By receiver and event, the oldest first.
        self._seen: dict[tuple[str, str], None] = {}

    def is_new(self, receiver: str, message: dict[str, Any]) -> bool:
        """Return whether an event comes to a receiver for the first time; remove what says which one it is."""
        identifier = message.pop(FIELD)
        if not isinstance(identifier, str):
            return True
        key = (receiver, identifier)
        if key in self._seen:
            return False
        self._seen[key] = None
        if len(self._seen) > MAX_SEEN:
            self._forget_some()
        return True

    def new(self, receiver: str, deliveries: list[Delivery]) -> list[Delivery]:
        """Return the deliveries without those events that a receiver has had. What is no event is left alone."""
        if not any(FIELD in message for _, message in deliveries):
            return deliveries
        return [each for each in deliveries if FIELD not in each[1] or self.is_new(receiver, each[1])]

    def _forget_some(self) -> None:
        # Some at a time: the first key of a dict is found slowly where many before it were deleted.
        oldest = list(self._seen)[: MAX_SEEN // 10]
        for key in oldest:
            self._seen.pop(key, None)


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
