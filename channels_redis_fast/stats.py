"""
Counters and measurements of one layer in one process. Plain integers and histograms, added to where the thing happens.

Knows nothing of what it counts. Adding to an attribute is not atomic between threads: with several event
loops in one process a count may fall short by a few; none is used to decide anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict, cast

from .hot import Histogram

#: Seconds: ten buckets for each power of ten, from 10 microseconds to 1,000 seconds.
SECONDS = [step * 10.0**power for power in range(-5, 3) for step in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6.5, 8)] + [1000.0]

#: Messages of one batch.
MESSAGES = [1.0, *(step * 10.0**power for power in range(3) for step in (2, 3, 5, 7, 10))]

#: Seconds between two measurements where each would cost too much: two hundred in a second say as much as all.
SAMPLE_INTERVAL = 0.005

#: Servers whose round trips are kept apart: those of a cluster come and go.
MAX_SERVERS = 256


class Summary(TypedDict):
    """
    A measurement: the count since the layer was created; and the median, the 99th percentile and the maximum of the
    last minute, None if there was nothing.
    """

    count: int
    p50: float | None
    p99: float | None
    max: float | None


class Counters(TypedDict):
    """What a layer counts from its creation."""

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
    server_restarts: int
    undecodable: int


class LayerStats(Counters):
    """What ``layer.stats()`` returns. Times are in seconds."""

    #: Numbers of this moment.
    connections_open: int
    commands_in_flight: int
    mailbox_messages: int
    mailbox_deepest: int
    mailbox_bytes: int
    present: int
    #: From a send to its receive; messages of a batch; how long event loops stood still; by server, from a command to
    #: its answer.
    lag: Summary
    batch_messages: Summary
    loop_stalls: Summary
    round_trips: dict[str, Summary]


class Stats:
    """What a layer has done since it was made; ``as_dict`` is the part of ``layer.stats()`` that is counted here."""

    #: The counters.
    NAMES = tuple(Counters.__annotations__)

    __slots__ = (*NAMES, "batch_messages", "lag", "loop_stalls", "round_trips")

    def __init__(self) -> None:
        for name in self.NAMES:
            setattr(self, name, 0)
        self.lag = Histogram(SECONDS)
        self.batch_messages = Histogram(MESSAGES)
        self.loop_stalls = Histogram(SECONDS)
        #: By the label of a server.
        self.round_trips: dict[str, Histogram] = {}

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
    server_restarts: int
    undecodable: int

    def round_trips_to(self, server: str) -> Histogram:
        """Return where the round trips to a server are counted, given its label."""
        found = self.round_trips.get(server)
        if found is None:
            found = Histogram(SECONDS)
            # A new dict: another thread may be going through the old one. The servers that came last stay.
            self.round_trips = dict([*self.round_trips.items(), (server, found)][-MAX_SERVERS:])
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return all counters and the summaries of all measurements by name."""
        return {
            **{name: getattr(self, name) for name in self.NAMES},
            "lag": summary(self.lag, SECONDS),
            "batch_messages": summary(self.batch_messages, MESSAGES),
            "loop_stalls": summary(self.loop_stalls, SECONDS),
            "round_trips": {server: summary(found, SECONDS) for server, found in self.round_trips.items()},
        }


def summary(histogram: Histogram, bounds: Sequence[float]) -> Summary:
    """Return what a histogram with these bounds says of the last minute."""
    counts, largest = histogram.recent()
    if not any(counts):
        return {"count": histogram.count, "p50": None, "p99": None, "max": None}
    values = {name: percentile(counts, bounds, largest, share) for name, share in (("p50", 0.5), ("p99", 0.99))}
    return cast(Summary, {"count": histogram.count, **values, "max": largest})


def percentile(counts: Sequence[int], bounds: Sequence[float], largest: float, share: float) -> float:
    """
    Return the value below which a ``share`` of what was counted lies, taken to be spread evenly within each bucket.

    ``largest`` is the largest value of all: none is estimated to be above it.
    """
    rank = share * sum(counts)
    before = 0
    for bucket, count in enumerate(counts):
        if count and before + count >= rank:
            low = bounds[bucket - 1] if bucket else 0.0
            high = min(bounds[bucket], largest) if bucket < len(bounds) else largest
            return min(low, largest) + (high - min(low, largest)) * (rank - before) / count
        before += count
    return largest
