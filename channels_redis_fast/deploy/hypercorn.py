"""
Hypercorn's workers, which get no signal: their parent sets an event that they check ten times a second.

``hypercorn.asyncio.run`` looks up the function that checks the event after it has imported the application, so it calls
our replacement. Without worker processes (``--workers 0``), Hypercorn handles signals like other servers.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

#: The function that waits for the event, and the module that calls it.
MODULE, NAME = "hypercorn.asyncio.run", "check_multiprocess_shutdown_event"


def hold_shutdown(until: Callable[[], Awaitable[None]]) -> None:
    """If this process is a hypercorn worker, make it wait for ``until`` before it shuts down."""
    module = sys.modules.get(MODULE)
    wait: Callable[..., Awaitable[None]] | None = getattr(module, NAME, None)
    if module is None or wait is None:
        return

    @wraps(wait)
    async def wait_and_hold(*arguments: Any, **options: Any) -> None:
        await wait(*arguments, **options)
        await until()

    setattr(module, NAME, wait_and_hold)
