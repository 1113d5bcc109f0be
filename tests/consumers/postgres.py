"""A PostgreSQL server of the tests' own, from the machine's package. Knows no consumers."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.server import HOST, free_port

#: Where Debian puts what its package `postgresql` brings, newest last.
DEBIAN = "/usr/lib/postgresql/*/bin"


def find_binaries() -> Path | None:
    """The directory with `initdb` and `pg_ctl`."""
    found = sorted(Path("/").glob(f"{DEBIAN[1:]}/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).resolve().parent if on_path else None


class Postgres:
    """One server, with a superuser `postgres` whom it trusts."""

    def __init__(self, binaries: Path, directory: Path, port: int) -> None:
        self.port = port
        self._binaries = binaries
        self._data = directory / "data"
        self._log = directory / "log"
        # It refuses to run as root.
        self._account = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        self._run("initdb", "-U", "postgres", "-A", "trust", "--no-sync", "-D", str(self._data))
        self._options = f"-p {port} -c listen_addresses={HOST} -c unix_socket_directories='' -c fsync=off"
        self.start()

    def start(self) -> None:
        self._run("pg_ctl", "-D", str(self._data), "-l", str(self._log), "-o", self._options, "-w", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop")

    def restart(self) -> None:
        """End every session, as a restart of the server does."""
        self.stop()
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._binaries / program, *arguments],
            cwd=self._data.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if program == "initdb" else subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            timeout=60,
            check=False,
            **self._account,  # type: ignore[call-overload]
        )
        assert done.returncode == 0, f"{program} failed: {done.stdout or self._log.read_text(errors='replace')}"


@contextlib.contextmanager
def postgres_of(binaries: Path) -> Iterator[Postgres]:
    directory = Path(tempfile.mkdtemp(prefix="crf-pg-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(directory, "postgres", "postgres")
        server = Postgres(binaries, directory, free_port())
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory)
