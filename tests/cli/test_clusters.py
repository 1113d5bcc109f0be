"""The command line on a Redis Cluster: every primary is looked at, and what is wrong with it is told."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.server import Server, free_port
from channels_redis_fast.cli.check.permissions import check_permissions, scratch_name
from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from channels_redis_fast.survey.servers import are_current, ask_cluster, lines
from tests.cli.conftest import Outcome, Site
from tests.cli.test_check import Found, by_item
from tests.clusters import QUICK, Cluster, Node
from tests.core.helpers import until, within
from tests.places import raw_client, wait_until

Call = Callable[..., Any]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two primaries with a replica each. A test leaves it whole, its primaries being whichever of the four."""
    with Cluster(2, 1, *QUICK) as cluster:
        yield cluster


@pytest.fixture
def site(make_site: Callable[[Any], Site], cluster: Cluster) -> Site:
    """One on the cluster."""
    return make_site(cluster.host)


@pytest.fixture
def check(call: Call, prefix: str) -> Call:
    """Check a cluster of which these servers are named; the findings of the cluster, and of each primary by name."""

    def run(*urls: str, code: int, layer: str = "core", prefix: str = prefix) -> tuple[Found, dict[str, Found]]:
        outcome = call("check", "--json", "--layer", layer, "--prefix", prefix, "--cluster", *urls)
        assert (outcome.code, outcome.err) == (code, "")
        assert "s3cret" not in outcome.out
        whole, *servers = json.loads(outcome.out)["subjects"]
        assert whole["shard"] is None
        assert whole["name"].startswith("cluster:127.0.0.1:")
        assert [subject["shard"] for subject in servers] == list(range(len(servers)))
        return by_item(whole), {subject["name"]: by_item(subject) for subject in servers}

    return run


def labels(nodes: list[Node]) -> list[str]:
    return [f"127.0.0.1:{node.port}" for node in nodes]


def nothing_left(cluster: Cluster, prefix: str) -> bool:
    return not any(list(node.raw.scan_iter(f"{prefix}*")) for node in cluster.primaries)


# Inspect.


def test_inspect_sees_the_keys_of_every_primary(call: Call, cluster: Cluster, site: Site, prefix: str) -> None:
    layer = site.layer()
    for number in range(20):
        site.do(layer.send(f"jobs.{number}", {"type": "x"}))
        site.do(layer.group_add(f"room.{number}", f"specific.x!{number}"))
    # By a replica, which knows as well as anybody.
    (replica,) = cluster.replicas_of(cluster.primaries[0])
    outcome = call("inspect", "--json", "--prefix", prefix, "--cluster", replica.url)
    assert (outcome.code, outcome.err) == (0, "")
    picture = json.loads(outcome.out)
    assert [shard["host"] for shard in picture["shards"]] == labels(cluster.primaries)
    assert [shard["slots"] for shard in picture["shards"]] == [8192, 8192]
    assert all(
        shard["error"] is None and shard["complete"] and shard["role"] == "master" for shard in picture["shards"]
    )
    assert all(shard["connections"]["core:commands"] == 1 for shard in picture["shards"])
    for kind, name, key in (("channels", "channel", "jobs."), ("groups", "group", ":group:room.")):
        seen = {entry[name]: entry["shard"] for entry in picture[kind]}
        assert len(picture[kind]) == 20
        short = "jobs." if kind == "channels" else "room."
        for number in range(20):
            owner = cluster.owner(f"{prefix}{key}{number}")
            assert picture["shards"][seen[f"{short}{number}"]]["host"] == f"127.0.0.1:{owner.port}"
    text = call("inspect", "--prefix", prefix, "--cluster", *cluster.urls[:2]).out
    assert "Primaries of the cluster" in text
    assert re.search(r"^ +0  127\.0\.0\.1:\d+ +\w+ [\d.]+ +primary +8,192 ", text, re.MULTILINE)
    site.do(layer.flush())


