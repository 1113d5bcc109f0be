"""`check`: each thing that can be wrong is told, once, with its fix; and what is right is called right."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis
from django.test import override_settings

from bench.server import ForeignServer, Server, start_server
from channels_redis_fast.cli import deployment
from channels_redis_fast.cli.check import history, reach
from channels_redis_fast.cli.check.server import check_clock, check_facts
from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.survey.server_facts import Facts
from tests.cli.conftest import Site
from tests.core.helpers import LIMIT, on_database
from tests.places import Certificates, SentinelSet, raw_client, wait_until

Call = Callable[..., Any]
#: Level, text and fix by item, of one subject.
Found = dict[str, tuple[str, str, str]]

CORE = "channels_redis_fast.core.RedisChannelLayer"
PUBSUB = "channels_redis_fast.pubsub.RedisPubSubChannelLayer"

CORE_ITEMS = {
    "reachability": "ok",
    "authentication": "ok",
    "TLS": "ok",
    "version": "ok",
    "role": "ok",
    "maxmemory": "ok",
    "clients": "ok",
    "commands": "ok",
    "clock": "ok",
    "connections": "ok",
    "peers' settings": "unseen",
    "send and receive": "ok",
}


LEVELS = ("unseen", "ok", "warning", "problem")


class Upside(RedisChannelLayer):
    """A site's layer with a serializer that does not bring back what was sent."""

    def deserialize(self, message: bytes) -> dict[str, Any]:
        return {**super().deserialize(message), "text": "something else"}


@pytest.fixture
def check(call: Call, prefix: str) -> Call:
    """Check these hosts under this test's prefix; return the findings of each shard, and the exit code."""

    def run(*urls: str, code: int, prefix: str = prefix, layer: str = "core") -> list[Found]:
        outcome = call("check", "--json", "--layer", layer, "--prefix", prefix, "--hosts", *urls)
        assert (outcome.code, outcome.err) == (code, "")
        assert "s3cret" not in outcome.out
        report = json.loads(outcome.out)
        assert report["has_problem"] is bool(code)
        return [by_item(subject) for subject in report["subjects"]]

    return run


def by_item(subject: dict[str, Any]) -> Found:
    """The findings by item; of several, the worst."""
    return {
        finding["item"]: (finding["level"], finding["text"], finding["fix"])
        for finding in sorted(subject["findings"], key=lambda finding: LEVELS.index(finding["level"]))
    }


def levels(found: Found) -> dict[str, str]:
    """The levels by item, but for that of latency: this machine may be as slow as it likes."""
    return {item: level for item, (level, _, _) in found.items() if item != "latency"}


# All is well.


def test_a_good_server(check: Call, own_server: Callable[..., Server]) -> None:
    server = own_server()
    (found,) = check(server.url, code=0)
    assert levels(found) == CORE_ITEMS
    assert re.match(r"(redis|valkey) \d+\.\d+", found["version"][1])
    assert "without a password" in found["authentication"][1]
    assert "for a PING" in found["latency"][1]
    (found,) = check(server.url, code=0, layer="pubsub")
    assert levels(found) == CORE_ITEMS


def test_nothing_stays_behind(check: Call, own_server: Callable[..., Server], prefix: str) -> None:
    server = own_server()
    for layer in ("core", "pubsub"):
        check(server.url, code=0, layer=layer)
    with redis.Redis(port=server.port) as raw:
        # What wakes a receiver goes away by itself.
        assert all(key.startswith(f"{prefix}:wake:".encode()) and raw.ttl(key) > 0 for key in raw.scan_iter())


def test_the_shape_of_the_json(call: Call, redis_server: Server | ForeignServer, prefix: str) -> None:
    report = json.loads(call("check", "--json", "--prefix", prefix, "--hosts", redis_server.url).out)
    assert list(report) == ["shape", "has_problem", "deployment", "layer", "prefix", "at", "subjects"]
    assert (report["shape"], report["layer"], report["prefix"]) == (1, "core", prefix)
    (subject,) = report["subjects"]
    assert list(subject) == ["shard", "name", "findings"]
    assert subject["shard"] == 0
    assert all(list(finding) == ["level", "item", "text", "fix"] for finding in subject["findings"])


