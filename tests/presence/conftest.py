"""What the tests of presence and leases are given: layers of both kinds, servers, event loops, and short leases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from channels_redis_fast import options
from tests.cluster.conftest import cluster
from tests.cluster.conftest import make as make_on_cluster
from tests.core.conftest import make_layer as make_core
from tests.core.conftest import new_loop, raw_shards, shard_urls
from tests.pubsub.conftest import make_layer as make_pubsub
from tests.pubsub.conftest import sharded

__all__ = ["cluster", "make_core", "make_on_cluster", "make_pubsub", "new_loop", "raw_shards", "shard_urls", "sharded"]


@pytest.fixture(params=["core", "pubsub"])
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Make layers of one kind and then of the other; `make_core` and `make_pubsub` say the rest."""
    maker: Callable[..., Any] = request.getfixturevalue(f"make_{request.param}")
    return maker


@pytest.fixture
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let leases be shorter than a site may have them, so that tests need not wait for theirs to run out."""
    monkeypatch.setattr(options, "MIN_LEASE", 0.1)
