"""
Counters of one layer in one process. Plain integers, added to where the thing happens.

Knows nothing of what it counts. Adding to an attribute is not atomic between threads: with several event
loops in one process a count may fall short by a few; none is used to decide anything.
"""

from __future__ import annotations


class Stats:
    """What a layer has done since it was made; ``as_dict`` is what ``layer.stats()`` returns."""

    __slots__ = (
        "batches",
        "bytes_received",
        "bytes_sent",
        "channel_full",
        "deliveries",
        "dropped",
        "expired",
        "group_sends",
        "incomplete",
        "over_capacity",
        "put_back",
        "receives",
        "reconnects",
        "recorded",
        "recovered",
        "sends",
        "undecodable",
    )

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, 0)

    batches: int
    bytes_received: int
    bytes_sent: int
    channel_full: int
    deliveries: int
    dropped: int
    expired: int
    group_sends: int
    incomplete: int
    over_capacity: int
    put_back: int
    receives: int
    reconnects: int
    recorded: int
    recovered: int
    sends: int
    undecodable: int

    def as_dict(self) -> dict[str, int]:
        """Return all counters by name."""
        return {name: getattr(self, name) for name in self.__slots__}
