"""
The bound on the memory of all mailboxes of a process, whatever layers and event loops they belong to.

Counts bytes and decides what is dropped: first the messages of the mailbox that nobody has received on for the
longest time, oldest first, then those of the next one. The last message stays, however large it is. The layers know
the mailboxes and their contents.

For any thread. No lock is held from one layer to the next.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Generic, Protocol, TypeVar

from ..process import Process

T = TypeVar("T")

#: Bytes that the messages in all mailboxes of a process may take, by what they take as objects (``footprint``).
MAX_BYTES = 100_000_000

#: Part of that to which messages are dropped, since it takes a look at all mailboxes.
LEFT = 7 / 8


class Alive(Generic[T]):
    """Objects as long as they live."""

    def __init__(self) -> None:
        self._references: dict[int, weakref.ref[T]] = {}

    def add(self, thing: T) -> None:
        """Have one more object in it."""
        references, number = self._references, id(thing)
        references[number] = weakref.ref(thing, lambda _: references.pop(number, None))

    def __iter__(self) -> Iterator[T]:
        # A copy, made in one go: others come and go meanwhile, in other threads.
        return iter([thing for reference in list(self._references.values()) if (thing := reference()) is not None])


#: The mailbox of a channel: when somebody received on the channel last (monotonic; if never, when its first message
#: came), and what drops its oldest message and returns the bytes that this frees, None if it had no more than so many.
Droppable = tuple[float, Callable[[int], "int | None"]]


class Storing(Protocol):
    """A layer that has mailboxes."""

    def held(self) -> int:
        """Return the bytes that are in its mailboxes."""

    def droppable(self) -> list[Droppable]:
        """Return its mailboxes."""

    def dropped_for_memory(self, count: int) -> None:
        """Called when messages of its mailboxes were dropped."""


class MemoryLimit:
    """Sees to it that mailboxes do not hold more than ``MAX_BYTES`` together."""

    def __init__(self) -> None:
        self._layers: Alive[Storing] = Alive()
        self._process = Process()
        # Bytes that may be held: nothing is subtracted until they are counted again.
        self._at_most = 0

    def add(self, layer: Storing) -> None:
        """Count one more layer's mailboxes."""
        if not self._process.is_current:
            # A forked child must not touch its parent's: a lock may be held for ever.
            self._layers = Alive()
            self._process = Process()
            self._at_most = 0
        self._layers.add(layer)

    def grew(self, size: int) -> None:
        """Count bytes that came into mailboxes, and drop messages if that is too much. Holds no layer's lock."""
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


#: That of this process.
PROCESS = MemoryLimit()
