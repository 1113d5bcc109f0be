"""The Pub/Sub layer on a cluster that is well: each name at its own server, in few commands, on few connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from redis.exceptions import ConnectionError, NoPermissionError

from bench.server import free_port
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.cluster.pubsub import MakeLayer, channels_at, group_name, heard, make_layer, prefix, settled
from tests.clusters import QUICK, Cluster
from tests.core.helpers import end, receive_many, started, until, within

__all__ = ["make_layer", "prefix"]


async def test_each_name_is_at_its_own_server(cluster: Cluster, make_layer: MakeLayer) -> None:
    layer, peer = make_layer(), make_layer()
    channels = await within(asyncio.gather(*(layer.new_channel() for _ in range(100))))
    await within(asyncio.gather(*(layer.group_add(f"room{n % 10}", name) for n, name in enumerate(channels))))
    groups = [group_name(layer, f"room{n}") for n in range(10)]
    assert settled(cluster, layer, *channels, *groups)
    assert len({cluster.owner(name) for name in channels}) == 3
    for name in channels:
        await peer.send(name, {"to": name})
    for n in range(10):
        await peer.group_send(f"room{n}", {"room": n})
    for n, name in enumerate(channels):
        # From two servers, as a rule: which message comes first is nobody's promise.
        got = await receive_many(layer, name, 2)
        assert sorted(got, key=str) == sorted([{"to": name}, {"room": n % 10}], key=str)
    await within(asyncio.gather(*(layer.group_discard(f"room{n % 10}", name) for n, name in enumerate(channels))))
    await until(lambda: settled(cluster, layer, *channels))


async def test_few_connections_and_no_redirections(cluster: Cluster, make_layer: MakeLayer, prefix: str) -> None:
    """At most two connections to each server; and once the map is known no server is asked for what it has not."""
    layer = make_layer(hosts=[{**cluster.host, "client_name": prefix}])
    await layer.new_channel()
    cluster.forget_calls()
    channels = await within(asyncio.gather(*(layer.new_channel() for _ in range(1000))))
    receiving = [await started(layer.receive(name)) for name in channels]
    for _ in range(3):
        await within(asyncio.gather(*(layer.send(name, {"to": name}) for name in channels)))
        assert await within(asyncio.gather(*receiving)) == [{"to": name} for name in channels]
        receiving = [await started(layer.receive(name)) for name in channels]
    await end(*receiving)
    assert cluster.redirections() == 0
    primaries = {node.port for node in cluster.primaries}
    for node in cluster.running:
        mine = node.clients(prefix)
        assert len(mine) == (2 if node.port in primaries else 0)
        assert sum("P" in client["flags"] for client in mine) == (node.port in primaries)
    assert sum(cluster.calls("spublish").values()) == 3000


async def test_names_leave_in_few_writes(cluster: Cluster, make_layer: MakeLayer) -> None:
    """One command for each slot, but one write for each server."""
    layer = make_layer()
    await channels_at(cluster, layer)
    cluster.forget_calls()
    before = {node: node.raw.info("stats")["total_reads_processed"] for node in cluster.primaries}
    channels = await within(asyncio.gather(*(layer.new_channel() for _ in range(600))))
    for node in cluster.primaries:
        # Of a server's 200 names, 90 bytes each; it reads 16 kB at a time. And each INFO is a read.
        assert node.raw.info("stats")["total_reads_processed"] - before[node] <= 12
    slots = len({cluster.slot(name) for name in channels})
    assert sum(cluster.calls("ssubscribe").values()) == slots < 600


async def test_names_of_one_slot_share_a_command(cluster: Cluster, make_layer: MakeLayer, prefix: str) -> None:
    layer = make_layer()
    await channels_at(cluster, layer)
    # The layer's names have no braces, but a site's own may share the slot of anything.
    state = next(iter(layer._loops.values()))
    tagged = [f"{{{prefix}}}{n}".encode() for n in range(500)]
    cluster.forget_calls()
    acknowledged = [state._subscribers[0].subscribe(name) for name in tagged]
    await within(asyncio.gather(*(future for future in acknowledged if future is not None)))
    assert sum(cluster.calls("ssubscribe").values()) == 1
    for name in tagged:
        state._subscribers[0].unsubscribe(name)
    await until(lambda: sum(cluster.calls("sunsubscribe").values()) == 1)


async def test_a_general_channel_is_heard_by_all(cluster: Cluster, make_layer: MakeLayer, prefix: str) -> None:
    layers = [make_layer() for _ in range(3)]
    receiving = [await started(layer.receive(f"{prefix}general")) for layer in layers]
    owner = cluster.owner(f"{prefix}general")
    await until(lambda: dict(_numsub(owner, f"{prefix}general"))[f"{prefix}general"] == 3)
    await make_layer().send(f"{prefix}general", {"n": 1})
    assert await within(asyncio.gather(*receiving)) == [{"n": 1}] * 3


def _numsub(node: Any, name: str) -> list[tuple[str, int]]:
    [(found, count)] = node.raw.pubsub_shardnumsub(name)
    return [(found.decode(), count)]


async def test_close_pools_and_on(cluster: Cluster, make_layer: MakeLayer) -> None:
    """What lives here is subscribed again on new connections when this returns; nobody hears of an outage."""
    layer = make_layer(on_disconnect="down", on_reconnect="up")
    channels = [name for names in (await channels_at(cluster, layer, 3)).values() for name in names]
    receiving = [await started(layer.receive(name)) for name in channels]
    await within(layer.close_pools())
    assert settled(cluster, layer, *heard(cluster, layer.prefix))
    await within(asyncio.gather(*(layer.send(name, {"to": name}) for name in channels)))
    assert await within(asyncio.gather(*receiving)) == [{"to": name} for name in channels]
    await within(layer.flush())
    await until(lambda: not heard(cluster, layer.prefix))


# What is refused.


def test_plain_pubsub_on_a_cluster_is_refused() -> None:
    hosts = [{"cluster": ["redis://127.0.0.1:1"]}]
    with pytest.raises(ValueError, match=r"'sharded'.*cluster"):
        RedisPubSubChannelLayer(hosts=hosts, sharded=False)
    assert RedisPubSubChannelLayer(hosts=hosts).sharded
    assert RedisPubSubChannelLayer(hosts=hosts, sharded=True).sharded
    assert not RedisPubSubChannelLayer().sharded


@pytest.mark.parametrize("call", ["new_channel", "receive", "send"])
async def test_a_server_of_a_cluster_as_a_plain_host(
    cluster: Cluster, make_layer: MakeLayer, prefix: str, call: str
) -> None:
    """What the option has to be is in the error, whichever call finds that out."""
    layer = make_layer(hosts=[cluster.primaries[0].url], sharded=True)
    name = next(name for n in range(100) if cluster.owner(name := f"{prefix}{n}") is cluster.primaries[1])
    calls: dict[str, Callable[[], Any]] = {
        # Whether it is found out depends on the name.
        "new_channel": lambda: asyncio.gather(*(layer.new_channel() for _ in range(50))),
        "receive": lambda: layer.receive(name),
        "send": lambda: layer.send(name, {}),
    }
    with pytest.raises(ConnectionError, match=r"'hosts'.*\{'cluster'"):
        await within(calls[call](), 8)


async def test_a_name_that_the_user_may_not_subscribe_to(cluster: Cluster, make_layer: MakeLayer, prefix: str) -> None:
    """The caller hears it, and nobody else is disturbed."""
    rules = ("on", ">s3cret", "~*", "resetchannels", f"&{prefix}specific.*", "+@all")
    for node in cluster.running:
        node.raw.execute_command("ACL", "SETUSER", prefix, *rules)
    try:
        layer = make_layer(hosts=[{**cluster.host, "username": prefix, "password": "s3cret"}])
        channels = await within(asyncio.gather(*(layer.new_channel() for _ in range(20))))
        for refused in (layer.receive(f"{prefix}foreign"), layer.group_add("room", channels[0])):
            with pytest.raises(NoPermissionError, match=r"'sharded'.*127\.0\.0\.1.*SSUBSCRIBE"):
                await within(refused, 8)
        with pytest.raises(NoPermissionError, match=r"'sharded'.*127\.0\.0\.1.*SPUBLISH"):
            await within(layer.group_send("room", {}), 8)
        for name in channels:
            await layer.send(name, {"to": name})
            assert await within(layer.receive(name)) == {"to": name}
        assert settled(cluster, layer, *channels)
    finally:
        for node in cluster.running:
            node.raw.execute_command("ACL", "DELUSER", prefix)


@pytest.mark.parametrize("call", ["new_channel", "receive", "send", "group_send"])
async def test_never_connected(make_layer: MakeLayer, call: str) -> None:
    ports = [free_port() for _ in range(3)]
    layer = make_layer(hosts=[{"cluster": [f"redis://user:s3cret@127.0.0.1:{port}" for port in ports]}])
    arguments: dict[str, tuple[Any, ...]] = {"receive": ("x",), "send": ("x", {}), "group_send": ("x", {})}
    for _ in range(2):  # the second time as the first
        with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:") as raised:
            await within(getattr(layer, call)(*arguments.get(call, ())), 8)
        assert "s3cret" not in str(raised.value)


async def test_a_cluster_that_comes_later(make_layer: MakeLayer) -> None:
    """A receive that was cancelled before an answer could come leaves nothing that is deaf."""
    with Cluster(1, 0, *QUICK) as late:
        [node] = late.nodes
        node.server.kill()
        layer = make_layer(hosts=[late.host])
        await end(await started(layer.receive("general")))
        receiving = await started(layer.receive("general"))
        with pytest.raises(ConnectionError):
            await within(layer.new_channel(), 8)
        node.server.restart()
        await asyncio.to_thread(late.settle)
        channel = await within(layer.new_channel())
        await within(layer.send(channel, {"n": 1}))
        assert await within(layer.receive(channel)) == {"n": 1}
        if receiving.done():
            assert isinstance(receiving.exception(), ConnectionError)
            receiving = await started(layer.receive("general"))
        await until(lambda: dict(_numsub(node, "general"))["general"] == 1)
        await within(layer.send("general", {"n": 2}))
        assert await within(receiving) == {"n": 2}
