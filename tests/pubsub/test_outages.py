"""Connections lost and found: who hears of it, in which order, and that everybody receives again soon."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis
from redis.exceptions import ConnectionError

from bench.server import Server, free_port
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.core.helpers import end, named, nothing_to_receive, receive_many, started, until, within
from tests.faults.load import SOON
from tests.proxy import Proxy, proxy_to
from tests.pubsub.helpers import both_kinds, ready, subscribed, subscribers, subscribing, subscriptions

MakeLayer = Callable[..., RedisPubSubChannelLayer]
OwnServer = Callable[..., Server]

DOWN, UP = {"type": "down"}, {"type": "up"}

pytestmark = pytest.mark.usefixtures("long_answers")


class Place:
    """A server that can be lost in one way, and what a layer's host has to be to lose it."""

    def __init__(self, server: Server, host: dict[str, Any], proxy: Proxy | None, kind: str) -> None:
        self.server, self.host, self._proxy, self._kind = server, host, proxy, kind

    async def lose(self) -> None:
        if self._kind == "killed connection":
            with redis.Redis.from_url(self.server.url) as raw:
                assert raw.client_kill_filter(_type="pubsub") == 1
        elif self._kind == "killed server":
            self.server.kill()
        elif self._proxy is not None and self._kind == "cut link":
            self._proxy.cut()
        elif self._proxy is not None:
            self._proxy.stall()

    async def regain(self) -> None:
        if self._kind == "killed server":
            self.server.restart()
        elif self._proxy is not None:
            self._proxy.go_on()


@contextlib.asynccontextmanager
async def place_of(own_server: OwnServer, kind: str) -> AsyncIterator[Place]:
    server = own_server()
    if "link" not in kind:
        yield Place(server, {"address": server.url}, None, kind)
        return
    async with proxy_to(server.port) as proxy:
        # Nothing but time can tell that it is stalled.
        yield Place(server, {"address": proxy.url, "socket_timeout": 0.75 if "stalled" in kind else 10}, proxy, kind)


LOSSES = ["killed connection", "killed server", "cut link", "stalled link"]


@pytest.mark.parametrize(
    ("only_receives", "sharded"),
    [(True, False), (False, False), (False, True)],
    ids=["only receives", "sends too", "sharded"],
)
@pytest.mark.parametrize("kind", LOSSES)
async def test_all_hear_of_it_and_receive_again(
    make_layer: MakeLayer, own_server: OwnServer, kind: str, only_receives: bool
) -> None:
    async with place_of(own_server, kind) as place:
        layer = make_layer(hosts=[place.host], on_disconnect="down", on_reconnect="up")
        channels = [await layer.new_channel() for _ in range(30)]
        for n, channel in enumerate(channels):
            await layer.group_add(f"room{n % 3}", channel)
        if not only_receives:
            await ready(layer, *channels)
        for _ in range(2):
            receiving = [await started(receive_many(layer, channel, 3)) for channel in channels]
            first = [await started(layer.receive(channels[n])) for n in range(3)]
            assert not any(task.done() for task in first)
            await end(*first)
            before = addresses(place.server)
            await place.lose()
            if kind in ("killed server", "stalled link"):
                # The loss is noticed before there is a way back.
                await until(lambda: _lost(layer))
            await place.regain()
            reachable = time.monotonic()
            peer = make_layer(hosts=[place.server.url])
            # Behind a stalled link the server still counts the dead connection for a while.
            await until(lambda before=before: not before & addresses(place.server))  # type: ignore[misc]
            with redis.Redis.from_url(place.server.url) as raw:
                names = [*channels, *(f"{layer.prefix}__group__room{n}" for n in range(3))]
                await until(lambda raw=raw, names=names: all(subscribers(raw, name) for name in names))  # type: ignore[misc]
            for channel in channels:
                await within(peer.send(channel, {"to": channel}))
            got = await within(asyncio.gather(*receiving))
            assert time.monotonic() - reachable < SOON
            for channel, messages in zip(channels, got, strict=True):
                expected = [DOWN, UP, {"to": channel}]
                # A subscription can be seen from outside before its acknowledgement is here.
                assert [m for m in messages if m != UP] == [m for m in expected if m != UP]
                assert messages.index(UP) > messages.index(DOWN)
            for n in range(3):
                await within(peer.group_send(f"room{n}", {"room": n}))
            for n, channel in enumerate(channels):
                assert await within(layer.receive(channel)) == {"room": n % 3}
            if not only_receives:
                await within(layer.send(channels[0], {"n": 1}))
                assert await within(layer.receive(channels[0])) == {"n": 1}


