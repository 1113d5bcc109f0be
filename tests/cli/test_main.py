"""The frame of the command line: which command, which deployment, which exit code, and one line for an error."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bench.server import ForeignServer, Server
from channels_redis_fast import __version__
from channels_redis_fast.cli import deployment, main
from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.conftest import ROOT

Call = Callable[..., Any]

CORE = "channels_redis_fast.core.RedisChannelLayer"
SECRET = "s3cret"


class OurOwn(RedisChannelLayer):
    """A site's own layer."""


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], int]], None]:
    """Put a command in place of `check` that does what a test says."""

    def make(what: Callable[[], int]) -> None:
        module: Any = ModuleType("a_command")
        module.HELP, module.EXAMPLE = "Does something.", "channels-redis-fast check"
        module.add_arguments = lambda parser: None
        module.run = lambda arguments, console: what()
        monkeypatch.setitem(sys.modules, "a_command", module)
        monkeypatch.setitem(main.COMMANDS, "check", "a_command")

    return make


def raising(error: BaseException) -> Callable[[], int]:
    def what() -> int:
        raise error

    return what


# What a user sees first.


def test_help_names_every_command(call: Call) -> None:
    code, out, err = call("--help")
    assert (code, err) == (0, "")
    for name in main.COMMANDS:
        assert re.search(rf"^ +{name} +\w", out, re.MULTILINE)


@pytest.mark.parametrize("name", main.COMMANDS)
def test_help_of_a_command_has_an_example(call: Call, name: str) -> None:
    code, out, err = call(name, "--help")
    assert (code, err) == (0, "")
    assert f"example:\n  channels-redis-fast {name} " in out
    assert "--settings" in out
    assert "--debug" in out


def test_version(call: Call) -> None:
    assert call("--version") == (0, f"channels-redis-fast {__version__}\n", "")


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["check", "--nothing"], ["check", "--layer", "nothing"]])
def test_wrong_usage(call: Call, arguments: list[str]) -> None:
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert "usage: channels-redis-fast" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", f"redis://:{SECRET}@localhost"],
        ["check", "--layer", f"redis://user:{SECRET}@localhost"],
        ["check", f"redis://localhost?db=1&password={SECRET}"],
        [f"redis://:{SECRET}@localhost"],
        ["check", "--hosts", f"http://user:{SECRET}@localhost"],
        ["check", "--hosts", f"redis://user:{SECRET}/@localhost:99999"],
        ["check", "--hosts", f"redis://user:{SECRET}@localhost?nothing=1"],
        ["check", "--cluster", f"redis://user:{SECRET}@localhost/3"],
    ],
    ids=str,
)
def test_no_error_repeats_a_password(call: Call, arguments: list[str]) -> None:
    code, out, err = call(*arguments)
    assert code == 2
    assert err
    assert SECRET not in out + err


# Whatever goes wrong.


def test_an_error_is_one_line(call: Call, command: Callable[..., None]) -> None:
    command(raising(RuntimeError(f"no\nluck at redis://user:{SECRET}@localhost:1")))
    assert call("check") == (1, "", "channels-redis-fast: no luck at redis://***@localhost:1\n")


def test_an_error_without_a_text_is_called_by_its_name(call: Call, command: Callable[..., None]) -> None:
    command(raising(RuntimeError()))
    assert call("check").err == "channels-redis-fast: RuntimeError\n"


def test_debug_shows_the_traceback(call: Call, command: Callable[..., None]) -> None:
    command(raising(RuntimeError(f"redis://user:{SECRET}@localhost")))
    code, out, err = call("check", "--debug")
    assert (code, out) == (1, "")
    assert "Traceback" in err
    assert "in what" in err
    assert SECRET not in err


def test_wrong_settings_are_wrong_usage(call: Call, command: Callable[..., None]) -> None:
    command(raising(deployment.UsageError("Say which.")))
    assert call("check") == (2, "", "channels-redis-fast: Say which.\n")


@pytest.mark.parametrize("code", [0, 1])
def test_the_exit_code_is_the_commands(call: Call, command: Callable[..., None], code: int) -> None:
    command(lambda: code)
    assert call("check") == (code, "", "")


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """As if these were not installed, whatever was imported before."""
    for name in list(sys.modules):
        if name.split(".")[0] in packages or name.startswith("channels_redis_fast.cli."):
            monkeypatch.delitem(sys.modules, name)
    for name in packages:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize("name", ["inspect", "check", "bench"])
