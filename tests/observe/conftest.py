"""What the tests of measurements and spans are given: layers of both kinds, and servers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.cluster.conftest import cluster
from tests.core.conftest import make_layer as make_core
from tests.core.conftest import new_loop
from tests.pubsub.conftest import make_layer as make_pubsub
from tests.pubsub.conftest import sharded

__all__ = ["cluster", "make_core", "make_pubsub", "new_loop", "sharded"]


@pytest.fixture(params=["core", "pubsub"])
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Make layers of one kind and then of the other; `make_core` and `make_pubsub` say the rest."""
    maker: Callable[..., Any] = request.getfixturevalue(f"make_{request.param}")
    return maker