def test_what_a_person_sees(call: Call, redis_server: Server | ForeignServer, prefix: str) -> None:
    outcome = call("check", "--prefix", prefix, "--hosts", redis_server.url, "redis://user:s3cret@127.0.0.1:1")
    assert (outcome.code, outcome.err) == (1, "")
    assert re.search(r"^ok +version +(redis|valkey) ", outcome.out, re.MULTILINE)
    assert re.search(r"^problem +reachability ", outcome.out, re.MULTILINE)
    assert re.search(r"^ +-> Nothing listens there", outcome.out, re.MULTILINE)
    assert re.search(r"\d+ ok, \d+ warnings?, 1 problem", outcome.out)
    assert "s3cret" not in outcome.out


def test_several_shards(check: Call, own_server: Callable[..., Server]) -> None:
    """A message goes through each; one that cannot be reached leaves the others checked."""
    server = own_server()
    urls = [on_database(server.url, number) for number in range(3)]
    for layer in ("core", "pubsub"):
        assert all(found["send and receive"][0] == "ok" for found in check(*urls, code=0, layer=layer))
        dead, *others = check("redis://127.0.0.1:1", *urls, code=1, layer=layer)
        assert levels(dead) == {"reachability": "problem"}
        assert all(found["send and receive"][0] == "ok" for found in others)


# The way there.


def test_ways_that_lead_nowhere(check: Call) -> None:
    """The reason is the first thing that one wants to know, and what to do the second."""
    cases = {
        "redis://user:s3cret@127.0.0.1:1": "Nothing listens there",
        "redis://user:s3cret@no-such-name.invalid": "The host name is unknown",
        "unix:///nowhere/redis.sock": "There is no such socket",
    }
    for (url, fix), found in zip(cases.items(), check(*cases, code=1), strict=True):
        assert levels(found) == {"reachability": "problem"}, url
        assert fix in found["reachability"][2], url


def test_tls_on_one_side_only(check: Call, tls_server: Server, own_server: Callable[..., Server]) -> None:
    """Each of these fails in a way of its own, and never with what it is."""
    plain = own_server()
    wrong, other = check(
        f"redis://user:s3cret@127.0.0.1:{tls_server.port}", f"rediss://user:s3cret@127.0.0.1:{plain.port}", code=1
    )
    for found, text, fix in (
        (wrong, "the server speaks TLS on this port", "Use rediss:// in hosts[0]"),
        (other, "the server does not speak TLS on this port", "Use redis:// in hosts[1]"),
    ):
        assert levels(found) == {"reachability": "ok", "TLS": "problem"}
        assert text in found["TLS"][1]
        assert fix in found["TLS"][2]


