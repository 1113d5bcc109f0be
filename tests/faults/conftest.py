"""What the tests of faults are given: layers of both kinds, and the fixtures of the layers' own tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests.core.conftest import make_layer as core_layers
from tests.core.conftest import new_loop, raw
from tests.pubsub.conftest import make_layer as pubsub_layers
from tests.pubsub.conftest import shard_urls

# `shard_urls` are two servers: databases of one are no shards to Pub/Sub.
__all__ = ["core_layers", "new_loop", "pubsub_layers", "raw", "shard_urls"]


# Each connection counts in these tests, and they are to be those of the loop: what the I/O thread for synchronous
# callers does in the same faults, tests/sync shows.


@pytest.fixture
def make_core(core_layers: Callable[..., Any]) -> Callable[..., Any]:
    """Make core layers on the shared server, unless told otherwise; closed afterwards."""
    return partial(core_layers, sync_hub="never")


@pytest.fixture
def make_pubsub(pubsub_layers: Callable[..., Any]) -> Callable[..., Any]:
    """Make Pub/Sub layers on the shared server, unless told otherwise; closed afterwards."""
    return partial(pubsub_layers, sync_hub="never")
