"""Clusters where people run them: behind users, behind TLS, reached by other addresses; and a burst of coroutines."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from redis.exceptions import AuthenticationError

from bench.server import HOST, find_binary, free_port
from tests.cluster.conftest import Make
from tests.clusters import FREE_PORT, Cluster
from tests.core.helpers import within
from tests.hosts.exercise import LAYERS, burst, exercise
from tests.places import PASSWORDS, RULES, Certificates, start_tls_server

pytestmark = pytest.mark.parametrize("kind", LAYERS)


async def exercised(make: Make, kind: str, host: dict[str, Any]) -> None:
    prefix = f"asgi{uuid.uuid4().hex[:12]}"
    await exercise(make(kind, host, prefix=prefix), make(kind, host, prefix=prefix))


async def test_everything(cluster: Cluster, make: Make, kind: str) -> None:
    await exercised(make, kind, cluster.host)


async def test_one_server_is_enough_to_begin_with(cluster: Cluster, make: Make, kind: str) -> None:
    """Also if it is not the first that is named, and nothing listens where that should be."""
    await exercised(make, kind, {"cluster": [(HOST, free_port()), f"redis://localhost:{cluster.primaries[1].port}"]})


async def test_a_burst_takes_two_connections_to_each_server(cluster: Cluster, make: Make, kind: str) -> None:
    name = f"burst-{uuid.uuid4().hex[:12]}"
    await burst(make(kind, {**cluster.host, "client_name": name}, capacity=2000))
    for node in cluster.primaries:
        assert len(node.clients(name)) <= 2


@pytest.fixture(scope="module")
def users(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster as those users know it who have to say a password."""
    for node in cluster.nodes:
        for user in ("chan", "odd"):
            rules = RULES.replace("asgi", "users")
            node.raw.execute_command("ACL", "SETUSER", user, "reset", "on", f">{PASSWORDS[user]}", *rules.split())
    yield cluster
    for node in cluster.nodes:
        node.raw.execute_command("ACL", "DELUSER", "chan", "odd")


@pytest.mark.parametrize("user", ["chan", "odd"])
@pytest.mark.parametrize("way", ["uri", "keywords"])
async def test_users(users: Cluster, make: Make, kind: str, user: str, way: str) -> None:
    node = users.primaries[0]
    password = PASSWORDS[user]
    hosts: dict[str, dict[str, Any]] = {
        "uri": {"cluster": [f"redis://{user}:{quote(password, safe='')}@{HOST}:{node.port}"]},
        "keywords": {"cluster": [node.address], "username": user, "password": password},
    }
    prefix = f"users{uuid.uuid4().hex[:12]}"
    layers = [make(kind, hosts[way], prefix=prefix) for _ in range(2)]
    # Not flush, which needs SCAN and UNLINK: these the rules allow.
    await exercise(*layers)


async def test_a_wrong_password_is_not_repeated_to_anybody(users: Cluster, make: Make, kind: str) -> None:
    host = {"cluster": [users.primaries[0].address], "username": "chan", "password": "s3cret-wrong"}
    layer = make(kind, host)
    with pytest.raises(AuthenticationError, match="invalid username") as refusal:
        await within(layer.send("general", {"type": "never"}))
    assert "s3cret-wrong" not in str(refusal.value)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Certificates]]:
    """A cluster that speaks TLS too, on ports of its own."""
    binary = "redis-server"
    if find_binary(binary) is None:
        pytest.skip("needs a redis-server with TLS")
    certificates = Certificates(tmp_path_factory.mktemp("certificates"))
    # Skips where no server can do it: the `redis-server` that PATH has may be of any make.
    start_tls_server(certificates).stop()
    _, _, _, _, *files = certificates.arguments()
    with Cluster(3, 0, "--tls-port", FREE_PORT, *files, binary=binary) as cluster:
        yield cluster, certificates


async def test_tls(tls: tuple[Cluster, Certificates], make: Make, kind: str) -> None:
    cluster, certificates = tls
    ports = {node.port: int(node.raw.config_get("tls-port")["tls-port"]) for node in cluster.nodes}
    common = {
        "ssl_ca_certs": certificates.ca,
        # Redis 7.0 tells of its ports without TLS, unless its servers themselves talk to each other behind TLS.
        "address_remap": lambda address: (address[0], ports[address[1]]),
    }
    port = next(iter(ports.values()))
    await exercised(make, kind, {"cluster": [f"rediss://{HOST}:{port}"], **common})
    await exercised(make, kind, {"cluster": [(HOST, port)], "ssl": True, **common})


async def test_addresses_that_are_others_from_here(cluster: Cluster, make: Make, kind: str) -> None:
    """As behind a NAT: what the cluster says of itself leads nowhere."""
    asked: list[Any] = []

    def remap(address: tuple[str, int]) -> tuple[str, int]:
        asked.append(address)
        return "localhost", address[1]

    await exercised(make, kind, {**cluster.host, "address_remap": remap})
    assert {port for _, port in asked} >= {node.port for node in cluster.primaries}
