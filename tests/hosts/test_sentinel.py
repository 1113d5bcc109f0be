"""A primary, its replica and the Sentinels that watch them: found, lost, moved, and followed.

Replication is asynchronous: a failover may take back what the old primary had acknowledged and the replica had not
read, pops as well as sends. So what is counted here is what was replicated before (WAIT), and what is sent once the
new primary serves; of what is in between it is asserted that no call hangs and that nothing comes out of order.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from redis.exceptions import AuthenticationError, ConnectionError, RedisError

from bench.server import Server, free_port
from tests.core.helpers import end, started, until, within
from tests.hosts.exercise import LAYERS, answered, exercise
from tests.places import MASTER_NAME, PASSWORD, SentinelSet
from tests.presence.leasing import deadlines

MakeLayer = Callable[..., Any]


@pytest.fixture
def own_set() -> Iterator[SentinelSet]:
    """A Sentinel set for one test alone, to disturb."""
    with SentinelSet() as sentinels:
        yield sentinels


async def in_thread(call: Callable[[], None]) -> None:
    """Wait for the servers without stopping the layers meanwhile."""
    await within(asyncio.get_running_loop().run_in_executor(None, call), 30)


def where(server: Server) -> str:
    return f"127.0.0.1:{server.port}"


# Finding the primary.


async def test_everything_works(make_layer: MakeLayer, sentinels: SentinelSet) -> None:
    await exercise(make_layer(sentinels.host), make_layer(sentinels.host))


async def test_a_database_of_the_set(make_layer: MakeLayer, sentinels: SentinelSet, prefix: str) -> None:
    host = {**sentinels.host, "db": 5, "client_name": prefix}
    layer = make_layer(host)
    await within(layer.send(f"{prefix}.general", {}))
    with sentinels.client(sentinels.primary) as raw:
        assert [client["db"] for client in raw.client_list() if client["name"] == prefix] == ["5"]


async def test_the_other_sentinels_are_asked(make_layer: MakeLayer, sentinels: SentinelSet) -> None:
    """The first of the list is not there."""
    host = {**sentinels.host, "sentinels": [("127.0.0.1", free_port()), *sentinels.addresses[1:]]}
    await exercise(make_layer(host), make_layer(host))


async def test_a_sentinel_that_says_nothing(make_layer: MakeLayer, own_set: SentinelSet) -> None:
    """The first of the list takes connections and never answers; there is time for the others."""
    silent = own_set.sentinels[0].pid
    assert silent is not None
    os.kill(silent, signal.SIGSTOP)
    try:
        layer = make_layer(own_set.host)
        await within(layer.group_add("room", await layer.new_channel()), 10)
    finally:
        os.kill(silent, signal.SIGCONT)


async def test_no_sentinel_at_all(make_layer: MakeLayer) -> None:
    addresses = [("127.0.0.1", free_port()) for _ in range(3)]
    layer = make_layer({"sentinels": addresses, "master_name": "no-such-set", "password": PASSWORD})
    for call in ("send", "group_send"):
        with pytest.raises(ConnectionError, match="no-such-set") as raised:
            await within(getattr(layer, call)("general", {}), 8)
        assert PASSWORD not in str(raised.value)


async def test_a_set_that_the_sentinels_do_not_know(make_layer: MakeLayer, sentinels: SentinelSet) -> None:
    layer = make_layer({**sentinels.host, "master_name": "no-such-set"})
    with pytest.raises(ConnectionError, match="no-such-set"):
        await within(layer.send("general", {}), 8)


async def test_wrong_passwords(make_layer: MakeLayer, sentinels: SentinelSet, caplog: pytest.LogCaptureFixture) -> None:
    """Of the primary and of the Sentinels: the set is named, the password is not."""
    with pytest.raises(AuthenticationError, match=MASTER_NAME) as raised:
        await within(make_layer({**sentinels.host, "password": "wr0ng"}).send("general", {}), 8)
    assert "wr0ng" not in str(raised.value)
    host = {**sentinels.host, "sentinel_kwargs": {"password": "wr0ng"}}
    with pytest.raises(ConnectionError, match=MASTER_NAME) as raised:
        await within(make_layer(host).send("general", {}), 8)
    assert "wr0ng" not in str(raised.value)
    assert "wr0ng" not in caplog.text


# Following it.


class Traffic:
    """One layer's load: numbers sent one after the other to a channel of its own, and received."""

    def __init__(self, kind: str, host: Any, prefix: str) -> None:
        self.layer = LAYERS[kind](hosts=[host], prefix=prefix, capacity=10_000)
        self.peer = LAYERS[kind](hosts=[host], prefix=prefix, capacity=10_000)
        self.acknowledged: list[int] = []
        self.failed: list[int] = []
        self.got: list[int] = []
        self.kind = kind
        self._next = 0
        self._stopping = False
        self._tasks: list[asyncio.Future[Any]] = []

    async def start(self) -> None:
        self.channel = await self.layer.new_channel()
        self._tasks = [await started(self._receive()), await started(self._send())]
        await self.progress()

    async def progress(self) -> None:
        """Return when messages sent from now on are sent, and received."""
        number = self._next
        await until(lambda: any(n >= number for n in self.acknowledged[-20:]), 20)
        number = self.acknowledged[-1]
        await until(lambda: any(n >= number for n in self.got[-20:]), 20)

    async def stop(self) -> None:
        receiving, sending = self._tasks
        assert not receiving.done()
        assert not sending.done()
        self._stopping = True
        await within(sending)
        last = self._next
        self._next += 1
        await within(self.peer.send(self.channel, {"n": last}))
        self.acknowledged.append(last)
        await until(lambda: last in self.got)
        await end(receiving)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.layer.close_pools()
        await self.peer.close_pools()

    async def _send(self) -> None:
        while not self._stopping:
            number, self._next = self._next, self._next + 1
            try:
                await self.peer.send(self.channel, {"n": number})
            except RedisError:
                self.failed.append(number)
            else:
                self.acknowledged.append(number)
            await asyncio.sleep(0.002)

    async def _receive(self) -> None:
        while True:
            self.got.append((await self.layer.receive(self.channel))["n"])