def addresses(server: Server) -> set[str]:
    """Where the connections come from that are subscribed to something."""
    with redis.Redis.from_url(server.url) as raw:
        return {client["addr"] for client in raw.client_list() if subscribed(client)}


def _lost(layer: RedisPubSubChannelLayer) -> bool:
    """Whether the layer has noticed, which nothing public says of one without receivers."""
    state = next(iter(layer._loops.values()))
    return all(subscriber.link is None for subscriber in state._subscribers)


async def test_nobody_asked_nobody_told(make_layer: MakeLayer, own_server: OwnServer) -> None:
    """Without the options an outage is silent, and receives go on."""
    server = own_server()
    layer = make_layer(hosts=[server.url])
    channel = await layer.new_channel()
    receiving = await started(layer.receive(channel))
    server.restart()
    with redis.Redis.from_url(server.url) as raw:
        await until(lambda: subscribers(raw, channel) == 1)
    await nothing_to_receive_by(layer, receiving, channel)


async def nothing_to_receive_by(layer: Any, receiving: Any, channel: str) -> None:
    await layer.send(channel, {"type": "last"})
    assert await within(receiving) == {"type": "last"}


@both_kinds
@pytest.mark.parametrize("option", ["on_disconnect", "on_reconnect"])
async def test_one_of_the_two(make_layer: MakeLayer, own_server: OwnServer, option: str) -> None:
    server = own_server()
    layer = make_layer(hosts=[server.url], **{option: "told"})
    channel = await layer.new_channel()
    for _ in range(2):
        server.restart()
        assert await within(layer.receive(channel)) == {"type": "told"}
        with redis.Redis.from_url(server.url) as raw:
            await until(lambda raw=raw: subscribers(raw, channel) == 1)  # type: ignore[misc]
        await nothing_to_receive(layer, channel)


async def test_each_layer_tells_its_own(make_layer: MakeLayer, own_server: OwnServer) -> None:
    """And each channel gets a message object of its own."""
    server = own_server()
    one, two = make_layer(hosts=[server.url], on_disconnect="one"), make_layer(hosts=[server.url], on_disconnect="two")
    channels = [await one.new_channel() for _ in range(2)] + [await two.new_channel()]
    server.restart()
    first, second = [await within(one.receive(channel)) for channel in channels[:2]]
    assert first == second == {"type": "one"}
    assert first is not second
    assert await within(two.receive(channels[2])) == {"type": "two"}


@pytest.mark.single_server("it kills the one connection for commands")
async def test_a_lost_command_connection_is_no_news(
    make_layer: MakeLayer, raw: Any, redis_server: Any, prefix: str
) -> None:
    """Subscriptions are what is told about."""
    layer = make_layer(hosts=[named(redis_server.url, prefix)], on_disconnect="down", on_reconnect="up")
    channel = await layer.new_channel()
    await ready(layer, channel)
    listener = {client["id"] for client in subscribing(raw, prefix)}
    commands = [c["id"] for c in raw.client_list() if c["name"] == prefix and c["id"] not in listener]
    assert len(commands) == 1
    raw.client_kill_filter(_id=commands[0])
    await until(lambda: commands[0] not in [c["id"] for c in raw.client_list()])
    while True:
        try:
            await within(layer.send(channel, {"n": 1}))
            break
        except ConnectionError:
            continue  # it was written into the dying socket, and says so
    assert await within(layer.receive(channel)) == {"n": 1}


# Several shards.