@pytest.mark.parametrize("on_cluster", [True, False], ids=["cluster", "sharded"])
def test_inspect_sees_sharded_subscriptions(
    call: Call, cluster: Cluster, own_server: Callable[..., Server], make_site: Call, prefix: str, on_cluster: bool
) -> None:
    where = cluster.host if on_cluster else own_server("--save", "").url
    site = make_site(where)
    layers = [site.layer(RedisPubSubChannelLayer, **({} if on_cluster else {"sharded": True})) for _ in range(2)]
    channels = [site.do(layer.new_channel()) for layer in layers]
    for number in range(12):
        for layer, channel in zip(layers, channels, strict=True):
            site.do(layer.group_add(f"room.{number}", channel))
    named = ["--cluster", *cluster.urls[:2]] if on_cluster else ["--sharded", "--hosts", where]
    picture = json.loads(call("inspect", "--json", "--layer", "pubsub", "--prefix", prefix, *named).out)
    groups = {entry["name"]: entry for entry in picture["subscribed_groups"]}
    assert sorted(groups) == sorted(f"room.{number}" for number in range(12))
    assert {entry["subscribers"] for entry in groups.values()} == {2}
    assert len(picture["subscribed_channels"]) == 2
    if on_cluster:
        assert {entry["shard"] for entry in groups.values()} == {0, 1}
    else:
        # Plain Pub/Sub does not see them.
        plain = json.loads(call("inspect", "--json", "--layer", "pubsub", "--prefix", prefix, "--hosts", where).out)
        assert plain["subscribed_groups"] == []


async def test_who_has_the_slots_is_looked_at_again(cluster: Cluster) -> None:
    layer = RedisChannelLayer(hosts=[cluster.host])
    async with lines(layer, "inspect") as opened:
        assert [line.label for line in opened] == labels(cluster.primaries)
        for line in opened:
            await line.ask((b"PING",))
        assert await within(are_current(opened))
        # In a thread: it waits without an event loop.
        new = await asyncio.to_thread(cluster.failover, cluster.primaries[0])
        assert not await within(are_current(opened))
    async with lines(layer, "inspect") as opened:
        assert opened[0].label == f"127.0.0.1:{new.port}"
        assert not await within(are_current(opened)), "a line that nobody has opened is none to rely on"


async def test_a_key_is_asked_for_where_it_is(cluster: Cluster) -> None:
    async with lines(RedisChannelLayer(hosts=[cluster.host]), "inspect") as opened:
        for number in range(50):
            (line,) = [line for line in opened if line.has(f"key{number}")]
            assert line.label == f"127.0.0.1:{cluster.owner(f'key{number}').port}"
            assert await line.ask((b"TYPE", f"key{number}")) == [b"none"]
        for line in opened:
            # What is tried on a server is tried in one of its slots.
            assert line.label == f"127.0.0.1:{cluster.owner(scratch_name(line, 'asgi', True)).port}"
        other = next(line for line in opened if line is not opened[0])
        name = next(f"key{number}" for number in range(50) if not opened[0].has(f"key{number}"))
        # Asked where it is not, that is the answer, and nobody is told to change the settings.
        (answer, pong) = await opened[0].ask((b"TYPE", name), (b"PING",))
        assert str(other.label) in str(answer)
        assert pong == b"PONG"


# Check.


@pytest.mark.parametrize("layer", ["core", "pubsub"])
def test_a_good_cluster(check: Call, cluster: Cluster, prefix: str, layer: str) -> None:
    whole, servers = check(*cluster.urls[:2], code=0, layer=layer)
    assert {item: level for item, (level, _, _) in whole.items()} == dict.fromkeys(
        ("named servers", "slots", "replicas"), "ok"
    )
    assert "all 16,384 served" in whole["slots"][1]
    assert list(servers) == labels(cluster.primaries)
    for found in servers.values():
        assert {level for level, _, _ in found.values()} <= {"ok", "unseen", "warning" if "latency" in found else "ok"}
        assert found["cluster"][1].startswith("cluster_state is ok, 8,192 slots here")
        assert found["commands"][0] == found["send and receive"][0] == "ok"
    assert nothing_left(cluster, f"{prefix}:check")


RULES = ("~asgi*", "&asgi*", "+@all", "-@admin", "-@dangerous", "+cluster|slots")


