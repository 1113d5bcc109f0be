"""Whether a handler needs the thread hop that closes stale database connections.

Channels awaits `close_old_connections` in a thread before each handler, so that the async ORM and
`database_sync_to_async` never use a connection that the server has closed, or that is broken or too old. That hop costs
more than all the rest of a dispatch, and nearly always finds nothing to do. Here it happens exactly when it would do
something to a connection of the thread that it reaches (Django's `BaseDatabaseWrapper.close_if_unusable_or_obsolete`):

- an error has occurred on the connection since it was last found usable;
- its maximum age (`CONN_MAX_AGE`) is over;
- it was checked (`CONN_HEALTH_CHECKS`), and has to be checked again before its next use;
- autocommit was left in another state than the settings say.

Django announces each new connection (`connection_created`), in the thread that opened it. Its state is read from the
event loop's thread: plain attributes, which are what the hop itself would look at. Knows no consumer and no message.
"""

from __future__ import annotations

import time
import weakref
from threading import Lock, get_ident
from typing import Any

from asgiref.sync import SyncToAsync, sync_to_async
from channels import db
from django.db import connections
from django.db.backends.signals import connection_created

#: By thread, the connections that were opened there, as weak references. Replaced whole, so that readers need no lock.
_by_thread: dict[int, tuple[weakref.ref[Any], ...]] = {}
_lock = Lock()


def _enrol(connection: Any) -> None:
    """Remember a connection of the running thread."""
    thread = get_ident()
    with _lock:
        known = [reference for reference in _by_thread.get(thread, ()) if reference() is not None]
        if not any(reference() is connection for reference in known):
            known.append(weakref.ref(connection))
        _by_thread[thread] = tuple(known)


def _connected(sender: Any, connection: Any, **kwargs: Any) -> None:
    """Called when Django has opened a connection, in the thread that uses it."""
    _enrol(connection)


connection_created.connect(_connected, dispatch_uid="channels_redis_fast.consumers.database")


def _enrol_all() -> int:
    """Remember the connections that this thread opened before anybody listened. Return the thread's identifier."""
    for connection in connections.all(initialized_only=True):
        if connection.connection is not None:
            _enrol(connection)
    return get_ident()


def is_stale(connection: Any, now: float) -> bool:
    """Return whether `close_if_unusable_or_obsolete` would do anything to a connection; `now` is monotonic."""
    return connection.connection is not None and (
        connection.errors_occurred
        or (connection.close_at is not None and now >= connection.close_at)
        or (connection.health_check_enabled and connection.health_check_done)
        or connection.autocommit != connection.settings_dict["AUTOCOMMIT"]
    )


class StaleConnections:
    """The database connections that the handlers of one consumer can reach through Channels' thread."""

    __slots__ = ("_context", "_thread")

    def __init__(self) -> None:
        self._thread: int | None = None
        self._context: Any = None

    def exist(self) -> bool:
        """Return whether `close` has something to do, or has to find out which thread it reaches."""
        # Another context, as Django's own handler sets, has another thread.
        if self._thread is None or SyncToAsync.thread_sensitive_context.get(None) is not self._context:
            return True
        references = _by_thread.get(self._thread)
        if not references:
            return False
        now = time.monotonic()
        for reference in references:
            connection = reference()
            if connection is not None and is_stale(connection, now):
                return True
        return False

    async def close(self) -> None:
        """Close the stale connections, in the thread that uses them."""
        context = SyncToAsync.thread_sensitive_context.get(None)
        # Looked up at each call: Channels' test tools replace what is behind it.
        await db.aclose_old_connections()
        if self._thread is None or context is not self._context:
            self._thread = await sync_to_async(_enrol_all)()
            self._context = context