@pytest.fixture
async def traffic(own_set: SentinelSet, prefix: str) -> AsyncIterator[list[Traffic]]:
    """Load on both layers at once: one failover is enough for both."""
    loads = [Traffic(kind, own_set.host, prefix) for kind in LAYERS]
    for load in loads:
        await load.start()
    yield loads
    for load in loads:
        await load.close()


def check_counts(load: Traffic, settled: set[int], recovered: int) -> None:
    """What was replicated before, and what was sent afterwards, came once and in order."""
    assert len(set(load.acknowledged)) == len(load.acknowledged)
    sure = settled | {n for n in load.acknowledged if n >= recovered}
    got = [n for n in load.got if n in sure]
    assert got == sorted(sure), f"{load.kind}: lost {sure - set(got)}, or twice, or out of order"
    between = [n for n in load.acknowledged if n not in sure]
    lost = set(between) - set(load.got)
    print(f"{load.kind}: {len(between)} acknowledged meanwhile, of them lost {len(lost)}, failed {len(load.failed)}")
    # A pop that was not replicated is undone: then its message comes again from the new primary, but not a third time.
    assert all(load.got.count(n) <= 2 for n in set(load.got))


async def follow(traffic: list[Traffic], own_set: SentinelSet, fault: Callable[[], None]) -> tuple[Server, Server]:
    """Let something happen to the primary under load; see both layers on the new one, and count."""
    before = own_set.primary
    await in_thread(own_set.replicated)
    settled = [set(load.acknowledged[:-1]) for load in traffic]
    for load, numbers in zip(traffic, settled, strict=True):
        await until(lambda load=load, numbers=numbers: numbers <= set(load.got))  # type: ignore[misc]
    await in_thread(fault)
    after = own_set.primary
    assert after is not before
    with own_set.client(after) as raw:
        # Until then the old primary may still take messages, which nobody will see again: each load has two sockets.
        await until(lambda: sum(client["name"].startswith("channels_redis_fast:") for client in raw.client_list()) >= 4)
    recovered = []
    for load in traffic:
        await load.progress()
        # From here on: not the send that is under way.
        recovered.append(load._next)
    for load, numbers, number in zip(traffic, settled, recovered, strict=True):
        await load.progress()
        await load.stop()
        check_counts(load, numbers, number)
    return before, after


