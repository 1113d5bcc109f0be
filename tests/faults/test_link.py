"""Links that stall, cut replies at any byte, deliver byte by byte or late, or are not there: who is told what, when."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

import pytest
import redis
from redis.exceptions import ConnectionError, TimeoutError

from bench.server import Server
from channels_redis_fast.core import pump
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.core.helpers import started, until, within
from tests.faults.load import LAST, ROOMY, SOON, Ledger, load_of
from tests.proxy import Proxy, proxy_to
from tests.pubsub.helpers import subscribers

pytestmark = pytest.mark.usefixtures("long_answers", "soon_again")

Make = Callable[..., Any]

#: Short, for replies are cut at each of their bytes.
PREFIX = "p"

#: Links that are cut at the same time, each its own way.
AT_ONCE = 50

DOWN, UP = {"type": "down"}, {"type": "up"}


@pytest.fixture
def server(own_server: Callable[..., Server]) -> Server:
    return own_server()


@pytest.fixture(params=["core", "pubsub"])
def make(request: pytest.FixtureRequest, server: Server, make_core: Make, make_pubsub: Make) -> Make:
    """Make layers of either kind."""
    return make_core if request.param == "core" else make_pubsub


def behind(proxy: Proxy, **options: Any) -> dict[str, Any]:
    """The options of a layer whose one host is at the other end of a link."""
    return {"hosts": [{"address": proxy.url, **options}], "prefix": PREFIX, "capacity": ROOMY}


async def for_each(numbers: Iterable[int], perform: Callable[[int], Awaitable[None]]) -> None:
    """Perform something for each number, many at a time."""
    rest = iter(numbers)
    while some := list(itertools.islice(rest, AT_ONCE)):
        await within(asyncio.gather(*(perform(number) for number in some)))


async def close(layer: Any) -> None:
    """Close a layer before its link goes; one of Pub/Sub forgets its channels, which it would subscribe again."""
    await (layer.flush() if isinstance(layer, RedisPubSubChannelLayer) else layer.close_pools())


@pytest.fixture
def lost() -> Iterator[set[int]]:
    """The ports of the hosts that a layer has said were lost."""
    ports: set[int] = set()
    handler = logging.Handler()

    def emit(record: logging.LogRecord) -> None:
        if found := re.search(r":(\d+) lost", record.getMessage()):
            ports.add(int(found[1]))

    handler.emit = emit  # type: ignore[method-assign]
    logger = logging.getLogger("channels_redis_fast")
    logger.addHandler(handler)
    yield ports
    logger.removeHandler(handler)


async def receive_into(got: list[Any], layer: Any, channel: str) -> None:
    """Receive up to the message that says that it is the last."""
    while (message := await layer.receive(channel)) != LAST:
        got.append(message)


async def outcome(awaitable: Awaitable[Any], proxy: Proxy) -> bool:
    """Whether a call returned; if it raised, it has to be an error that names the host."""
    try:
        await within(awaitable, SOON)
    except (ConnectionError, TimeoutError) as error:
        if f"127.0.0.1:{proxy.port}" not in str(error):
            raise
        return False
    return True


async def at_last(call: Callable[[], Awaitable[Any]], proxy: Proxy) -> None:
    """Call until it returns: on a busy machine a connection may take longer than the short time it is given here."""
    while not await outcome(call(), proxy):
        pass


# Cut in the middle of a reply.


async def test_replies_to_a_first_call(make: Make, server: Server) -> None:
    """While the connection is made, and before the call is answered: the call says so, and a later one is as new."""
    length = 0

    async def cut(position: int | None) -> None:
        nonlocal length
        async with proxy_to(server.port) as proxy:
            if position is not None:
                proxy.cut_after(position)
            layer = make(**behind(proxy))
            sent = await outcome(layer.send("first", {"n": 1}), proxy)
            if position is None:
                length = proxy.replied
            assert sent == (position is None or position == length)
            # At most one more goes down with a connection that is cut behind the reply.
            assert await outcome(layer.send("again", {}), proxy) or await outcome(layer.send("again", {}), proxy)
            await close(layer)

    await cut(None)
    assert length > 4
    await for_each(range(length + 1), cut)


async def test_replies_to_a_send(make: Make, server: Server, lost: set[int]) -> None:
    """Written and not answered in full: raised, since it may have happened. Nothing is sent a second time."""
    peer = make(hosts=[server.url], prefix=PREFIX)

    async def cut(position: int) -> None:
        async with proxy_to(server.port) as proxy:
            layer = make(**behind(proxy))
            channel = f"channel{position}"
            got: list[Any] = []
            receiving = await started(receive_into(got, peer, channel))
            if isinstance(peer, RedisPubSubChannelLayer):
                with redis.Redis.from_url(server.url) as raw:
                    await until(lambda: subscribers(raw, channel) == 1)
            await layer.send(channel, {"n": 0})
            before = proxy.replied
            proxy.cut_after(position)
            assert await outcome(layer.send(channel, {"n": 1}), proxy) == (position == 4)
            assert proxy.replied - before == position
            await until(lambda: proxy.port in lost)
            await within(layer.send(channel, {"n": 2}))
            await within(layer.send(channel, LAST))
            await within(receiving)
            assert got == [{"n": n} for n in range(3)]
            await close(layer)

    await for_each(range(5), cut)


async def test_replies_to_group_calls_of_the_core_layer(make_core: Make, server: Server, lost: set[int]) -> None:
    """What can be repeated is: the join, and the question who is in the group. The sending itself is not."""
    peer = make_core(hosts=[server.url], prefix=PREFIX)

    async def cut(joining: int | None, sending: int | None) -> None:
        async with proxy_to(server.port) as proxy:
            layer = make_core(**behind(proxy))
            case = f"{joining}.{sending}"
            channel, room = f"jobs.{case}", f"room.{case}"
            await layer.send("warm", {})
            if joining is not None:
                proxy.cut_after(joining)
            await within(layer.group_add(room, channel))
            # How many were removed, and a list of one name; then how many were refused, and only that is the sending.
            listed = len(f":0\r\n*1\r\n${len(channel)}\r\n{channel}\r\n")
            before = proxy.replied
            if sending is not None:
                proxy.cut_after(sending)
                sent = await outcome(layer.group_send(room, {"n": 1}), proxy)
                # Cut before the sending was written, it may be written to the next connection.
                assert sending == listed or sent == (not listed < sending < listed + 4)
            if joining is not None or sending is not None:
                await until(lambda: proxy.port in lost)
            await within(layer.group_send(room, {"n": 2}))
            if joining is None and sending is None:
                assert proxy.replied - before == listed + 4
            await within(layer.group_send(room, LAST))
            got: list[Any] = []
            await within(receive_into(got, peer, channel))
            expected = [{"n": 1}, {"n": 2}] if sending is not None else [{"n": 2}]
            assert got == expected or (sending == listed and not sent and got == [{"n": 2}])
            await close(layer)

    await cut(None, None)
    await for_each(range(9), lambda position: cut(position, None))
    await for_each(range(30), lambda position: cut(None, position))


async def asks_again(proxy: Proxy, peer: Any, channel: str, got: list[Any]) -> None:
    """Send a first message, and see the receiver behind the link take it and wait for the next."""
    await until(lambda: b"BZPOPMIN" in proxy.asked)
    proxy.asked = b""
    await peer.send(channel, {"n": 0})
    await until(lambda: b"BZPOPMIN" in proxy.asked and len(got) == 1)


async def test_replies_to_a_receive_on_a_specific_channel(make_core: Make, server: Server) -> None:
    """What was popped is lost if it did not come whole. What lies behind it is only read, and read again."""
    peer, batching = [make_core(hosts=[server.url], prefix=PREFIX) for _ in range(2)]
    alone = asyncio.Lock()

    async def cut(position: int) -> None:
        async with proxy_to(server.port) as proxy:
            layer = make_core(**behind(proxy))
            channel = await layer.new_channel("")
            got: list[Any] = []
            receiving = await started(receive_into(got, layer, channel))
            await asks_again(proxy, peer, channel, got)
            proxy.cut_after(position)
            async with alone:
                # One script call, and so one reply to the receiver; a fuller batch may be split.
                await asyncio.gather(*(batching.send(channel, {"n": n}) for n in (1, 2, 3)))
            await until(proxy.has_cut)
            await peer.send(channel, {"n": 4})
            await peer.send(channel, LAST)
            await within(receiving)
            key = PREFIX + channel[: channel.find("!") + 1]
            # Random bytes; a map of `n` and of the channel's name.
            member = 12 + 4 + 17 + 2 + len(channel)
            popped = len(f"*3\r\n${len(key)}\r\n{key}\r\n${member}\r\n") + member + 2
            # How many digits a score has differs from server to server, and from moment to moment.
            shortest, longest = popped + len("$10\r\n\r\n") + 10, popped + len("$30\r\n\r\n") + 30
            whole = [{"n": n} for n in range(5)]
            cut_off = [message for message in whole if message != {"n": 1}]
            assert got == (cut_off if position < shortest else whole if position >= longest else got)
            assert got in (whole, cut_off)
            await close(layer)

    await for_each(range(300), cut)


async def test_replies_to_a_receive_on_a_general_channel(make_core: Make, server: Server) -> None:
    """One message is popped at a time: it comes or, cut, is lost; the others wait in Redis."""
    peer = make_core(hosts=[server.url], prefix=PREFIX)

    async def cut(position: int) -> None:
        async with proxy_to(server.port) as proxy:
            layer = make_core(**behind(proxy))
            channel = f"jobs{position:02}"
            got: list[Any] = []
            receiving = await started(receive_into(got, layer, channel))
            await asks_again(proxy, peer, channel, got)
            proxy.cut_after(position)
            await asyncio.gather(*(peer.send(channel, {"n": n}) for n in (1, 2)))
            await until(proxy.has_cut)
            await peer.send(channel, LAST)
            await within(receiving)
            # The random bytes and a map of `n`; then ten digits of a score at least.
            shortest = len(f"*3\r\n$7\r\n{PREFIX}{channel}\r\n$16\r\n") + 16 + len("\r\n$10\r\n\r\n") + 10
            numbers = [message["n"] for message in got]
            assert numbers in ([0, 2], [0, 1], [0, 1, 2])
            assert numbers == [0, 2] or position >= shortest
            await close(layer)

    await for_each(range(80), cut)


async def test_what_a_subscriber_is_sent(make_pubsub: Make, server: Server) -> None:
    """Messages that came whole are delivered; after the outage, of which consumers are told, all are again."""
    peer = make_pubsub(hosts=[server.url], prefix=PREFIX)
    pushed = len(f"*3\r\n$7\r\nmessage\r\n$33\r\n{PREFIX}\r\n$4\r\n\r\n") + 32 + 4

    async def cut(position: int) -> None:
        async with proxy_to(server.port) as proxy:
            layer = make_pubsub(**behind(proxy), on_disconnect="down", on_reconnect="up")
            channel = await layer.new_channel("")
            got: list[Any] = []
            receiving = await started(receive_into(got, layer, channel))
            proxy.cut_after(position)
            await asyncio.gather(*(peer.send(channel, {"n": n}) for n in (1, 2, 3)))
            await until(lambda: UP in got)
            await peer.send(channel, {"n": 4})
            await peer.send(channel, LAST)
            await within(receiving)
            whole = [{"n": n} for n in (1, 2, 3)][: position // pushed]
            assert got == [*whole, DOWN, UP, {"n": 4}]
            await close(layer)

    await for_each(range(3 * pushed + 1), cut)


async def test_acknowledgements_of_subscriptions(make_pubsub: Make, server: Server) -> None:
    """A channel that is made while the connection dies is subscribed on the next one, before its name is told."""
    peer = make_pubsub(hosts=[server.url], prefix=PREFIX)
    acknowledged = len(f"*3\r\n$9\r\nsubscribe\r\n$33\r\n{PREFIX}\r\n:2\r\n") + 32

    async def cut(position: int) -> None:
        async with proxy_to(server.port) as proxy:
            layer = make_pubsub(**behind(proxy))
            first = await layer.new_channel("")
            proxy.cut_after(position)
            channel = await within(layer.new_channel(""))
            assert proxy.has_cut()
            for name in (channel, first):
                await peer.send(name, {"to": name})
                assert await within(layer.receive(name)) == {"to": name}
            await close(layer)

    await for_each(range(acknowledged), cut)


# Byte by byte, and late.


async def messages_of_all_kinds(layer: Any, other: Any) -> Ledger:
    """Have messages sent in both directions, to channels and to a group."""
    ledger = Ledger()
    async with load_of(ledger) as load:
        channels = []
        for receiver in (layer, other):
            for _ in range(3):
                channels.append(await receiver.new_channel())
                await receiver.group_add("room", channels[-1])
                await load.receive(receiver, channels[-1])
        for number, sender in enumerate((layer, other)):
            sends = [ledger.send(sender, channel, f"{number}") for channel in channels for _ in range(5)]
            sends += [ledger.group_send(sender, "room", f"room {number}", channels) for _ in range(5)]
            await within(asyncio.gather(*sends))
        for number, sender in enumerate((layer, other)):
            mine = channels[3 * number :][:3]
            await within(asyncio.gather(*(sender.send(channel, LAST) for channel in mine)))
        await load.stop_receiving()
    return ledger


async def test_bytes_one_at_a_time(make: Make, server: Server) -> None:
    async with proxy_to(server.port) as proxy:
        proxy.slicing = True
        layer = make(**behind(proxy))
        ledger = await messages_of_all_kinds(layer, make(hosts=[server.url], prefix=PREFIX))
        ledger.check()
        assert not ledger.raised
        assert ledger.received == ledger.sent == 2 * (6 * 5 + 6 * 5)
        assert layer.stats()["reconnects"] == 0
        await close(layer)


async def test_200_milliseconds_each_way(make: Make, server: Server) -> None:
    """Late, and nothing else: calls at once take the time of one, and nothing counts as dead."""
    async with proxy_to(server.port) as proxy:
        layer, peer = make(**behind(proxy)), make(hosts=[server.url], prefix=PREFIX)
        channel = await layer.new_channel()
        got: list[Any] = []
        receiving = await started(receive_into(got, layer, channel))
        await within(layer.send("elsewhere", {}))
        await within(peer.send(channel, {"n": -1}))
        await until(lambda: len(got) == 1)
        proxy.delay = 0.2
        begin = time.monotonic()
        await within(asyncio.gather(*(layer.send(channel, {"n": n}) for n in range(100))))
        assert 0.4 <= time.monotonic() - begin < SOON
        await within(layer.send(channel, LAST))
        await within(receiving)
        assert got == [{"n": n} for n in range(-1, 100)]
        assert layer.stats()["reconnects"] == 0
        proxy.delay = 0.0
        await close(layer)


# Stalled.


async def test_a_short_stall_costs_time_and_nothing_else(make: Make, server: Server) -> None:
    async with proxy_to(server.port) as proxy:
        layer, peer = make(**behind(proxy)), make(hosts=[server.url], prefix=PREFIX)
        ledger = Ledger()
        async with load_of(ledger) as load:
            channels = [await layer.new_channel(), await peer.new_channel()]
            for receiver, channel in zip((layer, peer), channels, strict=True):
                await load.receive(receiver, channel)
                await ledger.send(layer, channel, "before")
                await load.until(lambda channel=channel: ledger.received_at(channel) == 1)  # type: ignore[misc]
            proxy.stall()
            sends = [await started(ledger.send(layer, channel, "from here")) for channel in channels for _ in range(10)]
            await within(asyncio.gather(*(ledger.send(peer, channel, "from there") for channel in channels * 10)))
            await load.until(lambda: ledger.received_at(channels[1]) == 11)
            assert not any(send.done() for send in sends)
            assert ledger.received_at(channels[0]) == 1
            proxy.go_on()
            await within(asyncio.gather(*sends), SOON)
            await within(asyncio.gather(*(layer.send(channel, LAST) for channel in channels)))
            await load.stop_receiving()
        ledger.check()
        assert layer.stats()["reconnects"] == 0
        await close(layer)


async def test_a_stall_is_told_after_the_timeout_of_the_host(make: Make, server: Server) -> None:
    """By then the connection counts as dead; a call that waited for it may have happened, and says so."""
    async with proxy_to(server.port) as proxy:
        layer = make(**behind(proxy, socket_timeout=0.2, socket_connect_timeout=0.2))
        await within(at_last(lambda: layer.send("general", {}), proxy))
        for _ in range(2):
            proxy.stall()
            begin = time.monotonic()
            results = await within(
                asyncio.gather(*(layer.send(f"general{n}", {"n": n}) for n in range(5)), return_exceptions=True)
            )
            assert [type(result) for result in results] == [ConnectionError] * 5
            assert all(f"127.0.0.1:{proxy.port}" in str(result) for result in results)
            assert 0.15 < time.monotonic() - begin < SOON
            proxy.go_on()
            await within(at_last(lambda: layer.send("general", {}), proxy), SOON)
        await close(layer)


async def test_what_can_be_repeated_is_told_when_no_connection_comes(make: Make, server: Server) -> None:
    """A join is neither lost nor waited for without end."""
    async with proxy_to(server.port) as proxy:
        layer = make(**behind(proxy, socket_timeout=0.2, socket_connect_timeout=0.2))
        channels: list[str] = []

        async def new_channel() -> None:
            channels.append(await layer.new_channel())

        await within(at_last(new_channel, proxy))
        (channel,) = channels
        await within(at_last(lambda: layer.group_add("room", channel), proxy))
        proxy.stall()
        begin = time.monotonic()
        assert not await outcome(layer.group_add("other", channel), proxy)
        assert 0.15 < time.monotonic() - begin < SOON
        proxy.go_on()

        await within(at_last(lambda: layer.group_add("other", channel), proxy), SOON)
        receiving = await started(layer.receive(channel))
        peer = make(hosts=[server.url], prefix=PREFIX)
        await within(peer.group_send("other", {"n": 1}))
        assert await within(receiving, SOON) == {"n": 1}
        await close(layer)


async def test_a_receiver_on_a_stalled_link(make_core: Make, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait that is overdue is dropped; it may have popped one message. The others come when the link is back."""
    monkeypatch.setattr(pump, "BLOCK_MARGIN", 0.3)

    async with proxy_to(server.port) as proxy:
        layer = make_core(**behind(proxy, socket_connect_timeout=0.3))
        layer.brpop_timeout = 1
        peer = make_core(hosts=[server.url], prefix=PREFIX)
        channel = await layer.new_channel()
        got: list[Any] = []
        receiving = await started(receive_into(got, layer, channel))
        await asks_again(proxy, peer, channel, got)
        proxy.stall()
        for n in range(1, 6):
            await within(peer.send(channel, {"n": n}))
        await until(lambda: not layer_is_connected(layer))
        proxy.go_on()
        await within(peer.send(channel, LAST))
        await within(receiving, SOON)
        assert got == [{"n": n} for n in (0, 2, 3, 4, 5)]
        await close(layer)


