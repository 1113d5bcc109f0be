"""
Counters and measurements of one layer in one process. Plain integers and histograms, updated where events happen.

Does not know what it counts. Adding to an attribute is not atomic between threads: with several event loops in one
process, a count may be a few too low. No decision depends on a count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict, cast

from .hot import Histogram

#: Bucket bounds in seconds: ten for each power of ten, from 10 microseconds to 1,000 seconds.
SECONDS = [step * 10.0**power for power in range(-5, 3) for step in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6.5, 8)] + [1000.0]

#: Bucket bounds for the number of messages in one batch.
MESSAGES = [1.0, *(step * 10.0**power for power in range(3) for step in (2, 3, 5, 7, 10))]

#: Seconds between two measurements where measuring everything would cost too much: 200 per second say as much as all.
SAMPLE_INTERVAL = 0.005

#: Maximum number of servers whose round trips are kept: the servers of a cluster come and go.
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
    """What a layer counts since its creation."""

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

    #: Current numbers.
    connections_open: int
    commands_in_flight: int
    mailbox_messages: int
    mailbox_deepest: int
    mailbox_bytes: int
    present: int
    #: The time from a send to its receive; messages per batch; duration of stalls; by server, the time from a command
    #: to its reply.
    lag: Summary
    batch_messages: Summary
    loop_stalls: Summary
    round_trips: dict[str, Summary]


class Stats:
    """
    What a layer has done since it was made. ``as_dict`` returns the part of ``layer.stats()`` that is counted here.
    """

    #: The counters.
    NAMES = tuple(Counters.__annotations__)

    __slots__ = (*NAMES, "batch_messages", "lag", "loop_stalls", "round_trips")

    def __init__(self) -> None:
        for name in self.NAMES:
            setattr(self, name, 0)
        self.lag = Histogram(SECONDS)
        self.batch_messages = Histogram(MESSAGES)
        self.loop_stalls = Histogram(SECONDS)
        #: By the server's label.
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
        """Return the histogram of the round trips to a server, given its label."""
        found = self.round_trips.get(server)
        if found is None:
            found = Histogram(SECONDS)
            # A new dict, because another thread may be iterating over the old one. The latest servers stay.
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
    """Return the summary of a histogram with these bounds."""
    counts, largest = histogram.recent()
    if not any(counts):
        return {"count": histogram.count, "p50": None, "p99": None, "max": None}
    values = {name: percentile(counts, bounds, largest, share) for name, share in (("p50", 0.5), ("p99", 0.99))}
    return cast(Summary, {"count": histogram.count, **values, "max": largest})


def percentile(counts: Sequence[int], bounds: Sequence[float], largest: float, share: float) -> float:
    """
    Return the value below which a ``share`` of the counted values lies, assuming an even spread within each bucket.

    ``largest``: the largest value counted; no estimate exceeds it.
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
