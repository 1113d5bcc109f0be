"""`inspect`: everything that is in Redis and nothing that is not, within a budget, and without leaving a trace."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from redis.exceptions import BusyLoadingError, MasterDownError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from bench.server import ForeignServer, Server
from channels_redis_fast.cli.texts import duration, size
from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from channels_redis_fast.survey import entries as inspected
from channels_redis_fast.survey import reasons
from channels_redis_fast.survey.snapshot import printable
from tests.cli.conftest import Site
from tests.conftest import ROOT
from tests.core.helpers import on_database
from tests.history.recording import stream_of
from tests.places import PASSWORDS, Certificates, wait_until

Call = Callable[..., Any]

LAYERS: dict[str, type[Any]] = {"core": RedisChannelLayer, "pubsub": RedisPubSubChannelLayer}
CORE = "channels_redis_fast.core.RedisChannelLayer"


@pytest.fixture
def raw(redis_server: Server | ForeignServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


@pytest.fixture
def look(call: Call, redis_server: Server | ForeignServer, prefix: str) -> Call:
    """Inspect the shared server under this test's prefix; the picture as a program gets it."""

    def inspect(*arguments: str, code: int = 0) -> dict[str, Any]:
        outcome = call("inspect", "--json", "--hosts", redis_server.url, "--prefix", prefix, *arguments)
        assert (outcome.code, outcome.err) == (code, "")
        picture: dict[str, Any] = json.loads(outcome.out)
        return picture

    return inspect


# The core layer.


def test_the_shape_of_the_json(look: Call, site: Site, raw: redis.Redis, prefix: str) -> None:
    """As docs/command-line.md has it: a field that goes, or changes its name, breaks somebody's dashboard."""
    layer = site.layer()
    site.do(layer.send("email", {"type": "send"}))
    site.do(layer.group_add("room", "email"))
    raw.zadd(f"{prefix}email$inflight", {"x": 1})
    raw.xadd(f"{prefix}:history:{{{prefix}:group:room}}", {"h": "x"})
    raw.zadd(f"{prefix}:leases", {"living": time.time() + 60, "dead": 1})
    raw.hset(f"{prefix}:presence:{{{prefix}:group:room}}", "i5", "")
    picture = look()
    assert picture["leases"] == [{"shard": 0, "held": 1, "overdue": 1}]
    assert {name: type(value).__name__ for name, value in picture.items()} == {
        "shape": "int",
        "deployment": "str",
        "layer": "str",
        "prefix": "str",
        "at": "float",
        "shards": "list",
        "channels": "list",
        "groups": "list",
        "histories": "list",
        "presences": "list",
        "leases": "list",
        "leftovers": "list",
        "subscribed_groups": "list",
        "subscribed_channels": "list",
    }
    told = (ROOT / "docs" / "command-line.md").read_text()
    for name in ("shards", "channels", "groups", "histories", "presences", "leases", "leftovers"):
        assert picture[name], name
        for entry in picture[name]:
            for field in entry:
                assert f"`{field}`" in told, f"{name}: {field} is not in docs/command-line.md"


def test_channels(look: Call, site: Site, raw: redis.Redis, prefix: str) -> None:
    layer = site.layer(capacity=100)
    for n in range(50):
        site.do(layer.send("email", {"n": n}))
    channel = site.do(layer.new_channel())
    site.do(layer.send(channel, {"type": "hello"}))
    now = time.time()
    # One that has waited for long, and one that waits no more.
    raw.zadd(f"{prefix}old", {b"x" * 12 + b"\x80": now - 30, b"y" * 12 + b"\x80": now - 100})
    raw.expire(f"{prefix}old", 50)
    seen = {entry["channel"]: entry for entry in look()["channels"]}
    assert set(seen) == {"email", "old", channel.split("!")[0] + "!"}
    email = seen["email"]
    assert (email["shard"], email["depth"], email["expired"], email["capacity"], email["fill"]) == (0, 50, 0, 100, 0.5)
    assert 0 <= email["oldest_seconds"] < 60
    assert email["bytes"] > 50 * 12
    assert 0 < email["expires_in_seconds"] <= 60
    assert email["readable"] is True
    old = seen["old"]
    assert (old["depth"], old["expired"], old["fill"]) == (2, 1, 0.01)
    assert 100 <= old["oldest_seconds"] < 160
    assert seen[channel.split("!")[0] + "!"]["readable"] is True


