"""The take-over of a socket from redis-py, on the latest release of each major version that is supported.

Each version runs in a process of its own (`exercise.py`), all of them at the same time; the tests here look at what
they report. One that waits for 16 seconds costs them only once.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from bench.server import Server
from tests.hosts.exercise import LAYERS, LOOPS
from tests.places import Certificates
from tests.redispy import VERSIONS, Run, Unavailable, get_tree

#: Seconds without a message: three times the 5 seconds after which redis-py 8 gives up a read, and a bit.
IDLE = 16

#: Seconds that a busy machine may take for everything.
LIMIT = 250

PLACES = ("plain", "tls", "unix")
EVERYWHERE = [f"{place}-{loop}-{kind}" for place in PLACES for loop in LOOPS for kind in LAYERS]


@pytest.fixture(scope="module")
def runs(plain_server: Server, tls_server: Server, certificates: Certificates) -> Iterator[dict[int, Run]]:
    """What runs on each version that pip can get."""
    hosts = {
        "plain": plain_server.url,
        "tls": {"address": f"rediss://127.0.0.1:{tls_server.port}", "ssl_ca_certs": certificates.ca},
        "unix": plain_server.unix_url,
    }
    raw = {"plain": plain_server.unix_url, "tls": tls_server.unix_url, "unix": plain_server.unix_url}
    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        started = {}
        for version, tree in zip(VERSIONS, pool.map(get_tree, VERSIONS), strict=True):
            if not isinstance(tree, Unavailable):
                plan = {"version": version, "tree": str(tree), "hosts": hosts, "raw": raw, "idle": IDLE}
                started[version] = stack.enter_context(Run(tree, "tests.hosts.exercise", plan))
        yield started


@pytest.fixture(params=VERSIONS)
def run(request: pytest.FixtureRequest, runs: dict[int, Run]) -> Run:
    if request.param not in runs:
        pytest.skip(str(get_tree(request.param)))
    return runs[request.param]


def passed(run: Run, name: str) -> None:
    error = run.result(name, LIMIT)["error"]
    assert error is None, error


@pytest.mark.parametrize("name", EVERYWHERE)
def test_everything_works(run: Run, name: str) -> None:
    passed(run, name)


@pytest.mark.parametrize("name", [f"burst-{loop}-{kind}" for loop in LOOPS for kind in LAYERS])
def test_a_limit_of_the_pool_cuts_no_burst(run: Run, name: str) -> None:
    """1,000 coroutines, where `max_connections` says 1."""
    passed(run, name)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_socket_timeout_below_the_block_time_ends_no_wait(run: Run, loop: str) -> None:
    passed(run, f"short-{loop}")


@pytest.mark.parametrize("name", EVERYWHERE)
def test_idle_consumers_stay_alive(run: Run, name: str) -> None:
    passed(run, f"idle-{name}")


def test_nobody_complains(run: Run) -> None:
    """No unclosed socket, no exception that nobody retrieved."""
    assert run.complaints(LIMIT) == ""
