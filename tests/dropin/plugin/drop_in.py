"""
A plugin of pytest that runs another project's suite on one of the layers, and writes down what became of each test.

It runs in an environment that knows nothing of this repository but this file, with pytest's `-p drop_in`. From its
environment: DROP_IN_PACKAGE, `channels_redis` or `channels_redis_fast`; DROP_IN_LAYER, `core` or `pubsub`, which
takes the place of Channels' in-memory layer, or nothing where the suite itself imports `channels_redis`; DROP_IN_URL,
the server; DROP_IN_RESULTS, a file that gets a line of JSON for each test.

Nothing of a suite is changed. With `channels_redis_fast` the modules of `channels_redis` are its modules: one word,
as for a site.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import uuid
from typing import Any

import channels.layers
import pytest

UPSTREAM = "channels_redis"
MODULES = ("", ".core", ".pubsub", ".serializers", ".utils")
CLASSES = {"core": "RedisChannelLayer", "pubsub": "RedisPubSubChannelLayer"}


def alias_modules(package: str) -> None:
    """Have `import channels_redis` give the modules of another package."""
    if package != UPSTREAM:
        for module in MODULES:
            sys.modules[UPSTREAM + module] = importlib.import_module(package + module)


def stand_in(package: str, layer: str, url: str) -> type[Any]:
    """Return a class that is made like the in-memory layer, each with a part of the server to itself."""
    base: Any = getattr(importlib.import_module(f"{package}.{layer}"), CLASSES[layer])

    class InMemoryChannelLayer(base):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            super().__init__(**{"hosts": [url], "prefix": f"drop-in-{uuid.uuid4().hex}", **options})

    return InMemoryChannelLayer


class Recorder:
    """Writes a line for each test when it is over; the worst of its setup, call and teardown counts."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        outcome: str = report.outcome
        if outcome == "failed" and report.when != "call":
            outcome = "error"
        if outcome != "passed" or report.when == "call":
            # A teardown that fails is an error of a test that may have passed.
            self._outcomes[report.nodeid] = outcome
        if report.when == "teardown":
            self._write(report.nodeid, self._outcomes.pop(report.nodeid, "passed"))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._write(report.nodeid, "error")

    def _write(self, name: str, outcome: str) -> None:
        # At once: the process may not live to the end.
        with open(self._path, "a", encoding="utf-8") as results:
            results.write(json.dumps({"test": name, "outcome": outcome}) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    """Called by pytest when this plugin is registered, before a suite's own files are imported."""
    package, layer = os.environ["DROP_IN_PACKAGE"], os.environ.get("DROP_IN_LAYER")
    alias_modules(package)
    if layer:
        channels.layers.InMemoryChannelLayer = stand_in(package, layer, os.environ["DROP_IN_URL"])
    config.pluginmanager.register(Recorder(os.environ["DROP_IN_RESULTS"]))