async def one_on_each(layer: RedisPubSubChannelLayer) -> list[str]:
    found: dict[int, str] = {}
    while len(found) < 2:
        channel = await layer.new_channel()
        found.setdefault(layer.consistent_hash(channel), channel)
    return [found[0], found[1]]


@both_kinds
async def test_one_shard_of_two(make_layer: MakeLayer, own_server: OwnServer, redis_server: Any) -> None:
    """Channels on the other shard are told as well: their groups may be on the lost one. And they go on."""
    server = own_server()
    layer = make_layer(hosts=[redis_server.url, server.url], on_disconnect="down", on_reconnect="up")
    channels = await one_on_each(layer)
    server.kill()
    assert [await within(layer.receive(channel)) for channel in channels] == [DOWN] * 2
    await nothing_to_receive(layer, channels[0])
    server.restart()
    assert [await within(layer.receive(channel)) for channel in channels] == [UP] * 2
    for channel in channels:
        await nothing_to_receive(layer, channel)


@both_kinds
async def test_up_is_told_when_all_shards_are(make_layer: MakeLayer, own_server: OwnServer) -> None:
    servers = [own_server(), own_server()]
    layer = make_layer(hosts=[server.url for server in servers], on_disconnect="down", on_reconnect="up")
    channels = await one_on_each(layer)
    for server in servers:
        server.kill()
    for channel in channels:
        assert await receive_many(layer, channel, 2) == [DOWN] * 2
    servers[0].restart()
    with redis.Redis.from_url(servers[0].url) as raw:
        await until(lambda: subscribers(raw, channels[0]) == 1)
    await nothing_to_receive(layer, channels[0])
    servers[1].restart()
    assert [await within(layer.receive(channel)) for channel in channels] == [UP] * 2


@both_kinds
async def test_a_shard_without_subscriptions_does_not_hold_up_the_news(
    make_layer: MakeLayer, own_server: OwnServer
) -> None:
    """All channels of one shard have left; when both connections are lost, the other shard's return is the return."""
    servers = [own_server(), own_server()]
    layer = make_layer(hosts=[server.url for server in servers], on_disconnect="down", on_reconnect="up", grace=0.01)
    stays, _ = await one_on_each(layer)
    others = []
    for server in servers:
        with redis.Redis.from_url(server.url) as raw:
            others += [name for name in subscriptions(raw) if name != stays]
    await end(*[await started(layer.receive(channel)) for channel in others])
    raws = [redis.Redis.from_url(server.url) for server in servers]
    try:
        await until(lambda: [len(subscriptions(raw)) for raw in raws] == [1, 0])
    finally:
        for raw in raws:
            raw.close()
    for server in servers:
        server.restart()
    message = await within(layer.receive(stays))
    assert message == DOWN
    while message == DOWN:
        message = await within(layer.receive(stays))
    assert message == UP


@both_kinds
async def test_a_channel_that_leaves_during_an_outage_does_not_hold_up_the_news(
    make_layer: MakeLayer, own_server: OwnServer, redis_server: Any
) -> None:
    server = own_server()
    layer = make_layer(hosts=[redis_server.url, server.url], on_disconnect="down", on_reconnect="up", grace=0.01)
    stays, leaves = await one_on_each(layer)
    server.kill()
    assert [await within(layer.receive(channel)) for channel in (stays, leaves)] == [DOWN] * 2
    await end(await started(layer.receive(leaves)))
    server.restart()
    assert await within(layer.receive(stays)) == UP


async def test_a_new_channel_hears_nothing_of_an_old_outage(make_layer: MakeLayer, own_server: OwnServer) -> None:
    """The connection was lost while nothing was subscribed; who comes later never was disconnected."""
    server = own_server()
    layer = make_layer(hosts=[server.url], on_disconnect="down", on_reconnect="up", grace=0.01)
    old = await layer.new_channel()
    await end(await started(layer.receive(old)))
    with redis.Redis.from_url(server.url) as raw:
        await until(lambda: not subscriptions(raw))
    server.restart()
    await until(lambda: _lost(layer))
    channel = await within(layer.new_channel())
    await nothing_to_receive(layer, channel)