def test_a_host_that_never_answers(check: Call) -> None:
    """As behind a firewall, and as a server without TLS that waits for the rest of what it takes for a command."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        plain, tls = check(
            f"redis://127.0.0.1:{port}?socket_connect_timeout=0.2",
            f"rediss://127.0.0.1:{port}?socket_connect_timeout=0.2",
            code=1,
        )
    assert "firewall" in plain["reachability"][2]
    assert "TLS" not in plain["reachability"][2]
    assert "does not speak TLS there" in tls["reachability"][2]


def test_a_server_that_is_full(check: Call, own_server: Callable[..., Server]) -> None:
    server = own_server("--maxclients", "10")
    others: list[socket.socket] = []

    def is_full() -> bool:
        """Whether ten are in, after one more attempt: who looked whether it is up may not be out yet."""
        other = socket.create_connection(("127.0.0.1", server.port), LIMIT)
        try:
            other.sendall(b"PING\r\n")
            is_in = other.recv(64).startswith(b"+PONG")
        except OSError:
            is_in = False
        if is_in:
            others.append(other)
        else:
            other.close()
        return len(others) == 10

    try:
        wait_until(is_full, "ten clients are in")
        (found,) = check(server.url, code=1)
    finally:
        for other in others:
            other.close()
    assert levels(found) == {"reachability": "problem"}


def test_passwords(check: Call, acl_server: Server, users_server: Server) -> None:
    where = f"127.0.0.1:{acl_server.port}"
    wrong, none, one = check(
        f"redis://chan:wr0ng-s3cret@{where}", f"redis://{where}", users_server.url.replace("//", "//:s3cret@"), code=1
    )
    for found in (wrong, none, one):
        assert levels(found) == {"reachability": "ok", "authentication": "problem"}
    assert "ACL GETUSER" in wrong["authentication"][2]
    assert "Add user and password to hosts[1]" in none["authentication"][2]
    assert "remove it from hosts[2]" in one["authentication"][2]


def test_tls(check: Call, tls_server: Server, certificates: Certificates) -> None:
    url = f"rediss://127.0.0.1:{tls_server.port}?ssl_ca_certs="
    good, nameless, careless, stranger, unknown = check(
        f"{url}{certificates.ca}&ssl_check_hostname=True",
        f"{url}{certificates.ca}&ssl_check_hostname=False",
        f"rediss://127.0.0.1:{tls_server.port}?ssl_cert_reqs=none&ssl_check_hostname=False",
        f"{url}{certificates.stranger}",
        f"rediss://127.0.0.1:{tls_server.port}",
        code=1,
    )
    assert good["TLS"][0] == "ok"
    assert re.match(r"TLSv1\.\d, certificate verified$", good["TLS"][1])
    # That of the tests lives for a day.
    assert (good["certificate"][0], good["send and receive"][0]) == ("warning", "ok")
    assert re.match(r"expires in 2\d hours", good["certificate"][1])
    assert nameless["TLS"][0] == careless["TLS"][0] == "warning"
    assert "ssl_check_hostname=True" in nameless["TLS"][2]
    assert "ssl_cert_reqs='required'" in careless["TLS"][2]
    for found in (stranger, unknown):
        assert levels(found) == {"reachability": "ok", "TLS": "problem"}
        assert "ssl_ca_certs" in found["TLS"][2]


def test_a_password_without_tls() -> None:
    """Nothing here is on another machine, so this is asked of what would be said."""

    class AnyLine:
        encryption, where = None, "hosts[0]"

    line: Any = AnyLine()
    for host, level in (
        ({"host": "redis-1", "password": "s3cret"}, "warning"),
        ({"address": "redis://:s3cret@redis-1"}, "warning"),
        ({"host": "redis-1"}, "ok"),
        ({"host": "127.0.0.1", "password": "s3cret"}, "ok"),
        ({"path": "/redis.sock", "password": "s3cret"}, "ok"),
    ):
        (finding,) = reach._protection(line, host)
        assert finding.level == level
        assert "s3cret" not in finding.text + finding.fix


# The server.


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"redis_version": "4.0.14"}, ("version", "problem")),
        ({"redis_version": "5.0.0"}, ("version", "ok")),
        ({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "9.1.0"}, ("version", "ok")),
        ({"server": "redis", "version": "7.0.15", "mode": "standalone", "role": "master"}, ("version", "ok")),
        ({"redis_version": "7.0.15", "redis_mode": "cluster"}, ("version", "problem")),
        ({"valkey_version": "9.1.2", "server_name": "valkey", "server_mode": "cluster"}, ("version", "problem")),
        ({}, ("version", "unseen")),
        ({"role": "slave"}, ("role", "problem")),
        ({"role": "replica"}, ("role", "problem")),
        ({"role": "master"}, ("role", "ok")),
        ({}, ("maxmemory", "unseen")),
        ({"maxmemory": "0", "maxmemory_policy": "allkeys-lru"}, ("maxmemory", "ok")),
        ({"maxmemory": "100", "used_memory": "50", "maxmemory_policy": "noeviction"}, ("maxmemory", "ok")),
        ({"maxmemory": "100", "used_memory": "91", "maxmemory_policy": "noeviction"}, ("maxmemory", "warning")),
        ({"maxmemory": "100", "used_memory": "5", "maxmemory_policy": "volatile-ttl"}, ("maxmemory", "warning")),
        ({"connected_clients": "50", "maxclients": "100"}, ("clients", "ok")),
        ({"connected_clients": "91", "maxclients": "100"}, ("clients", "warning")),
    ],
    ids=str,
)
def test_what_a_server_says_of_itself(info: dict[str, str], expected: tuple[str, str]) -> None:
    findings = list(check_facts(Facts(info=info), "messages and groups"))
    assert expected in {finding.item: finding.level for finding in findings}.items()
    assert all(finding.fix for finding in findings if finding.level in ("warning", "problem"))


def test_a_server_that_throws_things_away(check: Call, own_server: Callable[..., Server]) -> None:
    server = own_server("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    (found,) = check(server.url, code=0)
    level, text, fix = found["maxmemory"]
    assert level == "warning"
    assert "with allkeys-lru" in text
    assert "noeviction" in fix
    assert check(server.url, code=0, layer="pubsub")[0]["maxmemory"][0] == "ok"


def test_a_replica(check: Call, own_server: Callable[..., Server]) -> None:
    server = own_server()
    with redis.Redis(port=server.port) as raw:
        # Of nobody, which is enough to be one.
        raw.replicaof("127.0.0.1", "1")
        (found,) = check(server.url, code=1)
    assert found["role"][0] == "problem"
    assert "send and receive" not in found


class Ahead:
    """A line to a server whose clock goes so many seconds ahead."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def ask(self, *commands: Any) -> list[Any]:
        now = time.time() + self._seconds
        return [[b"%d" % now, b"%06d" % (now % 1 * 1e6)] for _ in commands]


