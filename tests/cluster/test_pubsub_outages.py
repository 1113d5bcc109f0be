"""Servers lost and replaced: who is told that it was cut off, and that everybody receives again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.exceptions import ConnectionError, RedisError

from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.cluster.pubsub import (
    DOWN,
    UP,
    MakeLayer,
    channels_at,
    group_at,
    group_name,
    heard,
    make_layer,
    prefix,
    replicated,
    settled,
)
from tests.clusters import QUICK, Cluster, Node
from tests.core.helpers import LIMIT, nothing_to_receive, receive_many, started, until, within

__all__ = ["make_layer", "prefix", "replicated"]


class Crowd:
    """Channels at every server, some of them in groups that are at one: who of them is cut off with that server."""

    def __init__(self, cut: list[str], whole: list[str], names: list[str]) -> None:
        self.cut, self.whole, self.names = cut, whole, names

    @classmethod
    async def of(cls, cluster: Cluster, layer: RedisPubSubChannelLayer, node: Node) -> Crowd:
        at = await channels_at(cluster, layer, 6)
        group, other = (
            group_at(cluster, layer, each) for each in [node, *(n for n in cluster.primaries if n != node)][:2]
        )
        cut, whole = list(at[node.port]), []
        for port, names in at.items():
            if port == node.port:
                await layer.group_add(other, names[0])
                # Cut off from two names at once, and told once.
                await layer.group_add(group, names[1])
                continue
            await layer.group_add(group, names[0])
            await layer.group_add(other, names[1])
            cut.append(names[0])
            whole += names[1:]
        return cls(cut, whole, list(heard(cluster, layer.prefix)))

    async def check(self, cluster: Cluster, layer: Any, peer: Any) -> None:
        """Those who were cut off were told so, once; and then everybody receives."""
        for name in self.cut:
            assert await receive_many(layer, name, 2) == [DOWN, UP]
        await until(lambda: settled(cluster, layer, *self.names))
        for name in self.cut + self.whole:
            await within(peer.send(name, {"to": name}))
            assert await within(layer.receive(name)) == {"to": name}
        for name in self.cut + self.whole:
            await nothing_to_receive(layer, name)


async def test_a_killed_connection(cluster: Cluster, make_layer: MakeLayer) -> None:
    layer, peer = make_layer(on_disconnect="down", on_reconnect="up"), make_layer()
    node = cluster.primaries[0]
    crowd = await Crowd.of(cluster, layer, node)
    for _ in range(2):
        receiving = [await started(receive_many(layer, name, 2)) for name in crowd.cut[:3]]
        assert node.raw.client_kill_filter(_type="pubsub") == 1
        assert await within(asyncio.gather(*receiving)) == [[DOWN, UP]] * 3
        rest, crowd.cut = crowd.cut, crowd.cut[3:]
        await crowd.check(cluster, layer, peer)
        crowd.cut = rest


async def test_a_killed_primary(replicated: Cluster, make_layer: MakeLayer) -> None:
    """Its replica takes its place; what it had is subscribed there, without a word from anybody here."""
    layer = make_layer(hosts=[replicated.host], on_disconnect="down", on_reconnect="up")
    node = replicated.primaries[0]
    crowd = await Crowd.of(replicated, layer, node)
    replicated.kill(node)
    try:
        making = [await started(layer.new_channel()) for _ in range(20)]
        # Whoever subscribes meanwhile waits until there is a server for it.
        made = await within(asyncio.gather(*making))
        crowd.names += made
        await crowd.check(replicated, layer, make_layer(hosts=[replicated.host]))
        for name in made:
            await nothing_to_receive(layer, name)
    finally:
        await asyncio.to_thread(replicated.revive, node)


async def test_a_stalled_primary(replicated: Cluster, make_layer: MakeLayer) -> None:
    """
    It says nothing and closes nothing, and its replica takes its place.

    Who was subscribed there was cut off, for nobody knows how long, and is told so when there is another.
    """
    layer = make_layer(hosts=[replicated.host], on_disconnect="down", on_reconnect="up")
    node = replicated.primaries[0]
    crowd = await Crowd.of(replicated, layer, node)
    nobodys = next(name for n in range(1000) if replicated.owner(group_name(layer, name := f"nobodys{n}")) is node)
    with node.stalled():
        # What makes the layer look for another is that somebody waits for an answer.
        sending = asyncio.ensure_future(layer.group_send(nobodys, {}))
        for name in crowd.cut:
            assert await receive_many(layer, name, 2) == [DOWN, UP]
    await asyncio.wait([sending], timeout=LIMIT)
    assert sending.done()
    assert sending.cancelled() or sending.exception() is None or isinstance(sending.exception(), ConnectionError)
    await asyncio.to_thread(replicated.settle)
    crowd.cut, crowd.whole = [], crowd.cut + crowd.whole
    await crowd.check(replicated, layer, make_layer(hosts=[replicated.host]))


async def test_a_server_that_does_not_come_back(make_layer: MakeLayer) -> None:
    """Without a replica: the others' names are served, callers for its own hear why in bounded time, and it returns."""
    with Cluster(2, 0, *QUICK) as fragile:
        host = {**fragile.host, "socket_timeout": 1.0}
        layer = make_layer(hosts=[host], on_disconnect="down", on_reconnect="up")
        stays, goes = fragile.primaries
        at = await channels_at(fragile, layer, 2)
        lost, leaves = group_name(layer, group_at(fragile, layer, goes)), group_at(fragile, layer, goes)
        in_group, outside = at[stays.port][:2]
        await layer.group_add(leaves, in_group)
        goes.server.kill()
        for name in (in_group, *at[goes.port][:2]):
            assert await within(layer.receive(name)) == DOWN
        receiving = await started(layer.receive(outside))
        with pytest.raises(ConnectionError, match=f"127.0.0.1:{goes.port}"):
            # Its own group is at the lost server.
            await within(layer.group_add(leaves, outside), 8)
        assert lost.encode() not in stays.raw.execute_command("PUBSUB SHARDCHANNELS")
        # Who leaves what was lost is whole again.
        await layer.group_discard(leaves, in_group)
        assert await within(layer.receive(in_group)) == UP
        assert not receiving.done()
        goes.server.restart()
        for name in at[goes.port][:2]:
            assert await within(layer.receive(name)) == UP
        await asyncio.to_thread(fragile.settle)
        await within(layer.send(outside, {"n": 1}))
        assert await within(receiving) == {"n": 1}
        # What was given up while it was lost is like new when it is wanted again.
        await within(layer.group_add(leaves, in_group))
        assert stays.raw.client_kill_filter(_type="pubsub") == 1
        assert await receive_many(layer, in_group, 2) == [DOWN, UP]
        await layer.close_pools()


