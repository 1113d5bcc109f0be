"""Servers that become another primary under an open connection: what was known of them does not hold any more.

A server's replication ID changes whenever its data may be others: when it is promoted, also after it has followed
another server for a while; and when it gets its first replica. Connections are open through all of that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from bench.server import Server
from tests.core.helpers import until, within
from tests.history.recording import ROOMY, numbers, stream_of

Make = Callable[..., Any]
OwnServer = Callable[..., Server]

HISTORY = {"room*": ROOMY}
#: A replica is served at once.
QUICK = ("--repl-diskless-sync-delay", "0")


async def follow(replica: redis.Redis, primary: Server) -> None:
    """Have a server become a replica, and wait until it has the primary's data."""
    replica.replicaof("127.0.0.1", primary.port)
    await until(lambda: replica.info("replication").get("master_link_status") == "up")


async def test_what_was_lost_while_a_connection_was_idle(make: Make, own_server: OwnServer) -> None:
    """The server is replaced, follows its successor, and comes back: without what only it had."""
    servers = own_server(*QUICK), own_server(*QUICK)
    layer = make(hosts=[servers[0].url], history=HISTORY)
    with redis.Redis.from_url(servers[0].url) as raw, redis.Redis.from_url(servers[1].url) as other:
        await follow(other, servers[0])
        await within(layer.group_send("room", {"n": 1}))
        start = (await within(layer.group_history("room"))).position
        await until(lambda: other.xlen(stream_of(layer).key) == 1)
        other.replicaof("NO", "ONE")
        await within(layer.group_send("room", {"n": 2}))
        connected = len(raw.client_list())
        await follow(raw, servers[1])
        raw.replicaof("NO", "ONE")
        assert len(raw.client_list()) >= connected - 1
        # Nobody was told.
        history = await within(layer.group_history("room", since=start))
        assert history.messages == []
        assert not history.complete
        # And from here on it is proven again.
        await within(layer.group_send("room", {"n": 3}))
        history = await within(layer.group_history("room", since=history.position))
        assert numbers(history) == [3]
        assert history.complete


@pytest.mark.parametrize("options", [{}, {"symmetric_encryption_keys": ["secret"]}], ids=["plain", "encrypted"])
async def test_a_first_replica_is_no_end(make: Make, own_server: OwnServer, options: dict[str, Any]) -> None:
    """A sender that was connected before, and a reader that came later: what they do is of one epoch."""
    servers = own_server(*QUICK), own_server(*QUICK)
    sender = make(hosts=[servers[0].url], history=HISTORY, **options)
    reader = make(hosts=[servers[0].url], history=HISTORY, **options)
    await within(sender.group_send("room", {"n": 1}))
    with redis.Redis.from_url(servers[1].url) as other:
        await follow(other, servers[0])
        start = (await within(reader.group_history("room"))).position
        for n in range(2, 5):
            await within(sender.group_send("room", {"n": n}))
        for layer in (reader, sender):
            history = await within(layer.group_history("room", since=start))
            assert numbers(history) == [2, 3, 4]
            assert history.complete
        assert sender.stats()["recorded"] == 4


async def test_a_resumed_channel_after_a_first_replica(make: Make, own_server: OwnServer) -> None:
    """Also where what listens was connected before."""
    servers = own_server(*QUICK), own_server(*QUICK)
    layer = make(hosts=[servers[0].url], history=HISTORY)
    with redis.Redis.from_url(servers[1].url) as other:
        first, second = await layer.new_channel(), await layer.new_channel()
        await within(layer.group_add("room", first))
        await within(layer.group_send("room", {"n": 1}))
        await follow(other, servers[0])
        start = (await within(layer.group_history("room"))).position
        await within(layer.group_send("room", {"n": 2}))
        history = await within(layer.group_resume("room", second, start))
        assert numbers(history) == [2]
        await within(layer.group_send("room", {"n": 3}))
        assert [(await within(layer.receive(first)))["n"] for _ in range(3)] == [1, 2, 3]
        assert (await within(layer.receive(second)))["n"] == 3
        await within(layer.group_discard("room", second))
        await within(layer.group_send("room", {"n": 4}))
        again = await within(layer.group_resume("room", second, history.position))
        assert numbers(again) == [3, 4]
        assert again.complete
