"""What the tests of histories are given: layers of both kinds, servers and event loops."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from bench.server import find_binary
from tests.cluster.conftest import cluster
from tests.core.conftest import make_layer as make_core
from tests.core.conftest import new_loop, raw_shards, shard_urls, soon_again
from tests.pubsub.conftest import make_layer as make_pubsub
from tests.pubsub.conftest import sharded

__all__ = ["cluster", "make_core", "make_pubsub", "new_loop", "raw_shards", "shard_urls", "sharded", "soon_again"]


#: Fixtures whose servers are set up as Redis 7.0 has it: clusters, and Sentinels with their replicas.
OF_REDIS_7 = {"cluster", "replicated", "sentinels"}


@cache
def is_redis_6() -> bool:
    """Whether the tests' own servers are older than Redis 7.0."""
    binary = find_binary()
    said = (
        ""
        if binary is None
        else subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout
    )
    return "Redis" in said and "v=6." in said


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    callspec = getattr(item, "callspec", None)
    is_sharded = callspec is not None and callspec.params.get("sharded") is True
    if (is_sharded or OF_REDIS_7 & set(getattr(item, "fixturenames", ()))) and is_redis_6():
        pytest.skip("needs Redis 7.0")


@pytest.fixture(params=["core", "pubsub"])
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Make layers of one kind and then of the other; `make_core` and `make_pubsub` say the rest."""
    maker: Callable[..., Any] = request.getfixturevalue(f"make_{request.param}")
    return maker