# While the server is away.


@pytest.mark.parametrize("call", ["new_channel", "receive", "send", "group_send"])
async def test_never_connected(make_layer: MakeLayer, call: str) -> None:
    port = free_port()
    layer = make_layer(hosts=[f"redis://user:s3cret@127.0.0.1:{port}"])
    calls: dict[str, Callable[[], Any]] = {
        "new_channel": layer.new_channel,
        "receive": lambda: layer.receive("general"),
        "send": lambda: layer.send("general", {}),
        "group_send": lambda: layer.group_send("room", {}),
    }
    for _ in range(2):  # the second time as the first
        with pytest.raises(ConnectionError, match=f"127.0.0.1:{port}") as raised:
            await within(calls[call](), 8)
        assert "s3cret" not in str(raised.value)


async def test_many_at_once_hear_it_each_for_itself(make_layer: MakeLayer) -> None:
    layer = make_layer(hosts=[("127.0.0.1", free_port())])
    results = await within(asyncio.gather(*(layer.new_channel() for _ in range(50)), return_exceptions=True), 8)
    assert [type(result) for result in results] == [ConnectionError] * 50
    assert len({id(result) for result in results}) == 50


async def test_receivers_of_one_channel_hear_it_all(make_layer: MakeLayer) -> None:
    layer = make_layer(hosts=[("127.0.0.1", free_port())])
    results = await within(asyncio.gather(*(layer.receive("general") for _ in range(3)), return_exceptions=True), 8)
    assert [type(result) for result in results] == [ConnectionError] * 3


@both_kinds
async def test_a_lasting_outage_is_told(make_layer: MakeLayer, own_server: OwnServer) -> None:
    """After a loss the layer waits as long as an answer may take; then the next caller hears it. And it comes back."""
    server = own_server()
    layer = make_layer(hosts=[{"address": server.url, "socket_timeout": 0.3}])
    channel = await layer.new_channel()
    server.kill()
    await until(lambda: _lost(layer))
    for call in (layer.new_channel(), layer.group_add("room", channel), layer.receive("general")):
        with pytest.raises(ConnectionError, match=f"127.0.0.1:{server.port}"):
            await within(call, 8)
    server.restart()
    with redis.Redis.from_url(server.url) as raw:
        await until(lambda: subscribers(raw, channel) == 1, SOON)
    await nothing_to_receive(layer, channel)


@both_kinds
async def test_a_failed_join_costs_no_other_member(make_layer: MakeLayer, own_server: OwnServer) -> None:
    """group_add raises in an outage; who was a member before still is afterwards."""
    server = own_server()
    layer = make_layer(hosts=[{"address": server.url, "socket_timeout": 0.3}])
    member, other = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("room", member)
    server.kill()
    await until(lambda: _lost(layer))
    with pytest.raises(ConnectionError):
        await within(layer.group_add("room", other), 8)
    server.restart()
    with redis.Redis.from_url(server.url) as raw:
        await until(lambda: subscribers(raw, member) == 1)
    await within(layer.group_send("room", {"n": 1}))
    assert await within(layer.receive(member)) == {"n": 1}
    await nothing_to_receive(layer, other)


@both_kinds
async def test_calls_during_a_short_outage_succeed(make_layer: MakeLayer, own_server: OwnServer) -> None:
    server = own_server()
    layer = make_layer(hosts=[server.url])
    channel = await layer.new_channel()
    await ready(layer, channel)
    server.kill()
    await until(lambda: _lost(layer))
    making, joining = await started(layer.new_channel()), await started(layer.group_add("room", channel))
    receiving = await started(layer.receive("general"))
    assert not making.done()
    assert not joining.done()
    server.restart()
    new = await within(making)
    await within(joining)
    await layer.group_send("room", {"n": 1})
    await layer.send(new, {"n": 2})
    assert await within(layer.receive(channel)) == {"n": 1}
    assert await within(layer.receive(new)) == {"n": 2}
    with redis.Redis.from_url(server.url) as raw:
        await until(lambda: subscribers(raw, "general") == 1)
    await layer.send("general", {"n": 3})
    assert await within(receiving) == {"n": 3}


