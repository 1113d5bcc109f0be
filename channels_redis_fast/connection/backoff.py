"""How long to wait between attempts at something that failed."""

from __future__ import annotations

import random
from collections.abc import Iterator

#: The first and the longest delay between attempts, in seconds. The delay doubles each time, with jitter.
BACKOFF_FIRST, BACKOFF_LAST = 0.01, 0.8


def delays() -> Iterator[float]:
    """Yield the delays between attempts, in seconds."""
    delay = BACKOFF_FIRST
    while True:
        yield delay * random.uniform(0.5, 1.0)
        delay = min(delay * 2, BACKOFF_LAST)
