"""Presence when processes die, stand still or cannot tell, and when servers lose what they had."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from bench.server import Server
from channels_redis_fast.presence.calls import LOUDLY, QUIETLY
from channels_redis_fast.presence.leases import FIRST_SECONDS
from tests.core.helpers import started, until, within
from tests.presence.attending import PRESENCE, Attender, joined, listen
from tests.presence.leasing import run_out

Make = Callable[..., Any]
OwnServer = Callable[..., Server]

pytestmark = pytest.mark.usefixtures("short_leases")


@pytest.fixture
def attend(redis_server: Any, prefix: str) -> Iterator[Callable[..., Attender]]:
    """Start processes on the shared server."""
    attenders: list[Attender] = []

    def start(kind: str, *users: str, **option: Any) -> Attender:
        attender = Attender(kind, redis_server.url, prefix, *users, **option)
        attenders.append(attender)
        return attender

    yield start
    for attender in attenders:
        attender.kill()


def stand_still(layer: Any) -> Callable[[], None]:
    """Have a layer renew its lease no more, as if its process stood still; returns what lets it go on."""
    leases = layer._leases
    tick, ask = leases.tick, leases._ask

    def refuse(loop: Any) -> Any:
        raise redis.ConnectionError("standing still")

    leases.tick = lambda loop: None
    leases._ask = refuse

    def go_on() -> None:
        leases.tick, leases._ask = tick, ask
        tick(asyncio.get_running_loop())

    return go_on


async def in_thread(run: Callable[[], Any]) -> Any:
    return await within(asyncio.get_running_loop().run_in_executor(None, run), 60)


async def test_a_process_that_is_killed(make: Make, attend: Callable[..., Attender]) -> None:
    """Several others notice it at once, one of them with a part in the group, the others as members alone."""
    layers = [make(presence=PRESENCE) for _ in range(3)]
    listeners = [await listen(layer) for layer in layers]
    attender = attend(layers[0].layer_name, "ada", "bob")
    await in_thread(attender.is_there)
    await joined(layers[0], "carol")
    attender.kill()
    for listener in listeners:
        await until(lambda listener=listener: len(listener.events) == 5)
        events = listener.events
        assert sorted(events[:3]) == [("join", "ada"), ("join", "bob"), ("join", "carol")]
        await listener.heard(*events)
        assert sorted(events[3:]) == [("leave", "ada"), ("leave", "bob")]
        await listener.end()
    assert await layers[1].presence("room") == {"carol": None}


async def test_who_only_reads_sees_no_dead(make: Make, raw: Any, prefix: str) -> None:
    layer, reader = make(presence=PRESENCE), make(presence=PRESENCE)
    await joined(layer, "ada")
    assert await reader.presence_count("room") == 1
    stand_still(layer)
    await until(lambda: layer._leases.process in _overdue(raw, prefix))
    run_out(raw, prefix, layer._leases.process)
    await asyncio.sleep(PRESENCE["lease"] / 3)
    assert await reader.presence("room") == {}


def _overdue(raw: Any, prefix: str) -> set[str]:
    seconds, micros = raw.time()
    return {name.decode() for name in raw.zrangebyscore(f"{prefix}:leases", "-inf", seconds + micros / 1e6)}


async def test_who_was_to_tell_dies(make: Make) -> None:
    """Another process tells; and what the first one says late, if it lives after all, is not heard twice."""
    layer, other = make(presence=PRESENCE), make(presence=PRESENCE)
    listener = await listen(other)
    released = asyncio.Event()
    send = layer._presences._send

    async def late(*arguments: Any) -> None:
        await released.wait()
        await send(*arguments)

    layer._presences._send = late
    await joined(layer, "ada")
    stand_still(layer)
    await until(lambda: len(listener.events) == 2)
    released.set()
    await until(lambda: not layer._presences._loops[asyncio.get_running_loop()]._outboxes)
    await listener.heard(("join", "ada"), ("leave", "ada"))
    await listener.end()


@pytest.mark.parametrize(("grace", "more"), [(0, ["leave", "join"]), (5, [])])
async def test_a_process_that_stood_still(make: Make, grace: int, more: list[str]) -> None:
    """It is present again when it goes on; but for what was ended by others meanwhile."""
    layer, other = (make(presence={"lease": 0.6, "grace": grace}) for _ in range(2))
    listener = await listen(other)
    await joined(layer, "ada")
    ended = await joined(layer, "bob")
    await listener.heard(("join", "ada"), ("join", "bob"))
    go_on = stand_still(layer)
    await other.group_discard("room", ended)
    group = other._presences.find("room")
    if grace:
        await until(lambda: bool(group.waiting) and any(user == b"sada" for user in group.waiting))
    else:
        await until(lambda: ("leave", "ada") in listener.events)
    go_on()
    if not grace:
        await until(lambda: listener.events.count(("join", "ada")) == 2)
    await within(layer._presences.change(layer._presences.find("room"), b"e"))
    assert [what for what, user in listener.events if user == "ada"] == ["join", *more]
    assert "ada" in await other.presence("room")
    assert not layer._presences.find("room").may_have(ended) or "bob" not in str(
        layer._presences.find("room").channels.values()
    )
    await listener.end()


async def test_a_server_that_comes_back_empty(own_server: OwnServer, make: Make) -> None:
    """Nobody has come or left by that, and who leaves meanwhile has left."""
    server = own_server()
    layer, other = (make(hosts=[server.url], presence=PRESENCE | {"lease": 3}) for _ in range(2))
    listener = await listen(other)
    ada, bob = await joined(layer, "ada", info={"n": 1}), await joined(layer, "bob")
    carol = await joined(other, "carol")
    await listener.heard(("join", "ada"), ("join", "bob"), ("join", "carol"))
    server.kill()
    leaving = await started(layer.presence_leave("room", bob))
    await in_thread(server.restart)
    await within(leaving)
    told = [("join", "ada"), ("join", "bob"), ("join", "carol"), ("leave", "bob")]
    await until(lambda: listener.events == told)
    present: dict[Any, Any] = {}
    while present != {"ada": {"n": 1}, "carol": None}:
        present = await within(other.presence("room"))
    # A second channel of somebody who was there: by then, and before the others are back.
    await joined(other, "ada", info={"n": 2})
    await layer.presence_leave("room", ada)
    await other.presence_leave("room", carol)
    await listener.heard(*told, ("leave", "carol"))
    await listener.end()


async def test_a_lease_that_ran_out_while_its_server_was_away(own_server: OwnServer, make: Make, prefix: str) -> None:
    """Nobody could renew it, so a process that is back before the other does not take that one for gone."""
    server = own_server("--appendonly", "yes", "--appendfsync", "always")
    layer, other = (make(hosts=[server.url], presence=PRESENCE | {"lease": 3}) for _ in range(2))
    channel = await joined(layer, "ada")
    await joined(other, "bob")
    process, here = layer._leases.process, other._presences
    stand_still(layer)
    before = here.upkeep.came_back_at
    # As if the server had been away for longer.
    other._leases._held_until -= 2
    await in_thread(server.restart)
    await until(lambda: here.upkeep.came_back_at > before)
    with redis.Redis.from_url(server.url) as raw:
        run_out(raw, prefix, process, 1.0)
        assert process in (await within(other._leases.read(0))).deadlines
        assert set(await within(other.presence("room"))) == {"ada", "bob"}
        await within(here.upkeep.sweep(here.records()))
        assert raw.hexists(here.find("room").keys.channels, f"c{channel}")

        async def has_gone() -> None:
            while raw.hexists(here.find("room").keys.channels, f"c{channel}"):
                # As long as a lease lasts after this; and a second connection may have come back only now.
                other._leases._absences._until -= 3
                await here.upkeep.sweep(here.records())

        await within(has_gone())


async def test_a_process_that_starts_after_an_outage(own_server: OwnServer, make: Make, prefix: str) -> None:
    """It does not know that nobody could renew, so it gives the others some seconds before it takes one for gone."""
    server = own_server()
    layer, other = (make(hosts=[server.url], presence=PRESENCE | {"lease": 30}) for _ in range(2))
    channel = await joined(layer, "ada")
    stand_still(layer)
    with redis.Redis.from_url(server.url) as raw:
        run_out(raw, prefix, layer._leases.process, 1.0)
        await joined(other, "bob")
        here = other._presences
        assert layer._leases.process in (await within(other._leases.read(0))).deadlines
        await within(here.upkeep.sweep(here.records()))
        assert raw.hexists(here.find("room").keys.channels, f"c{channel}")
        other._leases._absences._until -= FIRST_SECONDS
        await within(here.upkeep.sweep(here.records()))
        assert not raw.hexists(here.find("room").keys.channels, f"c{channel}")


async def test_connections_that_come_and_go_keep_nobody(own_server: OwnServer, make: Make, prefix: str) -> None:
    """While this process renews its lease, so can others: who has not is gone, however often a connection is lost."""
    server = own_server()
    layer, other = (make(hosts=[server.url], presence=PRESENCE | {"lease": 3}) for _ in range(2))
    channel = await joined(layer, "ada")
    await joined(other, "bob")
    stand_still(layer)
    here = other._presences
    # It has not just started.
    other._leases._absences._until -= 3
    with redis.Redis.from_url(server.url) as raw:
        run_out(raw, prefix, layer._leases.process, 1.0)
        before = here.upkeep.came_back_at
        raw.client_kill_filter(_type="normal", skipme=True)
        await until(lambda: here.upkeep.came_back_at > before)
        await within(other._leases.read(0))
        await within(here.upkeep.sweep(here.records()))
        assert not raw.hexists(here.find("room").keys.channels, f"c{channel}")


async def test_who_stood_still_some_time_ago(make: Make) -> None:
    """What is lost is restored with events once, in each group, however long after that, and as ever from then on."""
    layer = make(presence=PRESENCE | {"lease": 3})
    await joined(layer, "ada")
    group, upkeep = layer._presences.find("room"), layer._presences.upkeep
    assert upkeep.way_back(group) == QUIETLY
    upkeep._looked_at -= 100
    assert upkeep.way_back(group) == LOUDLY
    # As long as the group has not answered since.
    upkeep._stood_still_at -= 50
    group.renewed -= 60
    assert upkeep.way_back(group) == LOUDLY
    upkeep._stood_still_at += 50
    await within(layer._presences.change(group, b"e"))
    assert upkeep.way_back(group) == QUIETLY


async def test_who_comes_before_others_are_back(own_server: OwnServer, make: Make) -> None:
    """A user who was present before the server lost everything has not come by a channel that is new."""
    server = own_server()
    layer, other = (make(hosts=[server.url], presence=PRESENCE | {"lease": 3}) for _ in range(2))
    listener = await listen(other)
    await joined(layer, "ada")
    await listener.heard(("join", "ada"))
    # The other process is not back when the new channel comes.
    restore = layer._presences.upkeep._see_to_groups
    layer._presences.upkeep._see_to_groups = lambda now: None
    layer._leases._callbacks.clear()
    await in_thread(server.restart)
    channel = await within(joined(other, "ada"))
    await joined(other, "bob")
    assert listener.events == [("join", "ada")]
    layer._presences.upkeep._see_to_groups = restore
    await until(lambda: ("join", "bob") in listener.events)
    await other.presence_leave("room", channel)
    await listener.heard(("join", "ada"), ("join", "bob"))
    await listener.end()


async def test_a_new_process_comes_before_others_are_back(own_server: OwnServer, make: Make) -> None:
    """It knows of no outage, so it does not wait for anybody."""
    server = own_server()
    layer, other = (make(hosts=[server.url], presence=PRESENCE | {"lease": 3}) for _ in range(2))
    listener = await listen(other)
    await joined(layer, "ada")
    await listener.heard(("join", "ada"))
    for each in (layer, other):
        each._presences.upkeep._see_to_groups = lambda now: None
        each._leases._callbacks.clear()
    await in_thread(server.restart)
    new = make(hosts=[server.url], presence=PRESENCE | {"lease": 3})
    # The listener has to be back, and the presences must not.
    await within(other.group_add("room", listener.channel))
    await within(joined(new, "ada"))
    await within(joined(new, "bob"))
    await until(lambda: ("join", "bob") in listener.events)
    await listener.heard(("join", "ada"), ("join", "bob"))
    await listener.end()


async def test_a_server_that_runs_no_scripts(own_server: OwnServer, make: Make) -> None:
    server = own_server()
    with redis.Redis.from_url(server.url) as raw:
        raw.execute_command("ACL", "SETUSER", "chan", "on", ">s3cret", "~*", "&*", "+@all", "-@scripting")
    layer = make(hosts=[f"redis://chan:s3cret@127.0.0.1:{server.port}"], presence=PRESENCE)
    with pytest.raises(redis.ResponseError, match="refuses EVAL, which the option 'lease' needs"):
        await layer.presence_join("room", await layer.new_channel(), "ada")


async def test_something_else_under_the_keys(make: Make, raw: Any, prefix: str) -> None:
    """What is wrong with one group harms no other, and one wrong entry no other entry."""
    layer = make(presence=PRESENCE)
    await joined(layer, "ada", "room")
    (key,) = raw.keys(f"{prefix}:presence:*")
    raw.hset(key, mapping={b"?": b"", b"sbob": b"\xc1", b"s\xff": b""})
    assert await layer.presence("room") == {"ada": None, "bob": None}
    raw.set(key.replace(b"room", b"other"), "wrong")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        await joined(layer, "ada", "other")
    await joined(layer, "ada", "third")
    assert await layer.presence("third") == {"ada": None}


async def test_one_shard_of_a_ring_comes_back_empty(own_server: OwnServer, make: Make, redis_server: Any) -> None:
    """The leases are on the other one, so nobody has lost his; what was on this one is there again."""
    server = own_server()
    layer, other = (make(hosts=[redis_server.url, server.url], presence=PRESENCE | {"lease": 3}) for _ in range(2))
    name = next(name for name in map("room{}".format, range(100)) if layer._group_shard(name) == 1)
    listener = await listen(other, name)
    ada = await joined(layer, "ada", name)
    await listener.heard(("join", "ada"))
    await in_thread(server.restart)
    present: dict[Any, Any] = {}
    while present != {"ada": None}:
        present = await within(other.presence(name))
    await layer.presence_leave(name, ada)
    await until(lambda: len(listener.events) == 2)
    await listener.heard(("join", "ada"), ("leave", "ada"))
    await listener.end()


async def test_the_event_loop_that_was_to_tell_closes(make: Make) -> None:
    """What it began is done from another one."""
    layer, other = make(presence={"lease": 3, "grace": 0.2}), make(presence=PRESENCE)
    listener = await listen(other)
    channel = await joined(layer, "ada")
    await in_thread(lambda: asyncio.run(layer.presence_leave("room", channel)))
    await listener.heard(("join", "ada"), ("leave", "ada"))
    await listener.end()
