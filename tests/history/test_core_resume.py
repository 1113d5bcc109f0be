"""A channel that comes back gets what it has missed, and is told whether that is all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from bench.server import Server
from channels_redis_fast.history import History
from channels_redis_fast.history.positions import Position
from tests.clusters import QUICK, Cluster
from tests.core.helpers import end, until, within
from tests.history.core import (
    CODECS,
    FIELD,
    HISTORY,
    MakeCore,
    all_of,
    bare,
    group_key,
    in_thread,
    receive_many,
    recorded,
    stream_key,
)
from tests.places import SentinelSet

OwnServer = Callable[..., Server]


def numbers(history: History) -> list[int]:
    return [message["n"] for message in history.messages]


async def joined(layer: Any, group: str = "room") -> tuple[str, str]:
    """A channel that has joined a group, and the position of that moment."""
    channel = await layer.new_channel()
    history = await layer.group_resume(group, channel, None)
    return channel, history.position


async def send(layer: Any, *messages: int, group: str = "room") -> None:
    for n in messages:
        await layer.group_send(group, {"n": n})


# What is returned.


@pytest.mark.parametrize("options", CODECS.values(), ids=CODECS)
async def test_what_was_missed(make_core: MakeCore, raw: Any, options: dict[str, Any]) -> None:
    layer, other = (make_core(history=HISTORY, **options) for _ in range(2))
    channel = await layer.new_channel()
    nothing = await layer.group_resume("room", channel, None)
    assert (nothing.messages, nothing.complete) == ([], True)
    await send(other, 1, 2)
    received = await receive_many(layer, channel, 2)
    await layer.group_discard("room", channel)
    await send(other, 3, 4, 5)
    again = await layer.new_channel()
    history = await layer.group_resume("room", again, received[-1][FIELD])
    assert (numbers(history), history.complete) == ([3, 4, 5], True)
    assert history.position == history.messages[-1][FIELD]
    await send(other, 6)
    assert bare(await all_of(layer, again)) == [{"n": 6}]
    assert bare(await all_of(layer, channel)) == []
    # Nothing was missed behind the first position either, or behind the last.
    first = await layer.group_resume("room", again, nothing.position)
    assert (numbers(first), first.complete) == ([1, 2, 3, 4, 5, 6], True)
    last = await layer.group_resume("room", again, first.position)
    assert (numbers(last), last.complete, last.position) == ([], True, first.position)
    stats = layer.stats()
    assert (stats["recovered"], stats["incomplete"], other.stats()["recorded"]) == (9, 0, 6)
    assert len(recorded(raw, layer, "room")) == 6


async def test_membership_is_that_of_group_add(make_core: MakeCore, raw: Any) -> None:
    layer = make_core(history=HISTORY, group_expiry=100)
    channel, position = await joined(layer)
    key = group_key(layer, "room")
    (score,) = raw.zmscore(key, [channel])
    assert abs(score - time.time()) < 10
    assert 90 < raw.ttl(key) <= 100
    raw.zadd(key, {channel: score - 50})
    await layer.group_resume("room", channel, position)
    assert raw.zmscore(key, [channel])[0] >= score
    assert await layer.group_channels("room") == [channel]
    await layer.group_discard("room", channel)
    assert await layer.group_count("room") == 0


async def test_arguments(make_core: MakeCore) -> None:
    layer = make_core(history=HISTORY)
    channel = await layer.new_channel()
    with pytest.raises(RuntimeError, match="'other' has no history"):
        await layer.group_resume("other", channel, None)
    with pytest.raises(RuntimeError, match="no option 'history'"):
        await make_core().group_resume("room", channel, None)
    with pytest.raises(TypeError, match="since"):
        await layer.group_resume("room", channel, 7)  # type: ignore[arg-type]
    for names in (("room!", channel), ("room", "a channel")):
        with pytest.raises(TypeError, match="must be a valid"):
            await layer.group_resume(*names, None)
    assert await layer.group_count("room") == 0


async def test_something_else_where_the_stream_was(make_core: MakeCore, raw: Any) -> None:
    """Nobody joins a group without being told what he missed."""
    layer = make_core(history=HISTORY)
    channel = await layer.new_channel()
    raw.set(stream_key(layer, "room"), "no stream")
    with pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE"):
        await layer.group_resume("room", channel, None)
    assert await layer.group_count("room") == 0
    raw.delete(stream_key(layer, "room"))
    raw.set(group_key(layer, "room"), "no sorted set")
    with pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE"):
        await layer.group_resume("room", channel, None)


async def test_paging(make_core: MakeCore) -> None:
    layer = make_core(history=HISTORY)
    _, position = await joined(layer)
    await send(layer, *range(10))
    pages = []
    for _ in range(4):
        page = await layer.group_history("room", position, limit=3)
        assert page.complete
        pages.append(numbers(page))
        position = page.position
    assert pages == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    newest = await layer.group_history("room", limit=3)
    assert (numbers(newest), newest.complete, newest.position) == ([7, 8, 9], False, position)
    everything = await layer.group_history("room", limit=10)
    assert (numbers(everything), everything.complete) == (list(range(10)), True)


async def test_a_resume_from_another_loop(make_core: MakeCore, new_loop: Callable[[], Any]) -> None:
    """That of a thread of the site's own, and that of a call from synchronous code."""
    layer = make_core(history=HISTORY, sync_hub="auto")
    channel, position = await joined(layer)
    await layer.group_discard("room", channel)
    await send(layer, 1)

    def run() -> Any:
        loop = new_loop()
        try:
            return loop.run_until_complete(layer.group_resume("room", channel, position))
        finally:
            loop.run_until_complete(layer.close_pools())
            loop.close()

    history = await in_thread(run)
    assert (numbers(history), history.complete) == ([1], True)
    await send(layer, 2)
    assert bare(await receive_many(layer, channel, 1)) == [{"n": 2}]