def test_the_capacity_is_that_of_the_full_name(project: Call, redis_server: Server | ForeignServer, site: Site) -> None:
    """Redis has the name up to the `!`; what goes by the whole of it is in the message."""
    layer = site.layer()
    channel = site.do(layer.new_channel("http.response"))
    other = site.do(layer.new_channel("other"))
    for name in (channel, other, "email"):
        site.do(layer.send(name, {"type": "hello"}))
    config = {"hosts": [redis_server.url], "prefix": layer.prefix}
    lines = (
        f"import re; CHANNEL_LAYERS['chat']['CONFIG']['channel_capacity'] = {{re.compile({channel!r}): 7, 'email': 1}}"
    )
    run = project({"chat": {"BACKEND": CORE, "CONFIG": config}}, lines)
    outcome = run("inspect", "--alias", "chat", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    picture = json.loads(outcome.out)
    assert picture["deployment"] == "CHANNEL_LAYERS['chat']"
    found = {entry["channel"].split(".")[0]: (entry["capacity"], entry["fill"]) for entry in picture["channels"]}
    assert found == {"email": (1, 1.0), "http": (7, 1 / 7), "other": (100, 0.01)}
    # The fullest come first.
    assert picture["channels"][0]["channel"] == "email"
    text = run("inspect", "--alias", "chat").out
    assert "Channels: 3 keys with 3 messages, 1 full" in text
    assert re.search(r"email +0 +1 +- +1 +100%", text)


def test_groups(look: Call, site: Site, raw: redis.Redis, prefix: str) -> None:
    layer = site.layer(group_expiry=1000)
    for n in range(3):
        site.do(layer.group_add("room", f"specific.x!{n}"))
    site.do(layer.group_add("other", "specific.x!0"))
    raw.zadd(f"{prefix}:group:room", {"specific.x!gone": time.time() - 86400 - 5})
    groups = look()["groups"]
    assert [(group["group"], group["members"], group["expired"]) for group in groups] == [
        ("room", 4, 1),
        ("other", 1, 0),
    ]
    assert all(0 < group["expires_in_seconds"] <= 1000 for group in groups)
    assert all(group["bytes"] > 0 for group in groups)


@pytest.mark.parametrize("kind", ["core", "pubsub"])
def test_histories(
    look: Call, call: Call, redis_server: Server | ForeignServer, site: Site, raw: redis.Redis, prefix: str, kind: str
) -> None:
    layer = site.layer(LAYERS[kind], history={"*": {"size": 100, "ttl": 500}})
    for group in ("room", "lobby"):
        site.do(layer.group_history(group))
    raw.xadd(stream_of(layer, "room").key, {"h": "x", "m": "y" * 50_000})
    raw.expire(stream_of(layer, "lobby").key, 100)
    # Of the other layer, or of groups that a subclass names otherwise; one without end; and what is none.
    raw.xadd(f"{prefix}:history:{{mine}}", {"h": "x"}, id="5-5")
    raw.set(f"{prefix}:history:{{{prefix}:group:text}}", "x")
    picture = look("--layer", kind)
    assert picture["shards"][0]["refused"] == []
    found = {history["group"]: history for history in picture["histories"]}
    assert set(found) == {"room", "lobby", f"{prefix}:history:{{mine}}"}
    assert {history["shard"] for history in picture["histories"]} == {0}
    # The largest comes first.
    assert picture["histories"][0]["group"] == "room"
    assert (found["room"]["length"], found["lobby"]["length"]) == (2, 1)
    assert found["room"]["bytes"] > 50_000
    assert 0 <= found["room"]["oldest_seconds"] < 60
    assert 400 < found["room"]["expires_in_seconds"] <= 501
    assert 0 < found["lobby"]["expires_in_seconds"] <= 100
    mine = found[f"{prefix}:history:{{mine}}"]
    assert mine["expires_in_seconds"] is None
    assert mine["oldest_seconds"] > 1_000_000_000
    leftovers = {(entry["kind"], entry["key"].removeprefix(prefix)) for entry in picture["leftovers"]}
    assert leftovers == {("no expiry", ":history:{mine}"), ("not a stream", f":history:{{{prefix}:group:text}}")}
    text = call("inspect", "--hosts", redis_server.url, "--prefix", prefix, "--layer", kind, "--top", "2").out
    assert "Histories: 3 with 4 entries" in text
    assert "and 1 more, smaller" in text


@pytest.mark.parametrize("kind", ["core", "pubsub"])
def test_presence(
    look: Call, call: Call, redis_server: Server | ForeignServer, site: Site, raw: redis.Redis, prefix: str, kind: str
) -> None:
    layer = site.layer(LAYERS[kind], presence={"lease": 30})
    for group, count in (("room", 3), ("lobby", 1)):
        for user in range(count):
            site.do(layer.presence_join(group, site.do(layer.new_channel()), user if user else None))
    raw.set(f"{prefix}:presence:{{{prefix}:group:text}}", "x")
    picture = look("--layer", kind)
    assert picture["shards"][0]["refused"] == []
    assert [presence["group"] for presence in picture["presences"]] == ["room", "lobby"]
    assert [(presence["users"], presence["processes"]) for presence in picture["presences"]] == [(3, 1), (1, 1)]
    for presence in picture["presences"]:
        assert presence["shard"] == 0
        assert presence["bytes"] > 0
        assert 80_000 < presence["expires_in_seconds"] <= 86_400
    assert picture["leases"] == [{"shard": 0, "held": 1, "overdue": 0}]
    assert [entry["kind"] for entry in picture["leftovers"]] == ["not a hash"]
    text = call("inspect", "--hosts", redis_server.url, "--prefix", prefix, "--layer", kind, "--top", "1").out
    assert "Presence: 4 users in 2 groups" in text
    assert "and 1 more, with fewer" in text


@pytest.mark.parametrize("kind", ["core", "pubsub"])
def test_the_budget_is_that_of_histories_too(call: Call, own_server: Callable[..., Server], kind: str) -> None:
    server = own_server()
    with redis.Redis(port=server.port) as raw:
        pipeline = raw.pipeline()
        between = ":group:" if kind == "core" else "__group__"
        for n in range(2000):
            pipeline.xadd(f"asgi:history:{{asgi{between}room{n}}}", {"h": "x", "m": "y" * 100})
            pipeline.expire(f"asgi:history:{{asgi{between}room{n}}}", 60)
        pipeline.execute()
        raw.config_resetstat()
        arguments = ("inspect", "--hosts", server.url, "--layer", kind)
        picture = json.loads(call(*arguments, "--json", "--max-keys", "700").out)
        calls = {name: stat["calls"] for name, stat in raw.info("commandstats").items()}
        (shard,) = picture["shards"]
        assert (shard["keys"], shard["keys_examined"], shard["complete"]) == (2000, 700, False)
        assert 500 <= len(picture["histories"]) <= 1000
        assert picture["histories"][0]["group"].startswith("room")
        assert calls["cmdstat_scan"] == 2
        assert not {"cmdstat_keys", "cmdstat_xadd", "cmdstat_evalsha", "cmdstat_expire"} & set(calls)
        assert "stopped after 700 of 2,000 keys" in call(*arguments, "--max-keys", "700").out


def test_leftovers(look: Call, call: Call, redis_server: Server | ForeignServer, raw: redis.Redis, prefix: str) -> None:
    raw.zadd(f"{prefix}email$inflight", {"x": 1, "y": 2})
    raw.zadd(f"{prefix}forever", {"x": time.time()})
    raw.zadd(f"{prefix}:group:forever", {"x": time.time()})
    raw.lpush(f"{prefix}list", "x")
    raw.zadd(f"{prefix}2:group:room", {"x": 1})
    raw.zadd(f"{prefix}two!parts", {"x": 1})
    raw.set(f"{prefix}bad \xff\x1b[31m", 1)
    raw.zadd(f"{prefix}:wake:{'0' * 32}", {"1": 1})
    picture = look()
    found = {(entry["kind"], entry["key"].removeprefix(prefix), entry["members"]) for entry in picture["leftovers"]}
    assert found == {
        ("inflight", "email$inflight", 2),
        ("no expiry", "forever", 1),
        ("no expiry", ":group:forever", 1),
        ("not a sorted set", "list", None),
        ("foreign", "2:group:room", 1),
        ("foreign", "two!parts", 1),
        ("foreign", "bad \xff\\x1b[31m", None),
    }
    # What is a channel or a group nevertheless is among these too.
    assert [entry["channel"] for entry in picture["channels"]] == ["forever"]
    assert [entry["group"] for entry in picture["groups"]] == ["forever"]
    text = call("inspect", "--hosts", redis_server.url, "--prefix", prefix).out
    assert "\x1b" not in text
    for kind in ("inflight", "no expiry", "not a sorted set", "foreign"):
        assert f"Leftovers, {kind}: " in text


def test_messages_of_others(look: Call, site: Site) -> None:
    """Encrypted, where these settings know of no key: that is said of the channel, and nothing fails."""
    sealed = site.layer(symmetric_encryption_keys=["k" * 32])
    site.do(sealed.send("email", {"type": "send"}))
    (channel,) = look()["channels"]
    assert channel["readable"] is False


def test_messages_that_only_time_makes_unreadable(look: Call, raw: redis.Redis, prefix: str) -> None:
    raw.zadd(f"{prefix}email", {b"garbage": time.time() - 100})
    (channel,) = look()["channels"]
    assert channel["readable"] is None


def test_nothing(look: Call, call: Call, redis_server: Server | ForeignServer, prefix: str) -> None:
    picture = look()
    assert picture["channels"] == picture["groups"] == picture["leftovers"] == []
    text = call("inspect", "--hosts", redis_server.url, "--prefix", prefix).out
    assert "no messages are waiting" in text
    assert "Groups: none" in text


def test_a_shard(call: Call, own_server: Callable[..., Server], make_site: Callable[[str], Site]) -> None:
    server = own_server()
    site = make_site(server.url)
    layers = [site.layer(), site.layer()]
    for layer in layers:
        site.do(layer.send("other", {}))
    for channel in (site.do(layer.new_channel()), "general"):
        site.receive(layer, channel)

    def look() -> dict[str, Any]:
        # The receiver connects by itself, behind the scenes.
        site.do(asyncio.sleep(0.01))
        shard: dict[str, Any] = json.loads(call("inspect", "--json", "--hosts", server.url).out)["shards"][0]
        return shard

    # It does not count itself.
    wait_until(lambda: look()["connections"] == {"core:commands": 2, "core:receiver": 1}, "everybody is there")
    shard = look()
    assert shard["server"] in ("redis", "valkey")
    assert re.match(r"\d+\.\d+", shard["version"])
    assert shard["role"] == "master"
    assert shard["error"] is None
    assert shard["complete"] is True
    assert shard["refused"] == []
    for name in ("memory", "clients", "keys"):
        assert shard[name] > 0, name
    for name in ("max_memory", "operations_per_second", "keys_examined", "nameless_receivers"):
        assert shard[name] >= 0, name


def test_connections_that_a_site_names(call: Call, own_server: Callable[..., Server]) -> None:
    server = own_server()
    with redis.Redis(port=server.port, client_name="mine") as named, redis.Redis(port=server.port) as nameless:
        named.ping()
        receiving = nameless.connection_pool.get_connection()
        try:
            receiving.send_command("BZPOPMIN", "nothing", 30)
            wait_until(lambda: any(client["cmd"] == "bzpopmin" for client in named.client_list()), "it waits")
            out = call("inspect", "--json", "--hosts", f"{server.url}?client_name=mine").out
        finally:
            receiving.disconnect()
    (shard,) = json.loads(out)["shards"]
    # The tool's own takes that name too, and does not count itself.
    assert shard["connections"] == {"mine": 1}
    assert shard["nameless_receivers"] == 1


def test_several_shards(
    call: Call, own_server: Callable[..., Server], make_site: Callable[[str], Site], prefix: str
) -> None:
    """Databases of one server are as good as servers, and are told apart, connections and all."""
    server = own_server()
    site = make_site(server.url)
    urls = [on_database(server.url, number) for number in (1, 2)]
    layer = site.layer(hosts=urls)
    for n in range(6):
        site.do(layer.send("email", {"n": n}))
    picture = json.loads(call("inspect", "--json", "--prefix", prefix, "--hosts", *urls).out)
    assert [(entry["shard"], entry["depth"]) for entry in picture["channels"]] == [(0, 3), (1, 3)]
    assert [shard["connections"] for shard in picture["shards"]] == [{"core:commands": 1}] * 2


# Nobody is disturbed.


def test_the_budget(call: Call, own_server: Callable[..., Server]) -> None:
    server = own_server()
    with redis.Redis(port=server.port) as raw:
        pipeline = raw.pipeline()
        for n in range(3000):
            pipeline.zadd(f"asgichannel{n}", {"x": time.time()})
            pipeline.expire(f"asgichannel{n}", 60)
        pipeline.execute()
        raw.config_resetstat()
        outcome = call("inspect", "--json", "--hosts", server.url, "--max-keys", "700")
        calls = {name: stat["calls"] for name, stat in raw.info("commandstats").items()}
        picture = json.loads(outcome.out)
        (shard,) = picture["shards"]
        assert (shard["keys"], shard["keys_examined"], shard["complete"]) == (3000, 700, False)
        # SCAN may give somewhat more than it was asked for.
        assert 500 <= len(picture["channels"]) <= 1000
        assert calls["cmdstat_scan"] == 2
        assert "cmdstat_keys" not in calls
        text = call("inspect", "--hosts", server.url, "--max-keys", "700", "--top", "3").out
        assert "stopped after 700 of 3,000 keys" in text
        assert re.search(r"and [\d,]+ more, less full", text)
        whole = json.loads(call("inspect", "--json", "--hosts", server.url).out)
        assert len({channel["channel"] for channel in whole["channels"]}) == len(whole["channels"]) == 3000
        assert whole["shards"][0]["complete"] is True


def test_it_writes_nothing(call: Call, own_server: Callable[..., Server]) -> None:
    server = own_server()
    with redis.Redis(port=server.port) as raw:
        raw.zadd("asgiemail", {"x": time.time() - 1000})
        raw.zadd("asgi:group:room", {"x": 1})
        raw.zadd("asgiemail$inflight", {"x": 1})
        raw.config_resetstat()
        before = raw.info("persistence")["rdb_changes_since_last_save"]
        assert call("inspect", "--hosts", server.url).code == 0
        assert call("inspect", "--hosts", server.url, "--layer", "pubsub").code == 0
        assert raw.info("persistence")["rdb_changes_since_last_save"] == before
        assert raw.zcard("asgiemail") == raw.zcard("asgi:group:room") == raw.zcard("asgiemail$inflight") == 1
        called = {name.removeprefix("cmdstat_") for name in raw.info("commandstats")}
        assert not {"publish", "subscribe", "keys", "evalsha", "eval"} & called


def test_large_messages_are_asked_for_one_by_one() -> None:
    """And many small ones at once, also where the server does not tell sizes."""

    def parts(count: int, size: int | None) -> list[int]:
        entries = [inspected.Entry(b"%d" % n, 2, size, None) for n in range(count)]
        split = inspected.by_size(entries)
        assert [entry for part in split for entry in part] == entries
        return [len(part) for part in split]

    assert parts(3, 1_800_000) == [1, 1, 1]
    assert parts(3, 200_000_000) == [1, 1, 1]
    assert parts(100, 1000) == [100]
    assert parts(150, None) == [100, 50]
    assert parts(0, None) == []


# Who may see what.


def test_a_user_that_may_not_see_everything(call: Call, acl_server: Server) -> None:
    url = f"redis://chan:{PASSWORDS['chan']}@127.0.0.1:{acl_server.port}"
    outcome = call("inspect", "--hosts", url)
    assert (outcome.code, outcome.err) == (0, "")
    assert "the server refuses INFO, CLIENT LIST" in outcome.out
    assert PASSWORDS["chan"] not in outcome.out
    (shard,) = json.loads(call("inspect", "--json", "--hosts", url).out)["shards"]
    assert shard["refused"] == ["INFO", "CLIENT LIST"]
    assert shard["memory"] is shard["connections"] is None
    # It has that from HELLO.
    assert re.match(r"\d+\.\d+", shard["version"])


def test_a_user_that_may_see_nothing(call: Call, own_server: Callable[..., Server]) -> None:
    server = own_server()
    with redis.Redis(port=server.port) as raw:
        raw.acl_setuser("blind", enabled=True, passwords="+s3cret", commands=["+ping"])
        outcome = call("inspect", "--json", "--hosts", f"redis://blind:s3cret@127.0.0.1:{server.port}")
        assert outcome.code == 0
        (shard,) = json.loads(outcome.out)["shards"]
        assert shard["refused"] == ["INFO", "CLIENT LIST", "SCAN"]
        raw.acl_setuser("short", enabled=True, passwords="+s3cret", keys="*", commands=["+@all", "-memory", "-zrange"])
        raw.zadd("asgiemail", {"x": time.time()})
        outcome = call("inspect", "--json", "--hosts", f"redis://short:s3cret@127.0.0.1:{server.port}")
        picture = json.loads(outcome.out)
        assert picture["shards"][0]["refused"] == ["MEMORY USAGE", "ZRANGE"]
        (channel,) = picture["channels"]
        assert (channel["depth"], channel["bytes"], channel["oldest_seconds"]) == (1, None, None)


def test_hosts_that_do_not_answer(call: Call, redis_server: Server | ForeignServer, prefix: str) -> None:
    """What can be seen is shown; the exit code says that this is not all."""
    dead = "redis://user:s3cret@127.0.0.1:1"
    outcome = call("inspect", "--json", "--prefix", prefix, "--hosts", redis_server.url, dead)
    assert outcome.code == 1
    assert "s3cret" not in outcome.out + outcome.err
    alive, gone = json.loads(outcome.out)["shards"]
    assert alive["error"] is None
    assert "127.0.0.1:1" in gone["error"]
    outcome = call("inspect", "--prefix", prefix, "--hosts", dead)
    assert outcome.code == 1
    assert "not reachable" in outcome.out
    assert "no messages" not in outcome.out
    assert "s3cret" not in outcome.out + outcome.err


def test_tls(call: Call, tls_server: Server, certificates: Certificates) -> None:
    url = f"rediss://127.0.0.1:{tls_server.port}?ssl_ca_certs={certificates.ca}"
    assert call("inspect", "--json", "--hosts", url).code == 0
    assert call("inspect", "--json", "--hosts", f"rediss://127.0.0.1:{tls_server.port}").code == 1


# Pub/Sub.


def test_pubsub(call: Call, redis_server: Server | ForeignServer, site: Site, prefix: str) -> None:
    layers = [site.layer(RedisPubSubChannelLayer) for _ in range(2)]
    names = []
    for layer in layers:
        names.append(site.do(layer.new_channel()))
        site.do(layer.group_add("room", names[-1]))
    site.do(layers[0].group_add("other", names[0]))
    arguments = ["--layer", "pubsub", "--prefix", prefix, "--hosts", redis_server.url]
    picture = json.loads(call("inspect", "--json", *arguments).out)
    groups = [(entry["name"], entry["subscribers"]) for entry in picture["subscribed_groups"]]
    assert groups == [("room", 2), ("other", 1)]
    channels = {(entry["name"], entry["subscribers"]) for entry in picture["subscribed_channels"]}
    assert channels == {(name, 1) for name in names}
    (shard,) = picture["shards"]
    assert shard["connections"]["pubsub:subscriber"] >= 2
    assert shard["complete"] is True
    text = call("inspect", *arguments).out
    assert "Groups: 2" in text
    assert "General channels have no prefix" in text
    # Groups go first when not all may be counted.
    picture = json.loads(call("inspect", "--json", "--max-keys", "2", *arguments).out)
    assert (len(picture["subscribed_groups"]), len(picture["subscribed_channels"])) == (2, 0)
    assert picture["shards"][0]["complete"] is False
    assert "--max-keys" in call("inspect", "--max-keys", "2", *arguments).out


def test_pubsub_where_it_may_not_be_seen(call: Call, own_server: Callable[..., Server]) -> None:
    server = own_server()
    with redis.Redis(port=server.port) as raw:
        raw.acl_setuser("some", enabled=True, passwords="+s3cret", keys="*", commands=["+@all", "-pubsub"])
        outcome = call("inspect", "--layer", "pubsub", "--hosts", f"redis://some:s3cret@127.0.0.1:{server.port}")
    assert outcome.code == 0
    assert "the server refuses PUBSUB CHANNELS" in outcome.out


# Watching.


def test_watching_ends_with_ctrl_c(redis_server: Server | ForeignServer, prefix: str) -> None:
    command = [sys.executable, "-m", "channels_redis_fast", "inspect", "--watch", "0.1", "--json"]
    command += ["--hosts", redis_server.url, "--prefix", prefix]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        pictures = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert pictures[0]["at"] < pictures[1]["at"] < pictures[2]["at"]
    # Whole lines, up to the last one.
    assert all(json.loads(line) for line in out.splitlines())


def test_watching_goes_on_without_the_server(own_server: Callable[..., Server]) -> None:
    """It says at once that the server is gone, however long the layer would wait for it."""
    server = own_server()
    command = [sys.executable, "-m", "channels_redis_fast", "inspect", "--watch", "0.1", "--json"]
    command += ["--hosts", f"{server.url}?socket_timeout=600"]

    def until(is_error: bool) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if (json.loads(line)["shards"][0]["error"] is not None) is is_error:
                return
        raise AssertionError("it ended")

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        too_late = threading.Timer(60, process.kill)
        too_late.start()
        try:
            until(False)
            server.kill()
            until(True)
            server.restart()
            until(False)
        finally:
            too_late.cancel()
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)
    assert process.returncode == 0