def test_a_missing_extra_is_named(call: Call, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    without(monkeypatch, "rich", "matplotlib")
    text = "channels-redis-fast: rich is not installed: pip install 'channels-redis-fast[cli]'\n"
    assert call(name, "--hosts", "redis://127.0.0.1:1") == (2, "", text)


def test_another_extra_is_named_for_tune(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "rich", "matplotlib")
    text = "channels-redis-fast: rich is not installed: pip install 'channels-redis-fast[tune]'\n"
    assert call("tune", "--hosts", "redis://127.0.0.1:1") == (2, "", text)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], *([name, "--help"] for name in main.COMMANDS)], ids=str
)
def test_help_needs_no_extra(call: Call, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    without(monkeypatch, "rich", "matplotlib")
    code, out, err = call(*arguments)
    assert (code, err) == (0, "")
    assert "channels-redis-fast" in out


def test_only_tune_needs_matplotlib(
    call: Call, monkeypatch: pytest.MonkeyPatch, redis_server: Server | ForeignServer, prefix: str
) -> None:
    without(monkeypatch, "matplotlib")
    for name in ("inspect", "check"):
        assert call(name, "--hosts", redis_server.url, "--prefix", prefix).code == 0
    outcome = call("bench", "--hosts", "redis://127.0.0.1:1")
    assert outcome.code == 1
    assert "connecting to 127.0.0.1:1" in outcome.err


@pytest.mark.parametrize("name", main.COMMANDS)
def test_no_error_of_an_option_has_a_name_of_ours(call: Call, name: str) -> None:
    """argparse puts the name of a function into its text where that raises what is not its own error."""
    out = call(name, "--help").out
    options = sorted(set(re.findall(r"(--[a-z-]+) (?:\[?[A-Z]+|N,)", out)))
    assert options
    for option in options:
        for value in ("x y", "1,,2", "nan"):
            err = call(name, "--hosts", "redis://127.0.0.1:1", f"{option}={value}").err
            assert not re.search(r"invalid (_\w+|typed|<\w+>) value", err), err


def test_another_missing_module_is_not_blamed_on_the_extra(call: Call, command: Callable[..., None]) -> None:
    command(raising(ModuleNotFoundError("No module named 'mysite'", name="mysite")))
    assert call("check") == (1, "", "channels-redis-fast: No module named 'mysite'\n")


@pytest.mark.parametrize(
    ("number", "is_in_background"), [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGTERM, True)]
)
def test_interruptions_let_a_command_clean_up(
    call: Call, command: Callable[..., None], number: signal.Signals, is_in_background: bool
) -> None:
    """Ctrl-C, and what a supervisor sends; a shell lets its scripts' background ignore Ctrl-C."""
    done: list[str] = []

    async def work() -> None:
        try:
            signal.raise_signal(number)
            await asyncio.sleep(30)
        finally:
            await asyncio.sleep(0)
            done.append("clean")

    def what() -> int:
        asyncio.run(work())
        return 0

    command(what)
    before = signal.getsignal(signal.SIGTERM)
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN if is_in_background else signal.default_int_handler)
    try:
        assert call("check") == (1, "", "channels-redis-fast: Interrupted.\n")
    finally:
        signal.signal(signal.SIGINT, usual)
    assert done == ["clean"]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("more", [["--json"], []], ids=str)
def test_whoever_reads_may_have_seen_enough(redis_server: Server | ForeignServer, prefix: str, more: list[str]) -> None:
    """`inspect --watch | head -1`."""
    command = [sys.executable, "-m", "channels_redis_fast", "inspect", "--watch", "0.1", *more]
    command += ["--hosts", redis_server.url, "--prefix", prefix]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(30) == main.PIPE_CLOSED


@pytest.mark.parametrize(
    "arguments", [["--help"], ["check", "--hosts", "{url}"], ["inspect", "--hosts", "{url}"]], ids=str
)
def test_nobody_reads_at_all(redis_server: Server | ForeignServer, arguments: list[str]) -> None:
    """What is written at the end of the process is lost as quietly."""
    command = [sys.executable, "-m", "channels_redis_fast", *(text.format(url=redis_server.url) for text in arguments)]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, cwd=ROOT, timeout=60, check=False)
    finally:
        os.close(writing)
    assert ended.stderr == b""
    # argparse takes no notice of it.
    assert ended.returncode == (0 if "--help" in arguments else main.PIPE_CLOSED)


# Which deployment.