# What cannot be proven.

MALFORMED = ["", "x", "0-0", "1", "9" * 41, "\u0661" * 13 + "-0000000000-" + "0" * 16, "z" * 5000]


@pytest.mark.parametrize("since", MALFORMED, ids=range(len(MALFORMED)))
async def test_a_position_that_is_none(make_core: MakeCore, since: str) -> None:
    layer = make_core(history=HISTORY)
    for sent in ((), (1, 2)):
        await send(layer, *sent)
        channel = await layer.new_channel()
        history = await layer.group_resume("room", channel, since)
        assert (numbers(history), history.complete) == (list(sent), False)
        # From what was returned one can go on.
        assert (await layer.group_resume("room", channel, history.position)).complete
    assert layer.stats()["incomplete"] == 2


async def test_a_position_of_another_group(make_core: MakeCore) -> None:
    layer = make_core(history=HISTORY)
    channel, here = await joined(layer)
    _, there = await joined(layer, "room2")
    await send(layer, 1)
    await send(layer, 2, group="room2")
    history = await layer.group_resume("room", channel, there)
    assert (numbers(history), history.complete) == ([1], False)
    assert (await layer.group_resume("room", channel, here)).complete


def changed(position: str, **parts: Any) -> str:
    parsed = Position.parse(position)
    assert parsed is not None
    return str(parsed._replace(**parts))


NEVER_ISSUED: dict[str, Callable[[Position], dict[str, Any]]] = {
    "just before": lambda issued: {"number": issued.number - 1},
    # One more may be that of the next message, if it comes in the same millisecond.
    "just after": lambda issued: {"number": issued.number + 1_000},
    "long ago": lambda issued: {"milliseconds": 1},
    "in a year": lambda issued: {"milliseconds": issued.milliseconds + 31_536_000_000},
    "of another epoch": lambda issued: {"epoch": "12345678"},
    "of no epoch": lambda issued: {"epoch": "00000000"},
}


