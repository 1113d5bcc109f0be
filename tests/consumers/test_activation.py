"""How a site gets direct dispatch: base classes, the mixin, `install()`, the setting; and what is refused."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import pytest
from channels import consumer, utils
from channels.generic import http, websocket

from channels_redis_fast import consumers
from channels_redis_fast.consumers import DirectDispatch
from tests.conftest import ROOT
from tests.consumers.ways import socket_of

CLASSES = {
    "AsyncConsumer": consumer.AsyncConsumer,
    "AsyncHttpConsumer": http.AsyncHttpConsumer,
    "AsyncWebsocketConsumer": websocket.AsyncWebsocketConsumer,
    "AsyncJsonWebsocketConsumer": websocket.AsyncJsonWebsocketConsumer,
}


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    consumers.uninstall()


@pytest.mark.parametrize("name", CLASSES)
def test_classes(name: str) -> None:
    """Each is a subclass of Channels' class of the same name; its methods are that class', but for four."""
    ours, theirs = getattr(consumers, name), CLASSES[name]
    assert issubclass(ours, theirs)
    assert ours.as_asgi().consumer_class is ours
    replaced = {"__call__", "dispatch", "websocket_disconnect", "http_disconnect"}
    for method, function in inspect.getmembers(theirs, inspect.isfunction):
        assert (getattr(ours, method) is function) == (method not in replaced), method


def test_the_mixin_on_something_else() -> None:
    with pytest.raises(
        TypeError, match=r"Feed uses DirectDispatch but is not an AsyncConsumer.*derive it from a consumer class"
    ):
        type("Feed", (DirectDispatch, dict), {})
    with pytest.raises(TypeError, match="Feed uses DirectDispatch but is not an AsyncConsumer"):
        type("Feed", (DirectDispatch,), {})


class Theirs(websocket.AsyncWebsocketConsumer):  # type: ignore[misc]
    """A consumer class of another package."""

    async def dispatch(self, message: dict[str, Any]) -> None:
        self.seen = (*getattr(self, "seen", ()), message["type"])
        await super().dispatch(message)

    async def connect(self) -> None:
        await self.accept()
        await self.send(text_data=" ".join(self.seen))


def test_the_mixin_skips_nothing() -> None:
    with pytest.raises(TypeError, match=r"skip Theirs\.dispatch: put it last, class Feed\(Theirs, DirectDispatch\)"):
        type("Feed", (DirectDispatch, Theirs), {})


async def test_the_mixin_last() -> None:
    class Feed(Theirs, DirectDispatch):
        pass

    assert Feed.__call__ is DirectDispatch.__call__
    async with socket_of(Feed) as socket:
        await socket.accepted()
        assert await socket.text() == "websocket.connect"


def test_install_and_uninstall() -> None:
    owners = {
        consumer.AsyncConsumer: ("__call__", "dispatch"),
        websocket.AsyncWebsocketConsumer: ("websocket_disconnect",),
        http.AsyncHttpConsumer: ("http_disconnect",),
    }
    before = {(owner, name): vars(owner)[name] for owner, names in owners.items() for name in names}
    assert not consumers.installed()
    for _ in range(2):
        consumers.install()
        assert consumers.installed()
        assert not any(vars(owner)[name] is method for (owner, name), method in before.items())
    for _ in range(2):
        consumers.uninstall()
        assert not consumers.installed()
        assert all(vars(owner)[name] is method for (owner, name), method in before.items())


@pytest.mark.parametrize("name", ["AsyncConsumer.dispatch", "AsyncConsumer.__call__", "await_many_dispatch"])
def test_code_that_is_not_known(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Of another release, or replaced by another package: all is left as it is."""

    async def other(self: Any, *args: Any) -> None:
        """Anything else."""

    other.__qualname__ = name
    owner = consumer.AsyncConsumer if "." in name else utils
    monkeypatch.setattr(owner, name.rpartition(".")[-1], other)
    before = dict(vars(consumer.AsyncConsumer))
    with pytest.raises(RuntimeError, match=f"{name} of Channels {version('channels')} is not code that"):
        consumers.install()
    assert not consumers.installed()
    assert dict(vars(consumer.AsyncConsumer)) == before


def test_what_another_package_puts_over_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    original = consumer.AsyncConsumer.dispatch
    consumers.install()
    direct = consumer.AsyncConsumer.dispatch

    async def traced(self: Any, message: dict[str, Any]) -> None:
        await direct(self, message)

    monkeypatch.setattr(consumer.AsyncConsumer, "dispatch", traced)
    consumers.uninstall()
    assert consumer.AsyncConsumer.dispatch is traced
    monkeypatch.undo()
    consumer.AsyncConsumer.dispatch = original


SITE = """
import sys
from django.conf import settings
settings.configure(SECRET_KEY="for tests", INSTALLED_APPS=["channels", "channels_redis_fast"], {settings})
import channels.consumer
{before}
import django
django.setup()
from django.core.management import call_command
call_command("check")
print(channels.consumer.AsyncConsumer.dispatch.__module__)
print("channels_redis_fast.consumers" in sys.modules)
"""


def check(settings: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run `manage.py check` of a site in a process of its own; say whose dispatch consumers have then."""
    program = SITE.format(settings=settings, before=before)
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)


def test_setting() -> None:
    done = check('CHANNELS_REDIS_FAST={"CONSUMERS": "direct"}')
    assert done.stdout.splitlines()[-2:] == ["channels_redis_fast.consumers.dispatch", "True"], done.stderr
    said = done.stdout + done.stderr
    assert f"(channels_redis_fast.I001) Consumers have direct dispatch (Channels {version('channels')})." in said


@pytest.mark.parametrize("settings", ["", "CHANNELS_REDIS_FAST={}", 'CHANNELS_REDIS_FAST={"CONSUMERS": "channels"}'])
def test_no_setting(settings: str) -> None:
    done = check(settings)
    assert done.stdout.splitlines()[-2:] == ["channels.consumer", "False"], done.stderr
    assert "no issues" in done.stdout


def test_setting_that_cannot_be_done() -> None:
    """The site runs, on Channels' dispatch; the check warns."""
    done = check(
        'CHANNELS_REDIS_FAST={"CONSUMERS": "direct"}', "channels.consumer.get_handler_name = lambda message: 'x'"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["channels.consumer", "True"]
    assert (
        f"(channels_redis_fast.W009) Consumers keep Channels' dispatch: <lambda> of Channels {version('channels')}"
        in (done.stdout + done.stderr)
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('{"CONSUMERS": "fast"}', "CHANNELS_REDIS_FAST['CONSUMERS'] must be 'channels' or 'direct'; it is 'fast'."),
        ('{"CONSUMERS": ["direct"]}', "CHANNELS_REDIS_FAST['CONSUMERS'] must be"),
        ('{"consumers": "direct"}', "CHANNELS_REDIS_FAST['consumers'] is unknown; the settings are 'CONSUMERS', "),
        ('"direct"', "CHANNELS_REDIS_FAST must be a dict, not str."),
    ],
)
def test_settings_that_are_wrong(settings: str, message: str) -> None:
    done = check(f"CHANNELS_REDIS_FAST={settings}")
    assert done.returncode != 0
    assert f"ImproperlyConfigured: {message}" in done.stderr
