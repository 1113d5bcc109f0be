"""What projects and libraries import from channels_redis, override or assign on its layers, is here and is honoured.

Names and signatures are compared with upstream's own; what overriding means is tried on live layers. Overridden
capacities, shards, names and serializers of the core layer are tested beside it, in tests/core/test_overrides.py and
tests/core/test_serializers.py.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import uvloop
from channels.exceptions import ChannelFull
from channels.layers import ChannelLayerManager
from django.test import override_settings
from redis import asyncio as aioredis

from bench.server import ForeignServer, Server
from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.pubsub import RedisPubSubChannelLayer, RedisPubSubLoopLayer
from tests.core.helpers import clients, end, on_database, receive_many, started, until, within

MakeLayer = Callable[..., Any]

NAMES = [
    "core.RedisChannelLayer",
    "core.ChannelFull",
    "pubsub.RedisPubSubChannelLayer",
    "pubsub.RedisPubSubLoopLayer",
    "serializers.registry",
    "serializers.SerializersRegistry",
    "serializers.BaseMessageSerializer",
    "serializers.MsgPackSerializer",
    "serializers.JSONSerializer",
    "serializers.SerializerDoesNotExist",
    "utils.decode_hosts",
    "utils.create_pool",
    "utils._consistent_hash",
]

#: Methods that channels_redis has for itself, though they have no underscore.
INNER = {"core.RedisChannelLayer.receive_single"}

BOTH = [RedisChannelLayer, RedisPubSubChannelLayer]

#: What upstream's process prints: by name, the parameters of each callable, of classes those of their methods.
SIGNATURES = """
import importlib, inspect, json, sys

def parameters(function):
    kinds = {"positional": [], "keyword": [], "variable": []}
    for name, parameter in inspect.signature(function).parameters.items():
        kind = parameter.kind.name
        kinds["variable" if "VAR" in kind else "keyword" if "ONLY" in kind else "positional"].append(name)
    kinds["positional"] = [name for name in kinds["positional"] if name != "self"]
    return kinds

package, found = sys.argv[1], {}
for path in sys.argv[2:]:
    module, _, name = path.partition(".")
    thing = getattr(importlib.import_module(package + "." + module), name)
    thing = thing if callable(thing) else type(thing)
    if not inspect.isclass(thing):
        found[path] = parameters(thing)
    for method, function in inspect.getmembers(thing, inspect.isfunction) if inspect.isclass(thing) else ():
        if not method.startswith("_") or method == "__init__":
            found[path + "." + method] = parameters(function)
print(json.dumps(found))
"""


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def new_loop(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    make: Callable[[], asyncio.AbstractEventLoop] = request.param
    return make


@pytest.fixture
def raw(redis_server: Server | ForeignServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


@pytest.fixture
async def make_layer(redis_server: Server | ForeignServer, prefix: str) -> AsyncIterator[MakeLayer]:
    """Make layers of any kind on the shared server under this test's prefix; closed afterwards."""
    layers: list[Any] = []

    def make(kind: Any, **options: Any) -> Any:
        layers.append(kind(**{"hosts": [redis_server.url], "prefix": prefix, **options}))
        return layers[-1]

    yield make
    for layer in layers:
        await layer.close_pools()


# Names.


@pytest.mark.parametrize("path", NAMES)
def test_names(path: str) -> None:
    module, _, name = path.partition(".")
    assert hasattr(importlib.import_module(f"channels_redis_fast.{module}"), name)


def test_signatures(upstream_python: Path) -> None:
    """What upstream's callables take, by name or position, ours take in the same places. They may take more."""
    command = [str(upstream_python), "-c", SIGNATURES, "channels_redis", *NAMES]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    signatures: dict[str, dict[str, list[str]]] = json.loads(run.stdout)
    assert {path.rpartition(".")[0] for path in signatures} >= {"core.RedisChannelLayer", "pubsub.RedisPubSubLoopLayer"}
    missing, other = set(), {}
    for path, theirs in signatures.items():
        module, *names = path.split(".")
        thing: Any = importlib.import_module(f"channels_redis_fast.{module}")
        for name in names:
            thing = getattr(thing, name, None)
        if thing is None:
            missing.add(path)
            continue
        parameters = [p for name, p in inspect.signature(thing).parameters.items() if name != "self"]
        names = {p.name for p in parameters}
        kinds = {p.kind for p in parameters}
        same = {*theirs["positional"], *theirs["keyword"]} <= names or inspect.Parameter.VAR_KEYWORD in kinds
        if inspect.Parameter.VAR_POSITIONAL not in kinds:
            count = len(theirs["positional"])
            positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
            same = same and positional[:count] == theirs["positional"]
        if not same:
            other[path] = theirs, sorted(names)
    assert missing == INNER
    assert other == {}


