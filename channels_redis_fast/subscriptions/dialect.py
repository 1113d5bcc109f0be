"""
The commands of Redis Pub/Sub, plain and sharded, the names of what the server pushes, and what its refusals mean.

Plain Pub/Sub is what channels_redis uses. Sharded Pub/Sub (https://redis.io/docs/latest/develop/pubsub/, Redis 7.0)
differs on one server only in these names; messages of one kind do not reach subscribers of the other. Opens nothing,
and knows no layer.
"""

from __future__ import annotations

from typing import NamedTuple

from redis.exceptions import BusyLoadingError, MasterDownError, NoPermissionError


def passes(error: Exception) -> bool:
    """Return whether an error of a server is temporary: it is busy, or loads its data."""
    return isinstance(error, (BusyLoadingError, MasterDownError)) or str(error).startswith("BUSY ")


class Dialect(NamedTuple):
    """One kind of Pub/Sub: its commands, and how the server calls what it pushes."""

    #: The layer's option that asks for this kind.
    option: str | None
    publish: bytes
    subscribe: bytes
    unsubscribe: bytes
    message: bytes
    subscribed: bytes
    unsubscribed: bytes

    def explain(self, command: bytes, error: Exception, label: str) -> Exception:
        """Return the error to raise for one that a server answered; ``label``: which server that was."""
        if self.option is None:
            return error
        text, name = str(error), command.decode()
        if "unknown command" in text:
            return type(error)(
                f"Option '{self.option}': {label} does not know {name}, which came with Redis 7.0: {text}"
            )
        if isinstance(error, NoPermissionError):
            return type(error)(f"Option '{self.option}': {label} does not let this user {name}: {text}")
        return error


PLAIN = Dialect(None, b"PUBLISH", b"SUBSCRIBE", b"UNSUBSCRIBE", b"message", b"subscribe", b"unsubscribe")
SHARDED = Dialect("sharded", b"SPUBLISH", b"SSUBSCRIBE", b"SUNSUBSCRIBE", b"smessage", b"ssubscribe", b"sunsubscribe")
