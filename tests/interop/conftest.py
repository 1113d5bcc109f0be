"""A mixed fleet for each test: its processes are started once, its layers are the test's own.

What channels_redis loses or doubles by itself is no failure of ours: tests give it to `upstream_fault`, and the run's
summary names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from bench.server import ForeignServer, Server, start_server
from tests.conftest import remove_keys
from tests.interop.fleet import PROCESSES, Fleet, Member, Process, start

_faults: list[str] = []


@pytest.fixture
def upstream_fault(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Name something that channels_redis did wrong without us."""
    return lambda text: _faults.append(f"{request.node.name}: {text}")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _faults:
        terminalreporter.section("channels_redis' own losses in the mixed fleet")
        for fault in _faults:
            terminalreporter.write_line(fault)


@pytest.fixture(scope="session")
def shard_servers() -> Iterator[list[Server]]:
    """Five servers: Pub/Sub does not know databases."""
    with ExitStack() as stack:
        yield [stack.enter_context(start_server()) for _ in range(5)]


@pytest.fixture(scope="session")
def _started(upstream_python: Path) -> Iterator[dict[str, Process]]:
    processes = start(upstream_python)
    yield processes
    end(processes)


def end(processes: dict[str, Process]) -> None:
    with ExitStack() as stack:
        for process in processes.values():
            stack.callback(process.end)


@pytest.fixture
def processes(_started: dict[str, Process], upstream_python: Path) -> dict[str, Process]:
    """The fleet's processes by name, started anew if one died in an earlier test."""
    if not all(process.running for process in _started.values()):
        end(_started)
        _started.update(start(upstream_python))
    return _started


@pytest.fixture
def open_layer(processes: dict[str, Process], prefix: str) -> Iterator[Callable[..., Member]]:
    """Open layers in processes, by name; closed afterwards."""
    members: list[Member] = []

    def open_layer(process: str, kind: str, **options: Any) -> Member:
        member = Member(processes[process], f"{prefix}-{len(members)}", kind, options)
        member.ask("open", kind=kind, options=options)()
        members.append(member)
        return member

    yield open_layer
    for member in members:
        if member.process.running:
            member.close()


@pytest.fixture
def clean_up() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def make_fleet(
    clean_up: ExitStack,
    open_layer: Callable[..., Member],
    prefix: str,
    redis_server: Server | ForeignServer,
    shard_servers: list[Server],
) -> Callable[..., Fleet]:
    """Open one layer in each process: `make_fleet("core", shards=2, capacity=3)`.

    On the shared server, under this test's prefix. Several shards, and prefixes that somebody else may use too, are
    for servers of our own; `prefix=None` means the default. `of_ours` are options that channels_redis does not have.
    """

    def make(kind: str, shards: int = 1, of_ours: dict[str, Any] | None = None, **options: Any) -> Fleet:
        own = shards > 1 or "prefix" in options
        urls = [server.url for server in shard_servers[:shards]] if own else [redis_server.url]
        options = {"prefix": prefix, **options}
        if options["prefix"] is None:
            del options["prefix"]
        used = options.get("prefix", "asgi")
        for url in urls:
            clean_up.callback(remove_keys, url, used)
        raws = [clean_up.enter_context(redis.Redis.from_url(url)) for url in urls]
        fleet = Fleet(kind, used, prefix, urls, raws)
        hosts = [{"address": url, "client_name": fleet.client_name} for url in urls]
        for process, members in zip(PROCESSES, (fleet.ours, fleet.ours, fleet.theirs, fleet.theirs), strict=True):
            more = of_ours if of_ours is not None and members is fleet.ours else {}
            members.append(open_layer(process, kind, hosts=hosts, **options, **more))
        return fleet

    return make
