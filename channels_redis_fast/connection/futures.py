"""A helper for futures and waiters that several modules use. Knows nothing of what they stand for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from ..hot import Waiter


def fail(futures: Iterable[asyncio.Future[Any] | Waiter[Any]], error: Exception) -> None:
    """Let each future that is not done raise an error like ``error``."""
    for future in futures:
        if not future.done():
            # One for each: a traceback grows on an exception that is raised in several tasks.
            future.set_exception(type(error)(*error.args))


def ignore(future: asyncio.Future[Any]) -> None:
    """Retrieve the outcome of a future that nobody awaits; asyncio would log its error otherwise."""
    if not future.cancelled():
        future.exception()
