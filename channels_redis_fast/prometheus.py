"""
The counters and measurements of layers for Prometheus. Needs the extra ``[prometheus]``.

    from channels.layers import get_channel_layer
    from prometheus_client import REGISTRY
    from channels_redis_fast.prometheus import Collector

    REGISTRY.register(Collector(get_channel_layer()))

Reads ``layer.stats()`` at each scrape, in whatever thread that happens, and sends nothing to Redis. Knows the counters'
names there and here. Does not know what counts them.

The numbers are those of one process, and each process has to be scraped: at its own port, or through a push gateway.
prometheus_client's multiprocess mode (PROMETHEUS_MULTIPROC_DIR) writes its own metrics to files and does not support
custom collectors, so these numbers are missing there. A forked child continues counting from its parent's numbers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from .base import LimitedLayer
from .hot import CapacityTable, Histogram
from .stats import MESSAGES, SECONDS

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    from prometheus_client.metrics_core import Metric
except ImportError:
    raise ImportError(
        "channels_redis_fast.prometheus needs prometheus_client: pip install channels-redis-fast[prometheus]"
    ) from None

__all__ = ["Collector"]

PREFIX = "channels_redis_fast_"
LABELS = ("alias", "layer")

#: What each counter of ``stats()`` counts.
COUNTERS = {
    "batches": "Batches of messages written to Redis.",
    "bytes_received": "Bytes read from Redis.",
    "bytes_sent": "Bytes written to Redis.",
    "channel_full": "Sends refused with ChannelFull.",
    "deliveries": "Messages handed to the channels of this process.",
    "dropped": "Messages that gave way in full mailboxes of this process.",
    "expired": "Messages that expired in mailboxes of this process.",
    "group_sends": "Calls of group_send.",
    "incomplete": "Recoveries that could not prove that nothing is missing.",
    "over_capacity": "Channel keys that a group_send skipped because they were full.",
    "put_back": "Messages put back into Redis because their receiver had gone.",
    "receives": "Messages received.",
    "reconnects": "Connections opened again after a loss.",
    "recorded": "Messages recorded in the histories of groups.",
    "recovered": "Messages that channels or callers had missed and got from histories.",
    "sends": "Calls of send, those refused among them.",
    "server_restarts": "Losses of a connection after which another process of the server answered.",
    "undecodable": "Stored or published messages that could not be decoded and were skipped.",
}

GAUGES = {
    "commands_in_flight": "Commands written to Redis and not yet answered, blocking waits not among them.",
    "connections_open": "Open connections to Redis.",
    "mailbox_bytes": "About the memory that messages take which nobody has received yet.",
    "mailbox_deepest": "Messages that wait for the receiver of one channel, of that which has most.",
    "mailbox_messages": "Messages in this process that nobody has received yet.",
}

#: The name and the text of each histogram of ``Stats``, and the bounds of its buckets. There is one ``round_trips``
#: histogram for each server, which the label ``server`` names.
HISTOGRAMS = {
    "lag": ("lag_seconds", "Time from a send to its receive.", SECONDS),
    "round_trips": ("round_trip_seconds", "Time from a command to its answer.", SECONDS),
    "loop_stalls": ("loop_stall_seconds", "Times for which an event loop stood still.", SECONDS),
    "batch_messages": ("batch_messages", "Messages of one batch written to Redis.", MESSAGES),
}

#: The buckets in seconds that are exported: each one is a separate time series.
TOLD = frozenset(step * 10.0**power for power in range(-4, 2) for step in (1, 2.5, 5))

#: The number in ``stats()`` that is broken down by patterns of group names, and what it counts.
PRESENT, OCCUPANCY = "present", "Channels of this process that are present in groups."

#: A glob, or a compiled pattern.
Pattern = str | re.Pattern[str]

#: Metrics with another name: Prometheus wants the unit at the end, followed only by ``_total``.
METRICS = {"bytes_received": "received_bytes", "bytes_sent": "sent_bytes"}


class Collector:
    """
    A custom collector of prometheus_client for one layer or, with ``add``, several.

    ``layer``: a layer of this package; ``alias``: its name in CHANNEL_LAYERS, the label ``alias``. The label ``layer``
    is ``core``, ``pubsub`` or ``memory``. Use one collector for each registry and add further layers to it, since
    metrics with one name have to come together. ``groups``: globs or compiled patterns of group names, which become the
    label ``groups`` of the metric ``occupancy``. A group counts for the first pattern that matches, or for none.

    Raises ``TypeError`` for a layer of another package, which has no counters.
    """

    def __init__(self, layer: LimitedLayer, alias: str = "default", groups: Iterable[Pattern] = ("*",)) -> None:
        self._layers: dict[str, tuple[LimitedLayer, _Patterns]] = {}
        self.add(layer, alias, groups)

    def add(self, layer: LimitedLayer, alias: str, groups: Iterable[Pattern] = ("*",)) -> None:
        """
        Add another layer's counters to the same metrics.

        Raises ``TypeError`` like the constructor, ``ValueError`` if the alias has already been added.
        """
        if not isinstance(layer, LimitedLayer):
            raise TypeError(f"'{alias}' is not a layer of channels_redis_fast but a {type(layer).__name__}.")
        if alias in self._layers:
            raise ValueError(f"This collector already has a layer '{alias}'.")
        # A new dict: a scrape in another thread may be iterating over the old one.
        self._layers = {**self._layers, alias: (layer, _Patterns(groups))}

    def describe(self) -> Iterator[Metric]:
        """Yield the metrics without values, which tell a registry their names."""
        yield from _families().values()

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics with their current values."""
        families = _families()
        for alias, (layer, patterns) in self._layers.items():
            labels = (alias, layer.layer_name)
            numbers: Mapping[str, Any] = layer.stats()
            measured = layer._stats
            for name, family in families.items():
                if name == "round_trips":
                    for server, histogram in measured.round_trips.items():
                        _add(family, (*labels, server), histogram, SECONDS)
                elif name in HISTOGRAMS:
                    _add(family, labels, getattr(measured, name), HISTOGRAMS[name][2])
                elif name == PRESENT:
                    for pattern, count in patterns.counted(layer.occupancy()).items():
                        family.add_metric((*labels, pattern), count)
                elif name in numbers:
                    family.add_metric(labels, numbers[name])
        yield from families.values()


