"""Django's test runner: a site whose tests send to groups ends as it did, without a hang, a warning or a leftover."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from channels_redis_fast.hot import COMPILED
from tests.conftest import ROOT
from tests.core.helpers import clients
from tests.sync.conftest import KINDS
from tests.sync.helpers import wait_until

pytestmark = pytest.mark.skipif(not COMPILED, reason="the same as compiled")


def test_a_sites_tests(redis_server: Any, prefix: str, raw: Any, kind: str) -> None:
    backend = f"{KINDS[kind].__module__}.{KINDS[kind].__name__}"
    ended = subprocess.run(
        # The test runner's own threads and databases are its business: whatever warns is an error.
        [sys.executable, "-W", "error", "-m", "django", "test", "tests.sync.project.cases", "-v", "2"],
        check=False,
        capture_output=True,
        text=True,
        timeout=90,
        cwd=ROOT,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.sync.project.settings",
            "SITE_BACKEND": backend,
            "SITE_URL": redis_server.url,
            "SITE_PREFIX": prefix,
        },
    )
    assert ended.returncode == 0, ended.stderr
    assert "Ran 9 tests" in ended.stderr
    for word in ("Warning", "Exception", "Traceback", "unclosed", "never"):
        assert word not in ended.stderr, ended.stderr
    wait_until(lambda: not clients(raw, prefix))