def test_watching_on_a_terminal(redis_server: Server | ForeignServer, site: Site, prefix: str) -> None:
    """A screen of its own while it runs; the last picture stays behind it."""
    pty = pytest.importorskip("pty")
    site.do(site.layer().send("email", {}))
    command = [sys.executable, "-m", "channels_redis_fast", "inspect", "--watch", "0.1", "--hosts", redis_server.url]
    main_end, end = pty.openpty()
    try:
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
        with subprocess.Popen(
            [*command, "--prefix", prefix], stdin=end, stdout=end, stderr=end, cwd=ROOT, env=environment
        ) as process:
            os.close(end)
            text = b""
            while b"email" not in text:
                text += os.read(main_end, 65536)
            process.send_signal(signal.SIGINT)
            # The end of a terminal is an error, on Linux.
            with contextlib.suppress(OSError):
                while more := os.read(main_end, 65536):
                    text += more
            assert process.wait(30) == 0
    finally:
        os.close(main_end)
    on_screen, _, behind = text.partition(b"\x1b[?1049l")
    assert b"\x1b[?1049h" in on_screen
    assert b"email" in on_screen
    assert b"email" in behind


@pytest.mark.parametrize(
    "arguments", [["--watch", "0"], ["--watch", "x"], ["--top", "0"], ["--max-keys", "0"], ["--max-keys", "x"]], ids=str
)
def test_wrong_numbers(call: Call, arguments: list[str]) -> None:
    assert call("inspect", "--hosts", "redis://localhost", *arguments).code == 2


