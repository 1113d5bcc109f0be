"""
When a consumer's dispatch has to check the database connections of the async ORM.

Before every handler, Channels hops to a thread, ``await aclose_old_connections()``, so that no handler gets a
connection that is too old or broken. It is the thread in which ``sync_to_async`` runs the ORM's queries. Nearly always
there is nothing to close in it, and the hop there and back costs 100 us. Here the hop happens only if it would act on a
connection: Django's ``connection_created`` signal tells this module which connections were opened in the thread, and it
reads from them what ``close_if_unusable_or_obsolete`` would.

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
    """A thread that hops reach, and the connection wrappers opened in it. Only that thread adds to them."""

    __slots__ = ("wrappers",)

    def __init__(self) -> None:
        self.wrappers: list[weakref.ref[Any]] = []

    def add(self, wrapper: Any) -> None:
        """Register a connection wrapper; once is enough, however often it connects."""
        known = [known for known in self.wrappers if known() is not None]
        if all(ref() is not wrapper for ref in known):
            # Replaced in one step: an event loop's thread may be reading the list.
            self.wrappers = [*known, weakref.ref(wrapper)]

    def has_stale(self) -> bool:
        """Return whether ``close_old_connections`` would do anything in this thread. Thread-safe."""
        # The attribute is read once: the thread may replace the list meanwhile.
        return any(is_stale(ref()) for ref in self.wrappers)


def is_stale(wrapper: Any) -> bool:
    """
    Return whether ``close_if_unusable_or_obsolete`` would act on a connection wrapper, or have it checked.

    These are its conditions. They are read without calling any method of the wrapper, since this is not its thread.
    """
    if wrapper is None or wrapper.connection is None:
        return False
    return bool(
        wrapper.errors_occurred
        or (wrapper.close_at is not None and time.monotonic() >= wrapper.close_at)
        # After the hop, the next query checks the connection first.
        or (wrapper.health_check_enabled and wrapper.health_check_done)
        or wrapper.autocommit != wrapper.settings_dict["AUTOCOMMIT"]
    )


_thread_sensitive_context = SyncToAsync.thread_sensitive_context.get

#: In a thread that hops reach: its ``ConnectionThread``.
_here = threading.local()

#: By asgiref's executor: the thread in which it runs.
_threads: weakref.WeakKeyDictionary[Any, ConnectionThread] = weakref.WeakKeyDictionary()

os.register_at_fork(after_in_child=_threads.clear)


def _on_connection_created(sender: Any, connection: Any, **kwargs: Any) -> None:
    thread: ConnectionThread | None = getattr(_here, "thread", None)
    if thread is not None:
        thread.add(connection)


connection_created.connect(_on_connection_created, dispatch_uid="channels_redis_fast.consumers")


def _look_around() -> ConnectionThread:
    """Return the ``ConnectionThread`` of the calling thread, including connections opened before the first call."""
    thread: ConnectionThread | None = getattr(_here, "thread", None)
    if thread is None:
        thread = _here.thread = ConnectionThread()
        for wrapper in connections.all(initialized_only=True):
            thread.add(wrapper)
    return thread


def _executor() -> Any:
    """Return the executor in which ``sync_to_async`` would run a function; None if it does not exist yet."""
    current = getattr(AsyncToSync.executors, "current", None)
    if current:
        return current
    context = _thread_sensitive_context(None)
    if context:
        return SyncToAsync.context_to_thread_executor.get(context)
    # For asyncio.run inside async_to_sync: the thread that waits for it.
    return AsyncToSync.loop_thread_executors.get(asyncio.get_running_loop(), SyncToAsync.single_thread_executor)


class StaleConnections:
    """
    What one consumer knows about the connections that its handlers may use.

    Belongs to the consumer's task. The executor can change only when a ``ThreadSensitiveContext`` is entered.
    """

    __slots__ = ("_context", "_thread")

    def __init__(self) -> None:
        self._context: Any = None
        self._thread: ConnectionThread | None = None

    def exist(self) -> bool:
        """Return whether ``close`` has anything to do."""
        thread = self._thread
        return (
            thread is None
            or self._context is not _thread_sensitive_context(None)
            # Checked inline first, since usually there are none.
            or (bool(thread.wrappers) and thread.has_stale())
        )

    async def close(self) -> None:
        """Do what Channels does before each handler, and remember in which thread that is."""
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
            # Looked up by name: Channels' test tools replace the function.
            await db.aclose_old_connections()
        self._thread, self._context = thread, context


async def close_stale_connections(consumer: Any) -> None:
    """Hop to the thread of a consumer's connections if one of them is stale."""
    stale = stale_connections(consumer)
    if stale.exist():
        await stale.close()


def stale_connections(consumer: Any) -> StaleConnections:
    """Return what a consumer knows about its connections."""
    try:
        found: StaleConnections = consumer.__dict__["_stale_connections"]
    except KeyError:
        found = consumer.__dict__["_stale_connections"] = StaleConnections()
    return found