async def test_polling_a_server_that_comes_later(make_layer: MakeLayer, own_server: OwnServer) -> None:
    """Each receive is cancelled before an answer can come; it raises or receives, but never sits there deaf."""
    server = own_server()
    server.kill()
    layer = make_layer(hosts=[server.url])
    for _ in range(3):
        receiving = await started(layer.receive("general"))
        receiving.cancel()
        await asyncio.wait([receiving])
    receiving = await started(layer.receive("general"))
    await asyncio.wait([receiving], timeout=1.0)
    if receiving.done():
        assert isinstance(receiving.exception(), ConnectionError)
        server.restart()
        receiving = await started(layer.receive("general"))
    else:
        server.restart()
    with redis.Redis.from_url(server.url) as raw:
        await until(lambda: subscribers(raw, "general") == 1, SOON)
    await within(layer.send("general", {"n": 1}))
    assert await within(receiving) == {"n": 1}


@pytest.mark.usefixtures("soon_again")
async def test_closing_while_the_server_is_away(make_layer: MakeLayer, own_server: OwnServer) -> None:
    """In the middle of any attempt to come back, nothing waits for the server."""
    server = own_server()
    layer = make_layer(hosts=[server.url])
    channel = await layer.new_channel()
    receiving = await started(layer.receive(channel))
    server.kill()
    await until(lambda: _lost(layer))
    for n in range(90):
        for _ in range(n % 15):
            await asyncio.sleep(0)
        # Receivers still wait, so each time the layer begins anew to come back.
        await within(layer.close_pools(), 8)
    server.restart()
    with redis.Redis.from_url(server.url) as raw:
        await until(lambda: subscribers(raw, channel) == 1, SOON)
    await layer.send(channel, {"n": 1})
    assert await within(receiving) == {"n": 1}


async def test_a_quiet_connection_is_not_taken_for_dead(
    make_layer: MakeLayer, raw: Any, redis_server: Any, prefix: str
) -> None:
    """However short an answer may take: the server answers PING, and nobody hears of anything."""
    host = {**named(redis_server.url, prefix), "socket_timeout": 0.3}
    layer = make_layer(hosts=[host], on_disconnect="down", on_reconnect="up")
    channel = await layer.new_channel()
    [before] = [client["id"] for client in subscribing(raw, prefix)]
    # Idle for many times the deadline: that is what is tested, not a pause for something to finish.
    begin = time.monotonic()
    await until(lambda: time.monotonic() - begin > 2.0)
    assert [client["id"] for client in subscribing(raw, prefix)] == [before]
    assert int(subscribing(raw, prefix)[0]["idle"]) <= 1
    await nothing_to_receive(layer, channel)
    assert layer.stats()["reconnects"] == 0


@both_kinds
@pytest.mark.usefixtures("soon_again")
async def test_kills_under_load(make_layer: MakeLayer, raw: Any, redis_server: Any, prefix: str) -> None:
    """What is published while nobody listens is lost, as Pub/Sub has it; nothing else is, and the order stays."""
    layer = make_layer(hosts=[named(redis_server.url, prefix)], on_disconnect="down", on_reconnect="up")
    peer = make_layer()
    channel = await layer.new_channel()
    for _ in range(10):
        [listener] = subscribing(raw, prefix)
        await within(asyncio.gather(*(peer.send(channel, {"n": n}) for n in range(100))))
        raw.client_kill_filter(_id=listener["id"])
        got: list[Any] = []

        async def outage(got: list[Any] = got) -> None:
            while UP not in got:
                got.append(await layer.receive(channel))

        await within(outage())
        assert got[-2:] == [DOWN, UP]
        numbers = [message["n"] for message in got[:-2]]
        assert numbers == list(range(len(numbers)))
        await nothing_to_receive(layer, channel)
