"""What groups with a history miss when their subscription is lost comes all the same: in order, once, and first of all.

Each way in which a subscription can be lost on one server and on a ring; `test_pubsub_recovery_moves` has those in
which its server changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import redis

from bench.server import Server
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from channels_redis_fast.pubsub import recovery as recovery_module
from tests.core.conftest import new_loop
from tests.core.helpers import named, nothing_to_receive, receive_many, started, until, within
from tests.history.pubsub import (
    DOWN,
    FIELD,
    HISTORY,
    LACKING,
    UP,
    Crowd,
    MakeLayer,
    codec,
    every_codec,
    make_layer,
    member,
    sharded,
)
from tests.proxy import proxy_to
from tests.pubsub.helpers import both_kinds, subscribed, subscribers

__all__ = ["codec", "make_layer", "new_loop", "sharded"]

OwnServer = Callable[..., Server]

AOF = ("--appendonly", "yes", "--appendfsync", "always")


def subscriber_ids(raw: redis.Redis, name: str) -> set[int]:
    """The connections with that client name that are subscribed to something."""
    return {int(client["id"]) for client in raw.client_list() if client["name"] == name and subscribed(client)}


def kill_subscribers(raw: redis.Redis, name: str) -> set[int]:
    """End the subscribing connections of a layer; return which they were."""
    ids = subscriber_ids(raw, name)
    for number in ids:
        raw.client_kill_filter(_id=number)
    return ids


def group_channel(layer: RedisPubSubChannelLayer, group: str) -> str:
    return f"{layer.prefix}__group__{group}"


async def outage(raw: redis.Redis, layer: RedisPubSubChannelLayer, while_out: Callable[[], Any], group: str) -> None:
    """A subscriber that is not let in while something is sent."""
    # Held by the event loop, which does not go round: what is sent by another client is sent while nobody listens.
    assert kill_subscribers(raw, layer.prefix)
    assert subscribers(raw, group_channel(layer, group)) == 0
    while_out()


def is_lost(layer: RedisPubSubChannelLayer) -> bool:
    """Whether the layer has noticed, which nothing public says of one whose receivers are busy."""
    return all(subscriber.link is None for state in layer._loops.values() for subscriber in state._subscribers)  # type: ignore[union-attr]


class Away:
    """Sends to groups with a history without an event loop, so that the one of the test stands still meanwhile."""

    def __init__(self, layer: RedisPubSubChannelLayer) -> None:
        self._layer = layer

    def send(self, *messages: tuple[str, dict[str, Any]]) -> None:
        async def send() -> None:
            for group, message in messages:
                await self._layer.group_send(group, message)
            await self._layer.close_pools()

        # In a thread of its own, for which this one waits.
        import threading

        thread = threading.Thread(target=lambda: asyncio.run(send()))
        thread.start()
        thread.join(10)
        assert not thread.is_alive()


# The proof.


@both_kinds
@pytest.mark.single_server("it kills connections by their name")
async def test_a_hundred_kills_under_fifty_senders(
    make_layer: MakeLayer, own_server: OwnServer, prefix: str, soon_again: None
) -> None:
    server = own_server()
    layer = make_layer(hosts=[named(server.url, prefix)])
    peers = [make_layer(hosts=[server.url]) for _ in range(2)]
    crowd = Crowd(layer, peers, "room")
    await crowd.start()
    with redis.Redis.from_url(server.url) as raw:
        for _ in range(100):
            before = kill_subscribers(raw, prefix)
            assert before
            # The next one comes as soon as somebody is there: often in the middle of a recovery.
            await until(lambda before=before: bool(subscriber_ids(raw, prefix) - before))  # type: ignore[misc]
    await crowd.stop()
    assert not crowd.errors
    kept = await crowd.check()
    for receiver in crowd.receivers:
        assert LACKING not in receiver.told
        assert receiver.told.count(UP) >= 1
        assert receiver.told[-1] == UP
    assert layer.stats()["incomplete"] == 0
    assert layer.stats()["recovered"] > 0
    assert layer.stats()["reconnects"] >= 100
    assert len(kept) == crowd.sent + 1


@every_codec
@both_kinds
@pytest.mark.single_server("it kills connections by their name")
async def test_what_was_missed_comes_before_anything_else(
    make_layer: MakeLayer, own_server: OwnServer, prefix: str
) -> None:
    """First that the connection is lost, then what was missed, then that it is back, then what is new."""
    server = own_server()
    layer, peer = make_layer(hosts=[named(server.url, prefix)]), make_layer(hosts=[server.url])
    channels = [await member(layer, "room1", "lobby"), await member(layer, "room1", "room2"), await member(layer)]
    await peer.group_send("room1", {"n": 0})
    for channel in channels[:2]:
        assert (await within(layer.receive(channel)))["n"] == 0
    with redis.Redis.from_url(server.url) as raw:
        for turn in range(3):
            await outage(
                raw,
                layer,
                lambda: Away(peer).send(
                    ("room1", {"n": 1}), ("lobby", {"n": 2}), ("room2", {"n": 3}), ("room1", {"n": 4})
                ),
                "room1",
            )
            first = [
                await receive_many(layer, channel, count) for channel, count in zip(channels, (4, 5, 2), strict=True)
            ]
            assert first[0][0] == first[1][0] == first[2][0] == DOWN
            assert first[0][-1] == first[1][-1] == first[2][-1] == UP
            assert [message["n"] for message in first[0][1:-1]] == [1, 4]
            assert [message["n"] for message in first[1][1:-1] if message["n"] != 3] == [1, 4]
            assert [message["n"] for message in first[1][1:-1] if message["n"] in (3,)] == [3]
            assert first[0][1:-1] == (await peer.group_history("room1")).messages[-2:]
            await peer.group_send("room1", {"n": 5, "turn": turn})
            for channel in channels[:2]:
                assert (await within(layer.receive(channel)))["n"] == 5
    for channel in channels:
        await nothing_to_receive(layer, channel)
    assert layer.stats()["recovered"] == 9
    assert layer.stats()["incomplete"] == 0


@pytest.mark.parametrize("kind", ["cut", "stalled"])
async def test_a_link_that_fails(make_layer: MakeLayer, own_server: OwnServer, kind: str, soon_again: None) -> None:
    """Stalled for longer than an answer may take, or cut again and again."""
    server = own_server()
    async with proxy_to(server.port) as proxy:
        layer = make_layer(hosts=[{"address": proxy.url, "socket_timeout": 1.5}])
        crowd = Crowd(layer, [make_layer(hosts=[server.url])], "room")
        await crowd.start(senders=10)
        for _ in range(2 if kind == "stalled" else 20):
            reconnects = layer.stats()["reconnects"]
            if kind == "cut":
                proxy.cut()
            else:
                proxy.stall()
                await until(lambda: is_lost(layer))
                proxy.go_on()
            await until(lambda reconnects=reconnects: layer.stats()["reconnects"] > reconnects)  # type: ignore[misc]
        # Before the receivers end with the last message.
        await until(lambda: all(UP in receiver.told for receiver in crowd.receivers))
        await crowd.stop()
        await crowd.check()
        assert not crowd.errors
        for receiver in crowd.receivers:
            assert set(map(str, receiver.told)) == {str(DOWN), str(UP)}
        assert layer.stats()["incomplete"] == 0


@pytest.mark.parametrize("arguments", [AOF, ()], ids=["AOF", "nothing kept"])
async def test_a_server_that_is_killed(
    make_layer: MakeLayer, own_server: OwnServer, arguments: tuple[str, ...]
) -> None:
    """What it has kept comes; and nobody is told that this is all."""
    server = own_server(*arguments)
    layer, peer = make_layer(hosts=[server.url]), make_layer(hosts=[server.url])
    channel = await member(layer, "room")
    quiet = await member(layer, "room-quiet")
    nowhere = await member(layer, "lobby")
    for n in range(10):
        await peer.group_send("room", {"n": n})
    got = await receive_many(layer, channel, 10)
    server.restart()
    await peer.close_pools()
    sending = [await started(peer.group_send("room", {"n": n})) for n in range(10, 20)]
    await within(asyncio.gather(*sending))
    more = await receive_many(layer, channel, 12)
    assert more.pop(0) == DOWN
    assert LACKING in more
    more.remove(LACKING)
    assert [message["n"] for message in more] == list(range(10, 20))
    kept = (await peer.group_history("room")).messages
    assert kept == ([*got, *more] if arguments else more)
    assert await receive_many(layer, quiet, 2) == [DOWN, LACKING]
    assert await receive_many(layer, nowhere, 2) == [DOWN, UP]
    assert layer.stats()["incomplete"] == 2
    # The next outage is one in which nothing is lost.
    for name in (channel, quiet, nowhere):
        await nothing_to_receive(layer, name)
    with redis.Redis.from_url(server.url) as raw:
        raw.client_kill_filter(_type="pubsub")
    assert await receive_many(layer, channel, 2) == [DOWN, UP]
    assert await receive_many(layer, quiet, 2) == [DOWN, UP]


@every_codec
async def test_under_load_a_server_with_aof_loses_nothing(make_layer: MakeLayer, own_server: OwnServer) -> None:
    server = own_server(*AOF)
    layer = make_layer(hosts=[server.url])
    crowd = Crowd(layer, [make_layer(hosts=[server.url]) for _ in range(2)], "room")
    await crowd.start(senders=20)
    for times in (1, 2, 3):
        await until(lambda sent=crowd.sent: crowd.sent > sent + 50)  # type: ignore[misc]
        await asyncio.to_thread(server.restart)
        await until(lambda times=times: all(each.told.count(LACKING) == times for each in crowd.receivers))  # type: ignore[misc]
    await crowd.stop()
    await crowd.check()
    for receiver in crowd.receivers:
        assert receiver.told.count(LACKING) == 3
        assert UP not in receiver.told


async def test_a_ring(make_layer: MakeLayer, own_server: OwnServer) -> None:
    """The channels of both shards hear of it when the groups of the one have got all."""
    servers = [own_server(), own_server()]
    layer, peer = (make_layer(hosts=[server.url for server in servers]) for _ in range(2))
    groups: dict[int, str] = {}
    for n in range(100):
        groups.setdefault(layer._shard_of(group_channel(layer, f"room{n}"), 2), f"room{n}")
    both = await member(layer, *groups.values())
    other = await member(layer, groups[1])
    with redis.Redis.from_url(servers[0].url) as raw:
        raw.client_kill_filter(_type="pubsub")
        assert subscribers(raw, group_channel(layer, groups[0])) == 0
        Away(peer).send((groups[0], {"n": 1}), (groups[0], {"n": 2}))
    got = await receive_many(layer, both, 4)
    assert [got[0], got[3]] == [DOWN, UP]
    assert [message["n"] for message in got[1:3]] == [1, 2]
    assert await receive_many(layer, other, 2) == [DOWN, UP]
    assert layer.stats()["recovered"] == 2


# Around it.


@pytest.mark.single_server("it kills connections by their name")
async def test_trimmed_meanwhile(make_layer: MakeLayer, own_server: OwnServer, prefix: str) -> None:
    """What is left comes, and they are told that it is not all."""
    server = own_server()
    small = {"room*": {"size": 1, "ttl": 600, "max_bytes": 1000}}
    layer = make_layer(hosts=[named(server.url, prefix)], history=small)
    peer = make_layer(hosts=[server.url], history=small)
    channel = await member(layer, "room")
    with redis.Redis.from_url(server.url) as raw:
        await outage(
            raw, layer, lambda: Away(peer).send(*(("room", {"n": n, "text": "x" * 300}) for n in range(20))), "room"
        )
    left = (await peer.group_history("room")).messages
    assert 0 < len(left) < 20
    assert await receive_many(layer, channel, len(left) + 2) == [DOWN, *left, LACKING]
    assert layer.stats()["incomplete"] == 1


@pytest.mark.single_server("it kills connections by their name")
async def test_forgotten_meanwhile(make_layer: MakeLayer, own_server: OwnServer, prefix: str) -> None:
    server = own_server()
    layer = make_layer(hosts=[named(server.url, prefix)])
    peer = make_layer(hosts=[server.url])
    channel = await member(layer, "room")
    await peer.group_send("room", {"n": 0})
    assert (await within(layer.receive(channel)))["n"] == 0
    await peer.group_forget("room")
    with redis.Redis.from_url(server.url) as raw:
        await outage(raw, layer, lambda: Away(peer).send(("room", {"n": 1})), "room")
    got = await receive_many(layer, channel, 3)
    assert [got[0], got[1]["n"], got[2]] == [DOWN, 1, LACKING]


@pytest.mark.single_server("it kills connections by their name")
async def test_mailboxes_keep_their_bounds(make_layer: MakeLayer, own_server: OwnServer, prefix: str) -> None:
    """The oldest give way and are counted, as ever; what nobody receives is no reason to hold anything up."""
    server = own_server()
    layer = make_layer(hosts=[named(server.url, prefix)], capacity=5)
    peer = make_layer(hosts=[server.url])
    channel = await member(layer, "room")
    with redis.Redis.from_url(server.url) as raw:
        await outage(raw, layer, lambda: Away(peer).send(*(("room", {"n": n}) for n in range(20))), "room")
    await until(lambda: layer.stats()["recovered"] == 20 and layer.stats()["dropped"] == 17)
    got = await receive_many(layer, channel, 5)
    assert [message.get("n") for message in got] == [16, 17, 18, 19, None]
    assert got[-1] == UP


@pytest.mark.single_server("it kills connections by their name")
async def test_more_than_a_page(
    make_layer: MakeLayer, own_server: OwnServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And more groups than are read at the same time."""
    monkeypatch.setattr(recovery_module, "PAGE", 7)
    monkeypatch.setattr(recovery_module, "MAX_READS", 3)
    server = own_server()
    layer, peer = make_layer(hosts=[named(server.url, prefix)]), make_layer(hosts=[server.url])
    groups = [f"room{n}" for n in range(20)]
    channels = [await member(layer, group) for group in groups]
    messages = [(group, {"n": n}) for n in range(21) for group in groups]
    with redis.Redis.from_url(server.url) as raw:
        await outage(raw, layer, lambda: Away(peer).send(*messages), "room1")
    for group, channel in zip(groups, channels, strict=True):
        got = await receive_many(layer, channel, 23)
        assert got == [DOWN, *(await peer.group_history(group)).messages, UP]
    assert layer.stats()["recovered"] == 420


