"""
What a host may be written like: the table of odd values, with what channels_redis 4.3 and redis-py make of each.

`channels_redis` looks at no host when a layer is made. So a module may ask for its layer, and `collectstatic` may run,
where no server is known; here, too. What is empty fails at the first use, by name, and `manage.py check` says so.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bench.server import ForeignServer, Server
from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.memory import InMemoryChannelLayer
from channels_redis_fast.sync.hub import current
from tests.core.helpers import within
from tests.hosts.exercise import LAYERS

KINDS = pytest.mark.parametrize("kind", LAYERS)
GOOD = "redis://127.0.0.1:6379"

#: What is empty: the value of a host, what channels_redis and redis-py do with it, and how the error names it here.
EMPTY: list[tuple[Any, str, str]] = [
    (None, "first use: ValueError, Redis URL must specify one of ... schemes", "address is empty (None)"),
    ("", "the same", "address is empty ('')"),
    ("  ", "the same", "address is empty ('  ')"),
    ("redis://None:None/0", "first use: ValueError, Port could not be cast to integer value", "is 'None'"),
    ("redis://:s3cret@None:6379", "first use: ConnectionError for a host 'None'", "is 'None'"),
    ((None, None), "first use: TypeError, int() argument must be a string", "host is empty (None)"),
    ((None, 6379), "connects to localhost", "host is empty (None)"),
    (("", 6379), "connects to localhost", "host is empty ('')"),
    (["", ""], "first use: ValueError, invalid literal for int()", "host is empty ('')"),
    ((None, 6379, {"password": "s3cret"}), "connects to localhost, without the password", "host is empty (None)"),
    ({"address": None}, "as None", "address is empty (None)"),
    ({"address": ""}, "as ''", "address is empty ('')"),
    ({"address": None, "ssl_cert_reqs": None, "password": "s3cret"}, "as None", "address is empty (None)"),
    ({"address": "", "ssl": True, "ssl_ca_certs": "ca.crt"}, "as ''", "address is empty ('')"),
    ({"host": None}, "connects to localhost", "host is empty (None)"),
    ({"host": None, "port": None, "password": "s3cret"}, "first use: TypeError", "host is empty (None)"),
    (
        {"host": "", "port": 6379, "ssl": True, "ssl_cert_reqs": None},
        "first use: TypeError for 'ssl'",
        "host is empty ('')",
    ),
    ({"path": ""}, "first use: TypeError for 'path'", "path is empty ('')"),
    ({"sentinels": [(None, 26379)], "master_name": "m"}, "asks localhost", "['sentinels'][0]: the host is empty"),
    (
        {"sentinels": [("h", 26379), ("", None)], "master_name": "m", "password": "s3cret"},
        "asks the good one, then localhost",
        "['sentinels'][1]: the host is empty",
    ),
    ({"sentinels": [None], "master_name": "m"}, "first use: TypeError", "['sentinels'][0]: the address is empty"),
    ({"sentinels": [], "master_name": "m"}, "first use: MasterNotFoundError", "list of sentinels is empty ([])"),
    ({"sentinels": None, "master_name": "m"}, "first use: TypeError", "list of sentinels is empty (None)"),
    ({"sentinels": [("h", 26379)], "master_name": None}, "first use: TypeError", "master_name is empty (None)"),
    ({"cluster": [None]}, "first use: TypeError for 'cluster'", "['cluster'][0]: the address is empty (None)"),
    (
        {"cluster": [GOOD, ""], "password": "s3cret"},
        "first use: TypeError for 'cluster'",
        "['cluster'][1]: the address is empty ('')",
    ),
    ({"cluster": [(None, 7000)]}, "first use: TypeError for 'cluster'", "['cluster'][0]: the host is empty (None)"),
]

#: What stands for a server all the same: its value, what becomes of it, and the option that has no effect.
PLAIN: dict[str, Any] = {"host": "h", "port": 6379}
TAKEN: list[tuple[Any, str, Any, str | None]] = [
    ({}, "the defaults of redis-py: localhost", {}, None),
    ("redis://", "the defaults of redis-py: localhost", {"address": "redis://"}, None),
    ("redis://:6380/1", "localhost", {"address": "redis://:6380/1"}, None),
    (("h", "6379"), "redis-py makes a number of it", PLAIN, None),
    (("h", 6379, {"password": "s3cret"}), "what follows is left out, in silence", PLAIN, "dict"),
    (["h", 6379, 2, "x"], "what follows is left out, in silence", PLAIN, "int, str"),
    ({"address": "redis://h", "host": None, "port": None}, "first use: TypeError", {"address": "redis://h"}, None),
    ({"path": "/run/redis.sock", "host": ""}, "first use: TypeError for 'path'", {"path": "/run/redis.sock"}, None),
    (
        {"address": "redis://:s3cret@h", "ssl_cert_reqs": None, "ssl_ca_certs": "ca.crt"},
        "first use: TypeError",
        {"address": "redis://:s3cret@h"},
        "'ssl_cert_reqs', 'ssl_ca_certs'",
    ),
    ("redis://h?ssl_cert_reqs=none&db=1", "first use: TypeError", {"address": "redis://h?db=1"}, "'ssl_cert_reqs'"),
    (
        {"address": "redis://h?ssl_cert_reqs=none", "ssl_ca_certs": "ca.crt"},
        "first use: TypeError",
        {"address": "redis://h"},
        "'ssl_ca_certs', 'ssl_cert_reqs'",
    ),
    (
        {"address": "unix:///run/redis.sock", "ssl_check_hostname": False},
        "first use: TypeError",
        {"address": "unix:///run/redis.sock"},
        "'ssl_check_hostname'",
    ),
    (
        {**PLAIN, "ssl": False, "ssl_cert_reqs": "none"},
        "first use: TypeError for 'ssl'; redis-py's clients leave them out",
        {**PLAIN, "ssl": False},
        "'ssl_cert_reqs'",
    ),
    (
        {"sentinels": [("s", 26379)], "master_name": "m", "ssl": False, "ssl_cert_reqs": "none"},
        "first use: TypeError",
        {"sentinels": [("s", 26379)], "master_name": "m", "ssl": False},
        "'ssl_cert_reqs'",
    ),
    (
        {"cluster": ["redis://h?ssl_keyfile=k", "redis://h2"], "ssl_cert_reqs": "none"},
        "first use: TypeError for 'cluster'",
        {"cluster": [{"address": "redis://h"}, {"address": "redis://h2"}]},
        "'ssl_cert_reqs', 'ssl_keyfile'",
    ),
]

#: Where keywords of TLS have an effect, nothing is left out.
ENCRYPTED: list[Any] = [
    "rediss://h?ssl_cert_reqs=none",
    {"address": "rediss://h", "ssl_cert_reqs": "none"},
    {"address": "redis://h?ssl_check_hostname=false", "ssl": True, "ssl_cert_reqs": "none"},
    {**PLAIN, "ssl": "yes", "ssl_cert_reqs": "none"},
    {"cluster": ["rediss://h?ssl_cert_reqs=none"], "ssl_check_hostname": False},
]


def named(values: list[Any]) -> list[str]:
    return [f"{number}-{str(value)[:40]}" for number, value in enumerate(values)]


def first_uses(kind: str) -> dict[str, Callable[[Any], Awaitable[Any]]]:
    """Everything that can be the first that somebody does with a layer."""
    message = {"type": "t"}
    uses: dict[str, Callable[[Any], Awaitable[Any]]] = {
        "send": lambda layer: layer.send("general", message),
        "receive": lambda layer: layer.receive("general"),
        "new_channel": lambda layer: layer.new_channel(),
        "group_add": lambda layer: layer.group_add("room", "general"),
        "group_discard": lambda layer: layer.group_discard("room", "general"),
        "group_send": lambda layer: layer.group_send("room", message),
        "send_many": lambda layer: layer.send_many([("general", message)]),
        "group_send_many": lambda layer: layer.group_send_many([("room", message)]),
        "flush": lambda layer: layer.flush(),
        "sync.send": lambda layer: asyncio.to_thread(layer.sync.send, "general", message),
        "sync.group_send": lambda layer: asyncio.to_thread(layer.sync.group_send, "room", message),
        "sync.group_add": lambda layer: asyncio.to_thread(layer.sync.group_add, "room", "general"),
        "asyncio.run": lambda layer: asyncio.to_thread(lambda: asyncio.run(layer.send("general", message))),
    }
    if kind == "core":
        uses |= {
            "group_count": lambda layer: layer.group_count("room"),
            "group_channels": lambda layer: layer.group_channels("room"),
            "channel_depth": lambda layer: layer.channel_depth("general"),
            "connection": lambda layer: asyncio.to_thread(lambda: asyncio.run(ping(layer))),
        }
    return uses


async def ping(layer: Any) -> None:
    await layer.connection(0).ping()


async def assert_unusable(layer: Any, use: Callable[[Any], Awaitable[Any]], *texts: str) -> None:
    with pytest.raises(ValueError, match=r"^Option hosts") as raised:
        await within(use(layer), 5)
    for text in texts:
        assert text in str(raised.value)
    assert "s3cret" not in str(raised.value)


@KINDS
@pytest.mark.parametrize(("host", "upstream", "text"), EMPTY, ids=named([host for host, _, _ in EMPTY]))
async def test_an_empty_host_is_an_error_at_the_first_use(kind: str, host: Any, upstream: str, text: str) -> None:
    layer = LAYERS[kind](hosts=[host])
    assert "s3cret" not in str(layer)
    assert layer.stats()["sends"] == 0
    for use in ("send", "receive", "sync.send"):
        await assert_unusable(layer, first_uses(kind)[use], "hosts[0]", text)
    # What says so says it again of the same settings.
    assert LAYERS[kind](hosts=layer.hosts).unset_host == layer.unset_host
    # Nothing was opened, and nothing has to be closed.
    await layer.close_pools()


@pytest.mark.parametrize(("kind", "use"), [(kind, use) for kind in LAYERS for use in first_uses(kind)])
@pytest.mark.parametrize("rule", ["auto", "never", "always"])
async def test_every_first_use_says_so(kind: str, use: str, rule: str) -> None:
    layer = LAYERS[kind](hosts=[None], sync_hub=rule)
    await assert_unusable(layer, first_uses(kind)[use], "hosts[0]", "environment variable")
    await assert_unusable(layer, first_uses(kind)[use], "hosts[0]")
    assert layer.stats()["connections_open"] == 0
    current()  # The hub has survived it.


@KINDS
async def test_one_empty_host_among_good_ones(kind: str, redis_server: Server | ForeignServer, prefix: str) -> None:
    """A shard that nobody has is no reason to lose a part of the messages in silence."""
    layer = LAYERS[kind](hosts=[redis_server.url, {"address": ""}, redis_server.url], prefix=prefix)
    for name, use in first_uses(kind).items():
        await assert_unusable(layer, use, "hosts[1]", "address is empty ('')")
        assert name


async def test_pools_of_a_site_need_no_hosts(redis_server: Server | ForeignServer, prefix: str) -> None:
    """Where they lead to does not stand in `hosts`."""

    class Own(RedisChannelLayer):
        def create_pool(self, index: int) -> Any:
            return RedisChannelLayer(hosts=[redis_server.url]).create_pool(0)

    layer = Own(hosts=[None], prefix=prefix)
    assert layer.unset_host is None
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "t"})
    assert await within(layer.receive(channel), 5) == {"type": "t"}
    await layer.close_pools()


@KINDS
def test_a_pool_of_an_empty_host(kind: str) -> None:
    layer = LAYERS[kind](hosts=[GOOD, None])
    assert layer.create_pool(0).connection_kwargs["host"] == "127.0.0.1"
    with pytest.raises(ValueError, match=r"hosts\[1\]"):
        layer.create_pool(1)


@KINDS
def test_other_keywords_of_an_empty_host_are_checked(kind: str) -> None:
    for host in ({"address": None}, {"host": ""}, {"path": None}, {"sentinels": [None], "master_name": "m"}):
        with pytest.raises(ValueError, match=r"hosts\[0\].*nonsense"):
            LAYERS[kind](hosts=[{**host, "nonsense": 1}])


@KINDS
@pytest.mark.parametrize(("host", "upstream", "taken", "left_out"), TAKEN, ids=named([host for host, *_ in TAKEN]))
def test_what_can_be_meant_in_one_way_is_taken(
    kind: str, host: Any, upstream: str, taken: Any, left_out: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "channels_redis_fast"):
        layer = LAYERS[kind](hosts=[GOOD, host] if "cluster" not in host else [host])
        assert layer.hosts[-1] == taken
        assert layer.unset_host is None
        # Decoded once, there is nothing left to say.
        assert LAYERS[kind](hosts=layer.hosts).hosts == layer.hosts
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == (left_out is not None)
    for message in messages:
        place = "h:6379" if "unix:" not in str(host) else "/run/redis.sock"
        assert f"hosts[{len(layer.hosts) - 1}]" in message
        assert str(left_out) in message
        assert "s3cret" not in message
        assert place in message or "sentinel:m" in message


@KINDS
@pytest.mark.parametrize("host", ENCRYPTED, ids=named(ENCRYPTED))
def test_keywords_of_tls_stay_where_it_is(kind: str, host: Any, caplog: pytest.LogCaptureFixture) -> None:
    layer = LAYERS[kind](hosts=[host])
    expected = LAYERS[kind](hosts=layer.hosts).hosts
    assert layer.hosts == expected
    assert "ssl_" in str(layer.hosts)
    assert not caplog.records


@KINDS
async def test_a_plain_host_with_keywords_of_tls_works(
    kind: str, redis_server: Server | ForeignServer, prefix: str
) -> None:
    """As where REDIS_URL is rediss:// in production and redis:// elsewhere."""
    layer = LAYERS[kind](hosts=[{"address": redis_server.url, "ssl_cert_reqs": None}], prefix=prefix)
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "t"})
    assert await within(layer.receive(channel), 5) == {"type": "t"}
    await layer.close_pools()