async def test_closing_while_a_server_is_away(make_layer: MakeLayer) -> None:
    """In the middle of any attempt to come back, nothing waits for the server."""
    with Cluster(2, 0, *QUICK) as fragile:
        layer = make_layer(hosts=[fragile.host])
        stays, goes = fragile.primaries
        at = await channels_at(fragile, layer, 2)
        goes.server.kill()
        for n in range(25):
            for _ in range(n % 15):
                await asyncio.sleep(0)
            await within(layer.close_pools(), 8)
        for name in at[stays.port]:
            await within(layer.send(name, {"to": name}))
            assert await within(layer.receive(name)) == {"to": name}
        goes.server.restart()
        await asyncio.to_thread(fragile.settle)
        await until(lambda: settled(fragile, layer, *heard(fragile, layer.prefix), *at[goes.port]))
        for name in at[goes.port]:
            await within(layer.send(name, {"to": name}))
            assert await within(layer.receive(name)) == {"to": name}
        await layer.close_pools()


def test_a_loop_that_is_closed_during_an_outage(recwarn: pytest.WarningsRecorder) -> None:
    """It takes no time, and leaves nothing that is never awaited."""
    with Cluster(2, 0, *QUICK) as fragile:

        async def work() -> None:
            layer = RedisPubSubChannelLayer(hosts=[fragile.host], prefix="closing")
            await channels_at(fragile, layer)
            fragile.primaries[1].server.kill()
            with pytest.raises((TimeoutError, asyncio.TimeoutError, RedisError)):
                await asyncio.wait_for(asyncio.gather(*(layer.new_channel() for _ in range(20))), 0.3)

        asyncio.run(asyncio.wait_for(work(), 15))
    assert not [str(warning.message) for warning in recwarn if "never" in str(warning.message)]
