"""A forked child is known for one, whoever forked it, with the page that Linux empties and without."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import pytest

from channels_redis_fast import process
from channels_redis_fast.process import Process
from tests.forks import fork_in_c


def code_of(fork: Callable[[], int], child: Callable[[], int]) -> int:
    """Fork, and return what the child returns."""
    pid = fork()
    if pid == 0:
        code = 99
        try:
            code = child()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture(params=["kept", "asked"])
def number(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of the process is read from a page of memory, or asked for."""
    if request.param == "asked":
        monkeypatch.setattr(sys, "platform", "elsewhere")
    monkeypatch.setattr(process, "current_number", process._kept_number())


@pytest.mark.filterwarnings("ignore:This process")
@pytest.mark.parametrize("fork", [os.fork, fork_in_c])
def test_a_child_is_another_process(number: None, fork: Callable[[], int]) -> None:
    parents = Process()
    assert parents.is_current

    def child() -> int:
        if parents.is_current:
            return 1
        own = Process()
        if not own.is_current or parents.is_current:
            return 2
        # Of a child's child neither is current.
        return code_of(fork, lambda: 3 * own.is_current + 4 * parents.is_current)

    assert code_of(fork, child) == 0
    assert parents.is_current


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux empties pages")
def test_linux_is_not_asked_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Process()
    monkeypatch.setattr(os, "getpid", lambda: pytest.fail("asked"))
    assert own.is_current
