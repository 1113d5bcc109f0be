"""The system check of CHANNEL_LAYERS: each of its messages where it belongs and nowhere else, and no secret in any."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import ERROR, WARNING, CheckMessage
from django.test import override_settings

from channels_redis_fast.checks import MIN_KEY_LENGTH, check_deployment, check_layers
from channels_redis_fast.core import RedisChannelLayer

CORE = "channels_redis_fast.core.RedisChannelLayer"
PUBSUB = "channels_redis_fast.pubsub.RedisPubSubChannelLayer"
MEMORY = "channels_redis_fast.memory.InMemoryChannelLayer"
BOTH = pytest.mark.parametrize("backend", [CORE, PUBSUB], ids=["core", "pubsub"])

SECRET = "s3cret"
KEY = "k" * MIN_KEY_LENGTH


class Site(RedisChannelLayer):
    """A layer of a site's own."""


class Elsewhere:
    """Not a layer of this package, whatever its options say."""

    def __init__(self, **options: Any) -> None:
        raise AssertionError("made")


def not_a_class(**options: Any) -> None:
    raise AssertionError("called")


def check(settings: Any, **others: Any) -> list[CheckMessage]:
    with override_settings(CHANNEL_LAYERS=settings, **others):
        messages = check_layers()
    for message in messages:
        assert SECRET not in f"{message} {message.hint}"
        assert KEY not in f"{message} {message.hint}"
        assert message.hint
    return messages


def ids(backend: str, **config: Any) -> list[str]:
    """What is said of one alias, by number. Whatever is said names the alias."""
    messages = check({"chat": {"BACKEND": backend, "CONFIG": config}})
    assert all("CHANNEL_LAYERS['chat']" in message.msg for message in messages)
    return [message.id.removeprefix("channels_redis_fast.") for message in messages]


# Nothing to say.


@BOTH
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"hosts": ["redis://localhost"]},
        {"hosts": [("redis", 6379)], "prefix": "chat"},
        {"symmetric_encryption_keys": [KEY, KEY.encode()], "serializer_format": "json"},
        {"capacity": 5, "channel_capacity": {"a*": 5}},
        {"hosts": [("redis-1", 1), ("redis-2", 2)]},
    ],
    ids=str,
)
def test_good_settings(backend: str, config: dict[str, Any]) -> None:
    assert ids(backend, **config) == []


@pytest.mark.parametrize("config", [{}, {"CONFIG": None}, {"CONFIG": {}}], ids=str)
@BOTH
def test_no_config(backend: str, config: dict[str, Any]) -> None:
    assert check({"default": {"BACKEND": backend, **config}}) == []


def test_no_layers() -> None:
    assert check({}) == []


@pytest.mark.parametrize("settings", [None, [], "default"], ids=repr)
def test_settings_that_are_no_dict(settings: Any) -> None:
    """Channels itself fails on these as soon as a layer is asked for; a check must not end the command before."""
    assert check(settings) == []


def test_no_setting_at_all() -> None:
    with override_settings():
        from django.conf import settings

        del settings.CHANNEL_LAYERS
        assert check_layers() == []


@pytest.mark.parametrize(
    "setting",
    [
        {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"capacity": -1}},
        {"BACKEND": f"{__name__}.Elsewhere", "CONFIG": {"symmetric_encryption_keys": ["short"]}},
        {"BACKEND": f"{__name__}.not_a_class"},
        {"BACKEND": "channels_redis_fast.core.NoSuchLayer", "CONFIG": {"capacity": -1}},
        {"BACKEND": "no_such_package.core.Layer"},
        {"BACKEND": "nodots"},
        {"BACKEND": ""},
        {"BACKEND": None},
        {"BACKEND": RedisChannelLayer},
        {"CONFIG": {"capacity": -1}},
        {},
        None,
        "channels_redis_fast.core.RedisChannelLayer",
        [],
    ],
    ids=lambda setting: repr(setting)[:60],
)
def test_what_is_not_ours_to_judge(setting: Any) -> None:
    """Other packages' layers, and backends that cannot be imported: Channels says so itself. Others are looked at."""
    assert check({"other": setting}) == []
    broken = {"BACKEND": CORE, "CONFIG": {"capacity": -1}}
    assert [message.id for message in check({"other": setting, "chat": broken})] == ["channels_redis_fast.E001"]


