"""`manage.py channels_redis_fast`: the commands on the layers of a project."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.core.management import call_command
from django.test import override_settings

from bench.server import ForeignServer, Server
from channels_redis_fast.cli.check import command as check_command
from channels_redis_fast.cli.main import COMMANDS
from channels_redis_fast.management.commands.channels_redis_fast import Command
from tests.conftest import ROOT

CORE = "channels_redis_fast.core.RedisChannelLayer"
PUBSUB = "channels_redis_fast.pubsub.RedisPubSubChannelLayer"
MEMORY = "channels_redis_fast.memory.InMemoryChannelLayer"


@pytest.fixture
def manage(tmp_path: Path, redis_server: Server | ForeignServer, prefix: str) -> Callable[..., list[str]]:
    """The command of a project with two layers on the shared server, one that is in memory, one that is nowhere."""
    config = {"hosts": [redis_server.url], "prefix": prefix}
    layers = {
        "default": {"BACKEND": CORE, "CONFIG": config},
        "chat": {"BACKEND": PUBSUB, "CONFIG": config},
        "memory": {"BACKEND": MEMORY},
        "gone": {"BACKEND": CORE, "CONFIG": {"hosts": ["redis://user:s3cret@127.0.0.1:1"]}},
    }
    text = [
        "SECRET_KEY = 'for tests'",
        f"CHANNEL_LAYERS = {layers!r}",
        "INSTALLED_APPS = ['channels', 'channels_redis_fast']",
    ]
    (tmp_path / "mysettings.py").write_text("\n".join(text) + "\n")
    (tmp_path / "manage.py").write_text(
        "import os, sys\n"
        "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'mysettings')\n"
        "from django.core.management import execute_from_command_line\n"
        "execute_from_command_line(sys.argv)\n"
    )
    return lambda *arguments: [sys.executable, str(tmp_path / "manage.py"), "channels_redis_fast", *arguments]


@pytest.fixture
def run(manage: Callable[..., list[str]]) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            manage(*arguments), capture_output=True, text=True, env=environment(), timeout=60, check=False
        )

    return run


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}


def test_help(run: Callable[..., Any]) -> None:
    ended = run("--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    for name in COMMANDS:
        assert name in ended.stdout
    ended = run("inspect", "--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "manage.py channels_redis_fast inspect" in ended.stdout
    assert "ALIAS" in ended.stdout
    assert "--hosts" not in ended.stdout
    assert "mysite.settings" not in ended.stdout


def test_several_layers(run: Callable[..., Any], prefix: str) -> None:
    ended = run("inspect", "default", "chat")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert f"Core layer of CHANNEL_LAYERS['default'], prefix '{prefix}'" in ended.stdout
    assert f"Pub/Sub layer of CHANNEL_LAYERS['chat'], prefix '{prefix}'" in ended.stdout
    # Also those after one that fails.
    ended = run("inspect", "gone", "chat", "--settings", "mysettings")
    assert (ended.returncode, ended.stderr) == (1, "")
    assert "not reachable" in ended.stdout
    assert "CHANNEL_LAYERS['chat']" in ended.stdout
    assert "s3cret" not in ended.stdout
    ended = run("inspect", "--top", "x")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "argument --top: a whole number, not 'x'" in ended.stderr


def test_watching_ends_with_ctrl_c(manage: Callable[..., list[str]]) -> None:
    command = manage("inspect", "--watch", "0.1", "--json")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()) as it:
        assert it.stdout is not None
        assert json.loads(it.stdout.readline())["deployment"] == "CHANNEL_LAYERS['default']"
        it.send_signal(signal.SIGINT)
        _, err = it.communicate(timeout=30)
    assert (it.returncode, err) == (0, "")


# Within this process, which is quicker.


@pytest.fixture
def called(
    monkeypatch: pytest.MonkeyPatch, redis_server: Server | ForeignServer, prefix: str
) -> Iterator[Callable[..., str]]:
    """Call the command as code does, in a project that is set up; return its output."""
    config = {"hosts": [redis_server.url], "prefix": prefix}
    layers = {
        "default": {"BACKEND": CORE, "CONFIG": config},
        "chat": {"BACKEND": PUBSUB, "CONFIG": config},
        "memory": {"BACKEND": MEMORY},
        "broken": {"BACKEND": CORE, "CONFIG": {"hosts": [redis_server.url], "capacity": -1}},
    }
    monkeypatch.setattr(apps, "ready", True)

    def run(*arguments: str) -> str:
        out = StringIO()
        call_command(Command(), *arguments, stdout=out)
        return out.getvalue()

    with override_settings(CHANNEL_LAYERS=layers):
        yield run


@pytest.mark.parametrize("arguments", [["inspect"], ["check"]], ids=str)
def test_commands_are_of_the_project(called: Callable[..., str], arguments: list[str]) -> None:
    assert "CHANNEL_LAYERS['default']" in called(*arguments)


def test_json(called: Callable[..., str], prefix: str) -> None:
    assert json.loads(called("inspect", "chat", "--json"))["prefix"] == prefix


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["inspect", "nothing"], "CHANNEL_LAYERS has no 'nothing'"),
        (["inspect", "broken"], "Option 'capacity' must not be negative"),
        (["inspect", "default", "chat", "--watch"], "--watch shows one layer"),
        (["inspect", "memory"], "CHANNEL_LAYERS['memory'] is in the memory of each process"),
    ],
    ids=str,
)
def test_wrong_usage(
    called: Callable[..., str], capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        called(*arguments)
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("manage.py channels_redis_fast: ")
    assert text in err
    assert err.count("\n") == 1


def test_an_interrupted_command(
    called: Callable[..., str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*arguments: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(check_command, "run", run)
    with pytest.raises(SystemExit) as ended:
        called("check")
    assert ended.value.code == 1
    assert capsys.readouterr().err == "manage.py channels_redis_fast: Interrupted.\n"
