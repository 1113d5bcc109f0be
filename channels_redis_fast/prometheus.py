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

from collections.abc import Iterator

from .base import RedisLayer

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
    "incomplete": "Histories read for a channel that was away and not proven to be complete.",
    "over_capacity": "Channel keys that a group_send skipped because they were full.",
    "put_back": "Messages put back into Redis because their receiver had gone.",
    "receives": "Messages received.",
    "reconnects": "Connections opened again after a loss.",
    "recorded": "Messages kept in the history of their group.",
    "recovered": "Messages read from a history for a channel that was away.",
    "sends": "Calls of send, those refused among them.",
    "undecodable": "Stored or published messages that could not be decoded and were skipped.",
}

GAUGES = {
    "commands_in_flight": "Commands written to Redis and not yet answered, blocking waits not among them.",
    "connections_open": "Open connections to Redis.",
}

#: Where the metric has another name: Prometheus wants the unit at the end, with nothing behind it but ``_total``.
METRICS = {"bytes_received": "received_bytes", "bytes_sent": "sent_bytes"}


class Collector:
    """
    A custom collector of prometheus_client for one layer or, with ``add``, several.

    ``layer``: a core or Pub/Sub layer of this package; ``alias``: its name in CHANNEL_LAYERS, the label ``alias``. The
    label ``layer`` is ``core`` or ``pubsub``. One registry takes one collector, since metrics of one name have to
    come together: further layers are added to it.

    Raises ``TypeError`` for a layer of another package, which has no counters.
    """

    def __init__(self, layer: RedisLayer, alias: str = "default") -> None:
        self._layers: dict[str, RedisLayer] = {}
        self.add(layer, alias)

    def add(self, layer: RedisLayer, alias: str) -> None:
        """
        Have one more layer's counters in the same metrics.

        Raises ``TypeError`` as the constructor does, ``ValueError`` for an alias that is there already.
        """
        if not isinstance(layer, RedisLayer):
            raise TypeError(f"'{alias}' is no layer of channels_redis_fast but a {type(layer).__name__}.")
        if alias in self._layers:
            raise ValueError(f"This collector has a layer '{alias}' already.")
        # A new dict: a scrape in another thread may be going through the old one.
        self._layers = {**self._layers, alias: layer}

    def describe(self) -> Iterator[Metric]:
        """Give the metrics without values, by which a registry knows them."""
        yield from _families().values()

    def collect(self) -> Iterator[Metric]:
        """Give the metrics with the values of this moment."""
        families = _families()
        for alias, layer in self._layers.items():
            for name, value in layer.stats().items():
                if name in families:
                    families[name].add_metric((alias, layer.layer_name), value)
        yield from families.values()


def _families() -> dict[str, CounterMetricFamily | GaugeMetricFamily]:
    """Return new metrics by the name that ``stats()`` has for them."""
    families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
    for kind, names in (CounterMetricFamily, COUNTERS), (GaugeMetricFamily, GAUGES):
        for name, text in names.items():
            families[name] = kind(PREFIX + METRICS.get(name, name), text, labels=LABELS)
    return families
