"""The process that something belongs to, and what is said in another. Knows nothing of what it belongs to."""

from __future__ import annotations

import os

from redis.exceptions import ConnectionError

FORKED = (
    "this process was forked from one that runs this event loop, and cannot use its connections. Run an event loop of "
    "its own here (asyncio.run), or fork before there is one"
)


class Process:
    """The process that this was made in."""

    __slots__ = ("number",)

    def __init__(self) -> None:
        #: What ``os.getpid`` gives there. Where each call counts, who asks compares them.
        self.number = os.getpid()

    @property
    def is_current(self) -> bool:
        """Whether it is the one that asks; not so in a forked child."""
        return self.number == os.getpid()

    @staticmethod
    def error(label: str) -> ConnectionError:
        """
        Return what to raise in a forked process that goes on with its parent's event loop.

        Nobody has told it that it is one, and it can use nothing there: it shares the parent's sockets, and what its
        event loop waits on. ``label``: the host that it wants to talk to.
        """
        return ConnectionError(f"{label}: {FORKED}")
