"""
The histories of a layer's groups: what a script needs to record a message, and reading them.

Rules kept here:

- ``complete`` is never True unless it is proven: each entry names its predecessor, beginning with the position that was
  asked for, and all were written in one epoch, which is the server's now. A message that cannot be read is missing.
- What is said of a server holds for the connection on which it was said: calls are made out when they are written.
- An entry that is no entry of ours harms no other.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from ..connection.identity import ServerIdentity
from ..connection.replies import UnexpectedReply
from ..connection.script import Script
from ..connection.script_call import ScriptCall, Way, no_scripts
from ..messages.codec import Message
from ..messages.exclusion import EXCLUDED, take_excluded
from ..stats import Stats
from . import scripts
from .positions import FIELD, NO_EPOCH, Position, digest_of, epoch_of, history_key, position_text
from .retention import Retention, RetentionRules

logger = logging.getLogger("channels_redis_fast")

#: Milliseconds that no entry has, and that a position has room for.
_END = 10**13 - 1

#: Histories whose keys are remembered by a layer.
MAX_STREAMS = 10_000


class History(NamedTuple):
    """
    Messages of a group, the oldest first, each with its position under ``__position__``.

    ``position``: that of the newest message; where a limit cut off newer ones, that of the last message here. To go on
    from there. ``complete``: whether nothing is missing between the position that was asked for and the first message;
    or, without one, between the first message that the group's history ever had and the first one here.
    """

    messages: list[Message]
    position: str
    complete: bool


def _seed() -> int:
    """Return a number behind the milliseconds of a first entry: no site that seeds ``random`` has it come twice."""
    return int.from_bytes(os.urandom(4), "big") % 1_000_000_000


class Stream(NamedTuple):
    """The history of one group. ``digest``: what its positions say of the group."""

    group: str
    key: bytes
    digest: str
    retention: Retention

    def read_arguments(self, server: ServerIdentity, since: Position | None, limit: int | None) -> list[Any]:
        """Return what ``scripts.READ`` takes."""
        return [
            self.retention.size,
            self.retention.ttl,
            self._tail(server),
            _seed(),
            "" if since is None else since.entry,
            "" if limit is None else limit,
        ]

    def record_arguments(self, server: ServerIdentity, body: bytes, proposal: str = "") -> list[Any]:
        """
        Return what ``scripts.RECORD`` takes.

        ``body``: the message as it is kept. ``proposal``: the ID of its entry, empty for the server to choose.
        """
        return [*self.append_arguments(server), proposal, body]

    def append_arguments(self, server: ServerIdentity) -> list[Any]:
        """Return what ``append`` in ``scripts.RECORD`` takes, for any number of messages."""
        size, ttl, max_bytes = self.retention
        return [size, max_bytes, ttl, self._tail(server), _seed()]

    def _tail(self, server: ServerIdentity) -> str:
        """Return the end of positions, and behind it the replication ID for which they hold."""
        epoch = epoch_of(server)
        return self.digest + epoch + ("" if epoch == NO_EPOCH else server.replication_id.decode())


class Asked(NamedTuple):
    """
    What is asked of a history: behind which position, and how many messages. ``valid``: whether it can be proven.

    ``channel``: whom it is for; messages that exclude it are left out. ``for_many``: that there are several of them,
    and each message is to name those that it excludes, so that who asks obeys that.
    """

    since: Position | None
    limit: int | None
    is_valid: bool
    channel: str | None = None
    for_many: bool = False

    @classmethod
    def of(cls, stream: Stream, since: str | None, limit: int | None, channel: str | None = None) -> Asked:
        """Check the arguments of ``group_history``. Raises ``TypeError`` or ``ValueError`` naming a wrong one."""
        if since is not None and not isinstance(since, str):
            raise TypeError(f"since must be a position (str) or None, not {type(since).__name__}")
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
            raise TypeError(f"limit must be a number of messages or None, not {type(limit).__name__}")
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1; it is {limit}")
        position = None if since is None else Position.parse(since)
        if position is not None and position.group != stream.digest:
            position = None
        return cls(position, limit, since is None or position is not None, channel)

    @classmethod
    def newest(cls, stream: Stream) -> Asked:
        """Return what asks for the newest position, and for no message."""
        return cls(Position(_END, 0, stream.digest, NO_EPOCH), 1, False)


class ReadCall(ScriptCall):
    """
    One call of a script that ends with ``scripts.READ``; the future gives a ``History``.

    ``keys`` and ``arguments``: what the script takes before those of ``READ``, the stream last of the keys.
    """

    __slots__ = ("_asked", "_future", "_head", "_histories", "_server", "_stream")

    repeatable = True

    def __init__(
        self,
        script: Script,
        way: Way,
        histories: Histories,
        stream: Stream,
        asked: Asked,
        future: asyncio.Future[History],
        keys: Sequence[bytes] = (),
        arguments: Sequence[Any] = (),
    ) -> None:
        super().__init__(script, way)
        self._histories = histories
        self._stream = stream
        self._asked = asked
        self._future = future
        self._head = [len(keys) + 1, *keys, stream.key, *arguments]
        self._server = ServerIdentity()

    def arguments(self, server: ServerIdentity) -> list[Any]:
        self._server = server
        return self._head + self._stream.read_arguments(server, self._asked.since, self._asked.limit)

    def done(self, reply: Any) -> None:
        if self._future.done():
            return
        if isinstance(reply, Exception):
            self._future.set_exception(reply)
            return
        try:
            newest, entries = reply
            history = self._histories.history(self._stream, self._asked, self._server, newest, entries)
        except (AttributeError, IndexError, TypeError, ValueError):
            raise UnexpectedReply.to("the script of group_history", reply) from None
        self._future.set_result(history)

    def refused(self, error: ResponseError | None) -> None:
        self.done(no_scripts(self._way, error, "history"))


class Histories:
    """
    The histories of a layer. ``decode``: gives the message that was kept as these bytes; whatever it raises means that
    the message cannot be read.
    """

    def __init__(
        self, rules: Mapping[Any, Mapping[str, Any]], prefix: str, decode: Callable[[bytes], Message], stats: Stats
    ) -> None:
        self._rules = RetentionRules(rules)
        self._prefix = prefix.encode()
        self.decode = decode
        self._stats = stats
        self._streams: dict[str, Stream | None] = {}

    @property
    def retentions(self) -> Mapping[str, Retention]:
        """What is kept of groups, by their pattern as text."""
        return self._rules.by_pattern

    def find(self, group: str, group_key: bytes) -> Stream | None:
        """Return the history of a group, None if it has none. ``group_key``: its key, or on Pub/Sub its channel."""
        try:
            return self._streams[group]
        except KeyError:
            pass
        retention = self._rules.lookup(group)
        stream = None
        if retention is not None:
            stream = Stream(group, history_key(self._prefix, group_key), digest_of(group_key), retention)
        if len(self._streams) >= MAX_STREAMS:
            self._streams.clear()
        self._streams[group] = stream
        return stream

    def get(self, group: str, group_key: bytes) -> Stream:
        """``find``. Raises ``RuntimeError`` for a group that has no history."""
        stream = self.find(group, group_key)
        if stream is None:
            raise RuntimeError(f"Group {group!r} has no history: no pattern of the option 'history' matches its name.")
        return stream

    def ask(
        self,
        way: Any,
        stream: Stream,
        asked: Asked,
        script: Script = scripts.READ_ONLY,
        keys: Sequence[bytes] = (),
        arguments: Sequence[Any] = (),
    ) -> asyncio.Future[History]:
        """
        Read a part of a history; the future raises redis-py's errors.

        ``way``: the command connection to its server, or the queue of its slot. ``script``: one that reads, and what it
        takes before that.
        """
        future: asyncio.Future[History] = way.loop.create_future()
        way.submit(ReadCall(script, way, self, stream, asked, future, keys, arguments))
        return future

    async def forget(self, way: Any, stream: Stream) -> None:
        """Delete a history. Raises redis-py's errors."""
        await way.call((b"UNLINK", stream.key), repeatable=True)

    def history(
        self, stream: Stream, asked: Asked, server: ServerIdentity, newest: bytes, entries: list[Any]
    ) -> History:
        """
        Return what a script has read, and whether it is complete.

        ``server``: who the call was made out for; ``newest``: the ID of the stream's newest entry; ``entries``: as
        ``scripts.READ`` returns them. Raises ``ValueError`` and the like for what that cannot be.
        """
        epoch = epoch_of(server)
        found = [_Entry.of(entry) for entry in entries]
        cut = False
        if asked.since is None:
            found.reverse()
            places = [place for place, entry in enumerate(found) if entry.body is not None]
            if asked.limit is not None and len(places) > asked.limit:
                found = found[places[-asked.limit] :]
                cut = True
        decode, digest = self.decode, stream.digest
        before = "-" if asked.since is None else f"{asked.since.entry}-{asked.since.epoch}"
        is_whole = asked.is_valid and epoch != NO_EPOCH and not cut
        if asked.since is not None:
            is_whole = is_whole and asked.since.epoch == epoch
        if not found:
            # Nothing is behind the position only if that is the newest one, of this very epoch.
            is_whole = is_whole and before == f"{newest.decode()}-{epoch}"
        messages: list[Message] = []
        for entry in found:
            is_whole = is_whole and entry.before == before and entry.epoch == epoch
            before = f"{entry.id.decode()}-{entry.epoch}"
            if entry.body is None:
                continue
            try:
                message = decode(entry.body)
                message[FIELD] = position_text(entry.id, digest, entry.epoch)
                if EXCLUDED in message and not asked.for_many and asked.channel in take_excluded(message):
                    continue
            except Exception as error:
                self._stats.undecodable += 1
                logger.error(
                    "Skipped an undecodable message in the history of group %r: %s: %s",
                    stream.group,
                    type(error).__name__,
                    error,
                )
                is_whole = False
                continue
            messages.append(message)
        reached = sum(entry.body is not None for entry in found) == asked.limit and asked.since is not None
        position = found[-1] if reached else None
        text = (
            str(Position.of(newest, stream.digest, epoch))
            if position is None
            else str(Position.of(position.id, stream.digest, position.epoch))
        )
        return History(messages, text, is_whole)


class _Entry(NamedTuple):
    """One entry of a stream. ``before``: the ID and the epoch of the one before it, ``-`` for the first."""

    id: bytes
    epoch: str
    before: str
    body: bytes | None

    @classmethod
    def of(cls, entry: Any) -> _Entry:
        number, fields = entry
        if len(fields) == 4 and fields[0] == b"h" and fields[2] == b"m":
            # As all are, but for marks.
            head, body = fields[1], fields[3]
        else:
            names = dict(zip(fields[::2], fields[1::2], strict=True))
            head, body = names.get(b"h", b""), names.get(b"m")
        parts = head.decode(errors="replace").split(" ")
        if len(parts) != 4:
            return cls(number, "?" * 8, "?", body)
        return cls(number, parts[0], parts[1], body)
