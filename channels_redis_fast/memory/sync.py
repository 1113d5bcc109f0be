"""
``layer.sync`` of an in-memory layer: nothing has to be waited for, so a call is finished when it returns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from ..sync.routing import WaitExpired


class InlineCalls:
    """Runs a layer's coroutines in the calling thread. ``waits``: whether a subclass may make them wait."""

    def __init__(self, waits: bool) -> None:
        self._waits = waits

    def wait_for(self, function: Callable[[], Coroutine[Any, Any, Any]], timeout: float | None) -> Any:
        """
        Run a coroutine function and return its result. If it may wait, it runs in an event loop of its own.

        Raises ``WaitExpired`` if it waits for longer than ``timeout`` seconds.
        """
        if self._waits:
            return asyncio.run(_within(function, timeout))
        coroutine = function()
        try:
            coroutine.send(None)
        except StopIteration as end:
            return end.value
        coroutine.close()
        raise RuntimeError("a method of the layer was replaced by one that waits; use it in an event loop")


async def _within(function: Callable[[], Coroutine[Any, Any, Any]], timeout: float | None) -> Any:
    try:
        return await asyncio.wait_for(function(), timeout)
    except asyncio.TimeoutError:
        raise WaitExpired from None
