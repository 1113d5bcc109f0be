"""
The counters of layers for Prometheus; of the extra ``[prometheus]``.

    from channels.layers import get_channel_layer
    from prometheus_client import REGISTRY
    from channels_redis_fast.prometheus import Collector

    REGISTRY.register(Collector(get_channel_layer()))

Reads ``layer.stats()`` when somebody scrapes, in whatever thread that happens, and asks Redis nothing. Knows what the
counters are called there and here, not what counts them.

These are numbers of one process, and each process has to be scraped: at a port of its own, or through a push gateway.
prometheus_client's multiprocess mode (PROMETHEUS_MULTIPROC_DIR) writes its own metrics to files and takes no custom
collectors, so these are missing there. A forked child goes on counting from its parent's numbers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from .base import RedisLayer
from .hot import CapacityTable

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
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
    "undecodable": "Stored or published messages that could not be decoded and were skipped.",
}

GAUGES = {
    "commands_in_flight": "Commands written to Redis and not yet answered, blocking waits not among them.",
    "connections_open": "Open connections to Redis.",
}

#: The number of ``stats()`` that is told apart by patterns of group names, and what it counts.
PRESENT, OCCUPANCY = "present", "Channels of this process that are present in groups."

#: A glob, or a compiled pattern.
Pattern = str | re.Pattern[str]

#: Where the metric has another name: Prometheus wants the unit at the end, with nothing behind it but ``_total``.
METRICS = {"bytes_received": "received_bytes", "bytes_sent": "sent_bytes"}


class Collector:
    """
    A custom collector of prometheus_client for one layer or, with ``add``, several.

    ``layer``: a core or Pub/Sub layer of this package; ``alias``: its name in CHANNEL_LAYERS, the label ``alias``. The
    label ``layer`` is ``core`` or ``pubsub``. One registry takes one collector, since metrics of one name have to
    come together: further layers are added to it. ``groups``: globs or compiled patterns of group names, which are the
    label ``groups`` of the metric ``occupancy``; a group counts for the first that matches, and for none otherwise.

    Raises ``TypeError`` for a layer of another package, which has no counters.
    """

    def __init__(self, layer: RedisLayer, alias: str = "default", groups: Iterable[Pattern] = ("*",)) -> None:
        self._layers: dict[str, tuple[RedisLayer, _Patterns]] = {}
        self.add(layer, alias, groups)

    def add(self, layer: RedisLayer, alias: str, groups: Iterable[Pattern] = ("*",)) -> None:
        """
        Have one more layer's counters in the same metrics.

        Raises ``TypeError`` as the constructor does, ``ValueError`` for an alias that is there already.
        """
        if not isinstance(layer, RedisLayer):
            raise TypeError(f"'{alias}' is no layer of channels_redis_fast but a {type(layer).__name__}.")
        if alias in self._layers:
            raise ValueError(f"This collector has a layer '{alias}' already.")
        # A new dict: a scrape in another thread may be going through the old one.
        self._layers = {**self._layers, alias: (layer, _Patterns(groups))}

    def describe(self) -> Iterator[Metric]:
        """Give the metrics without values, by which a registry knows them."""
        yield from _families().values()

    def collect(self) -> Iterator[Metric]:
        """Give the metrics with the values of this moment."""
        families = _families()
        for alias, (layer, patterns) in self._layers.items():
            for name, value in layer.stats().items():
                if name in families and name != PRESENT:
                    families[name].add_metric((alias, layer.layer_name), value)
            for pattern, count in patterns.counted(layer.occupancy()).items():
                families[PRESENT].add_metric((alias, layer.layer_name, pattern), count)
        yield from families.values()


def _families() -> dict[str, CounterMetricFamily | GaugeMetricFamily]:
    """Return new metrics by the name that ``stats()`` has for them."""
    families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
    for kind, names in (CounterMetricFamily, COUNTERS), (GaugeMetricFamily, GAUGES):
        for name, text in names.items():
            families[name] = kind(PREFIX + METRICS.get(name, name), text, labels=LABELS)
    families[PRESENT] = GaugeMetricFamily(PREFIX + "occupancy", OCCUPANCY, labels=(*LABELS, "groups"))
    return families


class _Patterns:
    """Patterns of group names, and what is counted by them: one number for each, however many groups there are."""

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        patterns = list(patterns)
        self._texts = [pattern if isinstance(pattern, str) else pattern.pattern for pattern in patterns]
        # They mean what they mean in ``channel_capacity``; a capacity here is a place in the list.
        self._table = CapacityTable({pattern: place for place, pattern in enumerate(patterns)}, len(patterns))

    def counted(self, by_group: dict[str, int]) -> dict[str, int]:
        """Return the numbers of groups by the text of the first pattern that matches them."""
        counts: Counter[int] = Counter()
        for group, count in by_group.items():
            counts[self._table.lookup(group)] += count
        return {text: counts[place] for place, text in enumerate(self._texts)}