def find(**given: Any) -> deployment.Deployment:
    names = ("hosts", "cluster", "settings", "alias", "prefix", "layer", "sharded")
    return deployment.find(Namespace(**{name: given.get(name) for name in names}))


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Settings with these CHANNEL_LAYERS."""
    return lambda layers: monkeypatch.setattr(deployment, "_read_settings", lambda module: layers)


def test_hosts(call: Call) -> None:
    place = find(hosts=["redis://a", "redis://b"], prefix="chat", layer="pubsub")
    layer = place.make_layer()
    assert type(layer) is RedisPubSubChannelLayer
    assert (layer.prefix, layer.ring_size) == ("chat", 2)
    assert (place.alias, place.is_core, place.is_twin) == (None, False, False)
    assert find(hosts=["redis://a"]).is_core
    assert find(hosts=["redis://a"]).make_layer(prefix="other", capacity=5).capacity == 5


def test_a_cluster(call: Call) -> None:
    place = find(cluster=["redis://a", "redis://b:7001"], prefix="chat")
    layer = place.make_layer()
    assert layer.hosts == [{"cluster": [{"address": "redis://a"}, {"address": "redis://b:7001"}]}]
    assert (layer.prefix, layer.ring_size, place.name, place.is_core) == ("chat", 1, "--cluster", True)
    sharded: Any = find(cluster=["redis://a"], layer="pubsub").make_layer()
    assert sharded.sharded


def test_sharded() -> None:
    layers: list[Any] = [find(hosts=["redis://a"], layer="pubsub", sharded=flag).make_layer() for flag in (False, True)]
    assert [layer.sharded for layer in layers] == [False, True]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"cluster": ["redis://a"], "hosts": ["redis://a"]}, "--hosts and --cluster cannot be used together"),
        ({"cluster": ["redis://a"], "settings": "x"}, "--cluster and --settings cannot be used together"),
        ({"cluster": ["redis://a/2"]}, "--cluster: RedisChannelLayer cannot be made: hosts[0]"),
        ({"settings": "x", "sharded": True}, "--sharded needs --hosts or --cluster"),
        ({"hosts": ["redis://a"], "sharded": True}, "--sharded needs --layer pubsub"),
        ({"hosts": ["redis://a"], "settings": "x"}, "--hosts and --settings cannot be used together"),
        ({"hosts": ["redis://a"], "alias": "x"}, "--hosts and --alias cannot be used together"),
        ({"settings": "x", "prefix": "x"}, "--prefix needs --hosts"),
        ({"settings": "x", "layer": "core"}, "--layer needs --hosts"),
        ({"hosts": ["http://a"]}, "--hosts: RedisChannelLayer cannot be made: hosts[0]"),
        ({"hosts": ["redis://a", ""]}, "--hosts: Option hosts[1]: the address is empty ('')"),
        ({"cluster": ["redis://a", ""]}, "--cluster: Option hosts[0]['cluster'][1]: the address is empty ('')"),
    ],
)
def test_options_that_do_not_go_together(given: dict[str, Any], text: str) -> None:
    with pytest.raises(deployment.UsageError, match=re.escape(text)):
        find(**given)


@pytest.mark.parametrize(
    ("backend", "kind", "is_twin"),
    [
        (CORE, RedisChannelLayer, False),
        (f"{__name__}.OurOwn", OurOwn, False),
        ("channels_redis_fast.pubsub.RedisPubSubChannelLayer", RedisPubSubChannelLayer, False),
        # Neither is installed here.
        ("channels_redis.core.RedisChannelLayer", RedisChannelLayer, True),
        ("channels_redis.pubsub.RedisPubSubChannelLayer", RedisPubSubChannelLayer, True),
    ],
)
def test_backends(configured: Callable[[Any], None], backend: str, kind: type[Any], is_twin: bool) -> None:
    configured({"chat": {"BACKEND": backend, "CONFIG": {"hosts": iter(["redis://a"]), "prefix": "p"}}})
    place = find(settings="x", alias="chat")
    assert place.name == "CHANNEL_LAYERS['chat']"
    for _ in range(2):
        layer = place.make_layer()
        assert type(layer) is kind
        assert str(layer) == f"{kind.__name__}(hosts=['a:6379'])"
    assert place.is_twin is is_twin
    assert place.is_core is issubclass(kind, RedisChannelLayer)


def test_a_subclass_of_channels_redis(configured: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch) -> None:
    base = type("RedisChannelLayer", (), {"__module__": "channels_redis.core"})
    site: Any = ModuleType("a_site")
    site.Layer = type("Layer", (base,), {})
    monkeypatch.setitem(sys.modules, "a_site", site)
    configured({"default": {"BACKEND": "a_site.Layer"}})
    assert find(settings="x").is_twin


def test_options_without_effect_are_no_obstacle(configured: Callable[[Any], None]) -> None:
    backend = "channels_redis_fast.pubsub.RedisPubSubChannelLayer"
    configured({"default": {"BACKEND": backend, "CONFIG": {"group_expiry": 5}}})
    assert find(settings="x").options == {}


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        (None, "no CHANNEL_LAYERS"),
        ({}, "no CHANNEL_LAYERS"),
        ({"chat": {"BACKEND": CORE}}, "CHANNEL_LAYERS has no 'default': use --alias with one of chat"),
        ({"default": CORE}, "['default'] must be a dict with a BACKEND"),
        ({"default": {"BACKEND": CORE, "CONFIG": 5}}, "['default']: CONFIG must be a dict"),
        ({"default": {"BACKEND": CORE, "CONFIG": {"capacity": -1}}}, "Option 'capacity' must not be negative"),
        ({"default": {"BACKEND": CORE, "CONFIG": {"hosts": "redis://a"}}}, "Option 'hosts' takes a list"),
        (
            {"default": {"BACKEND": CORE, "CONFIG": {"hosts": [None]}}},
            "['default']: Option hosts[0]: the address is empty",
        ),
        ({"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}, "is in the memory of each process"),
        ({"default": {"BACKEND": "nowhere.Layer"}}, "'nowhere.Layer' cannot be imported"),
        ({"default": {"BACKEND": "Layer"}}, "'Layer' cannot be imported"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_used(configured: Callable[[Any], None], layers: Any, text: str) -> None:
    configured(layers)
    with pytest.raises(deployment.UsageError, match=re.escape(text)):
        find(settings="x")


@pytest.mark.parametrize("name", ["check", "inspect", "tune", "bench"])
def test_an_empty_host_ends_every_command_at_once(call: Call, name: str) -> None:
    code, out, err = call(name, "--hosts", "redis://127.0.0.1:1", "")
    assert (code, out) == (2, "")
    assert "hosts[1]: the address is empty" in err
    assert "environment variable" in err


def test_no_deployment(call: Call) -> None:
    code, out, err = call("inspect")
    assert (code, out) == (2, "")
    assert "--settings, DJANGO_SETTINGS_MODULE, --hosts or --cluster" in err


def test_settings_that_raise(project: Call) -> None:
    run = project({}, "INSTALLED_APPS = ['nowhere']")
    code, out, err = run("inspect")
    assert (code, out) == (2, "")
    assert err.startswith("channels-redis-fast: The settings 'mysettings' cannot be used: ModuleNotFoundError: ")
    assert err.count("\n") == 1


def test_a_real_project(project: Call, redis_server: Server | ForeignServer, prefix: str, tmp_path: Path) -> None:
    """Found in the working directory, its apps made ready: that is where a site registers its serializers."""
    config = {"hosts": [redis_server.url], "prefix": prefix, "serializer_format": "ours"}
    run = project({"default": {"BACKEND": CORE, "CONFIG": config}}, "INSTALLED_APPS = ['myapp.MyApp']")
    (tmp_path / "myapp.py").write_text(
        "from django.apps import AppConfig\n"
        "from channels_redis_fast.serializers import MsgPackSerializer, registry\n"
        "class MyApp(AppConfig):\n"
        "    name = 'myapp'\n"
        f"    path = {str(tmp_path)!r}\n"
        "    def ready(self):\n"
        "        registry.register_serializer('ours', MsgPackSerializer)\n"
    )
    for way in ({}, {"module": None}):
        named = ["--settings", "mysettings"] if way else []
        code, out, err = run("inspect", "--json", *named, **way)
        assert (code, err) == (0, "")
        assert f'"prefix": "{prefix}"' in out


# What the layers do not need.


def test_layers_import_nothing_of_the_command_line() -> None:
    script = (
        "import sys, pkgutil, importlib, channels_redis_fast\n"
        "for module in pkgutil.iter_modules(channels_redis_fast.__path__):\n"
        "    if module.name not in ('cli', '__main__', 'prometheus'):\n"
        "        importlib.import_module(f'channels_redis_fast.{module.name}')\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('rich', 'matplotlib', 'prometheus_client')\n"
        "       or name.startswith('channels_redis_fast.cli')])\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, env={**os.environ}, check=True
    )
    assert ended.stdout == "[]\n"


def test_every_package_is_shipped() -> None:
    listed = (ROOT / "pyproject.toml").read_text()
    for init in (ROOT / "channels_redis_fast").rglob("__init__.py"):
        name = ".".join(init.parent.relative_to(ROOT).parts)
        assert f'"{name}"' in listed, f"{name} is not in [tool.setuptools] packages"