# Texts.


def test_numbers_for_people() -> None:
    assert [size(n) for n in (None, 0, 999, 1000, 123_456, 5_500_000, 10**12)] == [
        "?",
        "0 B",
        "999 B",
        "1 kB",
        "123 kB",
        "5.5 MB",
        "1 TB",
    ]
    assert [duration(n) for n in (None, 0.00123, 0.25, 3.14, 59.6, 600, 86400)] == [
        "-",
        "1.23 ms",
        "250 ms",
        "3.1 s",
        "60 s",
        "10 min",
        "24.0 h",
    ]


def test_names_from_redis_disturb_no_terminal() -> None:
    assert printable("r\xe4um".encode()) == "r\xe4um"
    assert printable(b"\xff\x1b[31m\n") == "\\xff\\x1b[31m\\n"


# Why not.


def test_reasons(call: Call, acl_server: Server, own_server: Callable[..., Server], tls_server: Server) -> None:
    """A password that is missing or wrong is not a server that cannot be reached."""
    where = f"127.0.0.1:{acl_server.port}"
    server = own_server()
    with redis.Redis(port=server.port) as raw:
        raw.acl_setuser("nowhere", enabled=True, passwords="+s3cret", commands=["+@all", "-select"])
    urls = {
        f"redis://{where}": reasons.NO_PASSWORD,
        f"redis://chan:wr0ng-s3cret@{where}": reasons.WRONG_PASSWORD,
        f"redis://:s3cret@127.0.0.1:{server.port}": reasons.UNWANTED_PASSWORD,
        f"redis://nowhere:s3cret@127.0.0.1:{server.port}/1": reasons.NOT_PERMITTED,
        f"redis://127.0.0.1:{tls_server.port}": reasons.TLS,
        f"rediss://127.0.0.1:{tls_server.port}": reasons.TLS,
        f"rediss://127.0.0.1:{server.port}": reasons.TLS,
        "redis://no-such-name.invalid": reasons.UNKNOWN_NAME,
        "redis://127.0.0.1:1": reasons.NOT_REACHABLE,
    }
    outcome = call("inspect", "--hosts", *urls)
    assert outcome.code == 1
    assert "s3cret" not in outcome.out + outcome.err
    for number, reason in enumerate(urls.values()):
        assert re.search(rf"^ +{number}  \S+ +{reason} *$", outcome.out, re.MULTILINE), reason


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (BusyLoadingError("Redis is loading the dataset in memory"), reasons.LOADING),
        (
            MasterDownError("Link with MASTER is down and replica-serve-stale-data is set to 'no'."),
            reasons.PRIMARY_DOWN,
        ),
        (ResponseError("NOPERM User x has no permissions to run the 'select' command"), reasons.NOT_PERMITTED),
        (ConnectionError("127.0.0.1:6379 is a replica, not a primary"), reasons.REPLICA),
        (ConnectionError("max number of clients reached"), reasons.FULL),
        (OSError("Connection reset by peer"), reasons.NOT_REACHABLE),
    ],
)
def test_reasons_by_the_cause(cause: Exception, reason: str) -> None:
    error = RedisConnectionError("127.0.0.1:6379: no luck")
    error.__cause__ = cause
    assert reasons.reason_of(error) == reason


def test_a_role_is_called_by_one_word(call: Call, redis_server: Server | ForeignServer, prefix: str) -> None:
    out = call("inspect", "--hosts", redis_server.url, "--prefix", prefix).out
    assert "primary" in out
    assert "master" not in out