@pytest.mark.single_server("it kills connections by their name")
async def test_more_than_can_be_held(
    make_layer: MakeLayer, own_server: OwnServer, prefix: str, monkeypatch: pytest.MonkeyPatch, soon_again: None
) -> None:
    """It is thrown away, and read from the stream."""
    monkeypatch.setattr(recovery_module, "MAX_HELD", 3)
    monkeypatch.setattr(recovery_module, "MAX_OVERFLOWS", 1_000_000)
    server = own_server()
    layer = make_layer(hosts=[named(server.url, prefix)])
    crowd = Crowd(layer, [make_layer(hosts=[server.url])], "room")
    await crowd.start(pause=0.01)
    with redis.Redis.from_url(server.url) as raw:
        for _ in range(20):
            before = kill_subscribers(raw, prefix)
            await until(lambda before=before: bool(subscriber_ids(raw, prefix) - before))  # type: ignore[misc]
    await crowd.stop()
    await crowd.check()
    assert layer.stats()["incomplete"] == 0


@pytest.mark.single_server("it kills connections by their name")
async def test_who_leaves_meanwhile(make_layer: MakeLayer, own_server: OwnServer, prefix: str) -> None:
    """It is told nothing more, and nothing of it stays; who comes back begins anew."""
    server = own_server()
    layer, peer = make_layer(hosts=[named(server.url, prefix)]), make_layer(hosts=[server.url])
    channel, other = await member(layer, "room", "room2"), await member(layer, "room2")
    with redis.Redis.from_url(server.url) as raw:
        await outage(raw, layer, lambda: Away(peer).send(("room", {"n": 1}), ("room2", {"n": 2})), "room")
    await layer.group_discard("room", channel)
    got = await receive_many(layer, channel, 3)
    assert [got[0], got[1]["n"], got[2]] == [DOWN, 2, UP]
    await layer.group_add("room", channel)
    await peer.group_send("room", {"n": 3})
    assert (await within(layer.receive(channel)))["n"] == 3
    await layer.group_discard("room", channel)
    await layer.group_discard("room2", channel)
    assert len(await receive_many(layer, other, 3)) == 3
    await layer.group_discard("room2", other)
    recovery = next(iter(layer._loops.values())).recovery
    assert recovery is not None
    assert not recovery.groups


