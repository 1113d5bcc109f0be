"""Flush and close_pools: what goes, what stays, and that both can be survived."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import redis

from tests.both.conftest import sharded_too
from tests.core.helpers import blocked, clients, named, started, until, within
from tests.pubsub.helpers import subscribers

MakeLayer = Callable[..., Any]
ChannelOf = Callable[[Any], Awaitable[str]]


async def waits(kind: str, raw: Any, prefix: str, channel: str) -> None:
    """See the layer wait for messages of a channel: on core with a connection of that name."""
    await until(lambda: blocked(raw, prefix) == 1 if kind == "core" else subscribers(raw, channel) == 1)


async def test_a_receive_that_waits_survives_flush(
    make_layer: MakeLayer, channel_of: ChannelOf, kind: str, raw: Any
) -> None:
    """Its groups are gone."""
    layer, peer = make_layer(), make_layer()
    channel = await channel_of(layer)
    await layer.group_add("room", channel)
    receiving = await started(layer.receive(channel))
    for n in range(3):
        await within(layer.flush())
        if kind == "pubsub":
            await until(lambda: subscribers(raw, channel) == 1)
        await peer.group_send("room", {"to": "the group"})
        await layer.send(channel, {"n": n})
        assert await within(receiving) == {"n": n}
        receiving = await started(layer.receive(channel))
    await peer.flush()
    await peer.send(channel, {"n": "last"})
    assert await within(receiving) == {"n": "last"}


@sharded_too
async def test_a_receive_that_waits_survives_close_pools(
    make_layer: MakeLayer, channel_of: ChannelOf, kind: str, raw: Any, redis_server: Any, prefix: str
) -> None:
    """On connections that are new; and the channel stays in its groups."""
    layer, peer = make_layer(hosts=[named(redis_server.url, prefix)]), make_layer()
    channel = await channel_of(layer)
    await layer.group_add("room", channel)
    receiving = await started(layer.receive(channel))
    await waits(kind, raw, prefix, channel)
    before = {client["id"] for client in clients(raw, prefix)}
    await within(layer.close_pools())
    await until(lambda: not before & {client["id"] for client in clients(raw, prefix)})
    await waits(kind, raw, prefix, channel)
    if kind == "pubsub":
        await until(lambda: subscribers(raw, f"{prefix}__group__room") == 1)
    await peer.send(channel, {"n": 1})
    assert await within(receiving) == {"n": 1}
    await peer.group_send("room", {"n": 2})
    assert await within(layer.receive(channel)) == {"n": 2}


async def test_closing_what_was_never_opened(make_layer: MakeLayer, raw: Any, redis_server: Any, prefix: str) -> None:
    await within(make_layer(hosts=[named(redis_server.url, prefix)]).close_pools())
    assert not clients(raw, prefix)


# Histories.

HISTORY: dict[str, Any] = {"history": {"*": {"size": 10, "ttl": 60}}}


@sharded_too
async def test_histories_go(make_layer: MakeLayer, kind: str, raw: Any, prefix: str) -> None:
    """Those of this prefix, whatever it means to Redis' pattern matching, and not those of others."""
    name = f"{prefix}[a]*"
    layer, other = make_layer(prefix=name, **HISTORY), make_layer(prefix=f"{prefix}axx", **HISTORY)
    for n in range(30):
        await within(layer.group_history(f"room{n}"))
    await within(other.group_history("room"))
    assert sum(key.startswith(f"{name}:history:".encode()) for key in raw.scan_iter(f"{prefix}*")) == 30
    foreign = set[str]()
    if kind == "pubsub":
        # On core all that begins with the prefix is the layer's.
        foreign.add(f"{name}somebody's")
        raw.set(f"{name}somebody's", 1)
    # By a layer that has made none of them.
    await within(make_layer(prefix=name, **HISTORY).flush())
    left = {key.decode() for key in raw.scan_iter(f"{prefix}*")}
    assert foreign < left
    [others] = left - foreign
    assert others.startswith(f"{prefix}axx:history:")
    assert (await within(layer.group_history("room1"))).messages == []


@sharded_too
async def test_histories_of_all_shards_go(make_layer: MakeLayer, kind: str, shard_urls: list[str], prefix: str) -> None:
    layer = make_layer(hosts=shard_urls, **HISTORY)
    for n in range(30):
        await within(layer.group_history(f"room{n}"))

    def left() -> list[int]:
        found = []
        for url in shard_urls:
            with redis.Redis.from_url(url) as raw:
                found.append(len(list(raw.scan_iter(f"{prefix}*"))))
        return found

    assert all(left())
    # On core also by one that has the option no more; on Pub/Sub that would ask nobody.
    await within((make_layer(hosts=shard_urls) if kind == "core" else layer).flush())
    assert left() == [0, 0]
