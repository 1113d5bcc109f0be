"""The command line as a test calls it, servers to point it at, and projects with settings of their own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bench.server import ForeignServer, Server
from channels_redis_fast.cli import deployment
from channels_redis_fast.cli.main import main
from channels_redis_fast.core import RedisChannelLayer
from tests.conftest import ROOT
from tests.core.helpers import end, started, within
from tests.hosts.conftest import acl_server, certificates, tls_server

# Servers that the tests of hosts have too.
__all__ = ["acl_server", "certificates", "tls_server"]


class Outcome(NamedTuple):
    """What a command did: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Run a command in this process, in which other tests may have set up a project."""
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    # The module that `main` has, and not the one that a test has imported anew.
    monkeypatch.setattr(deployment, "_ready_settings", lambda module: None)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> Outcome:
        capsys.readouterr()
        try:
            code = main(arguments)
        except SystemExit as end:
            code = int(end.code or 0)
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., Any]:
    """Write a Django project with these CHANNEL_LAYERS; what comes back runs commands in it, as a user would."""

    def write(layers: Any, *lines: str) -> Callable[..., Outcome]:
        text = ["SECRET_KEY = 'for tests'", f"CHANNEL_LAYERS = {layers!r}", *lines]
        (tmp_path / "mysettings.py").write_text("\n".join(text) + "\n")

        def run(*arguments: str, module: str | None = "mysettings") -> Outcome:
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
            environment.pop("DJANGO_SETTINGS_MODULE", None)
            if module is not None:
                environment["DJANGO_SETTINGS_MODULE"] = module
            command = [sys.executable, "-m", "channels_redis_fast", *arguments]
            ended = subprocess.run(
                command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60, check=False
            )
            return Outcome(ended.returncode, ended.stdout, ended.stderr)

        return run

    return write


class Site:
    """Processes of a site, as far as Redis can tell: layers whose connections stay open between calls."""

    def __init__(self, host: Any, prefix: str) -> None:
        self._host = host
        self._prefix = prefix
        self._loop = asyncio.new_event_loop()
        self._waiting: list[asyncio.Future[Any]] = []

    def layer(self, kind: type[Any] = RedisChannelLayer, **options: Any) -> Any:
        return kind(**{"hosts": [self._host], "prefix": self._prefix, **options})

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(within(work))

    def receive(self, layer: Any, channel: str) -> None:
        """Begin to wait for a message."""
        self._waiting.append(self.do(started(layer.receive(channel))))

    def close(self) -> None:
        self.do(end(*self._waiting))
        # The layers hear of it, and close their connections.
        self._loop.close()


@pytest.fixture
def make_site(prefix: str) -> Iterator[Callable[[Any], Site]]:
    """Sites on servers of a test's own; closed before these end."""
    with ExitStack() as stack:

        def make(host: Any) -> Site:
            site = Site(host, prefix)
            stack.callback(site.close)
            return site

        yield make


@pytest.fixture
def site(redis_server: Server | ForeignServer, make_site: Callable[[str], Site]) -> Site:
    """One on the shared server."""
    return make_site(redis_server.url)
