"""Servers of every kind, started once and shared by the tests of hosts; layers of both kinds on them."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.server import Server, start_server
from tests.hosts.exercise import LAYERS
from tests.places import Certificates, SentinelSet, start_tls_server, write_acl


@pytest.fixture(scope="session")
def plain_server() -> Iterator[Server]:
    """A server of our own, whatever REDIS_URL says, with a TCP port and a unix socket."""
    with start_server() as server:
        yield server


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def tls_server(certificates: Certificates) -> Iterator[Server]:
    """A server that speaks TLS to everybody."""
    with start_tls_server(certificates) as server:
        yield server


@pytest.fixture(scope="session")
def strict_tls_server(certificates: Certificates) -> Iterator[Server]:
    """A server that speaks TLS to those who have a certificate of their own."""
    with start_tls_server(certificates, clients=True) as server:
        yield server


@pytest.fixture(scope="session")
def acl_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that knows the users of `tests.places`, and nobody else."""
    directory: Path = tmp_path_factory.mktemp("acl")
    with start_server("--aclfile", write_acl(directory)) as server:
        yield server


@pytest.fixture(scope="session")
def sentinels() -> Iterator[SentinelSet]:
    """A Sentinel set for tests that leave it as it is."""
    with SentinelSet() as sentinels:
        yield sentinels


@pytest.fixture(params=list(LAYERS))
def kind(request: pytest.FixtureRequest) -> str:
    """Which of the two layers."""
    return str(request.param)


@pytest.fixture
def prefix() -> str:
    """A key prefix no other test has, and that the users of the ACL server may use. Its servers end with the tests."""
    return f"asgi{uuid.uuid4().hex[:12]}"


@pytest.fixture
async def make_layer(kind: str, prefix: str) -> AsyncIterator[Callable[..., Any]]:
    """Make layers of this test's kind and prefix on the given hosts; closed afterwards.

    Several layers are several processes, as far as Redis can tell.
    """
    layers: list[Any] = []

    def make(*hosts: Any, kind: str = kind, **options: Any) -> Any:
        layer = LAYERS[kind](**{"hosts": list(hosts), "prefix": prefix, **options})
        layers.append(layer)
        return layer

    yield make
    for layer in layers:
        await layer.close_pools()
