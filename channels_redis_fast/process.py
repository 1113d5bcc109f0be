"""
The process that something belongs to, and what is said in another. Knows nothing of what it belongs to.

A fork is noticed wherever it matters, also one by C code that runs no hooks of Python's. Asking the system for the
number of the process each time costs as much as a tenth of a message, so it is read from a page of memory that Linux
empties in a forked child (``madvise(2)``, ``MADV_WIPEONFORK``); elsewhere the system is asked.
"""

from __future__ import annotations

import mmap
import os
import sys
from typing import Protocol

from redis.exceptions import ConnectionError

FORKED = (
    "this process was forked from one that runs this event loop, and cannot use its connections. Run a new event loop "
    "here (asyncio.run), or fork before the event loop starts"
)

#: Of Linux 4.14 and later; the module ``mmap`` does not name it.
_WIPE_ON_FORK = 18


class _Numbers(Protocol):
    def __getitem__(self, index: int, /) -> int: ...


class _AskedNumber:
    """The number of the process that asks."""

    def __getitem__(self, index: int) -> int:
        return os.getpid()


def _kept_number() -> _Numbers:
    if sys.platform != "linux":
        return _AskedNumber()
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(_WIPE_ON_FORK)
    except OSError:
        # An older kernel.
        return _AskedNumber()
    return memoryview(page).cast("Q")


#: At 0 the number of this process; 0 in a forked child until it makes a ``Process``. Where each call counts, who asks
#: compares it with ``Process.number``.
current_number = _kept_number()


class Process:
    """The process that this was made in."""

    __slots__ = ("number",)

    def __init__(self) -> None:
        #: What ``os.getpid`` gives there.
        self.number = os.getpid()
        if isinstance(current_number, memoryview):
            current_number[0] = self.number

    @property
    def is_current(self) -> bool:
        """Whether it is the one that asks; not so in a forked child."""
        return self.number == current_number[0]

    @staticmethod
    def error(label: str) -> ConnectionError:
        """
        Return what to raise in a forked process that goes on with its parent's event loop.

        Nobody has told it that it is one, and it can use nothing there: it shares the parent's sockets, and what its
        event loop waits on. ``label``: the host that it wants to talk to.
        """
        return ConnectionError(f"{label}: {FORKED}")
