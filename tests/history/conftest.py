"""Layers, servers and event loops for the tests of histories."""

from __future__ import annotations

from tests.cluster.conftest import cluster
from tests.core.conftest import make_layer as make_core
from tests.core.conftest import new_loop, raw_shards, shard_urls

__all__ = ["cluster", "make_core", "new_loop", "raw_shards", "shard_urls"]
