"""
The histories of a layer's groups: the arguments that a script needs to record a message, and reading.

Rules kept here:

- Facts about a server are valid for the connection on which they were learned, so calls are built when they are
  written.
- A caller that asks for a history shares a call for it that is still waiting to be written.
- ``reading`` interprets a reply for each caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from ..connection.futures import fail
from ..connection.identity import ServerIdentity
from ..connection.link import Command
from ..connection.replies import UnexpectedReply
from ..connection.script import Script
from ..connection.script_call import ScriptCall, Way, no_scripts
from ..hot import next_prefix
from ..messages.codec import Codec
from ..stats import Stats
from . import scripts
from .positions import NO_EPOCH, digest_of, epoch_of, history_key, turn_key
from .reading import Asked, Excerpt, History, start_of
from .retention import Retention, RetentionRules

#: The maximum number of histories whose keys a layer remembers.
MAX_STREAMS = 10_000

#: How many numbers there are to follow the milliseconds of a first entry.
SEEDS = 1_000_000_000

#: Extra seconds of idle time, because it does not restart with each message within a second.
SPARE = 1

#: The maximum number of callers that one call serves: a script's ``unpack`` fails near 4,000 values.
MAX_ASKED = 1_000


def _seed() -> int:
    """Return a number to follow the milliseconds of a first entry. It does not repeat if a site seeds ``random``."""
    return int.from_bytes(next_prefix(4), "big") % SEEDS


class Stream(NamedTuple):
    """
    The history of one group. ``digest``: identifies the group in its positions.

    ``turn``: the key that says whose turn it is to record if positions are proposed (``proposals``).
    """

    group: str
    key: bytes
    turn: bytes
    digest: str
    retention: Retention

    def read_arguments(self, server: ServerIdentity, start: str, limit: int | None) -> list[Any]:
        """Return the arguments of ``scripts.READ``."""
        return [
            self.retention.size,
            self.retention.ttl + SPARE,
            self._tail(server),
            _seed(),
            start,
            "" if limit is None else limit,
        ]

    def append_arguments(self, server: ServerIdentity) -> list[Any]:
        """Return the arguments of ``append`` in ``scripts.RECORD``, for any number of messages."""
        size, ttl, max_bytes = self.retention
        return [size, max_bytes, ttl + SPARE, self._tail(server), _seed()]

    def _tail(self, server: ServerIdentity) -> str:
        """Return the end of positions, followed by the replication ID for which they are valid."""
        epoch = epoch_of(server)
        return self.digest + epoch + ("" if epoch == NO_EPOCH else server.replication_id.decode())


class ReadCall(ScriptCall):
    """
    One call of a script whose first arguments are those of ``scripts.READ``, for all callers that ask before it is
    written.

    ``keys`` and ``arguments``: what the script takes before the stream's key, and after the arguments of ``READ``.
    """

    __slots__ = ("_arguments", "_askers", "_histories", "_is_open", "_keys", "_server", "_stream")

    repeatable = True

    def __init__(
        self,
        script: Script,
        way: Way,
        histories: Histories,
        stream: Stream,
        keys: Sequence[bytes],
        arguments: Sequence[Any],
    ) -> None:
        super().__init__(script, way)
        self._histories = histories
        self._stream = stream
        self._keys = [len(keys) + 1, *keys, stream.key]
        self._arguments = [*arguments]
        self._askers: list[tuple[Asked, asyncio.Future[History]]] = []
        self._is_open = True
        self._server = ServerIdentity()

    def add(self, asked: Asked, future: asyncio.Future[History], arguments: Sequence[Any] = ()) -> None:
        """Serve one more caller. ``arguments``: what the script takes for this caller, after all others."""
        self._askers.append((asked, future))
        self._arguments += arguments
        if len(self._askers) >= MAX_ASKED:
            self._close()

    def commands(self, server: ServerIdentity) -> Sequence[Command]:
        self._close()
        return super().commands(server)

    def arguments(self, server: ServerIdentity) -> list[Any]:
        self._server = server
        asked = [each for each, _ in self._askers]
        read = self._stream.read_arguments(server, start_of(asked), asked[0].limit)
        return [*self._keys, *read, *self._arguments]

    def done(self, reply: Any) -> None:
        self._close()
        waiting = [(asked, future) for asked, future in self._askers if not future.done()]
        if isinstance(reply, Exception):
            fail([future for _, future in waiting], reply)
            return
        if not waiting:
            return
        try:
            newest, entries = reply
            asked = self._askers[0][0]
            if asked.since is None and asked.limit is not None:
                entries = entries[::-1]
            excerpt = self._histories.excerpt(self._stream, self._server, newest, entries)
            found = [
                excerpt.history(asked, is_last)
                for is_last, (asked, _) in zip(_last(len(waiting)), waiting, strict=True)
            ]
        except (AttributeError, IndexError, TypeError, ValueError):
            raise UnexpectedReply.to("the script of group_history", reply) from None
        for (_, future), history in zip(waiting, found, strict=True):
            future.set_result(history)

    def refused(self, error: ResponseError | None) -> None:
        self.done(no_scripts(self._way, error, "history"))

    def _close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._histories.written(self, (self._way, self._script, self._stream.key))


class Histories:
    """The histories of a layer. ``codec``: decodes what was kept; any error it raises means that it cannot be read."""

    def __init__(self, rules: Mapping[Any, Mapping[str, Any]], prefix: str, codec: Codec, stats: Stats) -> None:
        self._rules = RetentionRules(rules)
        self._prefix = prefix.encode()
        self.codec = codec
        self._stats = stats
        self._streams: dict[str, Stream | None] = {}
        #: Calls that have not been written yet.
        self._open: dict[tuple[Any, Script, bytes], ReadCall] = {}

    @property
    def retentions(self) -> Mapping[str, Retention]:
        """The retention of groups, by their pattern as text."""
        return self._rules.by_pattern

    def find(self, group: str, group_key: bytes) -> Stream | None:
        """Return the history of a group, None if it has none. ``group_key``: its key, or its channel on Pub/Sub."""
        try:
            return self._streams[group]
        except KeyError:
            pass
        retention = self._rules.lookup(group)
        stream = None
        if retention is not None:
            key, turn = history_key(self._prefix, group_key), turn_key(self._prefix, group_key)
            stream = Stream(group, key, turn, digest_of(group_key), retention)
        if len(self._streams) >= MAX_STREAMS:
            self._streams.clear()
        self._streams[group] = stream
        return stream

    def get(self, group: str, group_key: bytes) -> Stream:
        """Like ``find``. Raises ``RuntimeError`` for a group that has no history."""
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
        of_asker: Sequence[Any] = (),
    ) -> asyncio.Future[History]:
        """
        Request a part of a history; the future raises redis-py's errors.

        ``way``: the command connection to its server, or the queue of its slot. ``script``: one that reads. ``keys``
        and ``arguments``: its other arguments; ``of_asker``: its arguments for each caller.
        """
        future: asyncio.Future[History] = way.loop.create_future()
        place = (way, script, stream.key)
        call = self._open.get(place) if asked.limit is None else None
        if call is not None:
            call.add(asked, future, of_asker)
            return future
        call = ReadCall(script, way, self, stream, keys, arguments)
        if asked.limit is None:
            self._open[place] = call
        call.add(asked, future, of_asker)
        way.submit(call)
        return future

    def end(self, way: Any, stream: Stream, script: Script) -> None:
        """Add no more callers to an open call: what is submitted next must be written before later callers' reads."""
        self._open.pop((way, script, stream.key), None)

    def written(self, call: ReadCall, place: tuple[Any, Script, bytes]) -> None:
        """Called when a call accepts no more callers."""
        if self._open.get(place) is call:
            del self._open[place]

    def excerpt(self, stream: Stream, server: ServerIdentity, newest: bytes, entries: list[Any]) -> Excerpt:
        """Return what was read of a stream. Raises ``ValueError`` and similar errors for impossible values."""
        return Excerpt(stream.group, stream.digest, server, newest, entries, self.codec, self._stats)

    async def forget(self, way: Any, stream: Stream) -> None:
        """Delete a history. Raises redis-py's errors."""
        await way.call((b"UNLINK", stream.key), repeatable=True)


def _last(count: int) -> list[bool]:
    """Return for each of ``count`` items whether it is the last."""
    return [False] * (count - 1) + [True] * (count > 0)
