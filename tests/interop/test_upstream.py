"""What code for channels_redis overrides or reads from outside: honoured, refused by name, or explained."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import asyncio as aioredis

from bench.server import ForeignServer, Server
from channels_redis_fast import pubsub, upstream, utils
from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.core.helpers import until, within

LAYERS: dict[str, type[Any]] = {"core": RedisChannelLayer, "pubsub": RedisPubSubChannelLayer}
RULES = [(layer, name, rule) for layer, rules in upstream.OVERRIDES.items() for name, rule in rules.items()]
#: Methods that channels_redis' own calls lead through, and those of ``BaseChannelLayer`` that it does not touch.
UPSTREAM_METHODS = """
import channels_redis.core as core, channels_redis.pubsub as pubsub
for owner in (core.RedisChannelLayer, pubsub.RedisPubSubChannelLayer, pubsub.RedisPubSubLoopLayer):
    names = [name for name in vars(owner) if not name.startswith("__") and callable(getattr(owner, name))]
    print(owner.__module__.rpartition(".")[2], *names)
"""
#: Public methods of the layer specification: overriding them is what they are there for.
SPECIFIED = {
    *("send", "receive", "new_channel", "flush", "group_add", "group_discard", "group_send"),
    *("close_pools", "wait_received"),
}


@pytest.mark.parametrize(("layer", "name", "rule"), RULES, ids=[f"{layer}.{name}" for layer, name, _ in RULES])
def test_the_table_is_kept(layer: str, name: str, rule: upstream.Rule) -> None:
    if name == "ring_size":
        member: Any = property(lambda self: 1, lambda self, value: None)
    else:
        member = lambda self, *arguments, **options: None  # noqa: E731
    own = type("Own", (LAYERS[layer],), {name: member, "__module__": "site"})
    if rule.fate is upstream.Fate.REFUSED:
        with pytest.raises(
            TypeError, match=rf"Own\.{name} is never called by this layer: .*instead|methods themselves"
        ):
            own()
    else:
        own()


def test_the_table_has_every_method_of_channels_redis(upstream_python: Path | None) -> None:
    if upstream_python is None:
        pytest.skip("needs channels_redis: make upstream")
    told = subprocess.run([upstream_python, "-c", UPSTREAM_METHODS], capture_output=True, text=True, check=True)
    for line in told.stdout.splitlines():
        layer, *names = line.split()
        assert {*names} - SPECIFIED <= {*upstream.OVERRIDES[layer]}


async def test_connection_gives_the_sockets(redis_server: Server | ForeignServer, prefix: str) -> None:
    """As a public project configures its hosts: ``hosts`` is left alone, and nothing listens there."""
    asked = []

    class Own(RedisChannelLayer):
        def connection(self, index: int) -> Any:
            asked.append(index)
            return aioredis.Redis.from_url(redis_server.url)

    layer = Own(hosts=[("127.0.0.1", 1)], prefix=prefix)
    await within(layer.send("somewhere", {"n": 1}))
    assert await within(layer.receive("somewhere")) == {"n": 1}
    assert set(asked) == {0}
    await layer.close_pools()


async def test_a_ring_larger_than_hosts(redis_server: Server | ForeignServer, prefix: str) -> None:
    class Own(RedisChannelLayer):
        @property
        def ring_size(self) -> int:
            return 3

        def connection(self, index: int) -> Any:
            return aioredis.Redis.from_url(redis_server.url, db=index)

    layer = Own(prefix=prefix)
    for n in range(6):
        await within(layer.send("jobs", {"n": n}))
    got = [await within(layer.receive("jobs")) for _ in range(6)]
    assert sorted(message["n"] for message in got) == list(range(6))
    await layer.close_pools()


def test_a_ring_without_hosts_is_refused() -> None:
    own = type("Own", (RedisChannelLayer,), {"ring_size": property(lambda self: 3)})
    with pytest.raises(ValueError, match=r"Own\.ring_size is 3, but there are 1 hosts"):
        own()


@pytest.mark.parametrize("name", ["send", "group_send"])
def test_a_wrapper_on_the_class_runs_once(
    name: str, redis_server: Server | ForeignServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As tracing does it; ``asyncio.run`` makes a loop whose calls go through the hub."""
    original: Callable[..., Any] = getattr(RedisChannelLayer, name)
    calls = []

    async def traced(self: Any, *arguments: Any) -> Any:
        calls.append(arguments)
        return await original(self, *arguments)

    monkeypatch.setattr(RedisChannelLayer, name, traced)
    layer = RedisChannelLayer(hosts=[redis_server.url], prefix=prefix)
    asyncio.run(getattr(layer, name)("somewhere", {"n": 1}))
    assert calls == [("somewhere", {"n": 1})]