@pytest.mark.single_server("it kills connections by their name")
async def test_closed_or_flushed_meanwhile(make_layer: MakeLayer, own_server: OwnServer, prefix: str) -> None:
    """Sockets that are closed on purpose: what is sent meanwhile comes, and nobody is told. A flush forgets all."""
    server = own_server()
    layer, peer = make_layer(hosts=[named(server.url, prefix)]), make_layer(hosts=[server.url])
    channel = await member(layer, "room")
    with redis.Redis.from_url(server.url) as raw:
        for n in range(3):
            closing = await started(layer.close_pools())
            await until(lambda: not subscriber_ids(raw, prefix) or closing.done())  # noqa: B023
            await peer.group_send("room", {"n": n})
            await within(closing)
            assert (await within(layer.receive(channel)))["n"] == n
        await outage(raw, layer, lambda: Away(peer).send(("room", {"n": 4})), "room")
        await within(layer.flush())
    recovery = next(iter(layer._loops.values())).recovery
    assert recovery is not None
    assert not recovery.groups
    assert not recovery._reading


def test_a_loop_that_closes_meanwhile(own_server: OwnServer, prefix: str, new_loop: Any) -> None:
    """Nothing hangs, and nothing is logged by asyncio."""
    server = own_server()
    layer = RedisPubSubChannelLayer(
        hosts=[named(server.url, prefix)], prefix=prefix, sync_hub="never", history=HISTORY, on_reconnect="up"
    )
    loop = new_loop()
    errors: list[Any] = []
    loop.set_exception_handler(lambda loop, context: errors.append(context))

    async def lose() -> None:
        channel = await member(layer, "room")
        with redis.Redis.from_url(server.url) as raw:
            kill_subscribers(raw, prefix)
            await until(lambda: bool(subscriber_ids(raw, prefix)))
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        assert channel

    loop.run_until_complete(lose())
    loop.close()
    assert not errors


