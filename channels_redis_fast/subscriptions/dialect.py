"""
The commands of plain and sharded Redis Pub/Sub, the names of its push messages, and the meaning of its refusals.

Plain Pub/Sub is what channels_redis uses. Sharded Pub/Sub (https://redis.io/docs/latest/develop/pubsub/, Redis 7.0)
differs on one server only in these names; messages of one kind do not reach subscribers of the other. Opens nothing.
Knows no layer.
"""

from __future__ import annotations

from typing import NamedTuple

from redis.exceptions import BusyLoadingError, MasterDownError, NoPermissionError


def passes(error: Exception) -> bool:
    """Return whether a server's error is temporary: the server is busy, or is loading its data."""
    return isinstance(error, (BusyLoadingError, MasterDownError)) or str(error).startswith("BUSY ")


class Dialect(NamedTuple):
    """One kind of Pub/Sub: its commands, and the server's names for its push messages."""

    #: The layer's option that selects this kind.
    option: str | None
    publish: bytes
    subscribe: bytes
    unsubscribe: bytes
    message: bytes
    subscribed: bytes
    unsubscribed: bytes

    def explain(self, command: bytes, error: Exception, label: str) -> Exception:
        """Return the error to raise for an error reply. ``label``: the server that sent it."""
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