@pytest.mark.parametrize("change", NEVER_ISSUED.values(), ids=NEVER_ISSUED)
@pytest.mark.parametrize("sent", [(), (1, 2)], ids=["nothing sent", "sent"])
async def test_a_position_that_was_never_issued(make_core: MakeCore, change: Any, sent: tuple[int, ...]) -> None:
    layer = make_core(history=HISTORY)
    channel, position = await joined(layer)
    await send(layer, *sent)
    issued = Position.parse(position)
    assert issued is not None
    assert (await layer.group_resume("room", channel, position)).complete
    history = await layer.group_resume("room", channel, changed(position, **change(issued)))
    assert history.complete is False


async def lose_by_forget(layer: Any, raw: Any) -> None:
    await layer.group_forget("room")


async def lose_by_flush(layer: Any, raw: Any) -> None:
    await layer.flush()


async def lose_by_hand(layer: Any, raw: Any) -> None:
    raw.delete(stream_key(layer, "room"))


async def lose_an_entry(layer: Any, raw: Any) -> None:
    raw.xdel(stream_key(layer, "room"), recorded(raw, layer, "room")[1])


async def lose_all_entries(layer: Any, raw: Any) -> None:
    raw.xtrim(stream_key(layer, "room"), maxlen=0, approximate=False)


async def lose_by_expiry(layer: Any, raw: Any) -> None:
    raw.pexpire(stream_key(layer, "room"), 1)
    await until(lambda: not raw.exists(stream_key(layer, "room")))


LOSSES = [
    lose_by_forget, lose_by_flush, lose_by_hand, lose_an_entry, lose_all_entries, lose_by_expiry
]  # fmt: skip


@pytest.mark.parametrize("more", [(), (4,), (4, 5)], ids=["nothing more", "one more", "two more"])
@pytest.mark.parametrize("lose", LOSSES, ids=lambda lose: lose.__name__)
async def test_entries_that_are_gone(make_core: MakeCore, raw: Any, lose: Any, more: tuple[int, ...]) -> None:
    layer = make_core(history=HISTORY)
    channel, position = await joined(layer)
    await send(layer, 1, 2, 3)
    before = await layer.group_history("room", position)
    assert before.complete
    await lose(layer, raw)
    await send(layer, *more)
    history = await layer.group_resume("room", channel, position)
    assert history.complete is False
    # From here on nothing is missing.
    await send(layer, 6)
    after = await layer.group_resume("room", channel, history.position)
    assert (numbers(after), after.complete) == ([6], True)
    if lose is not lose_an_entry:
        assert (await layer.group_resume("room", channel, before.position)).complete is False


async def test_the_oldest_make_room(make_core: MakeCore) -> None:
    """Redis trims a stream by whole nodes, of some hundred entries; so many more may be there."""
    layer = make_core(history={"room": {"size": 10, "ttl": 60}})
    channel, position = await joined(layer)
    await send(layer, 0)
    await asyncio.gather(*(layer.group_send("room", {"n": n}) for n in range(1, 400)))
    history = await layer.group_resume("room", channel, position)
    assert history.complete is False
    kept = numbers(history)
    assert 10 <= len(kept) < 300
    assert kept == list(range(400))[-len(kept) :]
    newest = history.messages[-6][FIELD]
    again = await layer.group_resume("room", channel, newest)
    assert (numbers(again), again.complete) == ([395, 396, 397, 398, 399], True)


@pytest.mark.parametrize("options", [{}, CODECS["encrypted"]], ids=["msgpack", "encrypted"])
async def test_so_many_bytes(make_core: MakeCore, raw: Any, options: dict[str, Any]) -> None:
    layer = make_core(history={"room": {"size": 1000, "ttl": 60, "max_bytes": 10_000}}, **options)
    channel, position = await joined(layer)
    for n in range(20):
        await layer.group_send("room", {"n": n, "data": b"x" * 2000})
    history = await layer.group_resume("room", channel, position)
    kept = numbers(history)
    assert history.complete is False
    assert 2 <= len(kept) <= 5
    assert kept == list(range(20))[-len(kept) :]
    assert (await layer.group_resume("room", channel, history.messages[0][FIELD])).complete
    # One that is larger than all that may be kept: it is delivered, and kept alone.
    await layer.group_send("room", {"n": 20, "data": b"x" * 20_000})
    assert [message["n"] for message in await receive_many(layer, channel, 21)] == list(range(21))
    assert (await layer.group_history("room", history.position)).complete
    await layer.group_send("room", {"n": 21})
    assert numbers(await layer.group_history("room")) in ([21], [20, 21])