async def test_all_tasks_are_cancelled_meanwhile(make_layer: MakeLayer, own_server: OwnServer, prefix: str) -> None:
    """As at the end of a program that goes on after all."""
    server = own_server()
    layer, peer = make_layer(hosts=[named(server.url, prefix)]), make_layer(hosts=[server.url])
    channel = await member(layer, "room")
    with redis.Redis.from_url(server.url) as raw:
        await outage(raw, layer, lambda: Away(peer).send(("room", {"n": 1})), "room")
        await until(lambda: bool(subscriber_ids(raw, prefix)))
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    got = await receive_many(layer, channel, 3)
    assert [got[0], got[1]["n"], got[2]] == [DOWN, 1, UP]


@pytest.mark.single_server("it kills connections by their name")
async def test_one_tip_for_all_who_join(make_layer: MakeLayer, own_server: OwnServer, prefix: str) -> None:
    """One read for each group and event loop, however many join; none for a group without a history."""
    server = own_server()
    layer = make_layer(hosts=[named(server.url, prefix)])
    channels = [await layer.new_channel() for _ in range(20)]
    with redis.Redis.from_url(server.url) as raw:
        raw.config_resetstat()
        await within(asyncio.gather(*(layer.group_add("room", channel) for channel in channels)))
        await within(asyncio.gather(*(layer.group_add("lobby", channel) for channel in channels)))
        assert raw.info("commandstats")["cmdstat_evalsha"]["calls"] == 1


