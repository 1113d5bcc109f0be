"""
Writes to sorted sets: by a script, or by plain commands if the server does not allow scripts.

In that case, ``PlainCommands`` does what the scripts would, in two round trips: one to read and one to write. Knows
keys, members and capacities. Does not know what is in a message.

A limitation of plain commands: another process may write between the two round trips, so a channel may come to hold a
few more messages than its capacity. The messages of one process stay in order, because calls are carried out one at a
time.
"""

from __future__ import annotations

import abc
import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from redis.exceptions import ResponseError

from ..cluster.slot_queue import SlotQueue
from ..connection.commands import CommandConnection
from ..connection.link import Command
from ..connection.replies import UnexpectedReply
from ..connection.script import Script
from ..connection.script_call import ScriptCall

logger = logging.getLogger("channels_redis_fast")

#: A key, its messages in order, and the capacity that each one is checked against.
Write = tuple[bytes, list[bytes], list[int]]

#: The position of the first message that failed, the position after the last one, and the error.
Failure = tuple[int, int, Exception]


class WriteCall(ScriptCall):
    """A call that plain commands can carry out too. Subclasses say what it writes."""

    __slots__ = ("_plain",)

    def __init__(self, script: Script, plain: PlainCommands) -> None:
        super().__init__(script, plain.way)
        self._plain = plain

    @abc.abstractmethod
    def writes(self) -> list[Write]:
        """Return what the script would write."""

    @abc.abstractmethod
    def settle(self, refused: Sequence[int], failed: Sequence[Failure]) -> None:
        """
        Called with the positions, counted over all keys, of messages refused for capacity, and with those that failed.
        """

    def refused(self, error: ResponseError | None) -> None:
        if error is not None:
            self._plain.take_over(error)
        self.carry_out_plainly()

    def carry_out_plainly(self) -> None:
        """Let plain commands do what the script would. Then ``settle`` is called, or ``done`` with an error."""
        self._plain.carry_out(self)


class PlainCommands:
    """Carries out script calls without scripts, for one shard in one event loop."""

    def __init__(self, connection: CommandConnection | SlotQueue, expiry: int) -> None:
        self.way = connection
        self._expiry = expiry
        self._calls: deque[WriteCall] = deque()
        #: Of the current call: what it writes, the messages refused, and the failures.
        self._writes: list[Write] = []
        self._refused: list[int] = []
        self._failed: list[Failure] = []
        #: Keys that had no messages before.
        self._were_empty: list[bytes] = []
        #: For each key being written, the first position and the one after the last.
        self._written: list[tuple[int, int]] = []

    @property
    def are_needed(self) -> bool:
        """Whether the server is known to refuse scripts."""
        return self.way.dialer.without_scripts

    def take_over(self, error: Exception) -> None:
        """Called when the server refuses scripts."""
        dialer = self.way.dialer
        if not dialer.without_scripts:
            logger.warning(
                "Redis at %s refuses EVAL, so sends take two round trips of plain commands there: %s",
                dialer.label,
                error,
            )

    def carry_out(self, call: WriteCall) -> None:
        """Do what a call's script would do, after the calls before it."""
        self._calls.append(call)
        if len(self._calls) == 1:
            self._look()

    def _look(self) -> None:
        self._writes, self._refused, self._failed = self._calls[0].writes(), [], []
        expired = int(time.time()) - self._expiry
        commands: list[Command] = []
        for key, _, _ in self._writes:
            commands.append((b"ZREMRANGEBYSCORE", key, 0, expired))
            commands.append((b"ZCARD", key))
            commands.append((b"ZREVRANGE", key, 0, 0, b"WITHSCORES"))
        self.way.call(*commands, repeatable=True, raises=False).add_done_callback(self._looked)

    def _looked(self, future: asyncio.Future[list[Any]]) -> None:
        if future.exception() is not None:
            self._end(future.exception())
            return
        replies = future.result()
        commands: list[Command] = []
        self._written = []
        position = 0
        self._were_empty = []
        for index, (key, members, capacities) in enumerate(self._writes):
            first, position = position, position + len(members)
            mine = replies[3 * index : 3 * index + 3]
            error = next((reply for reply in mine if isinstance(reply, Exception)), None)
            if error is not None:
                self._failed.append((first, position, error))
                continue
            _, count, last = mine
            if not count:
                self._were_empty.append(key)
            try:
                stamp = _stamp_after(last, self._expiry)
            except (IndexError, ValueError):
                self._failed.append((first, position, UnexpectedReply.to("ZREVRANGE", last)))
                continue
            command: list[Any] = [b"ZADD", key]
            for offset, (member, capacity) in enumerate(zip(members, capacities, strict=True)):
                if count < capacity:
                    command += (stamp, member)
                    count += 1
                else:
                    self._refused.append(first + offset)
            if len(command) > 2:
                commands += (command, (b"EXPIRE", key, self._expiry))
                self._written.append((first, position))
        if commands:
            self.way.call(*commands, raises=False).add_done_callback(self._wrote)
        else:
            self._end(None)

    def _wrote(self, future: asyncio.Future[list[Any]]) -> None:
        if future.exception() is None:
            for (first, end), reply in zip(self._written, future.result()[::2], strict=True):
                if isinstance(reply, Exception):
                    self._failed.append((first, end, reply))
            for key in self._were_empty:
                self.way.announce(key)
        self._end(future.exception())

    def _end(self, error: BaseException | None) -> None:
        call = self._calls.popleft()
        if error is None:
            call.settle(self._refused, self._failed)
        else:
            call.done(error)
        if self._calls:
            self._look()


def _stamp_after(last: list[bytes], expiry: int) -> bytes:
    """
    Return the score for a message: the time, or just after the last score if that is at most ``expiry`` seconds ahead.
    """
    stamp = time.time_ns() // 1000
    if last:
        after = round(float(last[1]) * 1_000_000) + 1
        if stamp < after <= stamp + expiry * 1_000_000:
            stamp = after
    return b"%d.%06d" % divmod(stamp, 1_000_000)
