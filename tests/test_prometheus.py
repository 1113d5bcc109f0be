"""What Prometheus is told of layers, in its own text format."""

from __future__ import annotations

import importlib
import re
import sys
from typing import Any

import pytest
from channels.exceptions import ChannelFull
from channels.layers import InMemoryChannelLayer
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import DuplicateTimeseries

from bench.server import ForeignServer, Server
from channels_redis_fast import memory
from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.prometheus import TOLD, Collector
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from channels_redis_fast.stats import SECONDS
from tests.conftest import ROOT
from tests.core.helpers import within


@pytest.fixture
async def layers(redis_server: Server | ForeignServer, prefix: str) -> Any:
    """A core and a Pub/Sub layer."""
    made = [kind(hosts=[redis_server.url], prefix=prefix) for kind in (RedisChannelLayer, RedisPubSubChannelLayer)]
    yield made
    for layer in made:
        await layer.close_pools()


def scraped(registry: CollectorRegistry) -> dict[tuple[str, str, str], float]:
    """By metric, alias and layer, what a scrape gives."""
    return {
        (sample.name, sample.labels["alias"], sample.labels["layer"]): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
        if family.type != "histogram"
    }


async def test_what_a_layer_counts_is_told(layers: list[Any]) -> None:
    core, _ = layers
    registry = CollectorRegistry(auto_describe=True)
    registry.register(Collector(core))
    for n in range(3):
        await core.send("jobs", {"n": n})
    await within(core.receive("jobs"))
    values = scraped(registry)
    assert values["channels_redis_fast_sends_total", "default", "core"] == 3
    assert values["channels_redis_fast_receives_total", "default", "core"] == 1
    assert values["channels_redis_fast_connections_open", "default", "core"] == 2
    assert ("channels_redis_fast_commands_in_flight", "default", "core") in values
    assert values["channels_redis_fast_sent_bytes_total", "default", "core"] == core.stats()["bytes_sent"] > 0
    await core.send("jobs", {"n": 4})
    assert scraped(registry)["channels_redis_fast_sends_total", "default", "core"] == 4


@pytest.mark.parametrize("which", [0, 1])
async def test_nothing_that_is_counted_is_left_out(layers: list[Any], which: int) -> None:
    """And nothing is told twice: as many metrics as numbers, each with a type and a text."""
    layer = layers[which]
    families = list(Collector(layer).collect())
    assert len(families) == len({family.name for family in families}) == len(layer.stats())
    assert all(family.documentation.endswith(".") for family in families)
    assert all(len(family.samples) == 1 for family in families if family.type != "histogram")
    gauges = {family.name.removeprefix("channels_redis_fast_") for family in families if family.type == "gauge"}
    mailboxes = {"mailbox_bytes", "mailbox_deepest", "mailbox_messages"}
    assert gauges == {"connections_open", "commands_in_flight", "occupancy"} | mailboxes
    measured = {family.name.removeprefix("channels_redis_fast_") for family in families if family.type == "histogram"}
    assert measured == {"batch_messages", "lag_seconds", "loop_stall_seconds", "round_trip_seconds"}
    assert {family.type for family in families} == {"counter", "gauge", "histogram"}


async def test_histograms(layers: list[Any]) -> None:
    """Buckets that add up, with the bounds that are told; round trips by server."""
    core, _ = layers
    for value in (0.00005, 0.0002, 0.00025, 0.3, 2000.0):
        core._stats.lag.add(value)
    await core.send("jobs", {})
    registry = CollectorRegistry(auto_describe=True)
    registry.register(Collector(core))
    # The strict one knows what a histogram has to be.
    families = {family.name: family for family in parse_openmetrics(generate_openmetrics(registry).decode())}
    lag = {
        sample.labels.get("le", sample.name.rpartition("_")[2]): sample.value
        for sample in families["channels_redis_fast_lag_seconds"].samples
    }
    assert set(lag) == {f"{bound}" for bound in sorted(TOLD)} | {"+Inf", "count", "sum"}
    assert (lag["0.0001"], lag["0.00025"], lag["0.5"], lag["50.0"], lag["+Inf"]) == (1, 3, 4, 4, 5)
    assert lag["count"] == 5
    assert lag["sum"] == pytest.approx(2000.3005)
    assert set(SECONDS) > TOLD
    samples = families["channels_redis_fast_round_trip_seconds"].samples
    assert {sample.labels["server"] for sample in samples} == set(core.stats()["round_trips"])
    batches = families["channels_redis_fast_batch_messages"].samples
    assert [sample.value for sample in batches if sample.labels.get("le") == "1.0"] == [1]