@pytest.mark.parametrize("allowed", [False, True], ids=["for ever", "later"])
async def test_a_tip_that_cannot_be_read(make_layer: MakeLayer, own_server: OwnServer, allowed: bool) -> None:
    """The channel joins all the same; at an outage it is told that there may be something that it misses."""
    server = own_server()
    with redis.Redis.from_url(server.url) as raw:
        raw.execute_command("ACL SETUSER default -xrevrange")
        layer = make_layer(hosts=[server.url])
        channel = await member(layer, "room")
        assert layer.groups[group_channel(layer, "room")]
        raw.execute_command("ACL SETUSER default +xrevrange")
        if allowed:
            # The first message is a position as good as any.
            await layer.group_send("room", {"n": 1})
            assert (await within(layer.receive(channel)))["n"] == 1
        raw.client_kill_filter(_type="pubsub")
    assert await receive_many(layer, channel, 2) == [DOWN, UP if allowed else LACKING]


async def test_a_server_that_does_not_say_who_it_is(make_layer: MakeLayer, own_server: OwnServer) -> None:
    """All that was missed comes, and nothing of it is proven."""
    server = own_server()
    with redis.Redis.from_url(server.url) as raw:
        raw.execute_command("ACL SETUSER default -info")
        layer, peer = make_layer(hosts=[server.url]), make_layer(hosts=[server.url])
        channel = await member(layer, "room")
        raw.client_kill_filter(_type="pubsub")
        assert subscribers(raw, group_channel(layer, "room")) == 0
        Away(peer).send(("room", {"n": 1}))
        got = await receive_many(layer, channel, 3)
    assert [got[0], got[1]["n"], got[2]] == [DOWN, 1, LACKING]


