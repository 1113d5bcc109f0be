"""A cluster that is shared by tests which leave it as it is, and layers on clusters that are closed behind the test."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from tests.clusters import Cluster
from tests.hosts.exercise import LAYERS

Make = Callable[..., Any]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Three primaries without replicas."""
    with Cluster(3) as cluster:
        yield cluster


@pytest.fixture
def prefix() -> str:
    """A key prefix no other test has."""
    return f"asgi{uuid.uuid4().hex[:12]}"


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Make layers of a kind on a host; they are closed at the end."""
    made = []

    def make(kind: str, host: Any, **options: Any) -> Any:
        layer = LAYERS[kind](**{"hosts": [host], "prefix": f"asgi{uuid.uuid4().hex[:12]}", **options})
        made.append(layer)
        return layer

    yield make
    for layer in made:
        await layer.close_pools()
