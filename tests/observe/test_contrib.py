"""What is made of the metrics: the dashboard, the alert rules, and the site with everything that watches it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.core import CollectorRegistry
from websockets.sync.client import connect

from bench.server import HOST, ForeignServer, Server, free_port
from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.prometheus import Collector
from tests.conftest import ROOT

CONTRIB = ROOT / "contrib"

#: What Prometheus adds to the name of a metric of each type.
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}

#: What Grafana puts in the place of its variables, for a parser that has none.
VARIABLES = {"$__rate_interval": "1m", "$instance": ".*", "$alias": ".*"}


def metrics() -> dict[str, set[str]]:
    """The names under which a scrape has our metrics, with the labels of each."""
    collector = Collector(RedisChannelLayer())
    registry = CollectorRegistry()
    registry.register(collector)
    found = {}
    for family in collector.describe():
        own = {"channels_redis_fast_round_trip_seconds": {"server"}, "channels_redis_fast_occupancy": {"groups"}}
        labels = {"alias", "layer", "instance", "job"} | own.get(family.name, set())
        for suffix in SUFFIXES[family.type]:
            found[family.name + suffix] = labels | ({"le"} if suffix == "_bucket" else set())
    return found


def dashboard() -> Any:
    return json.loads((CONTRIB / "grafana" / "dashboard.json").read_text(encoding="utf-8"))


def rules() -> list[Any]:
    content = yaml.safe_load((CONTRIB / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
    return [rule for group in content["groups"] for rule in group["rules"]]


def queries() -> Iterator[tuple[str, str]]:
    """Where a query stands, and the query."""
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            query = target["expr"]
            for variable, value in VARIABLES.items():
                query = query.replace(variable, value)
            yield panel["title"], query
    for rule in rules():
        yield rule["alert"], rule["expr"]


@pytest.mark.parametrize(("where", "query"), list(queries()))
def test_a_query_means_something(where: str, query: str) -> None:
    """It is PromQL, and asks for metrics and labels that there are."""
    promql_parser.parse(query)
    known = metrics()
    asked = re.findall(r"\bchannels_redis_fast_\w+", query)
    assert asked
    assert set(asked) <= set(known)
    for labels in re.findall(r"\bby \(([^)]*)\)", query):
        assert {label.strip() for label in labels.split(",")} <= set.intersection(*(known[name] for name in asked))


def test_every_metric_is_looked_at() -> None:
    """On the dashboard; a counter that a histogram has as well is there once."""
    shown = {name for panel in dashboard()["panels"] for target in panel["targets"] for name in names(target["expr"])}
    every = {re.sub(r"_(bucket|sum|count)$", "", name) for name in metrics()}
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown} == every


def names(query: str) -> list[str]:
    return re.findall(r"\bchannels_redis_fast_\w+", query)


def test_the_dashboard() -> None:
    board = dashboard()
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    variables = {variable["name"] for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(board))) - {"__rate_interval", "__all"}
    assert used == variables
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)
    assert all(panel["description"].endswith(".") and panel["fieldConfig"]["defaults"]["unit"] for panel in panels)


def test_alert_rules() -> None:
    assert len({rule["alert"] for rule in rules()}) == len(rules()) >= 8
    for rule in rules():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
        assert re.fullmatch(r"\d+m", rule.get("for", "1m"))
        # What a text names the query has kept.
        kept = {label.strip() for labels in re.findall(r"by \(([^)]*)\)", rule["expr"]) for label in labels.split(",")}
        assert set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"]))) <= kept


def test_the_compose_file() -> None:
    """Its services, and that every file that they are given is there; `make wheel` holds it against the schema."""
    compose = yaml.safe_load((CONTRIB / "compose.yaml").read_text(encoding="utf-8"))
    services = compose["services"]
    assert set(services) == {"site", "valkey", "prometheus", "grafana"}
    for service in services.values():
        assert ("image" in service) != ("build" in service)
        assert set(service.get("depends_on", ())) <= set(services)
        for volume in service.get("volumes", ()):
            source, target, mode = volume.split(":")
            assert (CONTRIB / source).exists()
            assert target.startswith("/")
            assert mode == "ro"
        # Nobody but this machine reaches them.
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    build = services["site"]["build"]
    dockerfile = (CONTRIB / build["context"] / build["dockerfile"]).read_text(encoding="utf-8")
    copied = [word for line in re.findall(r"^COPY (.*)$", dockerfile, re.M) for word in line.split()[:-1]]
    if (ROOT / "LICENSE").exists():
        assert [name for name in copied if not (ROOT / name).exists()] == []
    scraped = yaml.safe_load((CONTRIB / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    assert all((CONTRIB / "prometheus" / name).exists() for name in scraped["rule_files"])
    (job,) = scraped["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["site:8000"]}]
    datasource = yaml.safe_load(
        (CONTRIB / "grafana" / "provisioning" / "datasources" / "prometheus.yaml").read_text(encoding="utf-8")
    )
    default = next(variable for variable in dashboard()["templating"]["list"] if variable["name"] == "datasource")
    assert datasource["datasources"][0]["uid"] == default["current"]["value"]
    provider = yaml.safe_load(
        (CONTRIB / "grafana" / "provisioning" / "dashboards" / "dashboards.yaml").read_text(encoding="utf-8")
    )
    folder = provider["providers"][0]["options"]["path"]
    assert any(f":{folder}/dashboard.json:" in volume for volume in services["grafana"]["volumes"])


@pytest.mark.single_server("a site for trying out")
def test_the_site(redis_server: Server | ForeignServer) -> None:
    """It serves the room, and its metrics to Prometheus."""
    port = free_port()
    site = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "room:application", "--host", HOST, "--port", str(port)],
        cwd=CONTRIB / "site",
        env={**os.environ, "REDIS_URL": redis_server.url, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        end = time.monotonic() + 30
        while True:
            try:
                page = get(port, "/")
                break
            except OSError:
                assert site.poll() is None, site.communicate()[0].decode()
                assert time.monotonic() < end
                time.sleep(0.05)
        assert "<h1>Room</h1>" in page
        with connect(f"ws://{HOST}:{port}/", proxy=None) as one, connect(f"ws://{HOST}:{port}/", proxy=None) as other:
            # Joined before it is accepted.
            one.send(json.dumps({"text": "hello"}))
            assert [json.loads(each.recv(10)) for each in (one, other)] == [{"text": "hello"}] * 2
        told = get(port, "/metrics")
        assert 'channels_redis_fast_group_sends_total{alias="default",layer="core"} 1.0' in told
        assert 'channels_redis_fast_lag_seconds_bucket{alias="default",layer="core",le="0.0001"}' in told
    finally:
        site.terminate()
        site.communicate()


def get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://{HOST}:{port}{path}", timeout=10) as answer:
        return str(answer.read().decode())
