"""Wrong and unknown keys: refused when the layer is made, by name, with no password in what is said."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from tests.hosts.exercise import LAYERS

SET: dict[str, Any] = {"sentinels": [("127.0.0.1", 26379)], "master_name": "m", "password": "s3cret"}
PLAIN: dict[str, Any] = {"host": "127.0.0.1", "port": 6379, "password": "s3cret"}
ADDRESS: dict[str, Any] = {"address": "redis://user:s3cret@127.0.0.1:6379"}

#: The key that is wrong, and the host that has it.
WRONG: list[tuple[str, Any]] = [
    ("prot", {**PLAIN, "prot": 6379}),
    ("socket_timout", {**PLAIN, "socket_timout": 1}),
    ("pasword", {"host": "127.0.0.1", "pasword": "s3cret"}),
    ("ssl_ca_cert", {**PLAIN, "ssl": True, "ssl_ca_cert": "ca.crt"}),
    ("ssl_ca_certs", {**PLAIN, "ssl_ca_certs": "ca.crt"}),  # without TLS
    ("no_such_option", {**ADDRESS, "no_such_option": 1}),
    ("no_such_option", {"address": "rediss://:s3cret@127.0.0.1", "no_such_option": 1}),
    ("no_such_option", {"address": "unix://:s3cret@/run/redis.sock", "no_such_option": 1}),
    ("no_such_option", {"path": "/run/redis.sock", "password": "s3cret", "no_such_option": 1}),
    ("no_such_option", {**SET, "no_such_option": 1}),
    ("no_such_option", {**SET, "sentinel_kwargs": {"password": "s3cret", "no_such_option": 1}}),
    ("sentinels", {"master_name": "m", "password": "s3cret"}),
    ("master_name", {"sentinels": [("127.0.0.1", 26379)], "password": "s3cret"}),
    ("master_name", {**SET, **ADDRESS}),
    ("no_such_option", "redis://user:s3cret@127.0.0.1:6379?no_such_option=1"),
    ("no_such_option", "rediss://user:s3cret@127.0.0.1:6379/0?no_such_option=1"),
    ("no_such_option", "unix://user:s3cret@/run/redis.sock?no_such_option=1"),
    ("socket_timeout", "redis://user:s3cret@127.0.0.1?socket_timeout=soon"),
]


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(("key", "host"), WRONG, ids=[f"{n}-{key}" for n, (key, _) in enumerate(WRONG)])
def test_a_wrong_key_is_refused_by_name(kind: str, key: str, host: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"hosts\[1\]") as raised:
        LAYERS[kind](hosts=["redis://127.0.0.1", host])
    assert key in str(raised.value)
    error: BaseException | None = raised.value
    while error is not None:  # what a traceback shows, with all that it was raised from
        assert "s3cret" not in str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


RIGHT: list[Any] = [
    {**PLAIN, "ssl": True, "ssl_cert_reqs": "none"},
    {**PLAIN, "ssl": False},
    {**PLAIN, "socket_timeout": 3, "socket_connect_timeout": 1, "health_check_interval": 30, "client_name": "n"},
    {**PLAIN, "username": "user", "db": 3, "max_connections": 5, "socket_keepalive": True, "retry_on_timeout": True},
    {**SET, "db": 3, "sentinel_kwargs": None},
    {**SET, "sentinel_kwargs": {"username": "user", "password": "s3cret", "socket_timeout": 1}},
    "redis://user:s3cret@127.0.0.1:6379/3?socket_timeout=2&client_name=n&health_check_interval=5",
]


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("host", RIGHT, ids=range(len(RIGHT)))
def test_what_redis_py_takes_is_taken(kind: str, host: Any) -> None:
    layer = LAYERS[kind](hosts=[host])
    assert "s3cret" not in str(layer)


#: Values that redis-py takes unseen, and then fails at the first call, or does something else than was meant.
WRONG_VALUES: list[tuple[str, Any]] = [
    *(("socket_timeout", {**PLAIN, "socket_timeout": value}) for value in (0, -1, float("nan"), "soon", [5], True)),
    *(("socket_connect_timeout", {**PLAIN, "socket_connect_timeout": value}) for value in (0, "soon", float("inf"))),
    ("health_check_interval", {**PLAIN, "health_check_interval": "often"}),
    ("health_check_interval", {**PLAIN, "health_check_interval": -1}),
    *(("db", {**PLAIN, "db": value}) for value in ("abc", -1, 1.5, None)),
    *(("port", {**PLAIN, "port": value}) for value in (6379.5, True, "x", float("inf"), 0, None)),
    ("socket_keepalive", {**PLAIN, "socket_keepalive": "maybe"}),
    ("socket_keepalive_options", {**PLAIN, "socket_keepalive_options": {"TCP_KEEPIDLE": 60}}),
    ("socket_keepalive_options", {**PLAIN, "socket_keepalive_options": [1]}),
    ("ssl", {**PLAIN, "ssl": "perhaps"}),
    ("ssl", {**PLAIN, "ssl": ssl.create_default_context()}),
    *(("host", {**PLAIN, "host": value}) for value in (5, "127.0.0.1:8000", "redis://127.0.0.1", "a b")),
    ("host", ("127.0.0.1:8000", 6379)),
    ("host", ("redis://:s3cret@127.0.0.1", 6379)),
    ("database", "redis://user:s3cret@127.0.0.1/abc"),
    ("db", {**SET, "db": "abc"}),
    ("socket_timeout", {**ADDRESS, "socket_timeout": 0}),
]


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(("key", "host"), WRONG_VALUES, ids=[f"{n}-{key}" for n, (key, _) in enumerate(WRONG_VALUES)])
def test_a_wrong_value_is_refused_by_name(kind: str, key: str, host: Any) -> None:
    test_a_wrong_key_is_refused_by_name(kind, key, host)


@pytest.mark.parametrize("kind", LAYERS)
def test_text_becomes_numbers_and_truth_values(kind: str) -> None:
    """As environment variables give it."""
    text = {"socket_timeout": "5", "health_check_interval": "30", "db": "3", "port": "6380", "ssl": "False"}
    layer = LAYERS[kind](hosts=[{**PLAIN, **text, "socket_keepalive": "yes"}])
    [host] = layer.hosts
    expected = {"socket_timeout": 5.0, "health_check_interval": 30.0, "db": 3, "port": 6380, "ssl": False}
    assert {name: host[name] for name in expected} == expected
    assert host["socket_keepalive"] is True
    assert {type(host[name]) for name in ("socket_timeout", "health_check_interval")} == {float}
    [dialer] = layer._dialers
    assert dialer.answer_timeout == 5.0
    for name in ("fe80::1", "localhost", "redis.example.org", "10.0.0.1"):
        LAYERS[kind](hosts=[(name, 6379), {"host": name}])
