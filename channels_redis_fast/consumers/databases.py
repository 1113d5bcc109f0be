"""
When a consumer's dispatch has to check the database connections of the async ORM.

Channels goes to a thread before every handler, ``await aclose_old_connections()``, so that no handler meets a
connection that is too old or broken. That thread is the one in which ``sync_to_async`` runs the ORM's queries, and
nearly always there is nothing to close in it; the hop there and back costs 100 us. Here the hop happens exactly
when it would act on a connection: this module knows the connections that were opened in the thread, by Django's
``connection_created`` signal, and reads from them what ``close_if_unusable_or_obsolete`` would.

Which thread that is follows from the caller's context, by the rule of ``asgiref.sync.SyncToAsync.__call__``; the first
hop to each executor finds it out. With a version of asgiref that this module does not know, every message hops, as in
Channels.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from typing import Any

from asgiref.sync import AsyncToSync, SyncToAsync, sync_to_async
from channels import db
from django.db import connections
from django.db.backends.signals import connection_created


class ConnectionThread:
    """A thread that hops reach, and the connection wrappers opened in it. Only that thread adds to it."""

    __slots__ = ("wrappers",)

    def __init__(self) -> None:
        self.wrappers: list[weakref.ref[Any]] = []

    def add(self, wrapper: Any) -> None:
        """Learn of a connection wrapper; once is enough, however often it connects."""
        known = [known for known in self.wrappers if known() is not None]
        if all(ref() is not wrapper for ref in known):
            # Replaced in one go: an event loop's thread may be reading it.
            self.wrappers = [*known, weakref.ref(wrapper)]

    def has_stale(self) -> bool:
        """Return whether ``close_old_connections`` would do something in this thread. For any thread."""
        # One list, once: the thread may replace it meanwhile.
        return any(is_stale(ref()) for ref in self.wrappers)


def is_stale(wrapper: Any) -> bool:
    """
    Return whether ``close_if_unusable_or_obsolete`` would act on a connection wrapper, or have it checked.

    These are its conditions, read without calling anything of the wrapper, since this is not its thread.
    """
    if wrapper is None or wrapper.connection is None:
        return False
    return bool(
        wrapper.errors_occurred
        or (wrapper.close_at is not None and time.monotonic() >= wrapper.close_at)
        # The hop has the next query check the connection first.
        or (wrapper.health_check_enabled and wrapper.health_check_done)
        or wrapper.autocommit != wrapper.settings_dict["AUTOCOMMIT"]
    )


_thread_sensitive_context = SyncToAsync.thread_sensitive_context.get

#: In a thread that hops reach: its ``ConnectionThread``.
_here = threading.local()

#: By executor of asgiref: the thread that it runs in.
_threads: weakref.WeakKeyDictionary[Any, ConnectionThread] = weakref.WeakKeyDictionary()

os.register_at_fork(after_in_child=_threads.clear)


def _on_connection_created(sender: Any, connection: Any, **kwargs: Any) -> None:
    thread: ConnectionThread | None = getattr(_here, "thread", None)
    if thread is not None:
        thread.add(connection)


connection_created.connect(_on_connection_created, dispatch_uid="channels_redis_fast.consumers")


def _look_around() -> ConnectionThread:
    """Return the ``ConnectionThread`` of the calling thread, with what was opened in it before this package looked."""
    thread: ConnectionThread | None = getattr(_here, "thread", None)
    if thread is None:
        thread = _here.thread = ConnectionThread()
        for wrapper in connections.all(initialized_only=True):
            thread.add(wrapper)
    return thread


def _executor() -> Any:
    """Return the executor in which ``sync_to_async`` would run a function; None if it has yet to be made."""
    current = getattr(AsyncToSync.executors, "current", None)
    if current:
        return current
    context = _thread_sensitive_context(None)
    if context:
        return SyncToAsync.context_to_thread_executor.get(context)
    # Of asyncio.run inside of async_to_sync: the thread that waits for it.
    return AsyncToSync.loop_thread_executors.get(asyncio.get_running_loop(), SyncToAsync.single_thread_executor)


class StaleConnections:
    """
    What one consumer knows of the connections that its handlers may meet.

    Belongs to the consumer's task. Its executor can only change with a ``ThreadSensitiveContext`` that is entered.
    """

    __slots__ = ("_context", "_thread")

    def __init__(self) -> None:
        self._context: Any = None
        self._thread: ConnectionThread | None = None

    def exist(self) -> bool:
        """Return whether ``close`` has something to do."""
        thread = self._thread
        return (
            thread is None
            or self._context is not _thread_sensitive_context(None)
            # Looked at from here, since most often there are none.
            or (bool(thread.wrappers) and thread.has_stale())
        )

    async def close(self) -> None:
        """Do as Channels does before each handler, and learn in which thread that is."""
        context = _thread_sensitive_context(None)
        try:
            executor = _executor()
        except AttributeError:
            await db.aclose_old_connections()
            return
        if executor is None:
            return
        thread = _threads.get(executor)
        if thread is None:
            thread = _threads[executor] = await sync_to_async(_look_around)()
        if thread.has_stale():
            # By its name: the test tools of Channels replace what it calls.
            await db.aclose_old_connections()
        self._thread, self._context = thread, context


async def close_stale_connections(consumer: Any) -> None:
    """Hop to the thread of a consumer's connections if one of them is stale."""
    stale = stale_connections(consumer)
    if stale.exist():
        await stale.close()


def stale_connections(consumer: Any) -> StaleConnections:
    """Return what a consumer knows of its connections."""
    try:
        found: StaleConnections = consumer.__dict__["_stale_connections"]
    except KeyError:
        found = consumer.__dict__["_stale_connections"] = StaleConnections()
    return found