@pytest.mark.single_server("it kills connections by their name")
async def test_a_stream_that_cannot_be_read(make_layer: MakeLayer, own_server: OwnServer, prefix: str) -> None:
    """They go on, are told, and get the missed messages at the next outage if none has come meanwhile."""
    server = own_server()
    layer, peer = make_layer(hosts=[named(server.url, prefix)]), make_layer(hosts=[server.url])
    channel = await member(layer, "room")
    with redis.Redis.from_url(server.url) as raw:
        await outage(raw, layer, lambda: Away(peer).send(("room", {"n": 1})), "room")
        raw.execute_command("ACL SETUSER default -xrange")
        assert await receive_many(layer, channel, 2) == [DOWN, LACKING]
        raw.execute_command("ACL SETUSER default +xrange")
        kill_subscribers(raw, prefix)
    got = await receive_many(layer, channel, 3)
    assert [got[0], got[1]["n"], got[2]] == [DOWN, 1, UP]


async def test_others_who_send_without_positions(make_layer: MakeLayer, own_server: OwnServer, prefix: str) -> None:
    """What a channels_redis peer sends, or forwards with an old position, is delivered as it is."""
    server = own_server()
    layer = make_layer(hosts=[named(server.url, prefix)])
    old = make_layer(hosts=[server.url], history=None)
    channel = await member(layer, "room")
    await layer.group_send("room", {"n": 1})
    first = await within(layer.receive(channel))
    await layer.group_send("room", {"n": 2})
    second = await within(layer.receive(channel))
    for message in ({"n": 3}, first, {"n": 4, FIELD: "mine"}, {"n": 5, FIELD: 5}, ["no", "dict"]):
        await old.group_send("room", message)
        assert await within(layer.receive(channel)) == message
    with redis.Redis.from_url(server.url) as raw:
        kill_subscribers(raw, prefix)
    assert await receive_many(layer, channel, 2) == [DOWN, UP]
    assert second[FIELD] == (await layer.group_history("room")).position


async def test_an_event_of_another_life_is_forwarded(make_layer: MakeLayer, own_server: OwnServer) -> None:
    """By one who keeps its position, after a restart: at the next outage nothing comes twice."""
    server = own_server(*AOF)
    layer, old = make_layer(hosts=[server.url]), make_layer(hosts=[server.url], history=None)
    channel = await member(layer, "room")
    for n in range(3):
        await layer.group_send("room", {"n": n})
    first = (await receive_many(layer, channel, 3))[0]
    server.restart()
    assert await receive_many(layer, channel, 2) == [DOWN, LACKING]
    await layer.close_pools()
    await layer.group_send("room", {"n": 3})
    assert (await within(layer.receive(channel)))["n"] == 3
    await old.close_pools()
    await old.group_send("room", first)
    assert await within(layer.receive(channel)) == first
    with redis.Redis.from_url(server.url) as raw:
        raw.client_kill_filter(_type="pubsub")
    assert await receive_many(layer, channel, 2) == [DOWN, UP]
    await nothing_to_receive(layer, channel)
