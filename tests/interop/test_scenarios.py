"""Each scenario fails on channels_redis the way it says; tests/test_scenarios.py has them hold for our layers."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.scenarios import Environment
from tests.test_scenarios import cases, environment

__all__ = ["environment"]


@pytest.mark.parametrize(("module", "name"), cases(lambda scenario: True))
def test_upstream(module: Any, name: str, environment: Environment, upstream_python: Path) -> None:
    command = [str(upstream_python), "-m", module.__name__, name, "--prefix", environment.prefix]
    command += ["--url", environment.url, "--second-url", environment.second_url]
    # What does not happen there is waited for in vain.
    patience = {**os.environ, "SCENARIO_PATIENCE": "3"}
    run = subprocess.run(command, cwd=ROOT, env=patience, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 1, f"upstream gets {name} right, or could not try:\n{run.stdout}{run.stderr}"
    assert re.search(f"failed: .*({module.SCENARIOS[name].upstream})", run.stdout), f"{run.stdout}{run.stderr}"