# What was meant.


@pytest.mark.parametrize(
    ("hosts", "meant"),
    [
        ("localhost", "['redis://localhost']"),
        ("localhost:6379", "['redis://localhost:6379']"),
        (b"localhost:6379", "['redis://localhost:6379']"),
        ("redis://localhost:6379", "['redis://localhost:6379']"),
        ("rediss://user:s3cret@localhost", "['rediss://...']"),
        ("user:s3cret@localhost", "['redis://USER:PASSWORD@HOST:PORT']"),
        (("localhost", 6379), "[('localhost', 6379)]"),
        (["localhost", 6379], "[('localhost', 6379)]"),
        (["localhost", "6379"], "[('localhost', 6379)]"),
        (["localhost"], "'redis://localhost'"),
        (["localhost:6379"], "'redis://localhost:6379'"),
        (["redis-1", "redis-2"], "'redis://redis-1'"),
        (["[::1]:6379"], "'redis://[::1]:6379'"),
        (["/run/redis.sock"], "'unix:///run/redis.sock'"),
        (["user:s3cret@localhost:6379"], "'redis://USER:PASSWORD@HOST:PORT'"),
        ([":s3cret"], "'redis://USER:PASSWORD@HOST:PORT'"),
        ({"host": "localhost"}, "[{...}]"),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", LAYERS)
def test_what_was_meant(kind: str, hosts: Any, meant: str) -> None:
    with pytest.raises((TypeError, ValueError)) as error:
        LAYERS[kind](hosts=hosts)
    assert str(error.value).endswith(f" Did you mean {meant}?")
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    "hosts",
    [
        [("localhost", 6379)],
        [["localhost", 6379]],
        [["localhost", "6379"], ("localhost", 6380)],
        ["redis://localhost", ("localhost", 6379)],
        (["localhost", 6379],),
        ({"address": "redis://localhost"},),
    ],
    ids=str,
)
@pytest.mark.parametrize("make", [list, iter])
@pytest.mark.parametrize("kind", LAYERS)
def test_what_channels_redis_takes_is_taken(kind: str, make: Callable[[Any], Any], hosts: Any) -> None:
    assert LAYERS[kind](hosts=make(hosts)).ring_size == len(hosts)


ALL = {**LAYERS, "memory": InMemoryChannelLayer}

#: How each is called.
TITLES = {"core": "core layer", "pubsub": "Pub/Sub layer", "memory": "in-memory layer"}


def options_of(kind: str) -> set[str]:
    return set(inspect.signature(ALL[kind]).parameters) - {"others"}


@pytest.mark.parametrize("kind", ALL)
def test_a_misspelt_option(kind: str) -> None:
    for given, meant in (("capcity", "capacity"), ("Hosts", "hosts"), ("channel_capacities", "channel_capacity")):
        with pytest.raises(TypeError, match=rf"has no option '{given}'\. Did you mean '{meant}'\?$"):
            ALL[kind](**{given: None})
    with pytest.raises(TypeError, match=r"has no option 'zebra'\.$"):
        ALL[kind](zebra=None)


@pytest.mark.parametrize("kind", ALL)
def test_an_option_of_another_layer(kind: str) -> None:
    without_effect = set(getattr(ALL[kind], "without_effect", ()))
    for name in set().union(*map(options_of, ALL)) - options_of(kind) - without_effect:
        # The in-memory layer takes what the core layer has, without effect.
        owner = next(TITLES[other] for other in ALL if name in options_of(other))
        with pytest.raises(TypeError, match=rf"has no option '{name}'\. It is an option of the {owner}\.$"):
            ALL[kind](**{name: None})


def test_a_subclass_takes_options_of_its_own() -> None:
    class Site(RedisChannelLayer):
        def __init__(self, mine: int, **options: Any) -> None:
            super().__init__(**options)
            self.mine = mine

    assert Site(mine=5, capacity=7).capacity == 7
    with pytest.raises(TypeError, match=r"Site has no option 'capcity'\. Did you mean 'capacity'"):
        Site(mine=5, capcity=7)
    with pytest.raises(TypeError, match="required positional argument"):
        Site()  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ({"host": "redis", "pasword": "s3cret"}, "no keyword 'pasword'. Did you mean 'password'?"),
        ("redis://redis?socket_timout=5", "no keyword 'socket_timout'. Did you mean 'socket_timeout'?"),
        ({"cluster": ["redis://redis"], "usrname": "s3cret"}, "no keyword 'usrname'. Did you mean 'username'?"),
        ({"address": "rediss://redis", "ssl_ca_cert": "x"}, "no keyword 'ssl_ca_cert'. Did you mean 'ssl_ca_certs'?"),
        ({"host": "redis", "zebra": "s3cret"}, "no keyword 'zebra'."),
    ],
    ids=str,
)
@KINDS
def test_a_misspelt_keyword_of_a_host(kind: str, host: Any, text: str) -> None:
    with pytest.raises(ValueError, match=r"^Option hosts\[0\]") as error:
        LAYERS[kind](hosts=[host])
    assert str(error.value).endswith(text)
    assert "s3cret" not in str(error.value)
