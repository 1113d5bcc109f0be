"""A cluster in the `hosts` option: every form, every mistake by name, and what leads to each of the servers."""

from __future__ import annotations

from typing import Any

import pytest

from channels_redis_fast.cluster.seeds import Seeds
from channels_redis_fast.connection.hosts import decode_hosts, host_label
from tests.hosts.exercise import LAYERS

URL = "redis://user:s3cret@h1:7000"


@pytest.mark.parametrize("kind", LAYERS)
def test_forms(kind: str) -> None:
    decoded = {"cluster": [{"address": "redis://h1:7000"}, {"host": "h2", "port": 7001}], "password": "s3cret"}
    host = {"cluster": ["redis://h1:7000", ("h2", "7001")], "password": "s3cret"}
    for hosts in ([host], (host,), host):
        layer = LAYERS[kind](hosts=hosts)
        assert layer.hosts == [decoded]
        assert layer.ring_size == 1
        assert "s3cret" not in str(layer)
        assert "cluster:h1:7000" in str(layer)
        assert LAYERS[kind](hosts=layer.hosts).hosts == [decoded]
    assert host == {"cluster": ["redis://h1:7000", ("h2", "7001")], "password": "s3cret"}, "the settings are not ours"


WRONG: list[tuple[str, Any]] = [
    ("'cluster'", {"cluster": "redis://h1:7000"}),
    ("'cluster'", {"cluster": {"host": "h1"}}),
    ("'cluster'", {"cluster": []}),
    ("'cluster'", {"cluster": None}),
    ("['cluster'][1]", {"cluster": [URL, 5]}),
    ("['cluster'][0]", {"cluster": [("h1", "port")]}),
    ("['cluster'][0]", {"cluster": [{"host": "h1"}]}),
    ("['cluster'][0]", {"cluster": [{"address": URL, "password": "s3cret"}]}),
    ("['cluster'][0]", {"cluster": ["unix:///run/redis.sock"]}),
    ("['cluster'][0]", {"cluster": ["http://h1"]}),
    ("'host'", {"cluster": [URL], "host": "h2"}),
    ("'port'", {"cluster": [URL], "port": 7000}),
    ("'address'", {"cluster": [URL], "address": URL}),
    ("'path'", {"cluster": [URL], "path": "/run/redis.sock"}),
    ("'sentinels'", {"cluster": [URL], "sentinels": [("h", 26379)], "master_name": "m"}),
    ("'db'", {"cluster": [URL], "db": 1}),
    ("database", {"cluster": [f"{URL}/2"]}),
    ("no_such_option", {"cluster": [URL], "no_such_option": 1}),
    ("no_such_option", {"cluster": [f"{URL}?no_such_option=1"]}),
]


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(("name", "host"), WRONG, ids=[f"{n}-{name}" for n, (name, _) in enumerate(WRONG)])
def test_a_mistake_is_named(kind: str, name: str, host: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as refusal:
        LAYERS[kind](hosts=[host])
    assert name in str(refusal.value)
    assert "hosts" in str(refusal.value)
    assert "s3cret" not in str(refusal.value)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("other", [{"cluster": [("h2", 7000)]}, "redis://h2"], ids=["cluster", "server"])
def test_a_ring_with_a_cluster_is_refused(kind: str, other: Any) -> None:
    with pytest.raises(ValueError, match="only host"):
        LAYERS[kind](hosts=[{"cluster": [URL]}, other])


def seeds_of(host: dict[str, Any]) -> Seeds:
    (decoded,) = decode_hosts([host])
    assert host_label(decoded).startswith("cluster:")
    return Seeds(decoded, "hosts[0]", "core")


def test_what_a_uri_says_of_users_and_tls_is_for_all_servers() -> None:
    seeds = seeds_of({"cluster": [("h0", 6999), "rediss://user:s3cret@h1:7000"], "ssl_ca_certs": "ca.crt"})
    assert seeds.addresses == [("h0", 6999), ("h1", 7000)]
    options = seeds.options(("10.0.0.9", 7005))
    assert (options["host"], options["port"]) == ("10.0.0.9", 7005)
    assert (options["username"], options["password"]) == ("user", "s3cret")
    assert options["connection_class"].__name__ == "SSLConnection"
    assert options["ssl_ca_certs"] == "ca.crt"


def test_a_keyword_beside_the_cluster_is_for_all_servers() -> None:
    seeds = seeds_of({"cluster": ["redis://h1"], "username": "user", "password": "s3cret", "socket_timeout": 3})
    assert seeds.addresses == [("h1", 6379)]
    assert seeds.answer_timeout == 3
    assert seeds.options(("h7", 1)) == {
        "host": "h7",
        "port": 1,
        "username": "user",
        "password": "s3cret",
        "socket_timeout": 3,
    }


def test_a_server_has_one_dialer() -> None:
    seeds = seeds_of({"cluster": [("h1", 7000)]})
    assert seeds.dialer(("h1", 7000)) is seeds.dialer(("h1", 7000))
    assert seeds.dialer(("h1", 7000)).label == "h1:7000"