async def test_a_wrapper_of_connection_on_the_class_supplies_no_sockets(
    redis_server: Server | ForeignServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not what a subclass configures its hosts with."""
    original = RedisChannelLayer.connection
    asked = []

    def traced(self: Any, index: int) -> Any:
        asked.append(index)
        return original(self, index)

    monkeypatch.setattr(RedisChannelLayer, "connection", traced)
    layer = RedisChannelLayer(hosts=[redis_server.url], prefix=prefix)
    await within(layer.send("somewhere", {"n": 1}))
    assert asked == []
    await layer.connection(0).ping()
    assert asked == [0]
    await layer.close_pools()


async def test_groups_and_channels_of_pubsub(redis_server: Server | ForeignServer, prefix: str) -> None:
    layer = RedisPubSubChannelLayer(hosts=[redis_server.url], prefix=prefix)
    assert (len(layer.groups), list(layer.channels)) == (0, [])
    one, other = [await layer.new_channel() for _ in range(2)]
    await layer.group_add("room", one)
    await layer.group_add("room", other)
    groups, channels = layer.groups, layer.channels
    room = layer._get_group_channel_name("room")
    assert room == f"{prefix}__group__room"
    assert list(groups) == [room]
    assert groups[room] == {one, other}
    assert len(groups.get(f"{prefix}__group__empty", ())) == 0
    assert set(channels) == {one, other}
    assert channels[one].empty()
    await layer.send(one, {"type": "x"})
    await until(lambda: channels[one].qsize() == 1)
    await layer.group_discard("room", one)
    assert groups[room] == {other}
    with pytest.raises(TypeError):
        groups[room] = set()  # type: ignore[index]
    with pytest.raises(KeyError):
        channels["nobody"]
    await layer.close_pools()


def test_group_channel_name_may_be_overridden(redis_server: Server | ForeignServer, prefix: str) -> None:
    class Own(RedisPubSubChannelLayer):
        def _get_group_channel_name(self, group: str) -> str:
            return f"{self.prefix}.{group}"

    async def run() -> set[str]:
        layer = Own(hosts=[redis_server.url], prefix=prefix)
        await layer.group_add("room", await layer.new_channel())
        found = set(layer.groups)
        await layer.close_pools()
        return found

    assert asyncio.run(run()) == {f"{prefix}.room"}


@pytest.mark.parametrize(
    ("layer", "name"), [(layer, name) for layer, names in upstream.ABSENT.items() for name in names]
)
def test_what_is_absent_is_explained(layer: str, name: str) -> None:
    instance = LAYERS[layer]()
    assert not hasattr(instance, name)
    with pytest.raises(AttributeError, match=f"{name}'.*here {re.escape(upstream.ABSENT[layer][name])}"):
        getattr(instance, name)


def test_another_missing_attribute_is_plain() -> None:
    with pytest.raises(AttributeError, match=r"^'RedisChannelLayer' object has no attribute 'nonsense'$"):
        RedisChannelLayer().nonsense  # noqa: B018


@pytest.mark.parametrize("layer", sorted(LAYERS))
def test_explanations_cost_no_other_attribute_anything(layer: str) -> None:
    """A class with ``__getattr__`` has a slower way to all its attributes."""
    assert not any(
        "__getattr__" in vars(base) or "__getattribute__" in vars(base) for base in LAYERS[layer].__mro__[:-1]
    )


@pytest.mark.parametrize("options", [{}, {"presence": {}}, {"history": {"*": {"size": 10, "ttl": 60}}}], ids=str)
@pytest.mark.parametrize("layer", sorted(LAYERS))
def test_a_layer_keeps_its_attributes_inline(layer: str, options: dict[str, Any]) -> None:
    """An object of 30 attributes or more has a dict, and CPython 3.11 reads each of them through that."""
    assert len(vars(LAYERS[layer](**options))) < 30


def test_a_subclass_may_have_what_is_absent() -> None:
    class Counting(RedisChannelLayer):
        receive_count = 0

    layer = Counting()
    layer.receive_count += 1
    layer.pools = ["mine"]
    assert layer.receive_count == 1
    assert layer.pools == ["mine"]


def test_names_of_modules() -> None:
    with pytest.raises(AttributeError, match=r"_wrap_close.*closes its sockets"):
        utils._wrap_close  # noqa: B018
    with pytest.raises(AttributeError, match=r"RedisSingleShardConnection.*all shards"):
        pubsub.RedisSingleShardConnection  # noqa: B018
    assert not hasattr(pubsub, "nonsense")


async def test_close_redis(redis_server: Server | ForeignServer) -> None:
    client = aioredis.Redis.from_url(redis_server.url)
    await client.ping()
    await utils._close_redis(client)
    assert not client.connection_pool._in_use_connections
    assert all(not connection.is_connected for connection in client.connection_pool._available_connections)


def test_map_channel_keys_to_connection() -> None:
    layer = RedisChannelLayer(hosts=["redis://127.0.0.1:1", "redis://127.0.0.1:2"], channel_capacity={"a*": 3})
    keys, messages, capacities = layer._map_channel_keys_to_connection(["a.b!1", "a.b!2", "other"], {"type": "x"})
    assert sorted(key for found in keys.values() for key in found) == ["asgia.b!", "asgiother"]
    assert all(layer.consistent_hash(key[4:]) == index for index, found in keys.items() for key in found)
    assert layer.deserialize(messages["asgia.b!"]) == {"type": "x", "__asgi_channel__": ["a.b!1", "a.b!2"]}
    assert capacities == {"asgia.b!": 3, "asgiother": 100}
