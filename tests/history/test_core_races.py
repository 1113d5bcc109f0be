"""Whoever comes back while others send, and what dies meanwhile: no gap, no duplicate, no false promise."""

from __future__ import annotations

import asyncio
from bisect import bisect
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import redis

from bench.server import Server
from tests.clusters import Cluster
from tests.core.helpers import clients, end, named, until, within
from tests.history.core import (
    CODECS,
    FIELD,
    HISTORY,
    ROOMY,
    MakeCore,
    all_of,
    entries_of,
    group_key,
    in_thread,
    recorded,
)

OwnServer = Callable[..., Server]

#: Senders, and how often somebody comes back while they send.
SENDERS, ROUNDS = 50, 200


class Senders:
    """Fifty that send to one group, each its next message as soon as the last one is acknowledged."""

    def __init__(self, layers: list[Any], group: str = "room") -> None:
        self.acknowledged = 0
        self.errors: list[Exception] = []
        self._layers, self._group = layers, group
        self._stopped = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Senders:
        self._tasks = [asyncio.ensure_future(self._send(sender)) for sender in range(SENDERS)]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._stopped = True
        await within(asyncio.gather(*self._tasks), 60)

    async def _send(self, sender: int) -> None:
        n = 0
        while not self._stopped:
            try:
                await self._layers[sender % len(self._layers)].group_send(self._group, {"sender": sender, "n": n})
                self.acknowledged += 1
            except redis.exceptions.RedisError as error:
                self.errors.append(error)
                await asyncio.sleep(0.01)
            n += 1

    async def more(self, count: int) -> None:
        """Return when so many more messages were acknowledged."""
        goal = self.acknowledged + count
        await until(lambda: self.acknowledged >= goal, 60)


class Session(NamedTuple):
    """A channel that came back: from where, and what it got since then."""

    since: str
    messages: list[Any]
    #: Whether it was told that nothing is missing.
    is_whole: bool


def check(sessions: list[Session], stream: list[Any]) -> None:
    """
    Compare what channels got with the stream: each all of it from where it came back to where it left, and once.

    ``stream``: all messages that were recorded since the first position.
    """
    positions = [message[FIELD] for message in stream]
    assert all(before < after for before, after in pairwise(positions))
    for session in sessions:
        assert session.is_whole
        got = [message[FIELD] for message in session.messages]
        start = bisect(positions, session.since)
        assert got == positions[start : start + len(got)], "a gap, a duplicate, or another order"
        assert session.messages == stream[start : start + len(got)]
    for sender in range(SENDERS):
        numbers = [message["n"] for message in stream if message["sender"] == sender]
        assert numbers == sorted(numbers)


async def come_and_go(receiving: Any, senders: Senders, rounds: int) -> list[Session]:
    """Join the group and leave it, again and again, each time with a new channel and from the last position."""
    sessions = []
    position = (await receiving.group_history("room")).position
    for _ in range(rounds):
        await senders.more(1)
        channel = await receiving.new_channel()
        history = await receiving.group_resume("room", channel, position)
        await senders.more(3)
        await receiving.group_discard("room", channel)
        live = await all_of(receiving, channel)
        sessions.append(Session(position, history.messages + live, history.complete))
        position = sessions[-1].messages[-1][FIELD]
    return sessions


