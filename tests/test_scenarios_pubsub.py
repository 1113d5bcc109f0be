"""Each scenario of `scenarios_pubsub.py` holds for our layer, and fails on channels_redis the way it says."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from bench.server import ForeignServer, Server
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.conftest import ROOT
from tests.scenarios import Environment
from tests.scenarios_pubsub import SCENARIOS

ASYNC = [name for name, scenario in SCENARIOS.items() if scenario.is_async]
SYNC = [name for name, scenario in SCENARIOS.items() if not scenario.is_async]


@pytest.fixture
def environment(redis_server: Server | ForeignServer, second_server: Server, prefix: str) -> Environment:
    return Environment(RedisPubSubChannelLayer, redis_server.url, second_server.url, prefix)


@pytest.mark.parametrize("name", ASYNC)
async def test_ours(name: str, environment: Environment) -> None:
    try:
        await SCENARIOS[name].run(environment)
    finally:
        await environment.close()


@pytest.mark.parametrize("name", SYNC)
def test_ours_without_a_loop(name: str, environment: Environment) -> None:
    SCENARIOS[name].run(environment)


@pytest.mark.parametrize("name", SCENARIOS)
def test_upstream(name: str, environment: Environment, upstream_python: Path) -> None:
    command = [str(upstream_python), "-m", "tests.scenarios_pubsub", name, "--prefix", environment.prefix]
    command += ["--url", environment.url, "--second-url", environment.second_url]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 1, f"upstream gets {name} right, or could not try:\n{run.stdout}{run.stderr}"
    assert re.search(f"failed: .*({SCENARIOS[name].upstream})", run.stdout), f"{run.stdout}{run.stderr}"
