"""Direct dispatch for every consumer of a process, those of other packages included.

`install` puts the functions of `dispatch` and `generic` into Channels' own classes, where these hold code that is
known; a release of Channels that dispatches in another way is left alone. The known code, compared by its source, is
that of Channels 4.2.2 to 4.3.2.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from typing import Any

import channels
from channels.consumer import AsyncConsumer, get_handler_name
from channels.generic.http import AsyncHttpConsumer
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.utils import await_many_dispatch

from . import generic
from .dispatch import DirectDispatch

#: What is replaced: the class, the name of its function, the SHA-256 of the source that is known, and ours.
REPLACED: tuple[tuple[type, str, str, Callable[..., Any]], ...] = (
    (
        AsyncConsumer,
        "__call__",
        "e52238720872dbc3f854519bc971aa7eb41553e63c8729081549ce42465ee419",
        DirectDispatch.__call__,
    ),
    (
        AsyncConsumer,
        "dispatch",
        "39f34e7d4fb0f6552de4ade665b943fe78137379702af6b58c79a14c49a75520",
        DirectDispatch.dispatch,
    ),
    (
        AsyncWebsocketConsumer,
        "websocket_disconnect",
        "10f38aa55fd51ff5e66e84eec77773a996e279de59190aef99322e27d354f078",
        generic.AsyncWebsocketConsumer.websocket_disconnect,
    ),
    (
        AsyncHttpConsumer,
        "http_disconnect",
        "e54ff7b245bc386cb279a09aa6ee5f71d4e64c2747612389fafe5dc8b7e71a6c",
        generic.AsyncHttpConsumer.http_disconnect,
    ),
)

#: What these call, and what has to mean the same as ever.
CALLED: tuple[tuple[Callable[..., Any], str], ...] = (
    (get_handler_name, "c88c7b7d8763fb61b5864b9ee6eb442f1e3f9d5b42b4f7651622d8c33d384193"),
    (await_many_dispatch, "30ef889498560da3d72e6a695d2c17cf4a22b4948f2af6d53394343f4aace51d"),
)

_originals: list[tuple[type, str, Callable[..., Any]]] = []


def is_installed() -> bool:
    """Return whether the consumers of this process have direct dispatch by ``install``."""
    return bool(_originals)


def install() -> None:
    """
    Give all consumers of this process direct dispatch. Does nothing the second time.

    Raises ``RuntimeError``, naming the release of Channels, where its consumers do not dispatch in the way that this
    replaces, or something else has replaced it already. Channels is left as it is then.
    """
    if _originals:
        return
    unknown = [
        f"{owner.__name__}.{name}" for owner, name, known, _ in REPLACED if _fingerprint(getattr(owner, name)) != known
    ]
    unknown += [function.__name__ for function, known in CALLED if _fingerprint(function) != known]
    if unknown:
        raise RuntimeError(
            f"direct dispatch is not known to work with Channels {channels.__version__}, where {', '.join(unknown)} "
            "is not the code that it replaces; consumers dispatch as before"
        )
    for owner, name, _, ours in REPLACED:
        _originals.append((owner, name, getattr(owner, name)))
        setattr(owner, name, ours)


def uninstall() -> None:
    """Give Channels its own dispatch back, for consumers that begin after this. Does nothing unless installed."""
    while _originals:
        setattr(*_originals.pop())


def _fingerprint(function: Callable[..., Any]) -> str:
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        # No source is installed, or what stands there is no function any more.
        return ""
    return hashlib.sha256(source.encode()).hexdigest()