async def test_it_expires_when_nothing_happens(make_core: MakeCore, raw: Any) -> None:
    layer = make_core(history={"room": {"size": 10, "ttl": 1}})
    channel, position = await joined(layer)
    await send(layer, 1)
    assert (await layer.group_history("room", position)).complete
    await until(lambda: not raw.exists(stream_key(layer, "room")))
    history = await layer.group_resume("room", channel, position)
    assert (numbers(history), history.complete) == ([], False)


# Servers that restart, and others that take their place.


@pytest.mark.parametrize("keeps", [True, False], ids=["with its data", "without"])
async def test_a_server_that_restarts(make_core: MakeCore, own_server: OwnServer, keeps: bool) -> None:
    """What it wrote last may be gone, whatever it has kept; and the channel is in the group again."""
    server = own_server(*(("--appendonly", "yes", "--appendfsync", "always") if keeps else ()))
    layer = make_core(hosts=[server.url], history=HISTORY)
    channel, position = await joined(layer)
    await send(layer, 1)
    receiving = asyncio.ensure_future(receive_many(layer, channel, 2))
    await until(lambda: layer.stats()["receives"] == 1)
    server.kill()
    await in_thread(server.restart)
    await within(layer.group_count("room"))
    history = await layer.group_history("room", position)
    assert (numbers(history), history.complete) == ([1] if keeps else [], False)
    await send(layer, 2)
    assert bare(await within(receiving)) == [{"n": 1}, {"n": 2}]
    later = await layer.group_resume("room", channel, history.position)
    assert (numbers(later), later.complete) == ([2], True)
    # Nor is what lies across the restart whole.
    assert (await layer.group_history("room", position)).complete is False


async def test_a_channel_that_resumed_is_restored(make_core: MakeCore, own_server: OwnServer) -> None:
    server = own_server()
    layer = make_core(hosts=[server.url], history=HISTORY)
    channel, _ = await joined(layer)
    await send(layer, 0)
    await receive_many(layer, channel, 1)
    receiving = asyncio.ensure_future(layer.receive(channel))
    await in_thread(server.restart)
    other = make_core(hosts=[server.url], history=HISTORY)

    async def heard() -> Any:
        while not receiving.done():
            await other.group_send("room", {"n": 1})
            await asyncio.sleep(0.01)
        return receiving.result()

    assert bare([await within(heard())]) == [{"n": 1}]


async def test_a_server_is_asked_once_who_it_is(make_core: MakeCore, own_server: OwnServer) -> None:
    """In the greeting of a connection; what restores groups knows it from there."""
    server = own_server()
    layer = make_core(hosts=[server.url], history=HISTORY)
    channel = await layer.new_channel()
    receiving = asyncio.ensure_future(layer.receive(channel))
    await layer.group_add("room", channel)
    await in_thread(server.restart)
    with redis.Redis.from_url(server.url) as raw:
        await until(lambda: raw.zcard(group_key(layer, "room")) == 1)
        asked = raw.info("commandstats")["cmdstat_info"]["calls"]
    # For its process and for its replication; and by now perhaps for its process by the connection that receives, since
    # that was lost too.
    assert asked in (2, 3)
    await end(receiving)


@pytest.fixture
def sentinels() -> Iterator[SentinelSet]:
    with SentinelSet() as sentinels:
        yield sentinels


async def until_served(layer: Any, count: int) -> None:
    """Return when so many messages were sent and recorded again."""

    async def serve() -> None:
        sent = 0
        while sent < count:
            try:
                await layer.group_send("room", {"n": 100 + sent})
                sent += 1
            except redis.exceptions.RedisError:
                await asyncio.sleep(0.05)

    await within(serve(), 30)