def layer_is_connected(layer: Any) -> bool:
    """Whether a receiver has its connection, which nothing public says of one that sends nothing."""
    [state] = layer._loops.values()
    return any(receiving.link is not None for receiving in state.receiver.pumps)


# Refused.


async def test_calls_while_connections_are_refused(make: Make, server: Server, lost: set[int]) -> None:
    """They wait as long as an answer may take, and go out in order when connections are taken again."""
    async with proxy_to(server.port) as proxy:
        layer, peer = make(**behind(proxy)), make(hosts=[server.url], prefix=PREFIX)
        channel, other = await layer.new_channel(), await peer.new_channel()
        got: list[list[Any]] = [[], []]
        tasks = [await started(receive_into(got[0], layer, channel)), await started(receive_into(got[1], peer, other))]
        for target in (channel, other):
            await within(layer.send(target, {"n": 0}))
        await until(lambda: [len(some) for some in got] == [1, 1])
        proxy.refuse()
        await until(lambda: proxy.port in lost)
        await until(lambda: not any_link(layer))
        sends = [await started(layer.send(other, {"n": n})) for n in range(1, 11)]
        joining = await started(layer.group_add("room", channel))
        await asyncio.sleep(0)
        assert not any(task.done() for task in [*sends, joining])
        await proxy.accept()
        begin = time.monotonic()
        await within(asyncio.gather(*sends, joining), SOON)
        await within(peer.group_send("room", {"n": 1}))
        await until(lambda: len(got[0]) == 2)
        assert time.monotonic() - begin < SOON
        for target in (channel, other):
            await within(peer.send(target, LAST))
        await within(asyncio.gather(*tasks))
        assert got == [[{"n": 0}, {"n": 1}], [{"n": n} for n in range(11)]]
        await close(layer)


