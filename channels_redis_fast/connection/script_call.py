"""
Calls Lua scripts: with EVALSHA, with EVAL if the server does not know the script, and not at all if it refuses scripts.

An ACL without ``@scripting``, or a server without Lua, refuses both commands; the dialer remembers that. The caller
decides what to do instead of a script. Knows no key and no message.
"""

from __future__ import annotations

import abc
import re
from collections.abc import Sequence
from typing import Any, Protocol

from redis.exceptions import NoScriptError, ResponseError

from .dialer import Dialer
from .identity import ServerIdentity
from .link import Command
from .script import Script

#: Proxies and hosted servers use wordings of their own, and some do not name the command.
_REFUSAL = re.compile(
    r"(NOPERM|ERR (unknown|unsupported|disabled) command)\b.*\beval(sha)?\b|ERR (unsupported|disabled) command\W*$",
    re.IGNORECASE,
)


def is_refusal(error: Exception) -> bool:
    """Whether an error says that the server runs no scripts."""
    return _REFUSAL.match(str(error)) is not None


class Way(Protocol):
    """The connection to the server that runs a script."""

    @property
    def dialer(self) -> Dialer:
        """The dialer that connects to the server."""


def no_scripts(way: Way, error: Exception | None, option: str) -> ResponseError:
    """Return the error to raise if a server runs no scripts and an option needs them."""
    said = "" if error is None else f": {error}"
    return ResponseError(f"Redis at {way.dialer.label} refuses EVAL, which the option '{option}' needs{said}")


class ScriptCall(abc.ABC):
    """One call of a script. Subclasses define what its reply means, and what to do instead if scripts are refused."""

    __slots__ = ("_script", "_way", "_with_text", "first_lost")

    repeatable = False

    def __init__(self, script: Script, way: Way) -> None:
        self._script = script
        self._way = way
        self._with_text = False
        self.first_lost = 0.0

    @abc.abstractmethod
    def arguments(self, server: ServerIdentity) -> list[Any]:
        """Return the number of keys, the keys and the arguments; called just before they are written to a server."""

    @abc.abstractmethod
    def done(self, reply: Any) -> None:
        """Take the script's reply, which may be an exception."""

    @abc.abstractmethod
    def refused(self, error: ResponseError | None) -> None:
        """
        Called when the server runs no scripts and has done nothing.

        ``error``: the server's answer; None if it was not asked because it has refused before.
        """

    def commands(self, server: ServerIdentity) -> Sequence[Command]:
        dialer = self._way.dialer
        if dialer.without_scripts:
            self.refused(None)
            return ()
        self._with_text = self._with_text or dialer.only_script_texts
        head = [b"EVAL", self._script.text] if self._with_text else [b"EVALSHA", self._script.sha]
        try:
            return (head + self.arguments(server),)
        except Exception as error:
            # An error from a site's own code (a serializer, say) must not affect the requests that are written with
            # this one.
            self.done(error)
            return ()

    def reply(self, reply: Any) -> bool:
        if isinstance(reply, ResponseError):
            refuses = is_refusal(reply)
            dialer = self._way.dialer
            if not self._with_text and (refuses or isinstance(reply, NoScriptError)):
                # The server has forgotten the script (SCRIPT FLUSH, a new primary), so it is sent once more with its
                # text.
                self._with_text = True
                dialer.only_script_texts = refuses
                return True
            if refuses:
                self.refused(reply)
                dialer.without_scripts = True
                return False
        self.done(reply)
        return False

    def not_done(self) -> None:
        # A call is one command, and it is written again unchanged.
        return

    def fail(self, error: Exception) -> None:
        self.done(error)
