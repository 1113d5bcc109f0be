"""Wrong and unknown keys: refused when the layer is made, by name, with no password in what is said."""

from __future__ import annotations

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