@pytest.mark.parametrize("kind", [RedisChannelLayer, RedisPubSubChannelLayer])
async def test_who_is_present_is_told_by_patterns(redis_server: Server | ForeignServer, prefix: str, kind: Any) -> None:
    layer = kind(hosts=[redis_server.url], prefix=prefix, presence={"lease": 30})
    registry = CollectorRegistry()
    registry.register(Collector(layer, groups=("room.*", re.compile("lob+y"))))
    channels = [await layer.new_channel() for _ in range(3)]
    for group in ("room.1", "room.2", "lobby", "elsewhere"):
        for user, channel in enumerate(channels):
            await layer.presence_join(group, channel, user)
    await layer.presence_leave("room.1", channels[0])
    samples = [sample for family in registry.collect() for sample in family.samples if "groups" in sample.labels]
    assert {sample.labels["groups"]: sample.value for sample in samples} == {"room.*": 5, "lob+y": 3}
    assert layer.occupancy() == {"room.1": 2, "room.2": 3, "lobby": 3, "elsewhere": 3}
    assert layer.stats()["present"] == 11
    await layer.flush()
    assert (layer.occupancy(), layer.stats()["present"]) == ({}, 0)


async def test_the_documentation_names_every_metric(layers: list[Any]) -> None:
    registry = CollectorRegistry()
    registry.register(Collector(layers[0]))
    text = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `(channels_redis_fast_\w+)`", text, re.MULTILINE)
    told = {family.name + ("_total" if family.type == "counter" else "") for family in registry.collect()}
    assert sorted(documented) == sorted(told)


async def test_several_layers_in_one_registry(layers: list[Any]) -> None:
    """Each metric once, as both text formats demand, with a sample for each layer."""
    core, pubsub = layers
    registry = CollectorRegistry(auto_describe=True)
    collector = Collector(core, "default")
    registry.register(collector)
    collector.add(pubsub, "live")
    await core.send("jobs", {})
    await pubsub.group_send("room", {})
    values = scraped(registry)
    assert values["channels_redis_fast_sends_total", "default", "core"] == 1
    assert values["channels_redis_fast_sends_total", "live", "pubsub"] == 0
    assert values["channels_redis_fast_group_sends_total", "live", "pubsub"] == 1
    text = generate_latest(registry).decode()
    assert text.count("# TYPE channels_redis_fast_sends_total counter") == 1
    # The strict one.
    [sends] = [
        family
        for family in parse_openmetrics(generate_openmetrics(registry).decode())
        if family.name == "channels_redis_fast_sends"
    ]
    assert len(sends.samples) == 2


async def test_a_second_collector_is_refused(layers: list[Any]) -> None:
    registry = CollectorRegistry()
    registry.register(Collector(layers[0]))
    with pytest.raises(DuplicateTimeseries):
        registry.register(Collector(layers[1], "live"))


async def test_a_layer_in_memory() -> None:
    layer = memory.InMemoryChannelLayer(capacity=1, presence={})
    registry = CollectorRegistry(auto_describe=True)
    registry.register(Collector(layer))
    await layer.send("jobs", {"type": "work"})
    with pytest.raises(ChannelFull):
        await layer.send("jobs", {"type": "work"})
    await layer.presence_join("room", await layer.new_channel(), 5)
    values = scraped(registry)
    assert values["channels_redis_fast_sends_total", "default", "memory"] == 2
    assert values["channels_redis_fast_channel_full_total", "default", "memory"] == 1
    assert values["channels_redis_fast_mailbox_messages", "default", "memory"] == 1
    assert values["channels_redis_fast_occupancy", "default", "memory"] == 1
    await layer.receive("jobs")
    assert scraped(registry)["channels_redis_fast_receives_total", "default", "memory"] == 1


async def test_what_is_no_layer_of_ours_or_there_already(layers: list[Any]) -> None:
    with pytest.raises(TypeError, match="'memory' is not a layer of channels_redis_fast but a InMemoryChannelLayer"):
        Collector(InMemoryChannelLayer(), "memory")
    collector = Collector(layers[0])
    with pytest.raises(ValueError, match="already has a layer 'default'"):
        collector.add(layers[1], "default")


def test_without_prometheus_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that says what to install."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "prometheus_client"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "channels_redis_fast.prometheus")
    with pytest.raises(ImportError) as raised:
        importlib.import_module("channels_redis_fast.prometheus")
    assert str(raised.value) == (
        "channels_redis_fast.prometheus needs prometheus_client: pip install channels-redis-fast[prometheus]"
    )
