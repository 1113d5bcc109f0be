"""
Why a server could not be examined, in a word or two. Found by the types of the errors that led to it, and by their
texts where servers and redis-py have no type.

Errors of a layer's connections are ``ConnectionError`` with a sentence; the actual error is further down the chain of
causes.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator

from redis.exceptions import AuthenticationError, BusyLoadingError, MasterDownError, NoPermissionError

#: What ``reason_of`` returns.
NO_PASSWORD = "password required"
WRONG_PASSWORD = "wrong user or password"
UNWANTED_PASSWORD = "server has no password"
NOT_PERMITTED = "not permitted"
TLS = "TLS error"
LOADING = "loading its data"
PRIMARY_DOWN = "replica without its primary"
REPLICA = "replica"
FULL = "too many clients"
PROTECTED = "protected mode"
UNKNOWN_NAME = "unknown host name"
NOT_REACHABLE = "not reachable"

#: Texts in the answers of servers, and in the errors of a layer, that reveal the reason.
_TEXTS = (
    ("without any password", UNWANTED_PASSWORD),
    ("no password is set", UNWANTED_PASSWORD),
    ("authentication required", NO_PASSWORD),
    ("noauth", NO_PASSWORD),
    ("wrongpass", WRONG_PASSWORD),
    ("invalid password", WRONG_PASSWORD),
    ("invalid username-password", WRONG_PASSWORD),
    ("noperm", NOT_PERMITTED),
    ("no permissions", NOT_PERMITTED),
    ("speaks tls on this port", TLS),
    ("does not speak tls", TLS),
    ("protected mode", PROTECTED),
    ("max number of clients", FULL),
    ("masterdown", PRIMARY_DOWN),
    ("loading the dataset", LOADING),
    ("is a replica", REPLICA),
)

_KINDS: tuple[tuple[type[BaseException], str], ...] = (
    (NoPermissionError, NOT_PERMITTED),
    (AuthenticationError, WRONG_PASSWORD),
    (BusyLoadingError, LOADING),
    (MasterDownError, PRIMARY_DOWN),
    (ssl.SSLError, TLS),
    (socket.gaierror, UNKNOWN_NAME),
)


def reason_of(error: BaseException) -> str:
    """Return one of the reasons above; ``NOT_REACHABLE`` for everything else that ends a connection."""
    causes = list(chain(error))
    # The texts first: a server's text is more exact than redis-py's type for it.
    for text, reason in _TEXTS:
        if any(text in str(cause).lower() for cause in causes):
            return reason
    for kind, reason in _KINDS:
        if any(isinstance(cause, kind) for cause in causes):
            return reason
    return NOT_REACHABLE


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
