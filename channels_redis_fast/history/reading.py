"""
Interprets for each caller what was read from a stream: which messages, and whether they are complete.

No I/O. Rules kept here:

- ``complete`` is never True unless it is proven: each entry names its predecessor, beginning with the requested
  position, and all entries were written in one epoch, which is the server's current one. A message that cannot be read
  is missing.
- A foreign entry does not affect the others.
- A stream is read and decoded once for all callers that ask at the same time. Each of them gets its own copies of the
  messages, without those that exclude it.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from itertools import islice
from typing import Any, NamedTuple

from ..connection.identity import ServerIdentity
from ..hot import clone
from ..messages.codec import Codec, Message
from ..messages.exclusion import EXCLUDED, NOBODY, take_excluded, with_excluded
from ..stats import Stats
from .positions import FIELD, NO_EPOCH, Position, epoch_of, position_text

logger = logging.getLogger("channels_redis_fast")

#: A number of milliseconds that no entry has and that fits into a position.
_END = 10**13 - 1


class History(NamedTuple):
    """
    Messages of a group, oldest first, each with its position under ``__position__``.

    ``position``: where to continue; the position of the newest message, or of the last message here if a limit cut
    off newer ones. ``complete``: whether nothing is missing between the requested position and the first message;
    without a position, between the first message that the group's history ever had and the first one here.
    """

    messages: list[Message]
    position: str
    complete: bool


def check_arguments(since: object, limit: object) -> None:
    """Check the arguments of ``group_history``. Raises ``TypeError`` or ``ValueError`` naming a wrong one."""
    if since is not None and not isinstance(since, str):
        raise TypeError(f"since must be a position (str) or None, not {type(since).__name__}")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
        raise TypeError(f"limit must be a number of messages or None, not {type(limit).__name__}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1; it is {limit}")


class Asked(NamedTuple):
    """
    What is requested from a history: after which position, and how many messages.

    ``is_valid``: whether the result can be proven complete. ``channel``: the channel that asks; messages that exclude
    it are omitted. ``for_many``: whether several channels ask, so that each message has to name the channels that it
    excludes, and the caller has to obey that.
    """

    since: Position | None
    limit: int | None
    is_valid: bool
    channel: str | None = None
    for_many: bool = False

    @classmethod
    def of(cls, digest: str, since: str | None, limit: int | None, channel: str | None = None) -> Asked:
        """
        Check the arguments of ``group_history``, for a group with this digest in its positions.

        Raises ``TypeError`` or ``ValueError`` naming a wrong one.
        """
        check_arguments(since, limit)
        position = None if since is None else Position.parse(since)
        if position is not None and position.group != digest:
            position = None
        return cls(position, limit, since is None or position is not None, channel)

    @classmethod
    def newest(cls, digest: str) -> Asked:
        """Return a request for the newest position and no messages."""
        return cls(Position(_END, 0, digest, NO_EPOCH), 1, False)


def start_of(asked: list[Asked]) -> str:
    """
    Return where a script starts reading, as ``scripts.READ`` takes it, so that the result covers all these requests.

    If there are several, they have no limit.
    """
    if any(each.since is None for each in asked):
        return "" if asked[0].limit is not None else "-"
    return "(" + min(each.since for each in asked if each.since is not None).entry


class Excerpt:
    """
    A decoded part of a stream: its entries up to the newest, or as many as the limit allowed.

    ``server``: the server that the call was made for; ``newest``: the ID of the stream's newest entry; ``entries``: as
    returned by ``scripts.READ``, in the stream's order. Raises ``ValueError`` and similar errors for impossible values.
    """

    def __init__(
        self,
        group: str,
        digest: str,
        server: ServerIdentity,
        newest: bytes,
        entries: list[Any],
        codec: Codec,
        stats: Stats,
    ) -> None:
        self._group = group
        self._digest = digest
        self._codec = codec
        self._stats = stats
        self._epoch = epoch_of(server)
        self._newest = newest
        self._ids: list[bytes] = []
        self._epochs: list[bytes] = []
        #: The predecessor that each entry names: its ID and its epoch.
        self._before: list[bytes] = []
        #: Whether each entry has a message, and that message; None for a mark, and for a message that cannot be read.
        self._has_body: list[bool] = []
        self._messages: list[Message | None] = []
        #: The channels that the message of an entry excludes, if any. The message itself no longer names them.
        self._excluded: dict[int, frozenset[str]] = {}
        #: The last entry that does not follow the one before it here, and the last one that proves nothing.
        self._last_break = self._last_bad = -1
        self._read(entries)

    def history(self, asked: Asked, is_last: bool = True) -> History:
        """Return what one caller asked for. Messages are copied for all callers except the last."""
        start, is_cut = self._start(asked)
        since, epoch = asked.since, self._epoch
        is_whole = asked.is_valid and epoch != NO_EPOCH and not is_cut and (since is None or since.epoch == epoch)
        before = b"-" if since is None else f"{since.entry}-{since.epoch}".encode()
        if start == len(self._ids):
            # Nothing comes after the position only if it is the newest one, of the current epoch.
            is_whole = is_whole and before == b"%b-%b" % (self._newest, epoch.encode())
        else:
            is_proven = self._last_bad < start and self._last_break <= start
            is_whole = is_whole and self._before[start] == before and is_proven
        messages = self._messages_for(asked, start)
        if not is_last:
            copy = self._codec.copy or clone
            messages = [copy(message) for message in messages]
        if since is not None and self._reaches(asked.limit):
            position = position_text(self._ids[-1], self._digest, _text(self._epochs[-1]))
        else:
            position = position_text(self._newest, self._digest, epoch)
        return History(messages, position, is_whole)

    def _messages_for(self, asked: Asked, start: int) -> list[Message]:
        """Return the messages from an entry on, except those that exclude the caller."""
        if not self._excluded:
            return [message for message in islice(self._messages, start, None) if message is not None]
        messages: list[Message] = []
        for place, message in enumerate(islice(self._messages, start, None), start):
            if message is None:
                continue
            excluded = self._excluded.get(place, NOBODY)
            if excluded and asked.for_many:
                messages.append(with_excluded(message, excluded))
            elif asked.channel not in excluded:
                messages.append(message)
        return messages

    def _start(self, asked: Asked) -> tuple[int, bool]:
        """Return the first entry for a request, and whether older ones were cut off."""
        if asked.since is not None:
            return bisect_right(self._ids, asked.since[:2], key=_numbers), False
        if asked.limit is None:
            return 0, False
        places = [place for place, has_body in enumerate(self._has_body) if has_body]
        if len(places) <= asked.limit:
            return 0, False
        return places[-asked.limit], True

    def _reaches(self, limit: int | None) -> bool:
        return limit is not None and sum(self._has_body) == limit

    def _read(self, entries: list[Any]) -> None:
        epoch, before = self._epoch.encode(), b""
        bodies: list[bytes | None] = []
        for number, fields in entries:
            if len(fields) == 4 and fields[0] == b"h" and fields[2] == b"m":
                # All entries except marks look like this.
                head, body = fields[1], fields[3]
            else:
                names = dict(zip(fields[::2], fields[1::2], strict=True))
                head, body = names.get(b"h", b""), names.get(b"m")
            parts = head.split(b" ")
            entry_epoch, named = parts[:2] if len(parts) == 4 else (b"?" * 8, b"?")
            place = len(bodies)
            if named != before:
                self._last_break = place
            if entry_epoch != epoch:
                self._last_bad = place
            before = b"%b-%b" % (number, entry_epoch)
            self._ids.append(number)
            self._epochs.append(entry_epoch)
            self._before.append(named)
            bodies.append(body)
        self._has_body = [body is not None for body in bodies]
        self._decode(bodies)

    def _decode(self, bodies: list[bytes | None]) -> None:
        found, errors = self._codec.decode_all([body for body in bodies if body is not None])
        all_at_once = None if errors else iter(found)
        digest = self._digest
        for place, body in enumerate(bodies):
            message: Message | None = None
            if body is not None:
                try:
                    message = (self._codec.decode(body) if all_at_once is None else next(all_at_once))[1]
                    message[FIELD] = position_text(self._ids[place], digest, _text(self._epochs[place]))
                    if EXCLUDED in message:
                        excluded = take_excluded(message)
                        if excluded:
                            self._excluded[place] = excluded
                except Exception as error:
                    message = None
                    self._stats.undecodable += 1
                    self._last_bad = max(self._last_bad, place)
                    logger.error(
                        "Skipped an undecodable message in the history of group %r: %s: %s",
                        self._group,
                        type(error).__name__,
                        error,
                    )
            self._messages.append(message)


def _numbers(entry: bytes) -> tuple[int, int]:
    milliseconds, _, number = entry.partition(b"-")
    return int(milliseconds), int(number)


def _text(epoch: bytes) -> str:
    return epoch.decode(errors="replace")