def _add(family: Any, labels: Sequence[str], histogram: Histogram, bounds: Sequence[float]) -> None:
    """Add a histogram to a metric: for each bound, how many values are not above it."""
    total, counts = histogram.total, list(accumulate(histogram.counts()))
    pairs = zip(bounds, counts, strict=False)
    buckets = [(f"{bound}", count) for bound, count in pairs if bounds is not SECONDS or bound in TOLD]
    family.add_metric(labels, [*buckets, ("+Inf", counts[-1])], sum_value=total)


def _families() -> dict[str, Any]:
    """Return new metrics by their names in ``stats()``."""
    families: dict[str, Any] = {}
    for kind, names in (CounterMetricFamily, COUNTERS), (GaugeMetricFamily, GAUGES):
        for name, text in names.items():
            families[name] = kind(PREFIX + METRICS.get(name, name), text, labels=LABELS)
    for name, (metric, text, _) in HISTOGRAMS.items():
        labels = (*LABELS, "server") if name == "round_trips" else LABELS
        families[name] = HistogramMetricFamily(PREFIX + metric, text, labels=labels)
    families[PRESENT] = GaugeMetricFamily(PREFIX + "occupancy", OCCUPANCY, labels=(*LABELS, "groups"))
    return families


class _Patterns:
    """Patterns of group names, and the counts by pattern: one number for each, however many groups there are."""

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        patterns = list(patterns)
        self._texts = [pattern if isinstance(pattern, str) else pattern.pattern for pattern in patterns]
        # They mean what they mean in ``channel_capacity``; a capacity here is an index into the list.
        self._table = CapacityTable({pattern: place for place, pattern in enumerate(patterns)}, len(patterns))

    def counted(self, by_group: dict[str, int]) -> dict[str, int]:
        """Return the groups' counts, added up by the text of the first pattern that matches."""
        counts: Counter[int] = Counter()
        for group, count in by_group.items():
            counts[self._table.lookup(group)] += count
        return {text: counts[place] for place, text in enumerate(self._texts)}
