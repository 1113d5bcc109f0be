"""
Limits the memory of all mailboxes of a process, whatever layers and event loops they belong to.

Counts bytes and decides what to drop: first the messages of the mailbox that nobody has received on for the longest
time, oldest first, then those of the next one. The last message stays, however large it is. The layers know the
mailboxes and their contents.

Thread-safe. No lock is held from one layer to the next.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Generic, Protocol, TypeVar

from ..process import Process

T = TypeVar("T")

#: The maximum size in bytes of the messages in all mailboxes of a process, measured as objects (``footprint``).
MAX_BYTES = 100_000_000

#: The fraction of the limit that dropping goes down to, since it has to look at all mailboxes.
LEFT = 7 / 8


class Alive(Generic[T]):
    """Holds weak references to objects; iterating gives the objects that are still alive."""

    def __init__(self) -> None:
        self._references: dict[int, weakref.ref[T]] = {}

    def add(self, thing: T) -> None:
        """Add an object."""
        references, number = self._references, id(thing)
        references[number] = weakref.ref(thing, lambda _: references.pop(number, None))

    def __iter__(self) -> Iterator[T]:
        # A copy, made in one step: other threads add and remove objects meanwhile.
        return iter([thing for reference in list(self._references.values()) if (thing := reference()) is not None])


#: The mailbox of a channel: when somebody last received on the channel (monotonic; if never, when its first message
#: came), and a function that drops its oldest message and returns the freed bytes, or None if it had no more messages
#: than its argument.
Droppable = tuple[float, Callable[[int], "int | None"]]


class Storing(Protocol):
    """A layer with mailboxes."""

    def held(self) -> int:
        """Return the number of bytes in its mailboxes."""

    def droppable(self) -> list[Droppable]:
        """Return its mailboxes."""

    def dropped_for_memory(self, count: int) -> None:
        """Called when messages of its mailboxes were dropped."""


class MemoryLimit:
    """Ensures that all mailboxes together hold no more than ``MAX_BYTES``."""

    def __init__(self) -> None:
        self._layers: Alive[Storing] = Alive()
        self._process = Process()
        # An upper bound on the bytes held: nothing is subtracted until they are counted again.
        self._at_most = 0

    def add(self, layer: Storing) -> None:
        """Count one more layer's mailboxes."""
        if not self._process.is_current:
            # A forked child must not touch its parent's mailboxes: a lock may be held for ever.
            self._layers = Alive()
            self._process = Process()
            self._at_most = 0
        self._layers.add(layer)

    def grew(self, size: int) -> None:
        """Count bytes added to mailboxes, and drop messages if that is too much. Holds no layer's lock."""
        self._at_most += size
        if self._at_most > MAX_BYTES:
            held = sum(layer.held() for layer in self._layers)
            self._at_most = held if held <= MAX_BYTES else self._drop(held)

    def _drop(self, held: int) -> int:
        mailboxes = [(*mailbox, layer) for layer in self._layers for mailbox in layer.droppable()]
        mailboxes.sort(key=itemgetter(0))
        for place, (_, drop_oldest, layer) in enumerate(mailboxes, 1):
            count = 0
            while held > MAX_BYTES * LEFT and (freed := drop_oldest(place == len(mailboxes))) is not None:
                held -= freed
                count += 1
            if count:
                layer.dropped_for_memory(count)
            if held <= MAX_BYTES * LEFT:
                break
        return held


#: The limit of this process.
PROCESS = MemoryLimit()
