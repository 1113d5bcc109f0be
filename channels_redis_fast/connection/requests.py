"""
What is handed to a connection: one or more commands that leave together, and who hears the replies.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from .identity import ServerIdentity
from .link import Command
from .replies import UnexpectedReply, are_strings


class Pending(Protocol):
    """Commands that were handed in, and what becomes of their replies."""

    #: Whether doing them twice is the same as once, so that they survive the loss of a connection.
    repeatable: bool

    def commands(self, server: ServerIdentity) -> Sequence[Command]:
        """
        Return the commands to write to a server, just before they are: those that were not carried out yet.

        What is ``repeatable`` may give all of them again.
        """

    #: Loop time when a connection was first lost under it; 0.0 before.
    first_lost: float

    def reply(self, reply: Any) -> bool:
        """
        Take the next reply; return whether all the commands have to be written again.

        Whatever it raises means that the reply is none that its commands can have.
        """

    def not_done(self) -> None:
        """Take the next reply, which says that its command was not carried out: it is to be written again."""

    def fail(self, error: Exception) -> None:
        """Called when no more replies will come; perhaps more than once."""


#: Stands for the reply to a command that a server would not carry out.
_NOT_DONE = object()


def _is_number(reply: Any) -> bool:
    return reply.__class__ is int


def _is_scan(reply: Any) -> bool:
    return isinstance(reply, list) and len(reply) == 2 and isinstance(reply[0], bytes) and are_strings(reply[1])


#: What the replies to commands look like, if they are no errors.
_REPLIES: dict[bytes, Callable[[Any], bool]] = {
    **dict.fromkeys(
        (b"ZADD", b"ZREM", b"ZREMRANGEBYSCORE", b"ZCARD", b"ZCOUNT", b"EXPIRE", b"UNLINK", b"SPUBLISH"), _is_number
    ),
    **dict.fromkeys((b"ZRANGE", b"ZRANGEBYSCORE", b"ZREVRANGE", b"TIME"), are_strings),
    b"SCAN": _is_scan,
}


class Request:
    """
    Commands that leave together, and one future for all their replies.

    ``raises``: whether the first error reply is what the future raises, or one reply among the others.
    """

    __slots__ = ("_again", "_commands", "_not_done", "_raises", "_replies", "first_lost", "future", "repeatable")

    def __init__(
        self, commands: Sequence[Command], future: asyncio.Future[list[Any]], repeatable: bool, raises: bool
    ) -> None:
        self._commands = commands
        self._replies: list[Any] = []
        #: How many of the replies are ``_NOT_DONE``, and the positions of those commands that were written again.
        self._not_done = 0
        self._again: deque[int] = deque()
        self._raises = raises
        self.future = future
        self.repeatable = repeatable
        self.first_lost = 0.0

    def commands(self, server: ServerIdentity) -> Sequence[Command]:
        if self.repeatable:
            self._replies.clear()
            self._not_done = 0
            self._again.clear()
        elif self._replies:
            # What was carried out once is not to be carried out twice; nor what its caller has heard an error of.
            missing = [] if self.future.done() else [at for at, reply in enumerate(self._replies) if reply is _NOT_DONE]
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
        if len(self._replies) == len(self._commands) and not self._not_done and not self.future.done():
            error = next((reply for reply in self._replies if isinstance(reply, Exception)), None)
            if error is None or not self._raises:
                self.future.set_result(self._replies)
            else:
                self.future.set_exception(error)
        return False

    def not_done(self) -> None:
        if self._again:
            self._again.popleft()
        else:
            self._replies.append(_NOT_DONE)
            self._not_done += 1

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)