def test_what_they_are(upstream_python: Path) -> None:
    from channels_redis_fast import serializers, utils
    from channels_redis_fast.core import layer

    assert layer.ChannelFull is ChannelFull
    assert issubclass(serializers.SerializerDoesNotExist, KeyError)
    assert issubclass(serializers.MsgPackSerializer, serializers.BaseMessageSerializer)
    assert issubclass(serializers.JSONSerializer, serializers.BaseMessageSerializer)
    assert isinstance(serializers.registry, serializers.SerializersRegistry)
    assert type(serializers.registry.get_serializer("json")) is serializers.JSONSerializer
    hosts = utils.decode_hosts(["redis://h:7", ("h", 8)])
    assert [type(utils.create_pool(host)) for host in hosts] == [aioredis.ConnectionPool] * 2
    assert utils._consistent_hash("name", 1) == 0


@pytest.mark.parametrize("path", ["core.RedisChannelLayer", "pubsub.RedisPubSubChannelLayer"])
def test_in_settings(path: str) -> None:
    """The backend of Channels' own manager, with options of upstream's documentation."""
    config = {"hosts": [("redis", 6379)], "symmetric_encryption_keys": ["s3cret"]}
    with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": f"channels_redis_fast.{path}", "CONFIG": config}}):
        layer = ChannelLayerManager()["default"]
    assert type(layer).__name__ == path.split(".")[1]
    assert layer.hosts == [{"host": "redis", "port": 6379}]


async def test_a_loop_layer_by_itself(make_layer: MakeLayer) -> None:
    """As libraries make it: by itself, and with a layer whose methods make and read the bytes."""
    plain = make_layer(RedisPubSubLoopLayer)
    channel = await plain.new_channel()
    await plain.group_add("room", channel)
    await plain.group_send("room", {"n": 1})
    assert await within(plain.receive(channel)) == {"n": 1}
    json_layer = make_layer(RedisPubSubChannelLayer, serializer_format="json")
    ours = make_layer(RedisPubSubLoopLayer, channel_layer=json_layer)
    assert ours.channel_layer is json_layer
    channel = await ours.new_channel()
    await json_layer.send(channel, {"n": 2})
    assert await within(ours.receive(channel)) == {"n": 2}
    other = await json_layer.new_channel()
    await ours.send(other, {"n": 3})
    assert await within(json_layer.receive(other)) == {"n": 3}


# What is overridden or assigned, where tests/core does not have it.


async def test_match_type_and_length(make_layer: MakeLayer) -> None:
    class Short(RedisChannelLayer):
        def match_type_and_length(self, name: Any) -> bool:
            return isinstance(name, str) and len(name) < 5

    layer = make_layer(Short)
    await layer.send("four", {})
    for call in (layer.send("fiver", {}), layer.receive("fiver"), layer.group_add("fiver", "a")):
        with pytest.raises(TypeError):
            await within(call)


async def test_capacity_of_the_pubsub_layer(make_layer: MakeLayer) -> None:
    """Overridden, and assigned later: what waits in the process is bounded by it."""

    class Own(RedisPubSubChannelLayer):
        def get_capacity(self, channel: str) -> int:
            return 2

    overridden, assigned = make_layer(Own), make_layer(RedisPubSubChannelLayer)
    assigned.capacity = 2
    for layer in (overridden, assigned):
        channel = await layer.new_channel()
        other = await layer.new_channel()
        for number in range(5):
            await layer.send(channel, {"n": number})
        # On the same connection, behind them all.
        await layer.send(other, {})
        await within(layer.receive(other))
        assert await receive_many(layer, channel, 2) == [{"n": 3}, {"n": 4}]
        assert layer.stats()["dropped"] == 3


# Pools.


def making(kind: Any, make_pool: Callable[[Any, int], Any]) -> Any:
    """A layer class whose `create_pool` is that function; it keeps the indexes that it was asked for."""

    class Own(kind):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            # After the layer is made: nothing may have asked for a pool before.
            self.asked: list[int] = []

        def create_pool(self, index: int) -> Any:
            self.asked.append(index)
            return make_pool(super(), index)

    return Own


