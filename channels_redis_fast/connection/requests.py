"""
What is submitted to a connection: one or more commands that leave together, and the object that takes their replies.
"""

from __future__ import annotations

import abc
import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..hot import are_strings
from .identity import ServerIdentity
from .link import Command
from .replies import UnexpectedReply


class Pending(Protocol):
    """Commands that were submitted, and the object that takes their replies."""

    #: Whether the commands may be carried out twice without harm, so that they survive the loss of a connection.
    repeatable: bool

    def commands(self, server: ServerIdentity) -> Sequence[Command]:
        """
        Return the commands that were not carried out yet; called just before they are written to a server.

        A ``repeatable`` request may return all of its commands again.
        """

    #: Loop time at which a connection was first lost while this was in flight; 0.0 before.
    first_lost: float

    def reply(self, reply: Any) -> bool:
        """
        Take the next reply; return whether all commands have to be written again.

        An exception raised here means that the command cannot have such a reply.
        """

    def not_done(self) -> None:
        """Take the next reply, which says that its command was not carried out and has to be written again."""

    def fail(self, error: Exception) -> None:
        """Called when no more replies will come, possibly more than once."""


#: Stands for the reply to a command that a server did not carry out.
_NOT_DONE = object()


def _is_number(reply: Any) -> bool:
    return reply.__class__ is int


def _is_scan(reply: Any) -> bool:
    return isinstance(reply, list) and len(reply) == 2 and isinstance(reply[0], bytes) and are_strings(reply[1])


#: Checks for the replies to commands, errors aside.
_REPLIES: dict[bytes, Callable[[Any], bool]] = {
    **dict.fromkeys(
        (b"ZADD", b"ZREM", b"ZREMRANGEBYSCORE", b"ZCARD", b"ZCOUNT", b"EXPIRE", b"UNLINK", b"SPUBLISH", b"HLEN"),
        _is_number,
    ),
    **dict.fromkeys(
        (b"HGETALL", b"HKEYS", b"ZRANGE", b"ZRANGEBYSCORE", b"ZREVRANGE", b"ZPOPMIN", b"TIME"), are_strings
    ),
    b"SCAN": _is_scan,
}


class Exchange(abc.ABC):
    """
    Commands that leave together, and replies that are handled together once the last one has come.

    Commands that a server did not carry out are written again: all commands if they are ``repeatable``, otherwise only
    those.
    """

    __slots__ = ("_again", "_commands", "_not_done", "_replies", "first_lost", "repeatable")

    def __init__(self, commands: Sequence[Command], repeatable: bool) -> None:
        self._commands = commands
        self._replies: list[Any] = []
        #: How many of the replies are ``_NOT_DONE``, and the positions of the commands that were written again.
        self._not_done = 0
        self._again: deque[int] = deque()
        self.repeatable = repeatable
        self.first_lost = 0.0

    @abc.abstractmethod
    def is_over(self) -> bool:
        """Whether nobody needs the replies any more."""

    @abc.abstractmethod
    def finish(self, replies: list[Any], error: Exception | None) -> None:
        """Take all replies in order, and the first error reply among them. Has no effect when ``is_over``."""

    @abc.abstractmethod
    def abort(self, error: Exception) -> None:
        """Called when no more replies will come. Not called when ``is_over``."""

    def commands(self, server: ServerIdentity) -> Sequence[Command]:
        if self.repeatable:
            self._replies.clear()
            self._not_done = 0
            self._again.clear()
        elif self._replies:
            # Neither commands that were carried out nor commands whose caller already got an error are repeated.
            missing = [] if self.is_over() else [at for at, reply in enumerate(self._replies) if reply is _NOT_DONE]
            self._again = deque(missing)
            return [self._commands[at] for at in missing]
        return self._commands

    def reply(self, reply: Any) -> bool:
        at = self._again[0] if self._again else len(self._replies)
        name = self._commands[at][0]
        is_right = _REPLIES.get(name)
        if is_right is not None and not is_right(reply) and not isinstance(reply, Exception):
            raise UnexpectedReply.to(name.decode(), reply)
        if self._again:
            self._again.popleft()
            self._replies[at] = reply
            self._not_done -= 1
        else:
            self._replies.append(reply)
        if len(self._replies) == len(self._commands) and not self._not_done:
            self.finish(self._replies, next((reply for reply in self._replies if isinstance(reply, Exception)), None))
        return False

    def not_done(self) -> None:
        if self._again:
            self._again.popleft()
        else:
            self._replies.append(_NOT_DONE)
            self._not_done += 1

    def fail(self, error: Exception) -> None:
        if not self.is_over():
            self.abort(error)


class Request(Exchange):
    """
    Commands that leave together, with one future for all their replies.

    ``raises``: whether the future raises the first error reply; otherwise it is one reply among the others.
    """

    __slots__ = ("_raises", "future")

    def __init__(
        self, commands: Sequence[Command], future: asyncio.Future[list[Any]], repeatable: bool, raises: bool
    ) -> None:
        super().__init__(commands, repeatable)
        self._raises = raises
        self.future = future

    def is_over(self) -> bool:
        return self.future.done()

    def finish(self, replies: list[Any], error: Exception | None) -> None:
        if self.future.done():
            return
        if error is None or not self._raises:
            self.future.set_result(replies)
        else:
            self.future.set_exception(error)

    def abort(self, error: Exception) -> None:
        self.future.set_exception(error)
