"""
`make site`: the chat on a Redis server of its own, or on that of REDIS_URL; with `--processes 2` as two processes.

Each process has a port, so that one can be in a room through either.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
from contextlib import closing

from bench.server import HOST, ServerError, free_port, server_from_environment

FIRST_PORT = 8000


def main() -> int:
    """Start everything, say where it is, and end it all on Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m examples.chat", description=__doc__)
    parser.add_argument("--processes", type=int, default=1, help="how many processes serve the site (default: 1)")
    count = parser.parse_args().processes
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with server_from_environment() as server:
        processes = []
        try:
            for index in range(count):
                port = port_like(FIRST_PORT + index)
                processes.append(serve(port, server.url))
                print(f"http://{HOST}:{port}/   live page: http://{HOST}:{port}/layers/", flush=True)
            print("Ctrl-C ends it.", flush=True)
            return max(process.wait() for process in processes)
        except KeyboardInterrupt:
            return 0
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()


def serve(port: int, redis_url: str, **environment: str) -> subprocess.Popen[bytes]:
    """Start one process of the site. It has a session of its own, so that Ctrl-C is for who started it."""
    command = [sys.executable, "-m", "uvicorn", "--host", HOST, "--port", str(port), "--lifespan", "off"]
    command += ["--log-level", "warning", "examples.chat.asgi:application"]
    return subprocess.Popen(command, env={**os.environ, "REDIS_URL": redis_url, **environment}, start_new_session=True)


def port_like(port: int) -> int:
    """Return this port, or another one if it is taken."""
    with closing(socket.socket()) as probe:
        return free_port() if probe.connect_ex((HOST, port)) == 0 else port


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ServerError as error:
        sys.exit(f"examples.chat: {error}")
