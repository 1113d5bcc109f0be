"""
The site's processes: daphne, uvicorn and runworker, each as its own command line starts it.

They are ended by their handle. What they said is shown when a test fails. Knows neither layers nor what is asked of
the site.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.server import HOST, free_port
from tests.conftest import ROOT

PROJECT = "tests.consumers.project"

#: Seconds for a process to start and to import what it needs, on a machine that does other things as well.
START = 60.0

#: Seconds for a process to end when it is told to.
END = 30.0

#: Command lines by name. With patience for clients, who come in crowds and share a busy machine with their servers.
COMMANDS: dict[str, list[str]] = {
    "daphne": [
        "daphne",
        "--bind",
        HOST,
        "--port",
        "{port}",
        "--websocket_connect_timeout",
        "60",
        "--ping-timeout",
        "120",
    ],
    # Runs on uvloop, as it does by itself where uvloop is installed; daphne runs on asyncio.
    "uvicorn": ["uvicorn", "--host", HOST, "--port", "{port}", "--ws-ping-timeout", "120"],
    "granian": ["granian", "--interface", "asgi", "--host", HOST, "--port", "{port}"],
    "hypercorn": ["hypercorn", "--bind", f"{HOST}:{{port}}"],
}

#: Those that every test of a site runs on.
SERVERS = ("daphne", "uvicorn")


class Process:
    """A process of the site: `python -m` with these arguments, and the layers that its settings name."""

    def __init__(self, arguments: list[str], layers: dict[str, Any], settings: str = f"{PROJECT}.settings") -> None:
        self._arguments = arguments
        self._directory = tempfile.TemporaryDirectory(prefix="crf-")
        self._printed, self._log = (Path(self._directory.name) / name for name in ("printed", "log"))
        # A socket that is left open is told of, where somebody looks.
        environment = {"PYTHONWARNINGS": "always::ResourceWarning"}
        environment |= {"DJANGO_SETTINGS_MODULE": settings, "SITE_CHANNEL_LAYERS": json.dumps(layers)}
        with open(self._printed, "wb") as printed, open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, **environment},
                # A server may have processes of its own: they are ended with it.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def code(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.poll()

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def printed(self) -> list[list[str]]:
        """The lines it has printed, as words."""
        return [line.split() for line in self._printed.read_text().splitlines()]

    def terminate(self) -> int:
        """SIGTERM. Returns the exit code."""
        self._process.terminate()
        return self._process.wait(END)

    def end(self) -> None:
        """End it if it still runs, and remove what it said."""
        # Killed: told to end in good order, daphne waits for ever for a sync consumer whose client leaves just then.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._directory.cleanup()

    def __str__(self) -> str:
        state = "runs" if self.running else f"ended with code {self._process.returncode}"
        return f"{' '.join(self._arguments)} (process {self.pid}) {state}:\n{self.log[-3000:]}"


class Site:
    """Processes that share layers, and are ended together."""

    def __init__(self, layers: dict[str, Any]) -> None:
        self._layers = layers
        #: All that were started, in this order.
        self.processes: list[Process] = []

    def worker(self, *channels: str, layers: dict[str, Any] | None = None) -> Process:
        """Start a worker. Whether it is ready, the server knows: it waits there for jobs."""
        return self._start(["django", "runworker", *channels], layers)

    def serve(self, kind: str, count: int = 1) -> list[int]:
        """Start so many server processes at once; returns their ports when all of them answer."""
        return [self._answering(kind, *started) for started in [self._start_on_port(kind) for _ in range(count)]]

    def end(self) -> None:
        for process in self.processes:
            process.end()

    def _start_on_port(self, kind: str) -> tuple[Process, int]:
        port = free_port()
        command = [word.format(port=port) for word in COMMANDS[kind]]
        return self._start([*command, f"{PROJECT}.asgi:application"], None), port

    def _answering(self, kind: str, process: Process, port: int) -> int:
        while not answers(process, port):
            # Between choosing a port and binding it anyone may take it: then try another.
            assert "address already in use" in process.log.lower(), str(process)
            process, port = self._start_on_port(kind)
        return port

    def _start(self, arguments: list[str], layers: dict[str, Any] | None) -> Process:
        self.processes.append(Process(arguments, layers or self._layers))
        return self.processes[-1]

    def __str__(self) -> str:
        return "\n".join(map(str, self.processes))


@contextlib.contextmanager
def site_of(layers: dict[str, Any]) -> Iterator[Site]:
    """A site, none of which is left behind. Of what its processes say, pytest shows the last when a test fails."""
    site = Site(layers)
    try:
        yield site
    finally:
        print(site)
        site.end()


def answers(process: Process, port: int) -> bool:
    """Wait until this very process answers on a port; False if it ends instead."""
    deadline = time.monotonic() + START
    while process.running:
        with contextlib.suppress(OSError, http.client.HTTPException):
            status, answer = get(port, "/process")
            if status == 200 and str(process.pid) in answer.split():
                return True
        assert time.monotonic() < deadline, f"no answer within {START:g} s: {process}"
        time.sleep(0.02)
    return False


def get(port: int, path: str) -> tuple[int, str]:
    """Ask a server for a page; returns status and body."""
    connection = http.client.HTTPConnection(HOST, port, timeout=START)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()