def test_a_backend_whose_module_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_layers.py").write_text("raise LookupError('not ready')")
    monkeypatch.syspath_prepend(tmp_path)
    assert check({"other": {"BACKEND": "broken_layers.Layer"}}) == []


# E001: the layer cannot be made.


@BOTH
@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"capasity": 5}, "capasity"),
        ({"capacity": -1}, "capacity"),
        ({"prefix": None}, "prefix"),
        ({"expiry": "1 min"}, "expiry"),
        ({"history": {"room": {"size": 5}}}, "Option 'history['room']' lacks 'ttl'"),
        ({"history": ["room"]}, "Option 'history' must be a dict"),
        ({"lease": 1}, "Option 'lease' must be at least 3 seconds"),
        ({"serializer_format": "yaml"}, "yaml"),
        ({"symmetric_encryption_keys": SECRET}, "symmetric_encryption_keys"),
        ({"symmetric_encryption_keys": [5]}, "symmetric_encryption_keys"),
        ({"hosts": f"redis://:{SECRET}@redis"}, "hosts"),
        ({"hosts": [f"redis://user:{SECRET}:{SECRET}@[redis:x"]}, "hosts[0]"),
        ({"hosts": [f"http://user:{SECRET}@redis"]}, "hosts[0]"),
        ({"hosts": [("h", 1), {"hots": "redis", "password": SECRET}]}, "hosts[1]"),
        ({"hosts": [f"redis://user:{SECRET}@redis?db=x"]}, "hosts[0]"),
        ({"hosts": [{"address": f"redis://:{SECRET}@redis", "nonsense": SECRET}]}, "hosts[0]"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_layer_that_cannot_be_made(backend: str, config: dict[str, Any], named: str) -> None:
    [message] = check({"chat": {"BACKEND": backend, "CONFIG": config}})
    assert (message.id, message.level) == ("channels_redis_fast.E001", ERROR)
    assert "CHANNEL_LAYERS['chat']" in message.msg
    assert named in message.msg


@pytest.mark.parametrize("config", [["hosts"], "hosts", 5, {5: 5}], ids=repr)
def test_a_config_that_is_no_dict_of_options(config: Any) -> None:
    assert [message.id for message in check({"chat": {"BACKEND": CORE, "CONFIG": config}})] == [
        "channels_redis_fast.E001"
    ]


def test_a_broken_alias_hides_no_other() -> None:
    messages = check(
        {
            "one": {"BACKEND": CORE, "CONFIG": {"capacity": -1}},
            "two": {"BACKEND": PUBSUB, "CONFIG": {"nonsense": 1}},
            "three": {"BACKEND": CORE, "CONFIG": {"symmetric_encryption_keys": ["short"]}},
        }
    )
    found = {
        (message.id[-4:], alias) for message in messages for alias in ("one", "two", "three") if alias in message.msg
    }
    assert found == {("E001", "one"), ("E001", "two"), ("W001", "three")}
    assert len(messages) == 3


def test_a_layer_of_the_sites_own() -> None:
    assert ids(f"{__name__}.Site", capacity=-1) == ["E001"]
    assert ids(f"{__name__}.Site", symmetric_encryption_keys=["short"]) == ["W001"]


# W001: short keys.


@BOTH
@pytest.mark.parametrize("short", [SECRET, SECRET.encode(), KEY[:-1], "\u00fc" * 10], ids=repr)
def test_short_keys(backend: str, short: Any) -> None:
    messages = check({"chat": {"BACKEND": backend, "CONFIG": {"symmetric_encryption_keys": [KEY, short, KEY, short]}}})
    assert [(message.id, message.level) for message in messages] == [("channels_redis_fast.W001", WARNING)] * 2
    for message, position in zip(messages, (1, 3), strict=True):
        assert f"symmetric_encryption_keys[{position}]" in message.msg


@BOTH
@pytest.mark.parametrize("keys", [None, [], ()], ids=repr)
def test_no_keys(backend: str, keys: Any) -> None:
    assert ids(backend, symmetric_encryption_keys=keys) == []


# W002: groups that forget sooner than sessions end.


@pytest.mark.parametrize(
    ("group_expiry", "age", "expected"),
    [(3600, 3601, ["W002"]), (3600, 3600, []), (3601, 3600, []), (86400, 1209600, ["W002"])],
)
def test_group_expiry(group_expiry: int, age: int, expected: list[str]) -> None:
    setting = {"chat": {"BACKEND": CORE, "CONFIG": {"group_expiry": group_expiry}}}
    messages = check(setting, SESSION_COOKIE_AGE=age)
    assert [message.id[-4:] for message in messages] == expected
    for message in messages:
        assert message.level == WARNING
        assert str(group_expiry) in message.msg
        assert str(age) in message.msg


def test_the_default_group_expiry_is_nobodys_choice() -> None:
    assert check({"chat": {"BACKEND": CORE}}, SESSION_COOKIE_AGE=10**8) == []


# E002: an empty host.


@BOTH
@pytest.mark.parametrize(
    "host", [None, "", (None, None), {"address": None, "password": SECRET}, {"host": ""}], ids=repr
)
def test_an_empty_host(backend: str, host: Any) -> None:
    [message] = check({"chat": {"BACKEND": backend, "CONFIG": {"hosts": [("h", 1), host]}}})
    assert (message.id, message.level) == ("channels_redis_fast.E002", ERROR)
    assert "CHANNEL_LAYERS['chat']" in message.msg
    assert "hosts[1]" in message.msg
    assert "is empty" in message.msg


@BOTH
def test_an_empty_host_hides_nothing_else(backend: str) -> None:
    config = {"hosts": [f"redis://:{SECRET}@redis", None], "symmetric_encryption_keys": ["short"]}
    assert ids(backend, **config) == ["W001", "E002"]
    orders = {"one": {"BACKEND": backend, "CONFIG": {"hosts": [None]}}, "two": {"BACKEND": backend, "CONFIG": {}}}
    assert [message.id for message in check(orders)] == ["channels_redis_fast.E002"]


def test_an_empty_host_of_a_cluster_and_of_sentinels() -> None:
    for host in ({"cluster": ["redis://h", ""]}, {"sentinels": [("h", 1), (None, 1)], "master_name": "m"}):
        [message] = check({"chat": {"BACKEND": CORE, "CONFIG": {"hosts": [host]}}})
        assert "hosts[0]['" in message.msg
        assert "][1]" in message.msg


# W003: the same hosts in two orders.

ONE, TWO, THREE = ("redis-1", 6379), "redis://redis-2:6379/0", {"host": "redis-3", "port": 6379}


@pytest.mark.parametrize(
    ("first", "second", "count"),
    [
        ([ONE, TWO], [TWO, ONE], 1),
        ([ONE, TWO, THREE], [ONE, THREE, TWO], 1),
        (["redis://redis-1", "redis://redis-2"], [TWO, ONE], 1),
        (["redis://redis/0", "redis://redis/1"], ["redis://redis/1", "redis://redis/0"], 1),
        (["redis://redis", {"host": "redis", "db": 1}], ["redis://redis?db=1", ("redis", 6379)], 1),
        (["redis://redis-1/0", "redis://redis-2/0"], ["redis://redis-2/1", "redis://redis-1/1"], 0),
        ([ONE, TWO], [ONE, TWO], 0),
        ([ONE, TWO], [ONE, THREE], 0),
        ([ONE, TWO], [THREE, ONE, TWO], 0),
        ([ONE], [ONE], 0),
    ],
)
def test_orders(first: list[Any], second: list[Any], count: int) -> None:
    messages = check(
        {
            "chat": {"BACKEND": CORE, "CONFIG": {"hosts": first}},
            "jobs": {"BACKEND": CORE, "CONFIG": {"hosts": second}},
        }
    )
    assert [(message.id, message.level) for message in messages] == [("channels_redis_fast.W003", WARNING)] * count
    for message in messages:
        assert "chat" in message.msg
        assert "jobs" in message.msg


def test_orders_of_many_aliases() -> None:
    """Each that is unlike the first is named."""
    orders = {
        "a": [ONE, TWO, THREE],
        "b": [TWO, ONE, THREE],
        "c": [ONE, TWO, THREE],
        "d": [THREE, TWO, ONE],
        "e": [ONE],
    }
    messages = check({alias: {"BACKEND": CORE, "CONFIG": {"hosts": hosts}} for alias, hosts in orders.items()})
    assert [message.msg[:20] for message in messages] == ["CHANNEL_LAYERS['b'] ", "CHANNEL_LAYERS['d'] "]


# W004: passwords in the open.


@BOTH
@pytest.mark.parametrize(
    "host",
    [
        f"redis://user:{SECRET}@redis:6379",
        f"redis://:{SECRET}@10.0.0.5",
        f"redis://redis:6379?password={SECRET}",
        {"address": f"redis://:{SECRET}@redis"},
        {"address": "redis://redis", "password": SECRET},
        {"host": "redis", "password": SECRET},
        {"host": "redis", "username": "user", "password": SECRET},
        {"host": "redis", "ssl": False, "password": SECRET},
        {"sentinels": [("localhost", 1), ("sentinel", 1)], "master_name": "chat", "password": SECRET},
    ],
    ids=str,
)
def test_a_password_in_the_open(backend: str, host: Any) -> None:
    assert ids(backend, hosts=[host]) == ["W004"]
    [message] = check({"chat": {"BACKEND": backend, "CONFIG": {"hosts": [("redis", 1), host]}}})
    assert message.level == WARNING
    assert ("redis" in message.msg) or ("10.0.0.5" in message.msg) or ("sentinel:chat" in message.msg)


@BOTH
@pytest.mark.parametrize(
    ("host", "found"),
    [
        ({"cluster": [f"redis://:{SECRET}@redis:7000", ("redis", 7001)]}, ["W004"]),
        ({"cluster": [("redis", 7001), f"redis://:{SECRET}@redis:7000"]}, ["W004"]),
        ({"cluster": [("localhost", 7000), ("redis", 7001)], "password": SECRET}, ["W004"]),
        ({"cluster": [("redis", 7001)], "password": SECRET, "ssl": True}, []),
        ({"cluster": [f"rediss://:{SECRET}@redis:7000"]}, []),
        ({"cluster": ["rediss://redis:7000", ("redis", 7001)], "password": SECRET}, []),
        ({"cluster": [f"redis://:{SECRET}@localhost:7000", ("127.0.0.1", 7001)]}, []),
        ({"cluster": ["redis://redis:7000"]}, []),
    ],
    ids=str,
)
def test_passwords_of_a_cluster(backend: str, host: Any, found: list[str]) -> None:
    """What one URI says of users and TLS is for all its servers, and the warning comes once."""
    assert ids(backend, hosts=[host]) == found
    messages = check({"chat": {"BACKEND": backend, "CONFIG": {"hosts": [host]}}})
    assert all("cluster:" in message.msg and SECRET not in message.msg for message in messages)


def test_clusters_of_two_aliases() -> None:
    """The order of a cluster's servers is nobody's shard."""
    hosts = [{"cluster": [("a", 1), ("b", 2)]}, {"cluster": [("b", 2), ("a", 1)]}]
    layers = {str(at): {"BACKEND": CORE, "CONFIG": {"hosts": [host]}} for at, host in enumerate(hosts)}
    assert check(layers) == []


def test_a_credential_provider_in_the_open() -> None:
    from redis.credentials import UsernamePasswordCredentialProvider

    provider = UsernamePasswordCredentialProvider("user", SECRET)  # type: ignore[no-untyped-call]
    assert ids(CORE, hosts=[{"host": "redis", "credential_provider": provider}]) == ["W004"]
    assert ids(CORE, hosts=[{"host": "127.0.0.1", "credential_provider": provider}]) == []


@BOTH
@pytest.mark.parametrize(
    "host",
    [
        "redis://redis",
        ("redis", 6379),
        f"rediss://user:{SECRET}@redis",
        {"address": "rediss://redis", "password": SECRET},
        {"host": "redis", "ssl": True, "password": SECRET},
        f"redis://:{SECRET}@localhost:6379",
        f"redis://:{SECRET}@127.0.0.1",
        f"redis://:{SECRET}@127.8.9.10",
        f"redis://:{SECRET}@[::1]:6379",
        f"redis://:{SECRET}@",
        {"host": "::1", "password": SECRET},
        {"password": SECRET},
        f"unix://user:{SECRET}@/run/redis.sock",
        {"path": "/run/redis.sock", "password": SECRET},
        {"sentinels": [("localhost", 1), ("127.0.0.1", 2)], "master_name": "chat", "password": SECRET},
        {"sentinels": [("sentinel", 1)], "master_name": "chat", "ssl": True, "password": SECRET},
        {"sentinels": [("sentinel", 1)], "master_name": "chat"},
    ],
    ids=str,
)
def test_no_password_in_the_open(backend: str, host: Any) -> None:
    assert ids(backend, hosts=[host]) == []


# W005: options without effect.


@pytest.mark.parametrize("option", ["group_expiry", "random_prefix_length"])
def test_options_without_effect(option: str, caplog: pytest.LogCaptureFixture) -> None:
    messages = check({"chat": {"BACKEND": PUBSUB, "CONFIG": {option: 12}}}, SESSION_COOKIE_AGE=10**8)
    assert [(message.id, message.level) for message in messages] == [("channels_redis_fast.W005", WARNING)]
    assert f"'{option}'" in messages[0].msg
    assert check({"chat": {"BACKEND": CORE, "CONFIG": {option: 10**8}}}, SESSION_COOKIE_AGE=10**8) == []
    # The check is what says it here; the layer says it for itself when it is made in earnest.
    assert caplog.records == []


# W006 to W008: what differs from channels_redis without a word.


class WithBackupQueue(RedisChannelLayer):
    def _backup_channel_name(self, channel: str) -> str:
        return f"{channel}$backup"


def test_overrides_that_are_passed_over() -> None:
    (message,) = check({"chat": {"BACKEND": f"{__name__}.WithBackupQueue", "CONFIG": {"prefix": "x"}}})
    assert (message.id, message.level) == ("channels_redis_fast.W006", WARNING)
    assert "WithBackupQueue._backup_channel_name is never called" in message.msg


@pytest.mark.parametrize("backend", [CORE, PUBSUB])
def test_defaults_beside_a_redis_url(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", f"redis://:{SECRET}@redis:6379")
    (message,) = check({"chat": {"BACKEND": backend}})
    assert (message.id, message.level) == ("channels_redis_fast.W007", WARNING)
    assert "REDIS_URL" in message.msg
    assert SECRET not in message.msg + str(message.hint)
    assert check({"chat": {"BACKEND": backend, "CONFIG": {"prefix": "x"}}}) == []
    monkeypatch.setenv("REDIS_URL", "")
    assert check({"chat": {"BACKEND": backend}}) == []


def test_expiry_on_pubsub() -> None:
    (message,) = check({"chat": {"BACKEND": PUBSUB, "CONFIG": {"expiry": 15}}})
    assert (message.id, message.level) == ("channels_redis_fast.W008", WARNING)
    assert "15 s" in message.msg
    assert check({"chat": {"BACKEND": CORE, "CONFIG": {"expiry": 15}}}) == []


def test_all_that_there_is_to_say() -> None:
    config = {"symmetric_encryption_keys": [SECRET], "group_expiry": 5, "hosts": [f"redis://:{SECRET}@redis", ONE]}
    settings = {
        "chat": {"BACKEND": CORE, "CONFIG": config},
        "jobs": {"BACKEND": PUBSUB, "CONFIG": {**config, "hosts": config["hosts"][::-1]}},
        "rest": {"BACKEND": PUBSUB, "CONFIG": {"nonsense": SECRET}},
    }
    assert sorted(message.id[-4:] for message in check(settings)) == [
        "E001",
        *["W001"] * 2,
        "W002",
        "W003",
        *["W004"] * 2,
        "W005",
    ]


def test_nothing_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("a check opened a socket")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert ids(CORE, hosts=[("redis", 6379)]) == []


# As Django runs it.

RUN = """
import sys

import django
from django.conf import settings
from django.core.management import call_command

apps, config = eval(sys.argv[1])
layer = {"BACKEND": "channels_redis_fast.core.RedisChannelLayer", "CONFIG": config}
settings.configure(SECRET_KEY="for tests", INSTALLED_APPS=apps, CHANNEL_LAYERS={"default": layer})
django.setup()
call_command("check")
"""


@pytest.fixture
def manage(tmp_path: Path) -> Callable[[list[str], dict[str, Any]], subprocess.CompletedProcess[str]]:
    """Run `manage.py check` of a site with these apps and options, in a process of its own."""

    def run(apps: list[str], config: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", RUN, repr((apps, config))]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    return run


def test_the_app_registers_it(manage: Callable[..., Any]) -> None:
    config = {"symmetric_encryption_keys": [SECRET], "hosts": [f"redis://:{SECRET}@redis"]}
    run = manage(["channels", "channels_redis_fast"], config)
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("channels_redis_fast.W001") == 1
    assert run.stderr.count("channels_redis_fast.W004") == 1
    assert SECRET not in run.stdout + run.stderr


def test_an_error_ends_the_command(manage: Callable[..., Any]) -> None:
    run = manage(["channels_redis_fast"], {"capasity": 5})
    assert run.returncode != 0
    assert "channels_redis_fast.E001" in run.stderr
    assert "capasity" in run.stderr


def test_nothing_without_the_app(manage: Callable[..., Any]) -> None:
    run = manage(["channels"], {"symmetric_encryption_keys": [SECRET]})
    assert run.returncode == 0, run.stderr
    assert "channels_redis_fast" not in run.stdout + run.stderr


def test_good_settings_say_nothing(manage: Callable[..., Any]) -> None:
    run = manage(["channels_redis_fast"], {"hosts": [("localhost", 6379)]})
    assert run.returncode == 0, run.stderr
    assert "no issues" in run.stdout


# The layer in memory.


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, []),
        # Options of the core layer mean nothing there, so that settings need one word changed.
        ({"hosts": [f"redis://:{SECRET}@redis"], "prefix": "chat", "symmetric_encryption_keys": ["short"]}, []),
        ({"capacity": -1}, ["E001"]),
        ({"capcity": 5}, ["E001"]),
        ({"group_expiry": 60}, ["W002"]),
    ],
    ids=str,
)
def test_a_layer_in_memory(config: dict[str, Any], expected: list[str]) -> None:
    assert ids(MEMORY, **config) == expected


def test_deploying_a_layer_in_memory() -> None:
    layers = {"default": {"BACKEND": CORE}, "chat": {"BACKEND": MEMORY}}
    with override_settings(CHANNEL_LAYERS=layers):
        (message,) = check_deployment()
    assert message.id == "channels_redis_fast.W010"
    assert "CHANNEL_LAYERS['chat']" in message.msg
    assert message.hint


# What to do about it.


def test_a_link_comes_once() -> None:
    wrong = {"BACKEND": CORE, "CONFIG": {"capcity": 5}}
    messages = check({"a": wrong, "b": wrong, "c": {"BACKEND": PUBSUB, "CONFIG": {"hosts": "localhost"}}})
    assert [message.id for message in messages] == ["channels_redis_fast.E001"] * 3
    assert "Did you mean 'capacity'?" in messages[0].msg
    assert "https://" in str(messages[0].hint)
    assert str([(message.msg, message.hint) for message in messages]).count("https://") == 1