async def test_connections_that_are_refused_too_long(make: Make, server: Server) -> None:
    """Told, within bounds, as often as asked; receivers wait on, and hear the first message afterwards."""
    async with proxy_to(server.port) as proxy:
        layer, peer = make(**behind(proxy, socket_timeout=0.2)), make(hosts=[server.url], prefix=PREFIX)
        channel = await layer.new_channel()
        got: list[Any] = []
        receiving = await started(receive_into(got, layer, channel))
        await within(layer.send(channel, {"n": 0}))
        await until(lambda: len(got) == 1)
        proxy.refuse()
        for _ in range(2):
            assert not await outcome(layer.send("general", {}), proxy)
        assert not receiving.done()
        await proxy.accept()
        begin = time.monotonic()
        if isinstance(peer, RedisPubSubChannelLayer):
            with redis.Redis.from_url(server.url) as raw:
                await until(lambda: subscribers(raw, channel) == 1)
        await within(peer.send(channel, {"n": 1}))
        await until(lambda: len(got) == 2)
        await within(layer.send(channel, LAST))
        await within(receiving)
        assert time.monotonic() - begin < SOON
        assert got == [{"n": 0}, {"n": 1}]
        await close(layer)


def any_link(layer: Any) -> bool:
    """Whether a layer has not yet noticed that all its connections are gone."""
    [state] = layer._loops.values()
    receiving = state.receiver.pumps if hasattr(state, "receiver") else state._subscribers
    return any(connection.link is not None for connection in [*state.commands, *receiving])