@pytest.fixture
def user(cluster: Cluster) -> Iterator[Callable[..., list[str]]]:
    """Make a user with these rules on every server; the URLs of some of them."""

    def make(*rules: str) -> list[str]:
        for node in cluster.nodes:
            node.raw.execute_command("ACL", "SETUSER", "some", "reset", "on", ">s3cret", *RULES, *rules)
        return [url.replace("//", "//some:s3cret@") for url in cluster.urls[:2]]

    yield make
    for node in cluster.nodes:
        node.raw.execute_command("ACL", "DELUSER", "some")


@pytest.mark.parametrize("more", [(), ("+acl",)], ids=["tried", "dry run"])
@pytest.mark.parametrize(
    ("rules", "layer", "level", "text"),
    [
        ((), "core", "ok", "all 21 that the layer needs"),
        ((), "pubsub", "ok", "all 7 that the layer needs"),
        (("-bzpopmin", "-subscribe", "-publish"), "core", "ok", "all 21"),
        (("-subscribe", "-publish"), "pubsub", "ok", "all 7"),
        (("-spublish",), "core", "problem", "may not use SPUBLISH"),
        (("-spublish",), "pubsub", "problem", "may not use SPUBLISH"),
        (("-ssubscribe", "-sunsubscribe"), "core", "problem", "may not use SSUBSCRIBE, SUNSUBSCRIBE"),
        (("-sunsubscribe", "-unlink"), "core", "problem", "may not use SUNSUBSCRIBE"),
        (("resetchannels",), "core", "problem", "may not touch channels that begin with 'asgi'"),
        (("resetkeys", "~other*"), "core", "problem", "may not touch keys that begin with 'asgi'"),
        (("-asking",), "core", "warning", "without ASKING"),
    ],
    ids=str,
)
def test_what_a_user_may_do(
    check: Call,
    cluster: Cluster,
    user: Callable[..., list[str]],
    more: tuple[str, ...],
    rules: tuple[str, ...],
    layer: str,
    level: str,
    text: str,
) -> None:
    _, servers = check(*user(*more, *rules), code=int(level == "problem"), layer=layer, prefix="asgi")
    assert len(servers) == 2
    for found in servers.values():
        assert (found["commands"][0], text in found["commands"][1]) == (level, True), found["commands"]
        assert ("send and receive" in found) is (level != "problem")
    # What was tried is on each server, in a slot of its own, and leaves nothing.
    assert nothing_left(cluster, "asgi:check")


def test_a_user_that_may_not_see_the_slots(check: Call, user: Callable[..., list[str]]) -> None:
    whole, servers = check(*user("-cluster|slots"), code=1, prefix="asgi")
    assert whole["slots"][0] == "problem"
    assert "refuses CLUSTER SLOTS" in whole["slots"][1]
    assert "+cluster|slots" in whole["slots"][2]
    assert all("may not use CLUSTER SLOTS" in found["commands"][1] for found in servers.values())


@pytest.mark.parametrize("rules", [("-spublish",), ("-ssubscribe",)], ids=str)
def test_sharded_on_one_server(call: Call, own_server: Callable[..., Server], rules: tuple[str, ...]) -> None:
    """The sharded commands are asked for, and only where they are used."""
    server = own_server()
    with raw_client(server.port) as raw:
        raw.execute_command("ACL", "SETUSER", "some", "reset", "on", ">s3cret", *RULES, *rules)
    url = server.url.replace("//", "//some:s3cret@")
    for sharded, code in ((["--sharded"], 1), ([], 0)):
        outcome = call("check", "--json", "--layer", "pubsub", *sharded, "--hosts", url)
        (subject,) = json.loads(outcome.out)["subjects"]
        assert outcome.code == code
        assert (f"may not use {rules[0][1:].upper()}" in by_item(subject)["commands"][1]) is bool(code)


def test_a_server_of_a_cluster_named_as_if_it_were_none(call: Call, cluster: Cluster) -> None:
    outcome = call("check", "--hosts", cluster.primaries[0].url)
    assert outcome.code == 1
    assert re.search(r'problem +version .*\n +-> .*"hosts": \[\{"cluster"', outcome.out)