@pytest.mark.parametrize(
    ("seconds", "is_core", "level"),
    [
        (0.0, True, "ok"),
        (0.5, True, "ok"),
        (-20.0, True, "warning"),
        (20.0, True, "warning"),
        (70.0, True, "problem"),
        (-70.0, True, "problem"),
        (-70.0, False, "ok"),
    ],
)
async def test_clocks(seconds: float, is_core: bool, level: str) -> None:
    line: Any = Ahead(seconds)
    finding = await check_clock(line, 60.0, is_core)
    assert finding.level == level
    if seconds:
        assert ("ahead of" if seconds > 0 else "behind") in finding.text


# What the user may do.


@pytest.fixture(scope="module")
def users_server() -> Iterator[Server]:
    with start_server() as server:
        yield server


@pytest.fixture
def user(users_server: Server) -> Callable[..., str]:
    """Make a user with these rules; the URL."""

    def make(*rules: str) -> str:
        with redis.Redis(port=users_server.port) as raw:
            raw.execute_command("ACL", "SETUSER", "some", "reset", "on", ">s3cret", *rules)
        return f"redis://some:s3cret@127.0.0.1:{users_server.port}"

    return make


#: A user as docs/hosts.md has it.
SAFE = ("~asgi*", "&asgi*", "+@all", "-@admin", "-@dangerous")


@pytest.mark.parametrize("layer", ["core", "pubsub"])
def test_a_user_that_may_do_what_is_needed(check: Call, user: Callable[..., str], layer: str) -> None:
    (found,) = check(user(*SAFE), code=0, prefix="asgi", layer=layer)
    assert found["commands"][0] == found["send and receive"][0] == "ok"
    assert "tried on" in found["commands"][1]
    # What it may not see is no failure, and not called right either.
    assert found["connections"][0] == "unseen"
    assert found["maxmemory"][0] == ("unseen" if layer == "core" else "ok")
    (found,) = check(user(*SAFE, "+acl"), code=0, prefix="asgi", layer=layer)
    assert "ACL DRYRUN" in found["commands"][1]


