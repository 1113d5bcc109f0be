"""A pytest plugin: of whatever is collected, what needs no server. `pytest -p tests.fuzz.serverless`.

It knows which fixtures start servers, by what they ask for themselves in the end; no test by name.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings

SERVERS = {"redis_server", "second_server", "own_server", "upstream_python"}
# Starts servers without a fixture.
STARTERS = {"start_server", "start_redis", "ForeignServer"}

settings.register_profile("sanitized", deadline=None)
settings.load_profile("sanitized")


def needs_server(item: Any) -> bool:
    """Whether a test's fixtures, or its module, start a server."""
    return bool(SERVERS & set(item.fixturenames) or STARTERS & set(vars(item.module)))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a server."""
    kept = [item for item in items if not needs_server(item)]
    config.hook.pytest_deselected(items=[item for item in items if needs_server(item)])
    items[:] = kept