def test_a_server_named_as_if_it_were_of_a_cluster(check: Call, own_server: Callable[..., Server]) -> None:
    whole, servers = check(own_server().url, code=1)
    assert whole["slots"][0] == "problem"
    assert "cluster support disabled" in whole["slots"][1]
    (found,) = servers.values()
    assert found["cluster"][0] == "problem"
    assert "send and receive" not in found


def test_servers_that_are_named(check: Call, cluster: Cluster) -> None:
    whole, _ = check(cluster.urls[0], code=0)
    assert whole["named servers"][0] == "warning"
    assert "only one" in whole["named servers"][1]
    whole, servers = check("redis://127.0.0.1:1", cluster.urls[0], code=0)
    assert whole["named servers"][0] == "warning"
    assert "1 of 2 do not answer CLUSTER SLOTS: 127.0.0.1:1: " in whole["named servers"][1]
    assert len(servers) == 2
    whole, servers = check("redis://127.0.0.1:1", code=1)
    assert whole["slots"][0] == servers["127.0.0.1:1"]["reachability"][0] == "problem"


def test_a_cluster_that_is_broken(check: Call) -> None:
    """No replicas; slots of nobody; a primary that is gone: each is told of where it is seen."""
    with Cluster(2, 0, *QUICK) as cluster:
        first, second = cluster.primaries
        whole, _ = check(*cluster.urls, code=0)
        assert whole["replicas"][0] == "warning"
        assert all(label in whole["replicas"][1] for label in labels([first, second]))
        first("DELSLOTS", *range(10))
        wait_until(lambda: first("INFO")["cluster_state"] == "fail", "the first one misses its slots")
        whole, servers = check(first.url, code=1)
        assert whole["slots"][0] == "problem"
        assert "10 of 16,384 have no server" in whole["slots"][1]
        found = servers[f"127.0.0.1:{first.port}"]
        assert found["cluster"][0] == "problem"
        assert "cluster_state is fail: 10 slots are not assigned" in found["cluster"][1]
        # Nothing is sent there in vain.
        assert "send and receive" not in found
        first("ADDSLOTS", *range(10))
        cluster.settle()
        cluster.kill(second)
        wait_until(lambda: first("INFO")["cluster_state"] == "fail", "the first one misses the second")
        whole, servers = check(first.url, second.url, code=1)
        assert "1 of 2 do not answer" in whole["named servers"][1]
        assert servers[f"127.0.0.1:{second.port}"]["reachability"][0] == "problem"
        assert "8,192 belong to servers that fail" in servers[f"127.0.0.1:{first.port}"]["cluster"][1]