@pytest.mark.parametrize("more", [(), ("+acl",)], ids=["tried", "dry run"])
@pytest.mark.parametrize(
    ("rules", "layer", "level", "text", "fix"),
    [
        (("-zadd", "-bzpopmin"), "core", "problem", "may not use ZADD, BZPOPMIN", "ACL SETUSER some +zadd +bzpopmin"),
        (("-bzpopmin", "-unlink"), "core", "problem", "may not use BZPOPMIN", "ACL SETUSER some +bzpopmin"),
        (("-eval", "-evalsha"), "core", "warning", "without EVALSHA, EVAL: sends take", "some +evalsha +eval"),
        (("-scan",), "core", "warning", "without SCAN: flush() fails", "some +scan"),
        (("-unlink",), "core", "warning", "without UNLINK: flush() fails", "some +unlink"),
        (("-client|setname",), "core", "warning", "no name in CLIENT LIST", "some +client|setname"),
        (("resetkeys", "~other*"), "core", "problem", "may not touch keys that begin with 'asgi'", "~asgi*"),
        (("-subscribe",), "pubsub", "problem", "may not use SUBSCRIBE", "some +subscribe"),
        (("-publish", "-unsubscribe"), "pubsub", "problem", "may not use PUBLISH, UNSUBSCRIBE", "+publish"),
        (("resetchannels", "&other*"), "pubsub", "problem", "may not touch channels that begin with", "&asgi*"),
    ],
    ids=str,
)
def test_a_user_that_may_not(
    check: Call,
    user: Callable[..., str],
    users_server: Server,
    more: tuple[str, ...],
    rules: tuple[str, ...],
    layer: str,
    level: str,
    text: str,
    fix: str,
) -> None:
    url = user(*SAFE, *more, *rules)
    (found,) = check(url, code=int(level == "problem"), prefix="asgi", layer=layer)
    assert found["commands"][0] == level
    assert text in found["commands"][1]
    assert fix in found["commands"][2]
    # What was tried leaves nothing behind, and is in the way of nothing else.
    with redis.Redis(port=users_server.port) as raw:
        assert not list(raw.scan_iter("asgi:check:*"))
    assert found["clock"][0] == "ok"
    # A message is sent where that may succeed, and nowhere else.
    assert ("send and receive" in found) is (level == "warning")
    if level == "warning":
        assert found["send and receive"][0] == "ok"


def test_a_command_that_the_server_does_not_have(check: Call, own_server: Callable[..., Server]) -> None:
    server = own_server("--rename-command", "BZPOPMIN", "")
    (found,) = check(server.url, code=1)
    assert found["commands"][0] == "problem"
    assert "the server has no BZPOPMIN" in found["commands"][1]


def test_sentinel(check_alias: Call, prefix: str) -> None:
    with SentinelSet() as sentinels:
        host = sentinels.host
        check = check_alias(
            {
                "default": {"BACKEND": CORE, "CONFIG": {"hosts": [host], "prefix": prefix}},
                "wrong": {"BACKEND": CORE, "CONFIG": {"hosts": [{**host, "master_name": "nothing"}], "prefix": prefix}},
            }
        )
        _, shard = check("default", 0)
        assert shard["name"].startswith("mymaster at 127.0.0.1:")
        assert levels(by_item(shard))["send and receive"] == "ok"
        _, shard = check("wrong", 1)
        assert "master_name" in by_item(shard)["reachability"][2]


# Who else is there.


def test_peers(check: Call, redis_server: Server | ForeignServer, site: Site, prefix: str) -> None:
    site.do(site.layer().send("jobs", {}))
    (found,) = check(redis_server.url, code=0)
    assert found["peers' settings"][:2] == ("ok", "the oldest messages of 1 channel can be read with these settings")
    sealed = site.layer(symmetric_encryption_keys=["k" * 32])
    site.do(sealed.send("email", {}))
    (found,) = check(redis_server.url, code=1)
    assert found["peers' settings"][0] == "problem"
    assert "1 of 2 oldest messages cannot be read (email)" in found["peers' settings"][1]
    # Which is no reason not to try.
    assert found["send and receive"][0] == "ok"


