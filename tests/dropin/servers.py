"""A server for the suites, and a Sentinel that knows it, as upstream's suite expects them, on free ports."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import redis

from bench.server import HOST, require_binary, start_server

#: What upstream's suite calls the set, and how it logs in to its Sentinel.
MASTER_NAME, SENTINEL_PASSWORD = "sentinel", "channels_redis"


class Servers(NamedTuple):
    """Their ports."""

    redis: int
    sentinel: int


@contextmanager
def started() -> Iterator[Servers]:
    """Start both, for as long as the block lasts."""
    with start_server() as primary, tempfile.TemporaryDirectory(prefix="crf-") as directory:
        # A Sentinel is the same binary with a file that it may write, first on its command line.
        script = Path(directory) / "sentinel"
        script.write_text(f'#!/bin/sh\n: >"$0.conf"\nexec "{require_binary()}" "$0.conf" --sentinel "$@"\n')
        script.chmod(0o700)
        with start_server("--requirepass", SENTINEL_PASSWORD, binary=script) as sentinel:
            with redis.Redis(port=sentinel.port, password=SENTINEL_PASSWORD) as client:
                client.execute_command("SENTINEL MONITOR", MASTER_NAME, HOST, str(primary.port), "1")
            yield Servers(primary.port, sentinel.port)
