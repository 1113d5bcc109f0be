"""Helpers for futures and waiters that several modules use. Do not know what the futures stand for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from ..hot import Waiter


def fail(futures: Iterable[asyncio.Future[Any] | Waiter[Any]], error: Exception) -> None:
    """Make each future that is not done raise an error like ``error``."""
    for future in futures:
        if not future.done():
            # A new exception for each: the traceback of one that is raised in several tasks would grow.
            future.set_exception(type(error)(*error.args))


def ignore(future: asyncio.Future[Any]) -> None:
    """Retrieve the result of a future that nobody awaits; otherwise asyncio would log its error."""
    if not future.cancelled():
        future.exception()