async def use(layer: Any) -> None:
    """Have a layer open all its sockets, and see that they carry messages."""
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    for number in range(3):
        receiving = await started(layer.receive(channel))
        await layer.group_send("room", {"n": number})
        assert await within(receiving) == {"n": number}


@pytest.mark.parametrize("kind", BOTH)
async def test_a_pool_with_other_options(
    make_layer: MakeLayer, raw: Any, redis_server: Any, prefix: str, kind: Any
) -> None:
    """The pool says where to connect and how: the host in `hosts` is not even there."""
    own = making(kind, lambda layer, index: aioredis.ConnectionPool.from_url(redis_server.url, client_name=prefix))
    layer = make_layer(own, hosts=[("192.0.2.1", 1)])
    await use(layer)
    assert set(layer.asked) == {0}
    assert len(clients(raw, prefix)) == 2


@pytest.mark.parametrize("kind", BOTH)
async def test_a_pool_that_is_changed(make_layer: MakeLayer, raw: Any, prefix: str, kind: Any) -> None:
    """`super().create_pool` and something added, as sites do."""

    def changed(layer: Any, index: int) -> Any:
        pool = layer.create_pool(index)
        pool.connection_kwargs["client_name"] = prefix
        return pool

    layer = make_layer(making(kind, changed))
    await use(layer)
    assert len(clients(raw, prefix)) == 2


@pytest.mark.parametrize("kind", BOTH)
async def test_a_blocking_pool(make_layer: MakeLayer, redis_server: Any, raw: Any, prefix: str, kind: Any) -> None:
    """One of a single connection, and always the same one: its limit is for its own clients, and cuts nothing here."""
    pool = aioredis.BlockingConnectionPool.from_url(
        redis_server.url, max_connections=1, timeout=1, client_name=prefix, decode_responses=True
    )
    layer = make_layer(making(kind, lambda layer, index: pool))
    await use(layer)
    channels = [await layer.new_channel() for _ in range(50)]
    waiting = [await started(layer.receive(channel)) for channel in channels]
    await asyncio.gather(*(layer.send(channel, {"to": channel}) for channel in channels))
    assert await within(asyncio.gather(*waiting)) == [{"to": channel} for channel in channels]
    assert len(clients(raw, prefix)) == 2
    await pool.disconnect()


@pytest.mark.parametrize("kind", BOTH)
async def test_a_pool_for_each_shard(
    make_layer: MakeLayer, redis_server: Any, second_server: Server, prefix: str, kind: Any
) -> None:
    urls = [redis_server.url, second_server.url]
    own = making(kind, lambda layer, index: aioredis.ConnectionPool.from_url(urls[index], client_name=prefix))
    layer = make_layer(own, hosts=[("192.0.2.1", 1), ("192.0.2.2", 1)])
    for number in range(100):
        # A kind of its own, since that is what the core layer's shard goes by.
        channel = await layer.new_channel(f"kind{number}")
        await layer.send(channel, {"to": channel})
        assert await within(layer.receive(channel)) == {"to": channel}
        if set(layer.asked) == {0, 1}:
            break
    assert set(layer.asked) == {0, 1}
    for url in urls:
        with redis.Redis.from_url(url) as client:
            # The pool is asked first, and the socket opened then.
            await until(lambda client=client: len(clients(client, prefix)) >= 1)  # type: ignore[misc]
            assert len(clients(client, prefix)) <= 2


class Absent(aioredis.Connection):
    """One that fails in a way that is neither redis-py's nor the system's."""

    async def connect(self, *args: Any, **options: Any) -> None:
        raise LookupError("not today")


def no_pool(pool: Any) -> Any:
    raise LookupError("not today")


def no_connection(pool: Any) -> Any:
    return aioredis.ConnectionPool(connection_class=Absent)


def no_options(pool: Any) -> Any:
    pool.connection_kwargs["not today"] = True
    return pool


@pytest.mark.parametrize("spoil", [no_pool, no_connection, no_options])
@pytest.mark.parametrize("kind", BOTH)
async def test_a_pool_that_is_of_no_use(make_layer: MakeLayer, kind: Any, spoil: Callable[[Any], Any]) -> None:
    """Whatever the site's code raises is told to the caller, and the next call tries again."""

    def refused(layer: Any, index: int) -> Any:
        pool = layer.create_pool(index)
        return spoil(pool) if spoiled else pool

    spoiled = True
    layer = make_layer(making(kind, refused))
    for call in (layer.send("general", {}), layer.group_send("room", {}), layer.receive(await own_channel(layer))):
        with pytest.raises(redis.exceptions.ConnectionError, match="not today"):
            await within(call, 8)
    spoiled = False
    await use(layer)


