"""Slots that change hands: names go with them, nobody is deaf or told of an outage, and no message comes twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from redis.exceptions import RedisError

from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.cluster.pubsub import MakeLayer, channels_at, group_name, heard, make_layer, prefix, replicated, settled
from tests.clusters import Cluster, Node
from tests.core.helpers import nothing_to_receive, until, within

__all__ = ["make_layer", "prefix", "replicated"]


class Load:
    """One channel that is sent numbers all the time, and what comes of it."""

    def __init__(self, layer: RedisPubSubChannelLayer, peer: RedisPubSubChannelLayer, channel: str) -> None:
        self.channel = channel
        self.sent = self.errors = 0
        self.got: list[Any] = []
        self._layer, self._peer = layer, peer
        self._goes_on = True
        self._tasks = [asyncio.ensure_future(self._send()), asyncio.ensure_future(self._receive())]

    async def _send(self) -> None:
        while self._goes_on:
            try:
                await self._peer.send(self.channel, {"n": self.sent})
            except RedisError:
                self.errors += 1
            self.sent += 1
            await asyncio.sleep(0.002)

    async def _receive(self) -> None:
        message: Any = {}
        while message.get("type") != "last":
            message = await self._layer.receive(self.channel)
            self.got.append(message)

    async def stop(self) -> None:
        """End; the last message has to come."""
        self._goes_on = False
        await within(self._tasks[0])
        await self._peer.send(self.channel, {"type": "last"})
        await within(self._tasks[1])

    @property
    def numbers(self) -> list[int]:
        return [message["n"] for message in self.got[:-1] if "n" in message]

    @property
    def told(self) -> list[Any]:
        return [message for message in self.got[:-1] if "n" not in message]

    @property
    def is_sound(self) -> bool:
        """Whether nothing came twice or out of order."""
        return self.numbers == sorted(set(self.numbers))


def move(cluster: Cluster, source: Node, target: Node, slots: list[int]) -> None:
    """
    Move slots, and see that every server has heard of it.

    Given back sooner, a slot may get lost between the two: what the one has said before may reach the other when it
    has the slot again, and with a greater epoch. Then each says that it is the other's, for good.
    """
    cluster.move_slots(source, target, slots, 100)
    cluster.settle()


@contextlib.contextmanager
def borrowed(cluster: Cluster, source: Node, target: Node, slots: list[int]) -> Iterator[None]:
    """Slots that are given back in the end."""
    try:
        yield
    finally:
        move(cluster, target, source, slots)


async def test_a_thousand_slots_under_load(cluster: Cluster, make_layer: MakeLayer) -> None:
    layer, peer = make_layer(on_disconnect="down", on_reconnect="up"), make_layer()
    source, target = cluster.primaries[:2]
    at = await channels_at(cluster, layer, 10)
    loads = [Load(layer, peer, name) for name in at[source.port][:10]]
    stays = [Load(layer, peer, name) for name in at[target.port][:5]]
    own = [cluster.slot(load.channel) for load in loads]
    slots = [*own, *(slot for slot in cluster.slots_of(source) if slot not in own)][:1000]
    with borrowed(cluster, source, target, slots):
        await asyncio.to_thread(move, cluster, source, target, slots)
        # By now the old server has ended the subscriptions; each load goes on until it is heard at the new one.
        names = [load.channel for load in loads]
        await until(lambda: all(heard(cluster, name) == {name: [target.port]} for name in names))
        for load in loads + stays:
            await load.stop()
    for load in loads + stays:
        assert load.is_sound
        assert load.told == []
        assert load.errors == 0
    for load in stays:
        assert load.numbers == list(range(load.sent))
    lost = sum(load.sent - len(load.numbers) for load in loads)
    print(f"lost {lost} of {sum(load.sent for load in loads)}, {len(loads)} channels")
    # What is published at the new server before it is asked for the names. A second would be 5,000.
    assert lost < 1000


async def test_who_waits_for_an_acknowledgement_while_slots_move(cluster: Cluster, make_layer: MakeLayer) -> None:
    """Channels are made, and join and leave groups, while the slots of all these names go to and fro."""
    layer = make_layer(on_disconnect="down", on_reconnect="up")
    source, target = cluster.primaries[:2]
    groups = [f"room{n}" for n in range(60)]
    named = [cluster.slot(group_name(layer, group)) for group in groups]
    slots = [slot for slot in cluster.slots_of(source) if slot in named or slot % 20 == 0]
    moving = True

    def to_and_fro() -> None:
        try:
            for _ in range(3):
                move(cluster, source, target, slots)
                move(cluster, target, source, slots)
        finally:
            nonlocal moving
            moving = False

    thread = asyncio.ensure_future(asyncio.to_thread(to_and_fro))
    channels: list[str] = []
    step = 0
    while moving:
        step += 1
        channel = await within(layer.new_channel())
        channels.append(channel)
        mine = [groups[(step * 7 + n) % 60] for n in range(6)]
        await within(asyncio.gather(*(layer.group_add(group, channel) for group in mine)))
        for group in mine[2:]:
            await layer.group_discard(group, channel)
            if step % 2:
                await asyncio.sleep(0)
        await within(layer.group_add(mine[3], channel))
        for group in (mine[0], mine[1], mine[3]):
            await layer.group_discard(group, channel) if step < 20 else None
    await within(thread)
    state = layer._loops[asyncio.get_running_loop()]
    expected = [*channels, *state.groups]
    await until(lambda: settled(cluster, layer, *expected))
    for channel in channels:
        await nothing_to_receive(layer, channel)


async def test_a_planned_failover(replicated: Cluster, make_layer: MakeLayer) -> None:
    """A primary and its replica change places: its names go to the new one, and nobody is told of an outage."""
    hosts = [replicated.host]
    layer, peer = make_layer(hosts=hosts, on_disconnect="down", on_reconnect="up"), make_layer(hosts=hosts)
    node = replicated.primaries[0]
    channels = [name for names in (await channels_at(replicated, layer, 5)).values() for name in names]
    names = list(heard(replicated, layer.prefix))
    await asyncio.to_thread(replicated.failover, node)
    await until(lambda: settled(replicated, layer, *names))
    for channel in channels:
        await within(peer.send(channel, {"to": channel}))
        assert await within(layer.receive(channel)) == {"to": channel}


async def test_a_server_that_comes_and_goes(make_layer: MakeLayer, prefix: str) -> None:
    """A new server gets slots and gives them back: names follow both ways, and no connection is left to it."""
    # Else it becomes a replica when it has given the last slot back.
    with Cluster(2, 0, "--cluster-allow-replica-migration", "no") as growing:
        layer = make_layer(hosts=[{**growing.host, "client_name": prefix}], on_disconnect="down", on_reconnect="up")
        old = growing.primaries[0]
        channels = (await channels_at(growing, layer, 10))[old.port]
        slots = [growing.slot(name) for name in channels]
        names = list(heard(growing, layer.prefix))
        new = await asyncio.to_thread(growing.add_primary)
        await asyncio.to_thread(move, growing, old, new, slots)
        await until(lambda: settled(growing, layer, *names))
        for name in channels:
            await within(layer.send(name, {"to": name}))
            assert await within(layer.receive(name)) == {"to": name}
        assert 1 <= len(new.clients(prefix)) <= 2
        await asyncio.to_thread(move, growing, new, old, slots)
        await until(lambda: settled(growing, layer, *names))
        for name in channels:
            await within(layer.send(name, {"to": name}))
            assert await within(layer.receive(name)) == {"to": name}
        await until(lambda: not [client for client in new.clients(prefix) if "P" in client["flags"]])
        for name in channels:
            await nothing_to_receive(layer, name)
        await layer.close_pools()


async def test_slots_of_nobody(make_layer: MakeLayer) -> None:
    """A slot that no server has: who waits for a name in it hears so in bounded time, or gets it when one has."""
    with Cluster(2, 0, "--cluster-require-full-coverage", "no") as torn:
        layer = make_layer(hosts=[{**torn.host, "socket_timeout": 1.0}], on_disconnect="down", on_reconnect="up")
        node = torn.primaries[0]
        channel = (await channels_at(torn, layer))[node.port][0]
        slot = torn.slot(channel)
        slots = [slot, *(other for other in torn.slots_of(node) if other != slot)][:100]
        for each in torn.nodes:
            each("DELSLOTS", *slots)
        assert await within(layer.receive(channel)) == {"type": "down"}
        joining = asyncio.ensure_future(layer.receive(f"{{{channel}}}"))
        with pytest.raises(RedisError, match=r"CLUSTERDOWN|no server has slot"):
            await within(joining, 8)
        node("ADDSLOTS", *slots)
        assert await within(layer.receive(channel)) == {"type": "up"}
        await within(layer.send(channel, {"n": 1}))
        assert await within(layer.receive(channel)) == {"n": 1}
        await layer.close_pools()
