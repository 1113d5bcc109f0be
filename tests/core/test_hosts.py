"""The `hosts` option: every form that is documented, and every mistake named when the layer is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from channels_redis_fast import utils
from channels_redis_fast.core import RedisChannelLayer
from tests.core.helpers import on_database, within

DEFAULT = [{"address": "redis://localhost:6379"}]


@pytest.mark.parametrize("hosts", [None, [], ()])
def test_no_hosts_mean_localhost(hosts: Any) -> None:
    assert RedisChannelLayer(hosts=hosts).hosts == DEFAULT
    assert RedisChannelLayer().hosts == DEFAULT
    assert utils.decode_hosts(hosts) == DEFAULT


@pytest.mark.parametrize(
    ("host", "decoded"),
    [
        ("redis://h:1/2", {"address": "redis://h:1/2"}),
        ("rediss://h", {"address": "rediss://h"}),
        ("unix:///run/redis.sock", {"address": "unix:///run/redis.sock"}),
        (("h", 1), {"host": "h", "port": 1}),
        (["h", "1"], {"host": "h", "port": 1}),
        ({"host": "h", "port": 1, "db": 2}, {"host": "h", "port": 1, "db": 2}),
        ({"address": "redis://h", "client_name": "n"}, {"address": "redis://h", "client_name": "n"}),
        (
            {"sentinels": [("h", 26379)], "master_name": "m", "sentinel_kwargs": {"password": "p"}},
            {"sentinels": [("h", 26379)], "master_name": "m", "sentinel_kwargs": {"password": "p"}},
        ),
    ],
    ids=str,
)
def test_forms_of_a_host(host: Any, decoded: dict[str, Any]) -> None:
    assert RedisChannelLayer(hosts=[host]).hosts == [decoded]


def test_hosts_may_be_any_iterable_and_a_dict_is_left_as_it_was() -> None:
    mine = {"address": "redis://h?protocol=3"}
    layer = RedisChannelLayer(hosts=iter([mine, ("h", 1)]))
    assert layer.ring_size == 2
    assert mine == {"address": "redis://h?protocol=3"}


WRONG: list[Any] = [
    "redis://localhost",
    b"redis://localhost",
    "",
    5,
    {"host": "localhost"},
    [5],
    [b"redis://localhost"],
    ["localhost:6379"],
    ["http://localhost"],
    ["redis://localhost:port"],
    ["redis://localhost:99999"],
    ["redis://[::1"],
    ["redis://localhost?no_such_option=1"],
    ["redis://localhost?socket_timeout=soon"],
    [("localhost",)],
    [("localhost", "port")],
    [("localhost", 70000)],
    [("localhost", None)],
    [(5, 6379)],
    [{"host": "localhost", "prot": 6379}],
    [{"host": "localhost", "port": "port"}],
    [{"address": "redis://localhost", "no_such_option": 1}],
    [{"address": 5}],
    [{5: 5}],
    [{"sentinels": [("localhost", 26379)]}],
    [{"master_name": "mymaster"}],
    [{"master_name": "m", "sentinels": [("localhost", 26379)], "address": "redis://localhost"}],
    [{"master_name": "m", "sentinels": [("localhost", 26379)], "no_such_option": 1}],
    [{"master_name": "m", "sentinels": [("localhost", 26379)], "sentinel_kwargs": {"no_such_option": 1}}],
    [{"master_name": "m", "sentinels": 5}],
    [{"master_name": "m", "sentinels": [5]}],
    [{"master_name": 5, "sentinels": [("localhost", 26379)]}],
    [{"path": 5}],
    [{"master_name": "m", "sentinels": ["localhost:26379"]}],
]


@pytest.mark.parametrize("hosts", WRONG, ids=str)
def test_wrong_hosts_are_refused_by_name(hosts: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="hosts") as raised:
        RedisChannelLayer(hosts=hosts)
    for keyword in ("prot", "no_such_option"):
        if repr(keyword) in repr(hosts) or f"?{keyword}" in repr(hosts):
            assert keyword in str(raised.value)


def test_the_position_of_a_wrong_host_is_named() -> None:
    with pytest.raises(ValueError, match=r"hosts\[1\].*no_such_option"):
        RedisChannelLayer(hosts=["redis://localhost", {"host": "localhost", "no_such_option": 1}])


@pytest.mark.parametrize(
    "host",
    [
        "redis://:s3cret/x@localhost:6379",  # a slash that should have been written %2F
        "redis://:s3cret#x@localhost:6379",
        "redis://:s3cret?x@localhost:6379",
        "redis://:s3cret[x@localhost:6379",
        "redis://:s3cret\u2100@localhost:6379",
        "redis://:s3cret@localhost:port",
        "redis://:s3cret@localhost?no_such_option=1",
        "http://:s3cret@localhost",
        ":s3cret@localhost",
        {"host": "localhost", "pasword": "s3cret"},
        {"address": "redis://:s3cret@localhost", "no_such_option": 1},
        {"host": "localhost", "password": "s3cret", "port": "x"},
    ],
    ids=ascii,
)
def test_a_refusal_does_not_repeat_the_password(host: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="hosts") as raised:
        RedisChannelLayer(hosts=[host])
    error: BaseException | None = raised.value
    while error is not None:  # what a traceback shows, with all that it was raised from
        assert "s3cret" not in str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


@pytest.mark.parametrize("protocol", ["2", "3"])
async def test_a_protocol_in_the_options_disturbs_nothing(
    make_layer: Callable[..., RedisChannelLayer], redis_server: Any, protocol: str
) -> None:
    """The wire is ours: whichever RESP a site asks redis-py for."""
    for host in (
        f"{redis_server.url}?protocol={protocol}",
        {"address": redis_server.url, "protocol": int(protocol)},
        {"address": f"{redis_server.url}?protocol={protocol}&client_name=x"},
    ):
        layer = make_layer(hosts=[host])
        channel = await layer.new_channel()
        await layer.send(channel, {"n": 1})
        assert await within(layer.receive(channel)) == {"n": 1}


async def test_database_and_unix_socket(make_layer: Callable[..., RedisChannelLayer], own_server: Any) -> None:
    server = own_server()
    hosts: list[Any] = [server.url, ("127.0.0.1", server.port), server.unix_url, {"path": str(server.unix_socket)}]
    hosts.append({"host": "127.0.0.1", "port": server.port})
    layers = [make_layer(hosts=[host]) for host in hosts]
    other = make_layer(hosts=[on_database(server.url, 3)])
    for layer in layers:
        await other.send("general", {"n": "other"})
        await layer.send("general", {"n": 1})
        assert await within(layers[0].receive("general")) == {"n": 1}
    assert await within(other.receive("general")) == {"n": "other"}
