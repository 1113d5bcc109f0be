"""
The pytest plugin, which pytest loads by itself wherever this package is installed.

A module of its own, since it imports neither Django nor Channels before a test asks for one of its fixtures.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .memory import InMemoryChannelLayer


@pytest.fixture
def channel_layer_options() -> dict[str, Any]:
    """Return options for ``channel_layer``; override it in a ``conftest.py``, a module or a class."""
    return {}


@pytest.fixture
def channel_layer(channel_layer_options: dict[str, Any]) -> Iterator[InMemoryChannelLayer]:
    """
    Give an in-memory layer of this test's own, which is the default layer of Channels as long as the test runs.

    It has the options of the default layer in the settings, if that is one of this package or of channels_redis, and
    above them those of ``channel_layer_options``.
    """
    from .testing import memory_layer  # noqa: PLC0415

    with memory_layer(**channel_layer_options) as layer:
        yield layer
