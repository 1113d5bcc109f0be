"""Leases as they are in Redis, and processes that hold some, to be stopped and killed."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from typing import Any

from tests.conftest import ROOT

#: Seconds of the short leases, and of their third.
SHORT = 0.6
THIRD = SHORT / 3


def deadlines(raw: Any, prefix: str) -> dict[str, float]:
    """By process, the deadline of its lease."""
    return {name.decode(): score for name, score in raw.zrange(f"{prefix}:leases", 0, -1, withscores=True)}


def server_time(raw: Any) -> float:
    seconds, micros = raw.time()
    return float(seconds + micros / 1_000_000)


def overdue(raw: Any, prefix: str) -> set[str]:
    """The processes whose lease has run out."""
    now = server_time(raw)
    return {name for name, deadline in deadlines(raw, prefix).items() if deadline <= now}


def run_out(raw: Any, prefix: str, process: str, seconds: float = 100.0) -> None:
    """Let a process look like one that has stopped so long ago that its lease is overdue by so many seconds."""
    raw.zadd(f"{prefix}:leases", {process: server_time(raw) - seconds})


class Member:
    """A process with a core layer, one of whose channels is in the group "room"; see `member.py`."""

    def __init__(self, url: str, prefix: str) -> None:
        command = [sys.executable, "-m", "tests.presence.member", url, prefix, str(SHORT)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0, cwd=ROOT)
        self.channel: str = self.report()

    @property
    def name(self) -> str:
        """What its lease is called."""
        return self.channel.partition("!")[0].rpartition(".")[2]

    def report(self, timeout: float = 60.0) -> Any:
        """The next thing that it has to say: its channel first, then each message."""
        assert self._process.stdout is not None
        assert select.select([self._process.stdout], [], [], timeout)[0], "the process says nothing"
        return json.loads(self._process.stdout.readline())

    def stop(self) -> None:
        """SIGSTOP; returns when it stands still."""
        os.kill(self._process.pid, signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)

    def go_on(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
