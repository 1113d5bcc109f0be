"""
Direct dispatch for all consumers of a site, including those of other packages: ``install`` and ``uninstall``.

It replaces methods of Channels' own classes, and only if each is the code that this package was written against. If one
is unknown, because a release changed it or another package replaced it, it may do something else; then nothing is
replaced.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from channels import consumer, db, utils
from channels.consumer import AsyncConsumer
from channels.generic.http import AsyncHttpConsumer
from channels.generic.websocket import AsyncWebsocketConsumer

from .disconnect import http_disconnect, websocket_disconnect
from .dispatch import DirectDispatch

#: What is replaced: the class, the name of the method, and our method.
METHODS: tuple[tuple[Any, str, Callable[..., Any]], ...] = (
    (AsyncConsumer, "__call__", DirectDispatch.__call__),
    (AsyncConsumer, "dispatch", DirectDispatch.dispatch),
    (AsyncWebsocketConsumer, "websocket_disconnect", websocket_disconnect),
    (AsyncHttpConsumer, "http_disconnect", http_disconnect),
)

#: SHA-256 of the source of each replaced method, and of what they call: the same from Channels 4.2.2 to 4.3.2.
KNOWN = {
    "AsyncConsumer.__call__": "e52238720872dbc3f854519bc971aa7eb41553e63c8729081549ce42465ee419",
    "AsyncConsumer.dispatch": "39f34e7d4fb0f6552de4ade665b943fe78137379702af6b58c79a14c49a75520",
    "AsyncWebsocketConsumer.websocket_disconnect": "10f38aa55fd51ff5e66e84eec77773a996e279de59190aef99322e27d354f078",
    "AsyncHttpConsumer.http_disconnect": "e54ff7b245bc386cb279a09aa6ee5f71d4e64c2747612389fafe5dc8b7e71a6c",
    "get_handler_name": "c88c7b7d8763fb61b5864b9ee6eb442f1e3f9d5b42b4f7651622d8c33d384193",
    "await_many_dispatch": "30ef889498560da3d72e6a695d2c17cf4a22b4948f2af6d53394343f4aace51d",
    "aclose_old_connections": "9120822dad6c8e90011cafc1448976dafb0e37d810d925996cd7388bb18c0a3d",
}

_originals: dict[tuple[Any, str], Callable[..., Any]] = {}


def install() -> None:
    """
    Replace the dispatch of Channels' consumer classes. Does nothing if it is already replaced.

    Consumers that are already connected are not affected. Raises ``RuntimeError`` naming the release of Channels and
    the code that is unknown; nothing is changed then.
    """
    if installed():
        return
    unknown = [function.__qualname__ for function in _functions() if not _is_known(function)]
    if unknown:
        raise RuntimeError(
            f"Consumers keep Channels' dispatch: {', '.join(unknown)} of Channels {version('channels')} is not code "
            "that this release of channels_redis_fast knows, or another package has replaced it."
        )
    for owner, name, direct in METHODS:
        _originals[owner, name] = vars(owner)[name]
        setattr(owner, name, direct)


def uninstall() -> None:
    """Restore the dispatch of Channels' consumer classes. Replacements that another package has put over ours stay."""
    for owner, name, direct in METHODS:
        original = _originals.pop((owner, name), None)
        if original is not None and vars(owner).get(name) is direct:
            setattr(owner, name, original)


def installed() -> bool:
    """Return whether Channels' consumer classes have direct dispatch."""
    return bool(_originals)


def _functions() -> list[Callable[..., Any]]:
    replaced = [vars(owner)[name] for owner, name, _ in METHODS]
    return [*replaced, consumer.get_handler_name, utils.await_many_dispatch, db.aclose_old_connections]


def _is_known(function: Callable[..., Any]) -> bool:
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        # Not a function any more, or only bytecode without source.
        return False
    return KNOWN.get(function.__qualname__) == hashlib.sha256(source.encode()).hexdigest()
