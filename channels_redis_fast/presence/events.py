"""
Presence events: the format in which a script returns them, what groups are told, and how receivers skip repeats. No
I/O.

An event is delivered again if nobody knows whether it was delivered: the process that was to deliver it has gone, or
its connection was lost. Each event has a number in its group, which its message carries under ``FIELD``. Receivers drop
events that they have had, and remove the field. After a server has lost its data, nobody knows what groups were told
before: an event to which this applies is marked as in doubt, and a receiver drops it if the last event that it has
heard about that user was of the same type.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..messages.codec import Delivery
from .keys import user_of

#: The key in a message that identifies the event.
FIELD = "__presence__"

#: Message types by the script's name of the event's kind.
TYPES = {b"j": "presence.join", b"l": "presence.leave"}

_KINDS = frozenset((*TYPES, *(kind.upper() for kind in TYPES)))

#: How many events, and how many users of groups, a process remembers as heard: about five megabytes each.
MAX_SEEN = 20_000

#: Suffix of the number of an event that is in doubt.
_DOUBT = "?"


class Event(NamedTuple):
    """
    A user has come or left. ``number``: the event's place among those of its group in one ``epoch``.

    ``kind``: as named by the script; upper case if the group may know of it already.
    """

    epoch: str
    number: int
    kind: bytes
    user: bytes
    info: bytes

    @classmethod
    def of(cls, epoch: str, number: int, raw: bytes) -> Event:
        """Parse an event as returned by a script. Raises ``ValueError`` for anything else."""
        kind, start = raw[:1], raw.index(b" ", 1) + 1
        end = start + int(raw[1 : start - 1])
        if kind not in _KINDS or not start <= end <= len(raw):
            raise ValueError(f"no event: {raw!r}")
        return cls(epoch, number, kind, raw[start:end], raw[end:])

    def message(self, group: str, info: Any) -> dict[str, Any]:
        """Return the message that tells the group. ``info``: the decoded info."""
        return {
            "type": TYPES[self.kind.lower()],
            "group": group,
            "user": user_of(self.user),
            "info": info,
            FIELD: f"{self.epoch}-{self.number}" + (_DOUBT if self.kind.isupper() else ""),
        }


class EventInputs(NamedTuple):
    """What a script needs to deliver the events of one group itself: further keys, and arguments."""

    keys: Sequence[bytes]
    arguments: Sequence[Any]


NO_INPUTS = EventInputs((), ())


class SeenEvents:
    """The events that the receivers of a layer have had. Thread-safe."""

    def __init__(self) -> None:
        #: Events by receiver and identifier, the oldest first; and what was last heard, by receiver and user of a
        #: group.
        self._seen: dict[tuple[str, str], None] = {}
        self._last: dict[tuple[str, str], object] = {}

    def is_new(self, receiver: str, message: dict[str, Any]) -> bool:
        """Return whether an event is news to a receiver. Removes its identifier from the message."""
        identifier = message.pop(FIELD)
        if not isinstance(identifier, str):
            return True
        key = (receiver, identifier)
        if key in self._seen:
            return False
        self._seen[key] = None
        kind = message.get("type")
        user = (receiver, f"{message.get('group')!r} {message.get('user')!r}")
        # Only if in doubt: a receiver whose last event was a different one may have missed something in between.
        is_known = identifier.endswith(_DOUBT) and self._last.get(user) == kind
        self._last.pop(user, None)
        self._last[user] = kind
        for remembered in (self._seen, self._last):
            if len(remembered) > MAX_SEEN:
                _forget_some(remembered)
        return not is_known

    def new(self, receiver: str, deliveries: list[Delivery]) -> list[Delivery]:
        """Return the deliveries without the events that a receiver has had. Other messages pass unchanged."""
        if not any(FIELD in message for _, message in deliveries):
            return deliveries
        return [each for each in deliveries if FIELD not in each[1] or self.is_new(receiver, each[1])]


def _forget_some(remembered: dict[tuple[str, str], Any]) -> None:
    # Several at a time: finding the first key of a dict is slow if many before it were deleted.
    for key in list(remembered)[: MAX_SEEN // 10]:
        remembered.pop(key, None)


def without_repeats(events: Iterable[Event]) -> list[list[Event]]:
    """
    Split events into parts, in their order, without repeating a user within a part.

    The events of a part may be delivered concurrently: the order of two different users does not matter.
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
