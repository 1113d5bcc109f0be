"""
Calls of Lua scripts, and what is done in their place where the server lets nobody run scripts.

A ``ScriptCall`` asks by EVALSHA and, where the server does not know the script, by EVAL. An ACL without ``@scripting``,
or a server without Lua, refuses both: from then on ``PlainCommands`` does what the scripts would, in two round
trips, one to look and one to write. Knows keys, members and capacities; not what is in a message.

What plain commands cannot promise: between the two round trips another process may write too, so a channel may come
to hold a few messages more than its capacity. The order of one process' messages stays, as one call is carried out
after the other.
"""

from __future__ import annotations

import abc
import asyncio
import logging
import re
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from redis.exceptions import NoScriptError, ResponseError

from ..cluster.slot_queue import SlotQueue
from ..connection.commands import CommandConnection
from ..connection.link import Command
from ..connection.replies import UnexpectedReply
from ..connection.script import Script

logger = logging.getLogger("channels_redis_fast")

#: A key, its messages in order, and the capacity that each is tested against.
Write = tuple[bytes, list[bytes], list[int]]

#: The position of the first message that failed, that behind the last, and why.
Failure = tuple[int, int, Exception]

#: Proxies and hosted servers have words of their own, and some do not name the command.
_REFUSAL = re.compile(
    r"(NOPERM|ERR (unknown|unsupported|disabled) command)\b.*\beval(sha)?\b|ERR (unsupported|disabled) command\W*$",
    re.IGNORECASE,
)


class ScriptCall(abc.ABC):
    """One call of a script. Subclasses say what its reply means, and what takes its place where scripts are refused."""

    __slots__ = ("_plain", "_script", "_with_text")

    repeatable = False
    first_lost = 0.0

    def __init__(self, script: Script, plain: PlainCommands) -> None:
        self._script = script
        self._plain = plain
        self._with_text = False

    @abc.abstractmethod
    def arguments(self) -> list[Any]:
        """Return the number of keys, the keys and the arguments, just before they are written."""

    @abc.abstractmethod
    def done(self, reply: Any) -> None:
        """Take the script's reply, which may be an exception."""

    @abc.abstractmethod
    def carry_out_plainly(self) -> None:
        """Called when the server runs no script for this call, and has not done anything."""

    def commands(self) -> Sequence[Command]:
        if self._plain.are_needed:
            self.carry_out_plainly()
            return ()
        self._with_text = self._with_text or self._plain.only_text
        head = [b"EVAL", self._script.text] if self._with_text else [b"EVALSHA", self._script.sha]
        return (head + self.arguments(),)

    def reply(self, reply: Any) -> bool:
        if isinstance(reply, ResponseError):
            is_refusal = _REFUSAL.match(str(reply)) is not None
            if not self._with_text and (is_refusal or isinstance(reply, NoScriptError)):
                # A script that the server has forgotten (SCRIPT FLUSH, a new primary) is sent once more with its text.
                self._with_text = True
                self._plain.only_text = is_refusal
                return True
            if is_refusal:
                self._plain.take_over(reply)
                self.carry_out_plainly()
                return False
        self.done(reply)
        return False

    def not_done(self) -> None:
        # A call is one command, and the next time it is written as it was.
        return

    def fail(self, error: Exception) -> None:
        self.done(error)


class WriteCall(ScriptCall):
    """A call that plain commands can carry out, too. Subclasses say what it writes."""

    __slots__ = ()

    @abc.abstractmethod
    def writes(self) -> list[Write]:
        """Return what the script would write."""

    @abc.abstractmethod
    def settle(self, refused: Sequence[int], failed: Sequence[Failure]) -> None:
        """Called with the messages, counted over all keys, that were refused for capacity, and those that failed."""

    def carry_out_plainly(self) -> None:
        """Have what the script would do done by plain commands; ``settle`` hears of it, or ``done`` of an error."""
        self._plain.carry_out(self)


class PlainCommands:
    """Carries out script calls without scripts, for one shard in one event loop."""

    def __init__(self, connection: CommandConnection | SlotQueue, expiry: int) -> None:
        self._connection = connection
        self._expiry = expiry
        self._calls: deque[WriteCall] = deque()
        #: Whether the server refuses EVALSHA, and perhaps not EVAL.
        self.only_text = False
        #: What the call that is being carried out writes, was refused and failed with.
        self._writes: list[Write] = []
        self._refused: list[int] = []
        self._failed: list[Failure] = []
        #: Keys without messages before.
        self._were_empty: list[bytes] = []
        #: The first position and the one behind the last of each key that is being written.
        self._written: list[tuple[int, int]] = []

    @property
    def are_needed(self) -> bool:
        """Whether the server is known to refuse scripts."""
        return self._connection.dialer.without_scripts

    def take_over(self, error: Exception) -> None:
        """Called when the server refuses scripts."""
        dialer = self._connection.dialer
        if not dialer.without_scripts:
            dialer.without_scripts = True
            logger.warning(
                "Redis at %s refuses EVAL, so sends take two round trips of plain commands there: %s",
                dialer.label,
                error,
            )

    def carry_out(self, call: WriteCall) -> None:
        """Do what a call would, after those that came before it."""
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
        self._connection.call(*commands, repeatable=True, raises=False).add_done_callback(self._looked)

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
            self._connection.call(*commands, raises=False).add_done_callback(self._wrote)
        else:
            self._end(None)

    def _wrote(self, future: asyncio.Future[list[Any]]) -> None:
        if future.exception() is None:
            for (first, end), reply in zip(self._written, future.result()[::2], strict=True):
                if isinstance(reply, Exception):
                    self._failed.append((first, end, reply))
            for key in self._were_empty:
                self._connection.announce(key)
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
    """Return the score of a message: the time, or just after the last one if it is at most ``expiry`` ahead."""
    stamp = time.time_ns() // 1000
    if last:
        after = round(float(last[1]) * 1_000_000) + 1
        if stamp < after <= stamp + expiry * 1_000_000:
            stamp = after
    return b"%d.%06d" % divmod(stamp, 1_000_000)
