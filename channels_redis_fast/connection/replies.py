"""
Error replies as redis-py exceptions, and what they mean for a request. Text only, no I/O.
"""

from __future__ import annotations

import reprlib
from typing import Any

from redis import exceptions
from redis.exceptions import ConnectionError, RedisError

#: How many characters of an error reply are kept: enough for the longest of Redis' own.
MAX_ERROR_TEXT = 1000

_ERRORS: dict[str, type[RedisError]] = {
    "MOVED": exceptions.MovedError,
    "ASK": exceptions.AskError,
    "TRYAGAIN": exceptions.TryAgainError,
    "CLUSTERDOWN": exceptions.ClusterDownError,
    "CROSSSLOT": exceptions.ClusterCrossSlotError,
    "NOSCRIPT": exceptions.NoScriptError,
    "READONLY": exceptions.ReadOnlyError,
    "UNBLOCKED": exceptions.ReadOnlyError,
    "LOADING": exceptions.BusyLoadingError,
    "MASTERDOWN": exceptions.MasterDownError,
    "NOAUTH": exceptions.AuthenticationError,
    "WRONGPASS": exceptions.AuthenticationError,
    "NOPERM": exceptions.NoPermissionError,
    "OOM": exceptions.OutOfMemoryError,
}


#: Errors of a server that is not a primary, or not ready. The command was not carried out.
NOT_DONE: frozenset[Any] = frozenset(
    (exceptions.ReadOnlyError, exceptions.BusyLoadingError, exceptions.MasterDownError)
)


#: Answers of a cluster: the request has to go elsewhere, or cannot go anywhere yet. It was not carried out.
REDIRECTIONS: frozenset[Any] = frozenset(
    (exceptions.MovedError, exceptions.AskError, exceptions.TryAgainError, exceptions.ClusterDownError)
)

#: Answers that only a node of a cluster gives.
CLUSTER_ONLY = REDIRECTIONS | {exceptions.ClusterCrossSlotError}

#: Answers that say that a request was not carried out, but might succeed elsewhere or later.
ELSEWHERE = NOT_DONE | CLUSTER_ONLY


def reply_error(text: str) -> Exception:
    """
    Return the redis-py exception for an error reply; unknown codes give ``ResponseError``.

    A text of more than ``MAX_ERROR_TEXT`` characters is truncated, because it ends up in logs.
    """
    if len(text) > MAX_ERROR_TEXT:
        text = f"{text[:MAX_ERROR_TEXT]}... ({len(text)} characters)"
    code, _, rest = text.partition(" ")
    kind = _ERRORS.get(code)
    if kind is not None and issubclass(kind, exceptions.AskError):
        # The exception reads slot and address from the rest of the text.
        return kind(rest)
    if kind is None:
        # Redis 6 wraps the error of a script's command in a sentence of its own.
        inner = (code for code in ("READONLY", "OOM") if f"-{code} " in text)
        kind = _ERRORS.get(next(inner, ""), exceptions.ResponseError)
    return kind(text)


class UnexpectedReply(ConnectionError):
    """A reply that the command cannot have: the peer is not Redis, or replies no longer match the commands."""

    @classmethod
    def to(cls, what: str, reply: Any) -> UnexpectedReply:
        """Return an error that names what was asked and shows the beginning of the reply."""
        return cls(f"unexpected reply to {what}: {reprlib.repr(reply)}")