def check_log(caplog: pytest.LogCaptureFixture, before: Server, after: Server, layers: int) -> None:
    """Once for each layer that has the set: where the primary went."""
    text = f"Redis primary of {MASTER_NAME} moved from {where(before)} to {where(after)}"
    records = [record for record in caplog.records if "moved from" in record.getMessage()]
    assert [record.getMessage() for record in records] == [text] * layers
    assert {(record.name, record.levelname) for record in records} == {("channels_redis_fast", "WARNING")}
    assert PASSWORD not in caplog.text


async def test_a_failover_that_was_asked_for(
    traffic: list[Traffic], own_set: SentinelSet, caplog: pytest.LogCaptureFixture
) -> None:
    before, after = await follow(traffic, own_set, own_set.failover)
    check_log(caplog, before, after, 4)


async def test_the_death_of_the_primary(
    traffic: list[Traffic], own_set: SentinelSet, caplog: pytest.LogCaptureFixture
) -> None:
    before, after = await follow(traffic, own_set, own_set.kill_primary)
    check_log(caplog, before, after, 4)
    assert f"Connection to Redis at {MASTER_NAME} at {where(before)} lost" in caplog.text
    assert f"Connection to Redis at {MASTER_NAME} at {where(after)} restored" in caplog.text


async def test_what_waits_in_redis_survives_a_failover(
    own_set: SentinelSet, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Groups and messages of the core layer are there on the new primary, and in their order; and leases, renewed."""
    layer = LAYERS["core"](hosts=[own_set.host], prefix=prefix, lease=300)
    try:
        channel = await layer.new_channel()
        await layer._leases.hold()
        deadline = deadlines_on(own_set, prefix)
        await layer.group_add("room", channel)
        for n in range(50):
            await layer.send("general", {"n": n})
        await in_thread(own_set.replicated)
        await in_thread(own_set.failover)
        await within(layer.send("general", {"n": 50}))
        got: list[int] = []
        while 50 not in got:
            got.append((await within(layer.receive("general")))["n"])
        # A Sentinel may cut the connections to the new primary once more: at most one message is lost with a receiver.
        cuts = sum(" lost: " in record.getMessage() for record in caplog.records)
        assert got == sorted(set(got))
        assert len(got) >= 51 - cuts
        await within(layer.group_send("room", {"still": "there"}))
        assert await within(layer.receive(channel)) == {"still": "there"}
        await until(lambda: deadlines_on(own_set, prefix)[layer.client_prefix] > deadline[layer.client_prefix])
    finally:
        await layer.close_pools()


def deadlines_on(own_set: SentinelSet, prefix: str) -> dict[str, float]:
    with own_set.client(own_set.primary) as raw:
        return deadlines(raw, prefix)


async def test_a_primary_that_was_made_a_replica(
    own_set: SentinelSet, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Behind everybody's back, and no connection is cut: only READONLY tells. The sends go to the new primary."""
    layer = LAYERS["core"](hosts=[own_set.host], prefix=prefix)
    try:
        channel = await layer.new_channel()
        await layer.send("general", {"n": "before"})
        before = own_set.primary
        await in_thread(own_set.replicated)
        await in_thread(own_set.swap_by_hand)
        after = own_set.primary
        sends = [await started(layer.send("general", {"n": n})) for n in range(20)]
        joining = await started(layer.group_add("room", channel))
        await within(asyncio.gather(*sends, joining))
        await within(layer.group_send("room", {"group": True}))
        assert await within(layer.receive(channel)) == {"group": True}
        with own_set.client(after) as raw:
            assert raw.zcard(f"{prefix}general") == 21
        messages = [await within(layer.receive("general")) for _ in range(21)]
        assert messages == [{"n": "before"}, *({"n": n} for n in range(20))]
        check_log(caplog, before, after, 1)
    finally:
        await layer.close_pools()


async def test_a_receiver_whose_primary_was_made_a_replica(own_set: SentinelSet, prefix: str) -> None:
    """It waits on the old one; a message sent to the new one reaches it."""
    receiver = LAYERS["core"](hosts=[own_set.host], prefix=prefix)
    sender = LAYERS["core"](hosts=[own_set.host], prefix=prefix)
    try:
        channel = await receiver.new_channel()
        await answered(receiver, sender, channel)
        receiving = await started(receiver.receive(channel))
        general = await started(receiver.receive("general"))
        with own_set.client(own_set.primary) as raw:
            await until(lambda: any("b" in client["flags"] for client in raw.client_list()))
        await in_thread(own_set.swap_by_hand)
        await within(sender.send(channel, {"n": 1}))
        await within(sender.send("general", {"n": 2}))
        assert await within(receiving) == {"n": 1}
        assert await within(general) == {"n": 2}
    finally:
        await receiver.close_pools()
        await sender.close_pools()


@pytest.mark.parametrize("kind", LAYERS)
async def test_one_connection_that_finds_the_new_primary_tells_the_other(
    own_set: SentinelSet, prefix: str, kind: str
) -> None:
    """The old one stays up and takes commands, which nobody would see: whoever is still there leaves it."""
    layer, peer = (LAYERS[kind](hosts=[own_set.host], prefix=prefix) for _ in range(2))
    try:
        channel = await layer.new_channel()
        await answered(layer, peer, channel)
        await layer.group_send("nobody", {})
        receiving = await started(layer.receive(channel))
        await peer.close_pools()
        before, after = own_set.primary, own_set.replica
        await in_thread(own_set.replicated)
        await in_thread(own_set.promote_by_hand)
        with own_set.client(before) as raw:
            role = "commands" if kind == "core" else "subscriber"
            for client in raw.client_list():
                if client["name"] == f"channels_redis_fast:{kind}:{role}":
                    raw.client_kill_filter(_id=client["id"])
            # Of a core layer, the next call opens the connection that was lost.
            await within(layer.group_add("room", channel))
            await until(lambda: not any(client["name"].startswith("channels_redis") for client in raw.client_list()))
        with own_set.client(after) as raw:
            await until(lambda: any(client["name"].startswith("channels_redis") for client in raw.client_list()))
        await receiving_again(peer, channel, receiving)
    finally:
        await layer.close_pools()
        await peer.close_pools()


async def test_all_sentinels_away_disturb_nobody_who_is_connected(
    make_layer: MakeLayer, own_set: SentinelSet, caplog: pytest.LogCaptureFixture
) -> None:
    """And a connection that is lost then comes back with them."""
    layer, peer = make_layer(own_set.host), make_layer(own_set.host)
    await exercise(layer, peer)
    primary = own_set.primary
    for sentinel in own_set.sentinels:
        sentinel.kill()
    channel = await layer.new_channel()
    await answered(layer, peer, channel)
    with own_set.client(primary) as raw:
        raw.client_kill_filter(_type="normal", skipme=True)
        raw.client_kill_filter(_type="pubsub", skipme=True)
    await until(lambda: " lost: " in caplog.text)
    receiving = await started(layer.receive(channel))
    sending = await started(peer.send(f"{layer.prefix}.general", {}))
    for sentinel in own_set.sentinels:
        sentinel.restart()
        own_set.monitor(sentinel, primary.port)
    await within(sending)
    await receiving_again(peer, channel, receiving)


async def receiving_again(peer: Any, channel: str, receiving: asyncio.Future[Any]) -> None:
    """Send until it arrives: what is published to nobody is missed."""
    while not receiving.done():
        await within(peer.send(channel, {}))
        await asyncio.wait([receiving], timeout=0.05)
    assert receiving.result() == {}