async def test_an_empty_cluster_and_none_at_all(cluster: Cluster, own_server: Callable[..., Server]) -> None:
    told = await within(ask_cluster(RedisChannelLayer(hosts=[cluster.host]), "check"))
    assert [primary.replicas for primary in told.primaries.values()] == [1, 1]
    # The default for the second port is 10,000 further on, where there may be none.
    alone = own_server("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    layer = RedisChannelLayer(hosts=[{"cluster": [alone.url]}])
    told = await within(ask_cluster(layer, "check"))
    assert (told.primaries, told.errors) == ({}, {})
    async with lines(layer, "check", told) as opened:
        assert [(line.label, line.slots) for line in opened] == [(f"127.0.0.1:{alone.port}", None)]


# Bench and tune.


@pytest.mark.parametrize(("layer", "cases"), [("core", ["round_trip", "send"]), ("pubsub", ["fan_out"])])
def test_bench(call: Call, cluster: Cluster, prefix: str, layer: str, cases: list[str]) -> None:
    named = ["--cluster", *cluster.urls[:2], "--prefix", prefix, "--layer", layer]
    outcome = call("bench", "--json", "--seconds", "0.5", "--members", "20", "--case", *cases, *named)
    assert (outcome.code, outcome.err) == (0, "")
    report = json.loads(outcome.out)
    assert report["notes"] == ["channels_redis does not support clusters, so it is not compared."]
    assert sorted(report["cases"]) == sorted(cases)
    assert all(case["fast"]["per_second"]["median"] > 0 for case in report["cases"].values())
    assert nothing_left(cluster, prefix)


def test_tune(call: Call, cluster: Cluster, prefix: str, tmp_path: Path) -> None:
    outcome: Outcome = call(
        "tune", "--cluster", *cluster.urls[:2], "--prefix", prefix, "--output", str(tmp_path), "--rate", "100",
        "--service-time", "1ms", "--capacities", "2,50", "--duration", "1s", "--max-loss", "50%", "--repeats", "0",
    )  # fmt: skip
    assert outcome.err == ""
    sweep = json.loads((tmp_path / "sweep.json").read_text())
    assert sweep["deployment"]["hosts"] == [f"cluster:127.0.0.1:{cluster.nodes[0].port}"]
    for run in sweep["runs"]:
        assert run["unaccounted"] == run["failed"] == 0
        assert run["received"] > 0
        assert run["memory_full"] > 0
    assert nothing_left(cluster, prefix)


def test_tune_from_live(call: Call, cluster: Cluster, site: Site, prefix: str, tmp_path: Path) -> None:
    """What comes to a key is seen on whichever server that is."""
    layer = site.layer(capacity=10_000)
    site.receive(site.layer(), "other")
    # The site's event loop runs only in these calls.
    site.do(until(lambda: any(node.clients("channels_redis_fast:core:subscriber") for node in cluster.primaries)))
    site.do(layer.send("jobs", {"number": -1}))
    stop = threading.Event()

    def send() -> None:
        async def send_all() -> None:
            number, own = 0, RedisChannelLayer(hosts=[cluster.host], prefix=prefix, capacity=10_000)
            while not stop.is_set():
                await own.send("jobs", {"number": (number := number + 1)})
                await asyncio.sleep(0.01)
            await own.close_pools()

        asyncio.run(send_all())

    thread = threading.Thread(target=send)
    thread.start()
    try:
        outcome = call(
            "tune", "--cluster", *cluster.urls[:2], "--prefix", prefix, "--output", str(tmp_path), "--from-live", "1s",
            "--capacities", "50", "--duration", "500ms", "--service-time", "1ms", "--consumers", "1", "--repeats", "0",
        )  # fmt: skip
    finally:
        stop.set()
        thread.join()
    assert outcome.err == ""
    seen = json.loads((tmp_path / "sweep.json").read_text())["sample"]["seen"]
    assert seen["channel"] == "jobs"
    assert seen["arrivals_per_second"] > 5
    assert seen["processes"] == 1
    site.do(layer.flush())


# Histories.


@pytest.mark.parametrize("kind", ["core", "pubsub"])
def test_histories_of_every_primary(call: Call, cluster: Cluster, site: Site, prefix: str, kind: str) -> None:
    """They are listed, each on its own; `flush` removes them all."""
    layers: dict[str, type[Any]] = {"core": RedisChannelLayer, "pubsub": RedisPubSubChannelLayer}
    layer = site.layer(layers[kind], history={"*": {"size": 10, "ttl": 60}})
    groups = {f"room.{number}" for number in range(20)}
    for group in groups:
        site.do(layer.group_send(group, {"type": "x"}))
    url = cluster.primaries[0].url
    picture = json.loads(call("inspect", "--json", "--prefix", prefix, "--layer", kind, "--cluster", url).out)
    assert {history["group"] for history in picture["histories"]} == groups
    assert {history["shard"] for history in picture["histories"]} == {0, 1}
    assert {history["length"] for history in picture["histories"]} == {1}
    site.do(layer.flush())
    assert nothing_left(cluster, prefix)


@pytest.mark.parametrize("kind", [RedisChannelLayer, RedisPubSubChannelLayer])
async def test_what_histories_need_is_tried_on_every_primary(cluster: Cluster, prefix: str, kind: type[Any]) -> None:
    layer = kind(hosts=[cluster.host], prefix=prefix, history={"*": {"size": 10, "ttl": 60}})
    async with lines(layer, "check") as opened:
        assert len(opened) == 2
        for line in opened:
            findings = await within(check_permissions(line, layer))
            assert [finding.level for finding in findings] == ["ok"]
    assert not [key for node in cluster.primaries for key in node.raw.scan_iter(f"{prefix}*history*")]