async def own_channel(layer: Any) -> str:
    return "general" if isinstance(layer, RedisPubSubChannelLayer) else str(await layer.new_channel())


# The client for commands of a site's own.


async def test_connection_of_any_shard(
    make_layer: MakeLayer, redis_server: Any, second_server: Server, prefix: str
) -> None:
    urls = [redis_server.url, second_server.url, on_database(redis_server.url, 5)]
    layer = make_layer(RedisChannelLayer, hosts=urls)
    for index, url in enumerate(urls):
        client = layer.connection(index)
        assert isinstance(client, aioredis.Redis)
        assert layer.connection(index) is client
        await client.set(f"{prefix}:own", index, ex=60)
        with redis.Redis.from_url(url) as raw:
            assert raw.getdel(f"{prefix}:own") == str(index).encode()


async def test_connection_to_no_shard(make_layer: MakeLayer) -> None:
    layer = make_layer(RedisChannelLayer, hosts=["redis://h", "redis://h:1"])
    for index in (-1, 2, 100):
        with pytest.raises(ValueError, match=f"{index}"):
            layer.connection(index)


def test_connection_outside_a_loop() -> None:
    with pytest.raises(RuntimeError):
        RedisChannelLayer().connection(0)


async def test_connection_stands_beside(make_layer: MakeLayer, raw: Any, redis_server: Any, prefix: str) -> None:
    """Neither a blocking command of the site's nor a hundred at once cost the layer anything."""
    layer = make_layer(RedisChannelLayer, hosts=[{"address": redis_server.url, "client_name": prefix}])
    await use(layer)
    assert len(clients(raw, prefix)) == 2
    client = layer.connection(0)
    popping = await started(client.blpop(f"{prefix}:list", timeout=30))
    await until(lambda: any(entry["cmd"] == "blpop" for entry in clients(raw, prefix)))
    await use(layer)
    assert layer.stats()["connections_open"] == 2
    assert await asyncio.gather(*(client.ping() for _ in range(50))) == [True] * 50
    await client.rpush(f"{prefix}:list", "x")
    assert (await within(popping))[1] == b"x"


async def test_connection_is_made_by_the_sites_pool(make_layer: MakeLayer, redis_server: Any, prefix: str) -> None:
    name = f"{prefix}-own"
    own = making(
        RedisChannelLayer, lambda layer, index: aioredis.ConnectionPool.from_url(redis_server.url, client_name=name)
    )
    layer = make_layer(own, hosts=[("192.0.2.1", 1)])
    assert await layer.connection(0).client_getname() in (name, name.encode())


async def test_connection_is_closed_with_the_pools(
    make_layer: MakeLayer, raw: Any, redis_server: Any, prefix: str
) -> None:
    layer = make_layer(RedisChannelLayer, hosts=[{"address": redis_server.url, "client_name": prefix}])
    for close in (layer.close_pools, layer.flush):
        client = layer.connection(0)
        await client.ping()
        assert len(clients(raw, prefix)) == 1
        await close()
        await until(lambda: clients(raw, prefix) == [])
        assert layer.connection(0) is not client
    await layer.connection(0).ping()


def test_connection_is_closed_with_the_loop(
    new_loop: Callable[[], asyncio.AbstractEventLoop], raw: Any, redis_server: Any, prefix: str
) -> None:
    """Nothing else was used, so that only this closes it; each loop has its own."""
    layer = RedisChannelLayer(hosts=[{"address": redis_server.url, "client_name": prefix}], prefix=prefix)
    seen = []

    async def ping() -> None:
        seen.append(layer.connection(0))
        assert await seen[-1].ping()
        assert len(clients(raw, prefix)) == 1

    for _ in range(2):
        loop = new_loop()
        loop.run_until_complete(ping())
        loop.close()
        asyncio.run(until(lambda: clients(raw, prefix) == []))
    assert seen[0] is not seen[1]


async def test_connection_survives_an_open_receive(make_layer: MakeLayer, prefix: str) -> None:
    """The site's commands and a receive that waits do not know each other."""
    layer = make_layer(RedisChannelLayer)
    receiving = await started(layer.receive("general"))
    pipeline = layer.connection(0).pipeline()
    pipeline.set(f"{prefix}:own", 1, ex=60)
    pipeline.get(f"{prefix}:own")
    assert await pipeline.execute() == [True, b"1"]
    assert not receiving.done()
    await end(receiving)
