"""
The histories of a layer's groups: what a script needs to record a message, and reading them.

Rules kept here:

- Facts about a server are valid for the connection on which they were learnt: calls are built when they are written.
- A caller that asks for a history for which a call is waiting to be written shares that call.
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

#: Histories whose keys are remembered by a layer.
MAX_STREAMS = 10_000

#: Numbers behind the milliseconds of a first entry.
SEEDS = 1_000_000_000

#: Seconds beside the time of idleness: it does not begin anew with each message of a second.
SPARE = 1

#: Those who are served by one call: a script's ``unpack`` fails near 4,000 values.
MAX_ASKED = 1_000


def _seed() -> int:
    """Return a number behind the milliseconds of a first entry: no site that seeds ``random`` has it come twice."""
    return int.from_bytes(next_prefix(4), "big") % SEEDS


class Stream(NamedTuple):
    """
    The history of one group. ``digest``: what its positions say of the group.

    ``turn``: the key that says whose turn it is to record, where positions are proposed (``proposals``).
    """

    group: str
    key: bytes
    turn: bytes
    digest: str
    retention: Retention

    def read_arguments(self, server: ServerIdentity, start: str, limit: int | None) -> list[Any]:
        """Return what ``scripts.READ`` takes."""
        return [
            self.retention.size,
            self.retention.ttl + SPARE,
            self._tail(server),
            _seed(),
            start,
            "" if limit is None else limit,
        ]

    def append_arguments(self, server: ServerIdentity) -> list[Any]:
        """Return what ``append`` in ``scripts.RECORD`` takes, for any number of messages."""
        size, ttl, max_bytes = self.retention
        return [size, max_bytes, ttl + SPARE, self._tail(server), _seed()]

    def _tail(self, server: ServerIdentity) -> str:
        """Return the end of positions, and behind it the replication ID for which they hold."""
        epoch = epoch_of(server)
        return self.digest + epoch + ("" if epoch == NO_EPOCH else server.replication_id.decode())


class ReadCall(ScriptCall):
    """
    One call of a script that begins with what ``scripts.READ`` takes, for all who ask until it is written.

    ``keys`` and ``arguments``: what the script takes before the stream, and behind the arguments of ``READ``.
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
        """Serve one more who asks. ``arguments``: what the script takes for that one, behind all others."""
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
    """The histories of a layer. ``codec``: reads what was kept; whatever it raises means that this cannot be read."""

    def __init__(self, rules: Mapping[Any, Mapping[str, Any]], prefix: str, codec: Codec, stats: Stats) -> None:
        self._rules = RetentionRules(rules)
        self._prefix = prefix.encode()
        self.codec = codec
        self._stats = stats
        self._streams: dict[str, Stream | None] = {}
        #: Calls that are not written yet.
        self._open: dict[tuple[Any, Script, bytes], ReadCall] = {}

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
            key, turn = history_key(self._prefix, group_key), turn_key(self._prefix, group_key)
            stream = Stream(group, key, turn, digest_of(group_key), retention)
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
        of_asker: Sequence[Any] = (),
    ) -> asyncio.Future[History]:
        """
        Ask for a part of a history; the future raises redis-py's errors.

        ``way``: the command connection to its server, or the queue of its slot. ``script``: one that reads. ``keys``
        and ``arguments``: what it takes beside that, and ``of_asker`` what it takes for each who asks.
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
        """Have nobody else served by a call that is open: what is handed in next is to be ahead of those who come."""
        self._open.pop((way, script, stream.key), None)

    def written(self, call: ReadCall, place: tuple[Any, Script, bytes]) -> None:
        """Called when a call takes nobody else."""
        if self._open.get(place) is call:
            del self._open[place]

    def excerpt(self, stream: Stream, server: ServerIdentity, newest: bytes, entries: list[Any]) -> Excerpt:
        """Return what was read of a stream. Raises ``ValueError`` and the like for what that cannot be."""
        return Excerpt(stream.group, stream.digest, server, newest, entries, self.codec, self._stats)

    async def forget(self, way: Any, stream: Stream) -> None:
        """Delete a history. Raises redis-py's errors."""
        await way.call((b"UNLINK", stream.key), repeatable=True)


def _last(count: int) -> list[bool]:
    """Return for each of so many whether it is the last."""
    return [False] * (count - 1) + [True] * (count > 0)
