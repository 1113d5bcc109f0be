"""
The process that an object belongs to, and the error for using it in another one. Does not know the object.

A fork is noticed wherever it matters, even one by C code that runs no Python hooks. Asking the system for the process
ID each time would cost a tenth of a message, so it is read from a memory page that Linux clears in a forked child
(``madvise(2)``, ``MADV_WIPEONFORK``). Other systems are asked.
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

#: In Linux 4.14 and later; the module ``mmap`` does not define it.
_WIPE_ON_FORK = 18


class _Numbers(Protocol):
    def __getitem__(self, index: int, /) -> int: ...


class _AskedNumber:
    """The ID of the calling process."""

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


#: Index 0 is the ID of this process; it is 0 in a forked child until that makes a ``Process``. Where speed matters,
#: callers compare it with ``Process.number`` directly.
current_number = _kept_number()


class Process:
    """The process in which this object was made."""

    __slots__ = ("number",)

    def __init__(self) -> None:
        #: The result of ``os.getpid`` there.
        self.number = os.getpid()
        if isinstance(current_number, memoryview):
            current_number[0] = self.number

    @property
    def is_current(self) -> bool:
        """Whether it is the calling process; False in a forked child."""
        return self.number == current_number[0]

    @staticmethod
    def error(label: str) -> ConnectionError:
        """
        Return the error for a forked process that continues its parent's event loop.

        Nobody has told it that it was forked, and it can use nothing of the layer: it shares the parent's sockets, and
        its event loop's selector. ``label``: the host that it wants to talk to.
        """
        return ConnectionError(f"{label}: {FORKED}")