@pytest.mark.parametrize(
    ("key", "item", "level"),
    [("email$inflight", "leftovers", "warning"), ("email", "leftovers", "warning"), ("2:group:x", "prefix", "warning")],
)
def test_leftovers(
    check: Call, own_server: Callable[..., Server], prefix: str, key: str, item: str, level: str
) -> None:
    server = own_server()
    with redis.Redis(port=server.port) as raw:
        raw.zadd(f"{prefix}{key}", {b"x" * 12 + b"\x80": time.time()})
        (found,) = check(server.url, code=0)
        assert found[item][0] == level
        assert f"{prefix}{key}" in found[item][1]
        assert found[item][2]


def test_a_mixed_fleet(check: Call, own_server: Callable[..., Server], prefix: str) -> None:
    """A backup queue is none left over while somebody may need it."""
    server = own_server()
    with raw_client(server.port) as raw, raw_client(server.port) as another:
        raw.zadd(f"{prefix}email$inflight", {"x": time.time()})
        receiving = another.connection_pool.get_connection()
        receiving.send_command("BZPOPMIN", "nothing", 30)
        wait_until(lambda: any(client["cmd"] == "bzpopmin" for client in raw.client_list()), "it waits")
        (found,) = check(server.url, code=0)
        receiving.disconnect()
    assert "leftovers" not in found
    assert "probably of channels_redis: 1 (both can run side by side)" in found["connections"][1]


def test_connections(check: Call, own_server: Callable[..., Server], make_site: Callable[[str], Site]) -> None:
    server = own_server()
    site = make_site(server.url)
    layer = site.layer()
    site.do(layer.send("other", {}))
    site.receive(layer, "general")
    (found,) = check(server.url, code=0)
    assert "core:commands 1" in found["connections"][1]
    assert "check" not in found["connections"][1]


# Settings.


@pytest.fixture
def check_alias(call: Call, monkeypatch: pytest.MonkeyPatch) -> Iterator[Call]:
    """Check an alias of settings with these CHANNEL_LAYERS; what is said of the settings, and of the one shard."""
    with ExitStack() as stack:

        def configure(layers: dict[str, Any]) -> Call:
            stack.enter_context(override_settings(CHANNEL_LAYERS=layers))
            monkeypatch.setattr(deployment, "_read_settings", lambda module: layers)

            def run(alias: str, code: int) -> list[dict[str, Any]]:
                outcome = call("check", "--json", "--alias", alias)
                assert (outcome.code, outcome.err) == (code, "")
                assert "s3cret" not in outcome.out
                settings, shard = json.loads(outcome.out)["subjects"]
                assert settings["shard"] is None
                return [settings, shard]

            return run

        yield configure