@pytest.mark.timeout(120)
@pytest.mark.parametrize("options", [{}, CODECS["encrypted"]], ids=["msgpack", "encrypted"])
async def test_coming_back_while_fifty_send(make_core: MakeCore, options: dict[str, Any]) -> None:
    made = {"history": {"room": {"size": 100_000, "ttl": 60}}, "capacity": ROOMY, **options}
    layers = [make_core(**made) for _ in range(1 if options else 3)]
    receiving = make_core(**made)
    start = (await receiving.group_history("room")).position
    async with Senders(layers) as senders:
        rounds = (come_and_go(receiving, senders, ROUNDS // (40 if options else 10)) for _ in range(10))
        sessions = await within(asyncio.gather(*rounds), 100)
    assert not senders.errors
    history = await receiving.group_history("room", start)
    assert (history.complete, len(history.messages)) == (True, senders.acknowledged)
    check([session for channel in sessions for session in channel], history.messages)


async def rounds_of_their_own(make: Callable[[], Any], count: int) -> None:
    """The same where a message is recorded before it is delivered: channels stay until all was delivered."""
    receiving, layers = make(), [make() for _ in range(3)]
    position = (await receiving.group_history("room")).position
    for _ in range(count):
        start = position
        async with Senders(layers) as senders:
            channels = {}
            for kind in range(6):
                await senders.more(1)
                channel = await receiving.new_channel(f"kind{kind}")
                history = await receiving.group_resume("room", channel, position)
                channels[channel] = history
                position = history.position
            await senders.more(1)
        assert not senders.errors
        whole = await receiving.group_history("room", start)
        assert (whole.complete, len(whole.messages)) == (True, senders.acknowledged)
        sessions = []
        since = start
        for channel, history in channels.items():
            await receiving.group_discard("room", channel)
            live = sorted(await all_of(receiving, channel), key=lambda message: message[FIELD])
            sessions.append(Session(since, history.messages + live, history.complete))
            assert sessions[-1].messages[-1] == whole.messages[-1]
            since = history.position
        check(sessions, whole.messages)
        position = whole.position


async def test_coming_back_on_a_ring(make_core: MakeCore, shard_urls: list[str]) -> None:
    await rounds_of_their_own(lambda: make_core(hosts=shard_urls, history=HISTORY, capacity=ROOMY), 5)


async def test_coming_back_on_a_cluster(make_core: MakeCore, cluster: Cluster) -> None:
    await rounds_of_their_own(lambda: make_core(hosts=[cluster.host], history=HISTORY, capacity=ROOMY), 5)


async def test_coming_back_to_a_large_group(make_core: MakeCore, raw: Any) -> None:
    """Of more keys than one script serves."""
    layer = make_core()
    members = {f"m{n}": 2_000_000_000 for n in range(1001)}
    raw.zadd(group_key(layer, "room"), members)
    await rounds_of_their_own(lambda: make_core(history=HISTORY, capacity=ROOMY), 1)


async def test_coming_back_while_the_group_changes(make_core: MakeCore, raw: Any) -> None:
    """By the hand of another process, before every few messages."""
    made = {"history": HISTORY, "capacity": ROOMY}
    layers, receiving = [make_core(**made) for _ in range(3)], make_core(**made)
    key = group_key(receiving, "room")
    start = (await receiving.group_history("room")).position
    ended = False

    def change() -> None:
        n = 0
        while not ended:
            raw.zadd(key, {f"other{n % 7}": 2_000_000_000 + n})
            raw.zrem(key, f"other{n % 5}")
            n += 1

    changing = asyncio.ensure_future(in_thread(change))
    channel = await receiving.new_channel()
    history = await receiving.group_resume("room", channel, start)
    try:
        async with Senders(layers) as senders:
            await senders.more(500)
    finally:
        ended = True
        await changing
    assert not senders.errors
    whole = await receiving.group_history("room", start)
    live = sorted(await all_of(receiving, channel), key=lambda message: message[FIELD])
    check([Session(start, history.messages + live, history.complete)], whole.messages)
    assert len(live) == len(whole.messages) == senders.acknowledged


# What dies.


async def test_connections_that_are_killed(make_core: MakeCore, raw: Any, redis_server: Server, prefix: str) -> None:
    """A message whose acknowledgement was lost was recorded and delivered, or neither."""
    made = {"history": HISTORY, "capacity": ROOMY}
    layers = [make_core(hosts=[named(redis_server.url, prefix)], **made) for _ in range(3)]
    receiving = make_core(**made)
    channel = await receiving.new_channel()
    start = (await receiving.group_resume("room", channel, None)).position
    async with Senders(layers) as senders:
        for _ in range(30):
            await senders.more(10)
            for client in clients(raw, prefix):
                raw.client_kill_filter(_id=client["id"])
    assert senders.errors
    whole = await receiving.group_history("room", start)
    assert whole.complete
    live = await all_of(receiving, channel)
    assert entries_of(live) == recorded(raw, receiving, "room")
    check([Session(start, live, whole.complete)], whole.messages)
    assert senders.acknowledged <= len(live) <= senders.acknowledged + len(senders.errors)


@pytest.mark.parametrize("keeps", [True, False], ids=["with its data", "without"])
async def test_a_server_that_is_killed(make_core: MakeCore, own_server: OwnServer, keeps: bool) -> None:
    """Again and again: nothing that lies across that is called whole, and what comes after it is."""
    server = own_server(*(("--appendonly", "yes", "--appendfsync", "always") if keeps else ()))
    layers = [make_core(hosts=[server.url], history=HISTORY, capacity=ROOMY) for _ in range(2)]
    receiving = make_core(hosts=[server.url], history=HISTORY, capacity=ROOMY)
    channel = await receiving.new_channel()
    position = (await receiving.group_resume("room", channel, None)).position
    received: list[Any] = []

    async def receive() -> None:
        while True:
            received.append(await receiving.receive(channel))

    task = asyncio.ensure_future(receive())
    recovered: list[Any] = []
    async with Senders(layers) as senders:
        for _ in range(3):
            await senders.more(50)
            server.stall()
            await until(lambda: any(layer.stats()["commands_in_flight"] for layer in layers))
            server.kill()
            await in_thread(server.restart)
            history = await receiving.group_resume("room", channel, position)
            assert history.complete is False
            recovered += history.messages
            await senders.more(50)
            later = await receiving.group_history("room", history.position)
            assert later.complete
            assert later.messages
            recovered += later.messages
            position = later.position
    assert senders.errors
    whole = await receiving.group_history("room", position)
    last = whole.messages[-1][FIELD] if whole.messages else position
    await until(lambda: bool(received) and received[-1][FIELD] >= last)
    await end(task)
    positions = [message[FIELD] for message in received]
    assert len(set(positions)) == len(positions)
    if keeps:
        # A message for each blocking connection that died; what was recovered has it.
        everything = (await receiving.group_history("room")).messages
        assert [message for message in everything if message in received or message in recovered] == everything
        assert len([message for message in everything if message not in received]) <= 3