async def test_a_failover_by_sentinels(make_core: MakeCore, sentinels: SentinelSet) -> None:
    """The replica has everything. That it has, nobody can know."""
    layer = make_core(hosts=[sentinels.host], history=HISTORY)
    channel, position = await joined(layer)
    await send(layer, 1, 2)
    await in_thread(sentinels.replicated)
    await in_thread(sentinels.failover)
    await until_served(layer, 1)
    history = await layer.group_resume("room", channel, position)
    assert (numbers(history)[:2], history.complete) == ([1, 2], False)
    await send(layer, 3)
    later = await layer.group_resume("room", channel, history.position)
    assert (numbers(later), later.complete) == ([3], True)


@pytest.mark.parametrize("more", [0, 1, 2])
async def test_a_replica_that_had_not_heard_of_everything(
    make_core: MakeCore, sentinels: SentinelSet, more: int
) -> None:
    layer = make_core(hosts=[sentinels.host], history=HISTORY)
    channel, position = await joined(layer)
    await send(layer, 1, 2)
    await in_thread(sentinels.replicated)
    with sentinels.client(sentinels.replica) as raw:
        raw.execute_command("REPLICAOF NO ONE")
    await send(layer, 3)
    lost = (await layer.group_history("room", position)).position
    await in_thread(sentinels.swap_by_hand)
    await until_served(make_core(hosts=[sentinels.host], history=HISTORY), more)
    for since in (lost, position):
        reader = make_core(hosts=[sentinels.host], history=HISTORY)
        history = await reader.group_resume("room", channel, since)
        assert history.complete is False
        assert 3 not in numbers(history)


@pytest.fixture
def replicated() -> Iterator[Cluster]:
    with Cluster(3, 1, *QUICK) as cluster:
        yield cluster


@pytest.mark.timeout(120)
async def test_a_failover_of_a_cluster(make_core: MakeCore, replicated: Cluster) -> None:
    cluster = replicated
    layer = make_core(hosts=[cluster.host], history=HISTORY)
    channel, position = await joined(layer)
    await send(layer, 1, 2)
    await in_thread(cluster.replicated)
    assert (await layer.group_history("room", position)).complete
    owner = cluster.owner(group_key(layer, "room"))
    for change in (cluster.failover, cluster.kill_primary):
        new = await in_thread(lambda change=change, owner=owner: change(owner))
        history = await layer.group_resume("room", channel, position)
        assert history.complete is False
        assert numbers(history)[:2] == [1, 2]
        await send(layer, 3)
        later = await layer.group_resume("room", channel, history.position)
        assert (numbers(later), later.complete) == ([3], True)
        if change == cluster.failover:
            owner = new
    await layer.close_pools()


async def test_a_slot_that_moves(make_core: MakeCore, cluster: Cluster) -> None:
    """The stream goes with the group; that it is whole there, the other server cannot know."""
    layer = make_core(hosts=[cluster.host], history=HISTORY)
    channel, position = await joined(layer)
    await send(layer, 1, 2)
    slot = cluster.slot(group_key(layer, "room"))
    source = cluster.owner(slot)
    target = next(node for node in cluster.primaries if node is not source)
    await in_thread(lambda: cluster.move_slots(source, target, [slot]))
    try:
        history = await layer.group_resume("room", channel, position)
        assert (numbers(history), history.complete) == ([1, 2], False)
        await send(layer, 3)
        later = await layer.group_resume("room", channel, history.position)
        assert (numbers(later), later.complete) == ([3], True)
    finally:
        await in_thread(lambda: cluster.move_slots(target, source, [slot]))
        await in_thread(cluster.settle)
    await layer.flush()


async def test_a_server_that_does_not_say_who_it_is(make_core: MakeCore, own_server: OwnServer) -> None:
    server = own_server()
    with redis.Redis.from_url(server.url) as raw:
        raw.execute_command("ACL", "SETUSER", "chan", "on", ">s3cret", "~*", "&*", "+@all", "-info")
    layer = make_core(hosts=[f"redis://chan:s3cret@127.0.0.1:{server.port}"], history=HISTORY)
    channel, position = await joined(layer)
    await send(layer, 1)
    history = await layer.group_resume("room", channel, position)
    assert (numbers(history), history.complete) == ([1], False)