def test_settings(check_alias: Call, redis_server: Server | ForeignServer, prefix: str) -> None:
    """What the system check says of this alias, and of no other."""
    config = {"hosts": [redis_server.url], "prefix": prefix}
    run = check_alias(
        {
            "default": {"BACKEND": CORE, "CONFIG": {**config, "group_expiry": 5}},
            "good": {"BACKEND": CORE, "CONFIG": {**config, "prefix": f"{prefix}good"}},
            "theirs": {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": config},
            "upside": {"BACKEND": f"{__name__}.Upside", "CONFIG": config},
            "full": {"BACKEND": CORE, "CONFIG": {**config, "capacity": 0}},
        }
    )

    def check(alias: str, code: int) -> tuple[Found, Found]:
        settings, shard = run(alias, code)
        return by_item(settings), by_item(shard)

    settings, _ = check("default", 0)
    assert levels(settings) == {"W002": "warning"}
    assert "group_expiry (5 s) is less than SESSION_COOKIE_AGE" in settings["W002"][1]
    settings, shard = check("good", 0)
    assert levels(settings) == {"options": "ok"}
    assert levels(shard) == CORE_ITEMS
    settings, shard = check("theirs", 0)
    assert levels(settings) == {"backend": "ok"}
    assert "uses channels_redis" in settings["backend"][1]
    _, shard = check("upside", 1)
    assert shard["send and receive"][:2] == ("problem", "the message that arrived differs from the one that was sent")
    _, shard = check("full", 1)
    assert shard["send and receive"][1].startswith("ChannelFull: check")


# Histories.

HISTORY = {"room.*": {"size": 1000, "ttl": 7200, "max_bytes": 5_000_000}}


@pytest.fixture
def check_history(check_alias: Call) -> Call:
    """Check a layer whose groups have histories; the findings of its one shard."""

    def run(backend: str, url: str, code: int, **options: Any) -> Found:
        config = {"hosts": [url], "prefix": "asgi", "history": HISTORY, **options}
        _, shard = check_alias({"default": {"BACKEND": backend, "CONFIG": config}})("default", code)
        return by_item(shard)

    return run


@pytest.mark.parametrize("backend", [CORE, PUBSUB])
def test_histories(check_history: Call, own_server: Callable[..., Server], backend: str) -> None:
    server = own_server()
    found = check_history(backend, server.url, 0)
    assert {level for level, _, _ in found.values()} <= {"ok", "unseen"}
    assert found["history"][1] == "'room.*': 1,000 messages, at most 5 MB a group, for 2.0 h"
    with redis.Redis(port=server.port) as raw:
        assert not [key for key in raw.scan_iter() if b":history:" in key or b"check" in key]
    # A layer without the option needs none of it.
    assert "history" not in check_history(backend, server.url, 0, history=None)


@pytest.mark.parametrize("more", [(), ("+acl",)], ids=["tried", "dry run"])
@pytest.mark.parametrize("backend", [CORE, PUBSUB])
@pytest.mark.parametrize(
    ("rules", "level", "text", "fix"),
    [
        (("-xadd", "-xdel"), "problem", "may not use XADD, XDEL", "ACL SETUSER some +xadd +xdel"),
        (("-xrange", "-xrevrange"), "problem", "may not use XRANGE, XREVRANGE", "+xrange +xrevrange"),
        (("-expire",), "problem", "may not use EXPIRE", "+expire"),
        (("-time",), "problem", "may not use TIME", "+time"),
        (("-eval", "-evalsha"), "problem", "may not use EVAL", "+eval"),
        (("-evalsha",), "warning", "without EVALSHA: scripts are sent as text", "+evalsha"),
        (("-unlink",), "warning", "without UNLINK: flush() and group_forget() fail", "+unlink"),
    ],
    ids=str,
)
def test_a_user_that_may_not_keep_histories(
    check_history: Call,
    user: Callable[..., str],
    users_server: Server,
    more: tuple[str, ...],
    backend: str,
    rules: tuple[str, ...],
    level: str,
    text: str,
    fix: str,
) -> None:
    found = check_history(backend, user(*SAFE, "+info", *more, *rules), int(level == "problem"))
    assert found["commands"][0] == level
    assert text in found["commands"][1]
    assert fix in found["commands"][2]
    with redis.Redis(port=users_server.port) as raw:
        left = [key for key in raw.scan_iter("asgi*") if b":history:" in key]
        # Where EXPIRE is refused UNLINK is not, and the other way round.
        assert all(0 < raw.ttl(key) <= 60 for key in left)
        for key in left:
            raw.delete(key)


@pytest.mark.parametrize("backend", [CORE, PUBSUB])
def test_a_server_that_does_not_tell_its_run_id(check_history: Call, user: Callable[..., str], backend: str) -> None:
    found = check_history(backend, user(*SAFE), 0)
    level, text, fix = found["history"]
    assert level == "warning"
    assert "does not report its run id" in text
    assert "`complete` is never True" in text
    assert "+info" in fix
    assert check_history(backend, user(*SAFE, "+info"), 0)["history"][0] == "ok"


@pytest.mark.parametrize(
    ("info", "level"),
    [
        ({"redis_version": "6.0.16", "run_id": "a"}, "problem"),
        ({"redis_version": "5.0.0", "run_id": "a"}, "problem"),
        ({"redis_version": "6.2.0", "run_id": "a"}, "ok"),
        ({"redis_version": "10.0.0", "run_id": "a"}, "ok"),
        ({"redis_version": "7.2.4", "valkey_version": "8.0.0", "run_id": "a"}, "ok"),
        ({"server": "redis", "version": "7.0.15"}, "warning"),
        ({}, "warning"),
    ],
    ids=str,
)
def test_versions_that_histories_need(info: dict[str, str], level: str) -> None:
    findings = list(history.check_history(RedisChannelLayer(history=HISTORY), Facts(info=info)))
    assert findings[-1].level == level
    assert level == "ok" or findings[-1].fix


@pytest.mark.parametrize("backend", [CORE, PUBSUB])
def test_a_server_that_throws_histories_away(
    check_history: Call, own_server: Callable[..., Server], backend: str
) -> None:
    server = own_server("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    level, text, _ = check_history(backend, server.url, 0)["maxmemory"]
    assert level == "warning"
    assert "deletes histories" in text or backend == CORE


@pytest.mark.parametrize("backend", [CORE, PUBSUB])
@pytest.mark.parametrize(
    ("key", "place"),
    [
        ("asgi:history:{room}", "histories"),
        ("asgi:presence:{asgi:group:room}", "the presence of groups"),
    ],
)
def test_a_key_of_another_type(
    check_history: Call, own_server: Callable[..., Server], backend: str, key: str, place: str
) -> None:
    server = own_server()
    with redis.Redis(port=server.port) as raw:
        raw.set(key, 1)
    level, text, _ = check_history(backend, server.url, 1)["leftovers"]
    assert level == "problem"
    assert f"of another type in place of {place} ({key})" in text


def test_a_real_project(project: Call, redis_server: Server | ForeignServer, prefix: str) -> None:
    config = {"hosts": [redis_server.url], "prefix": prefix, "symmetric_encryption_keys": ["short"]}
    outcome = project({"default": {"BACKEND": PUBSUB, "CONFIG": config}})("check")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("Pub/Sub layer of CHANNEL_LAYERS['default'], prefix ")
    assert re.search(
        r"^settings\nwarning +W001 +symmetric_encryption_keys\[0\] is shorter than", outcome.out, re.MULTILINE
    )
    assert re.search(r"^ok +send and receive ", outcome.out, re.MULTILINE)


# Leases and presence.

MAY_NOT = [
    pytest.param(
        ("-zscore", "-zrangebyscore", "-eval", "-evalsha"),
        {"lease": 30},
        {},
        "ZSCORE, ZRANGEBYSCORE, EVAL",
        "+zscore +zrangebyscore +eval",
        id="leases",
    ),
    pytest.param(
        ("-hset", "-hkeys", "-exists"),
        {"presence": {}},
        {"lease": 30},
        "HSET, HKEYS, EXISTS",
        "+hset +hkeys +exists",
        id="presence",
    ),
]


@pytest.mark.parametrize("more", [(), ("+acl",)], ids=["tried", "dry run"])
@pytest.mark.parametrize("backend", [CORE, PUBSUB])
@pytest.mark.parametrize(("rules", "option", "without", "commands", "rights"), MAY_NOT)
def test_a_user_that_may_not_do_what_an_option_needs(
    check_alias: Call,
    user: Callable[..., str],
    users_server: Server,
    more: tuple[str, ...],
    backend: str,
    rules: tuple[str, ...],
    option: dict[str, Any],
    without: dict[str, Any],
    commands: str,
    rights: str,
) -> None:
    def look(*rules: str, code: int, **options: Any) -> Any:
        config = {"hosts": [user(*SAFE, "+info", *more, *rules)], "prefix": "asgi", **options}
        _, shard = check_alias({"default": {"BACKEND": backend, "CONFIG": config}})("default", code)
        return by_item(shard)["commands"]

    level, text, fix = look(*rules, code=1, **option)
    assert (level, text) == ("problem", f"the user may not use {commands}")
    assert fix == f"ACL SETUSER some {rights}"
    assert look(code=0, **option)[0] == "ok"
    # A layer without the option needs none of it. The core layer without leases can do without EVAL, and says so.
    level = look(*rules, code=0, **without)[0]
    assert level == "ok" if without else level != "problem"
    with redis.Redis(port=users_server.port) as raw:
        assert not list(raw.scan_iter("asgi*"))
