"""What the core layer sends to a group with a history is recorded, and carries its position."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import string
import time
import weakref
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import redis
from asgiref.sync import async_to_sync

from bench.server import Server
from channels_redis_fast.connection import link
from channels_redis_fast.core import RedisChannelLayer, recorded_calls, recorded_groups, scripts
from channels_redis_fast.core.group_cache import GroupSnapshot
from channels_redis_fast.hot import EnvelopeCodec
from tests.clusters import Cluster
from tests.conftest import hosts_on
from tests.core.helpers import within
from tests.core.test_one_round_trip import CHANGES, DELIVER, LOOK, NAMES, Ear, Room
from tests.history.core import (
    CODECS,
    FIELD,
    HISTORY,
    ROOMY,
    MakeCore,
    all_of,
    bare,
    entries_of,
    group_key,
    in_thread,
    receive_many,
    recorded,
    stream_key,
)

OwnServer = Callable[..., Server]

one_server = pytest.mark.single_server("a group and its members are of different slots, as a rule")


@pytest.fixture
def ear(raw: redis.Redis, prefix: str) -> Iterator[Ear]:
    with raw.monitor() as monitor:
        yield Ear(raw, monitor, prefix)


@pytest.fixture
def room(raw: redis.Redis, prefix: str) -> Room:
    made = Room(raw, prefix)
    made.add("a", "b", "c", "d")
    return made


# Positions.


@pytest.mark.parametrize("options", CODECS.values(), ids=CODECS)
async def test_every_message_carries_its_position(make_core: MakeCore, raw: Any, options: dict[str, Any]) -> None:
    layer, other = (make_core(history=HISTORY, **options) for _ in range(2))
    channels = {await layer.new_channel(): layer, await layer.new_channel(): layer, await other.new_channel(): other}
    channels["general"] = other
    for channel, owner in channels.items():
        await owner.group_add("room", channel)
    sent = [{"n": n, "text": "\u00e4" * n, "nested": [{"a": None}]} for n in range(5)]
    for message in sent:
        await layer.group_send("room", message)
        assert FIELD not in message
    stream = recorded(raw, layer, "room")
    for channel, owner in channels.items():
        received = await receive_many(owner, channel, 5)
        assert (bare(received), entries_of(received)) == (sent, stream)
    history = await other.group_history("room")
    assert (history.messages, history.complete) == (received, True)
    assert history.position == received[-1][FIELD]
    assert layer.stats()["recorded"] == 5
    assert [list(message) for message in received] == [["n", "text", "nested", FIELD]] * 5


@pytest.mark.parametrize("options", [{}, CODECS["encrypted"]], ids=["msgpack", "encrypted"])
@one_server
async def test_positions_rise_on_every_channel(make_core: MakeCore, raw: Any, options: dict[str, Any]) -> None:
    """Of fifty senders in five processes, whoever is faster."""
    layers = [make_core(history=HISTORY, capacity=ROOMY, **options) for _ in range(5)]
    channels = {await layer.new_channel(): layer for layer in layers for _ in range(2)}
    for channel, layer in channels.items():
        await layer.group_add("room", channel)

    async def send(layer: Any, sender: int) -> None:
        for n in range(10):
            await layer.group_send("room", {"sender": sender, "n": n})

    await within(asyncio.gather(*(send(layers[n % 5], n) for n in range(50))), 60)
    stream = recorded(raw, layers[0], "room")
    assert len(stream) == 500
    for channel, layer in channels.items():
        received = await all_of(layer, channel)
        assert entries_of(received) == stream
        assert all(before[FIELD] < after[FIELD] for before, after in pairwise(received))
        for sender in range(50):
            numbers = [message["n"] for message in received if message["sender"] == sender]
            assert numbers == sorted(numbers)


@one_server
async def test_several_loops_of_one_process(make_core: MakeCore, raw: Any, new_loop: Callable[[], Any]) -> None:
    layer = make_core(history=HISTORY, capacity=ROOMY)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)

    def run() -> None:
        async def send() -> None:
            await asyncio.gather(*(layer.group_send("room", {"n": n}) for n in range(20)))
            await layer.close_pools()

        loop = new_loop()
        loop.run_until_complete(send())
        loop.close()

    await asyncio.gather(*(in_thread(run) for _ in range(4)))
    assert entries_of(await receive_many(layer, channel, 80)) == recorded(raw, layer, "room")


async def test_from_synchronous_code(make_core: MakeCore, raw: Any) -> None:
    layer = make_core(history=HISTORY, sync_hub="auto")
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await in_thread(lambda: layer.sync.group_send("room", {"n": 0, FIELD: "forwarded"}))
    await in_thread(lambda: async_to_sync(layer.group_send)("room", {"n": 1}))
    await in_thread(lambda: layer.sync.group_send_many([("room", {"n": 2}), ("room", {"n": 3})]))
    received = await receive_many(layer, channel, 4)
    assert (bare(received), entries_of(received)) == ([{"n": n} for n in range(4)], recorded(raw, layer, "room"))


async def test_many_at_once(make_core: MakeCore, raw: Any) -> None:
    layer = make_core(history=HISTORY, capacity=ROOMY)
    channel = await layer.new_channel()
    for group in ("room", "room2", "other"):
        await layer.group_add(group, channel)
    sent = [(group, {"n": n, "group": group}) for n in range(50) for group in ("room", "other", "room2")]
    await layer.group_send_many(sent)
    received = await receive_many(layer, channel, 150)
    for group in ("room", "room2", "other"):
        mine = [message for message in received if message["group"] == group]
        assert [message["n"] for message in mine] == list(range(50))
        assert (entries_of(mine) if group != "other" else []) == recorded(raw, layer, group)
    assert layer.stats()["recorded"] == 100


@pytest.mark.parametrize("size", [0, 1, 100, 101, 1000, 1500])
@one_server
async def test_groups_of_all_sizes(make_core: MakeCore, raw: redis.Redis, prefix: str, ear: Ear, size: int) -> None:
    """Each member has a key of its own. What is known is sent in one round trip, unless that were too much for one."""
    layer = make_core(history=HISTORY)
    names = [f"m{n}" for n in range(size)]
    if names:
        raw.zadd(f"{prefix}:group:room", {name: time.time() + n / 1000 for n, name in enumerate(names)})
    ear.heard()
    for n in range(3):
        await layer.group_send("room", {"n": n})
        expected = DELIVER + DELIVER * 2 * (size == 1500)
        assert ear.heard() == (expected if n else LOOK + expected)
    stream = recorded(raw, layer, "room")
    assert len(stream) == 3
    assert [raw.zcard(f"{prefix}{name}") for name in names] == [3] * size
    for name in {*names[:1], *names[-1:], *names[size // 2 :][:1]}:
        assert entries_of(await receive_many(layer, name, 3)) == stream
    assert len((await layer.group_history("room")).messages) == 3


@one_server
async def test_a_large_group_of_one_process(make_core: MakeCore, raw: redis.Redis) -> None:
    layer = make_core(history=HISTORY, capacity=ROOMY)
    channels = [await layer.new_channel() for _ in range(1000)]
    await asyncio.gather(*(layer.group_add("room", channel) for channel in channels))
    await within(asyncio.gather(*(layer.group_send("room", {"n": n}) for n in range(20))))
    stream = recorded(raw, layer, "room")
    for channel in channels:
        assert entries_of(await receive_many(layer, channel, 20)) == stream


@pytest.mark.parametrize("entries", [0, 1, 13, 14, 15, 16, 17, 65_533, 65_534, 65_535])
async def test_messages_of_so_many_entries(make_core: MakeCore, entries: int) -> None:
    """Two are added, and the header of a map grows at 16 and at 65,536 entries."""
    layer = make_core(history=HISTORY)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    message = {f"k{n}": n for n in range(entries)}
    for _ in range(2):
        await layer.group_send("room", message)
        (received,) = await receive_many(layer, channel, 1)
        assert bare([received]) == [message]
    assert (await layer.group_history("room", limit=1)).messages == [received]


class Shown(dict[str, Any]):
    """A dict that shows others than it holds, as Django's QueryDict does."""

    def items(self) -> Any:
        return {name: [value] for name, value in super().items()}.items()


@pytest.mark.parametrize("options", CODECS.values(), ids=CODECS)
async def test_a_dict_of_another_kind(make_core: MakeCore, options: dict[str, Any]) -> None:
    layer = make_core(history=HISTORY, **options)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    for message in (Shown(a=1), Shown({"a": 1, FIELD: "x"})):
        for _ in range(2):
            await layer.group_send("room", message)
            (received,) = await receive_many(layer, channel, 1)
            # JSON looks past ``items``, as it does where nothing is added.
            assert bare([received])[0]["a"] in ([1], 1)
            assert len(received) == 2


# What comes in with a position.


@pytest.mark.parametrize("history", [HISTORY, None], ids=["history", "without"])
async def test_a_position_that_is_forwarded(make_core: MakeCore, history: Any) -> None:
    """It would be taken for that of another message. On layers without the option the key means nothing."""
    layer = make_core(history=history)
    channel = await layer.new_channel()
    await layer.group_add("other", channel)
    message = {"n": 1, FIELD: "forwarded"}
    await layer.send(channel, message)
    await layer.send_many([(channel, message)])
    await layer.group_send("other", message)
    await layer.group_send_many([("other", message)])
    expected = message if history is None else {"n": 1}
    assert await receive_many(layer, channel, 4) == [expected] * 4
    assert message == {"n": 1, FIELD: "forwarded"}
    if history is not None:
        await layer.group_add("room", channel)
        for _ in range(2):
            await layer.group_send("room", message)
            (received,) = await receive_many(layer, channel, 1)
            assert received == {"n": 1, FIELD: received[FIELD]} != message


# Round trips.


@pytest.mark.parametrize("options", CODECS.values(), ids=CODECS)
@one_server
async def test_one_round_trip(make_core: MakeCore, room: Room, ear: Ear, options: dict[str, Any]) -> None:
    layer = make_core(history=HISTORY, **options)
    ear.heard()
    for n in range(3):
        await layer.group_send("room", {"n": n})
        assert ear.heard() == (DELIVER if n else LOOK + DELIVER)
    await asyncio.gather(*(layer.group_send("room", {"n": n}) for n in range(20)))
    assert ear.heard() == DELIVER * 2, "what is sent at the same time shares a call"
    assert room.waiting("a", "b", "c", "d") == [23] * 4


@one_server
async def test_groups_without_a_history(make_core: MakeCore, room: Room, ear: Ear) -> None:
    layer = make_core(history={"other*": {"size": 10, "ttl": 10}})
    ear.heard()
    for n in range(3):
        await layer.group_send("room", {"n": n})
        assert ear.heard() == (DELIVER if n else LOOK + DELIVER)
    assert room.raw.keys(f"{room.prefix}:history*") == []
    assert [FIELD in message for message in await receive_many(layer, "a", 3)] == [False] * 3


async def test_scripts_are_loaded_where_they_are_needed(make_core: MakeCore, own_server: OwnServer) -> None:
    server = own_server()
    with redis.Redis.from_url(server.url) as raw:
        for history, expected in ((None, False), (HISTORY, True)):
            await make_core(hosts=[server.url], history=history).send("a", {})
            found = raw.script_exists(*(script.sha for script in scripts.OF_FILLED))
            assert found == [expected] * len(scripts.OF_FILLED)
        assert raw.script_exists(scripts.PROPOSED_GROUP_SEND.sha) == [False]
        await make_core(hosts=[server.url], history=HISTORY, **CODECS["encrypted"]).send("a", {})
        assert raw.script_exists(scripts.PROPOSED_GROUP_SEND.sha) == [True]


@one_server
async def test_scripts_that_the_server_has_forgotten(make_core: MakeCore, room: Room) -> None:
    layer = make_core(history=HISTORY)
    for n in range(3):
        await layer.group_send("room", {"n": n})
        room.raw.script_flush()
    assert room.waiting("a", "b", "c", "d") == [3] * 4
    assert entries_of(await receive_many(layer, "a", 3)) == recorded(room.raw, layer, "room")


# Groups that change.


@pytest.mark.parametrize("options", [{}, CODECS["json"]], ids=["msgpack", "json"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@one_server
async def test_a_group_that_has_changed(
    make_core: MakeCore, room: Room, ear: Ear, change: Any, options: dict[str, Any]
) -> None:
    """By somebody else, after the last message: who is in it gets the next one, once, and nobody else."""
    layer = make_core(history=HISTORY, **options)
    for n in range(2):
        await layer.group_send("room", {"n": n})
    change(room)
    # As if a second had passed: in one nobody expires twice.
    next(iter(layer._loops.values())).recorded_queues[group_key(layer, "room")].looked_at = 0
    ear.heard()
    await layer.group_send("room", {"n": 2})
    heard = ear.heard()
    members = [name.decode(errors="replace") for name in room.raw.zrange(room.key, 0, -1)]
    keys = {name.split("!")[0] + "!" * ("!" in name) for name in members}
    assert room.waiting(*NAMES) == [2 * (name in list("abcd")) + (name in keys) for name in NAMES]
    readable = "\ufffd" not in "".join(members)
    assert heard == DELIVER * (2 if readable else 3), "the script says who is in the group, nobody asks again"
    assert len(recorded(room.raw, layer, "room")) == 3
    ear.heard()
    await layer.group_send("room", {"n": 3})
    assert ear.heard() == DELIVER * (1 if readable else 2)
    assert len(recorded(room.raw, layer, "room")) == 4


@one_server
async def test_a_group_on_one_key_of_which_not_all_are_meant(make_core: MakeCore, ear: Ear) -> None:
    """The script knows it all the same, so that one call does."""
    layer = make_core(history=HISTORY)
    channels = [await layer.new_channel() for _ in range(3)]
    for channel in channels:
        await layer.group_add("room", channel)
    excludes = [[], channels[:1], channels[1:], channels, ["stranger"], []]
    for n, excluded in enumerate(excludes):
        ear.heard()
        await layer.group_send("room", {"n": n}, exclude=excluded)
        assert ear.heard() == (DELIVER if n else LOOK + DELIVER)
    for channel in channels:
        assert [message["n"] for message in await all_of(layer, channel)] == [
            n for n, excluded in enumerate(excludes) if channel not in excluded
        ]


def test_by_what_the_script_knows_the_members() -> None:
    """By the names in the message only where it names them all: a dead process' channel is left out."""
    layout = recorded_calls.MemberLayout(EnvelopeCodec(12), None)
    keys, channels, digest = [b"x"], [["x!1", "x!2"]], b"digest"
    assert layout.mark(GroupSnapshot(keys, channels, 2, digest)) == b"="
    assert layout.mark(GroupSnapshot(keys, channels, 2, digest).without(frozenset(["x!2"]))) == digest
    assert layout.mark(GroupSnapshot(keys, channels, 3, digest, skips=True)) == digest
    assert layout.mark(GroupSnapshot([*keys, b"y"], [*channels, ["y!1"]], 3, digest)) == digest


@one_server
async def test_a_group_on_one_key_that_has_changed(make_core: MakeCore, raw: redis.Redis, ear: Ear) -> None:
    """The channels of one process, which the script knows by the list that goes into the message."""
    layer = make_core(history=HISTORY)
    first, second, third = [await layer.new_channel() for _ in range(3)]
    key = group_key(layer, "room")
    for at, channel in enumerate((first, second)):
        raw.zadd(key, {channel: time.time() + at})
    for _ in range(2):
        await layer.group_send("room", {"n": 0})
    changes: list[tuple[Callable[[], Any], set[str]]] = [
        (lambda: raw.zadd(key, {third: time.time() + 2}), {first, second, third}),
        (lambda: raw.zrem(key, first), {second, third}),
        (lambda: raw.zadd(key, {second: time.time() + 3}), {second, third}),
        (lambda: raw.zadd(key, {b"\xff": time.time()}), {second, third}),
        (lambda: raw.zrem(key, b"\xff", third), {second}),
        (lambda: raw.zadd(key, {"general": time.time()}), {second, "general"}),
        (lambda: raw.delete(key), set()),
    ]
    expected: list[tuple[str, int]] = [(channel, 0) for channel in (first, second)] * 2
    for n, (change, members) in enumerate(changes, 1):
        change()
        ear.heard()
        await layer.group_send("room", {"n": n})
        assert ear.heard() in (DELIVER * 2, DELIVER * 3)
        await layer.group_send("room", {"n": n})
        expected += [(channel, n) for channel in members] * 2
    for channel in (first, second, third, "general"):
        assert [message["n"] for message in await all_of(layer, channel)] == [
            n for name, n in sorted(expected, key=lambda each: each[1]) if name == channel
        ]
    assert len(recorded(raw, layer, "room")) == 16


@pytest.mark.parametrize("options", [{}, CODECS["encrypted"]], ids=["msgpack", "encrypted"])
async def test_nothing_keeps_a_layer(redis_server: Any, prefix: str, options: dict[str, Any]) -> None:
    """What is remembered of the groups that it has sent to does not hold it."""
    hosts = hosts_on(redis_server)
    layer = RedisChannelLayer(hosts=hosts, prefix=prefix, sync_hub="never", history=HISTORY, **options)
    for n in range(2):
        await asyncio.gather(*(layer.group_send(f"room{n}", {}) for _ in range(2)))
    await layer.group_history("room0")
    state = next(iter(layer._loops.values()))
    gone = weakref.ref(layer)
    del layer
    gc.collect()
    assert gone() is None
    assert len(state.recorded_queues) == 2


@one_server
async def test_the_groups_that_are_remembered_are_bounded(
    make_core: MakeCore, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorded_groups, "MAX_QUEUES", 5)
    layer = make_core(history=HISTORY)
    for n in range(20):
        await layer.group_send(f"room{n}", {})
        assert len(next(iter(layer._loops.values())).recorded_queues) <= 5
    await within(asyncio.gather(*(layer.group_send(f"room{n}", {}) for n in range(20) for _ in range(3))))
    assert [len(recorded(raw, layer, f"room{n}")) for n in range(20)] == [4] * 20


@pytest.mark.parametrize("changes", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("options", [{}, CODECS["json"]], ids=["msgpack", "json"])
@one_server
async def test_a_group_that_changes_again_and_again(
    make_core: MakeCore, room: Room, monkeypatch: pytest.MonkeyPatch, changes: int, options: dict[str, Any]
) -> None:
    """Just before each call is carried out: the message is recorded once, and goes once to whoever is there then."""
    layer = make_core(history=HISTORY, **options)
    await layer.group_send("room", {"n": -1})
    came: list[str] = []
    arguments = recorded_calls.RecordingCall.arguments

    def changing(call: Any, server: Any) -> Any:
        found = arguments(call, server)
        if len(came) < changes:
            came.append(f"new{len(came)}")
            room.add(came[-1])
        return found

    monkeypatch.setattr(recorded_calls.RecordingCall, "arguments", changing)
    await within(asyncio.gather(*(layer.group_send("room", {"n": n}) for n in range(10))))
    stream = recorded(room.raw, layer, "room")
    assert len(stream) == 11
    assert room.waiting("a", "b", "c", "d") == [11] * 4
    received = await receive_many(layer, "a", 11)
    assert [message["n"] for message in received] == list(range(-1, 10))
    assert entries_of(received) == stream
    assert room.waiting(*came[:3]) == [10] * min(changes, 3)


@one_server
async def test_a_group_that_grows_and_shrinks(make_core: MakeCore, room: Room, ear: Ear) -> None:
    """Beyond what one script looks at, and back."""
    layer = make_core(history=HISTORY)
    await layer.group_send("room", {})
    room.raw.zadd(room.key, {f"m{n}": time.time() for n in range(1000)})
    for expected in (DELIVER * 4, DELIVER * 3):
        ear.heard()
        await layer.group_send("room", {})
        assert ear.heard() == expected
    room.raw.zremrangebyrank(room.key, 4, -1)
    for expected in (DELIVER * 2, DELIVER):
        ear.heard()
        await layer.group_send("room", {})
        assert ear.heard() == expected
    assert len(recorded(room.raw, layer, "room")) == 5


@one_server
async def test_a_caller_that_gives_up(make_core: MakeCore, room: Room) -> None:
    """At any step: what is recorded is delivered where that is one script, and the others do not notice."""
    layer = make_core(history=HISTORY)
    await layer.group_send("room", {"n": -1})
    for steps in range(6):
        task = asyncio.ensure_future(layer.group_send("room", {"n": steps}))
        others = [asyncio.ensure_future(layer.group_send("room", {"n": 10 + steps})) for _ in range(3)]
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task, *others])
        assert all(other.exception() is None for other in others)
    await layer.group_send("room", {"n": 100})
    received = await all_of(layer, "a")
    assert entries_of(received) == recorded(room.raw, layer, "room")
    assert len([message for message in received if 10 <= message["n"] < 100]) == 18


# Capacities and sizes.


@one_server
async def test_members_at_capacity(make_core: MakeCore, room: Room, caplog: pytest.LogCaptureFixture) -> None:
    """They are skipped, counted and logged; what is recorded stays recorded."""
    layer = make_core(history=HISTORY, channel_capacity={"b": 2})
    with caplog.at_level(logging.INFO, "channels_redis_fast"):
        for n in range(5):
            await layer.group_send("room", {"n": n})
    assert room.waiting("a", "b", "c", "d") == [5, 2, 5, 5]
    assert layer.stats()["over_capacity"] == 3
    assert caplog.messages == ["1 of 4 channels over capacity in group room"] * 3
    assert [message["n"] for message in (await layer.group_history("room")).messages] == list(range(5))


@pytest.mark.parametrize("options", CODECS.values(), ids=CODECS)
async def test_a_message_that_cannot_be_sent(make_core: MakeCore, raw: Any, options: dict[str, Any]) -> None:
    """It is not recorded, and those that are sent at the same time are no worse for it."""
    layer = make_core(history=HISTORY, **options)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    for _ in range(2):
        outcomes = await asyncio.gather(
            *(layer.group_send("room", message) for message in ({"n": 1}, {"n": object()}, {"n": 2})),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes] == [type(None), TypeError, type(None)]
        assert "group room" in str(outcomes[1])
    with pytest.raises(AssertionError):
        await layer.group_send("room", "no dict")  # type: ignore[arg-type]
    received = await receive_many(layer, channel, 4)
    assert entries_of(received) == recorded(raw, layer, "room")


class Fussy:
    """A serializer that takes a message as it is, and not with what is added to it."""

    def serialize(self, message: dict[str, Any]) -> bytes:
        if "n" in message and message["n"] == 7 and FIELD in message:
            raise ValueError("no more entries")
        return repr(message).encode()

    def deserialize(self, message: bytes) -> Any:
        import ast

        return ast.literal_eval(message.decode())


@one_server
async def test_a_serializer_that_fails_late(make_core: MakeCore, raw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from channels_redis_fast.serializers import registry

    monkeypatch.setitem(registry._registry, "fussy", lambda **options: Fussy())
    layer = make_core(history=HISTORY, serializer_format="fussy")
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_send("room", {"n": 0})
    outcomes = await asyncio.gather(
        *(layer.group_send("room", {"n": n}) for n in (6, 7, 8)), layer.send(channel, {}), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [type(None), ValueError, type(None), type(None)]
    assert str(outcomes[1]) == "no more entries (message for group room)"
    received = [message for message in await receive_many(layer, channel, 4) if message]
    assert entries_of(received) == recorded(raw, layer, "room")


@pytest.mark.parametrize("options", CODECS.values(), ids=CODECS)
async def test_messages_that_are_too_large(make_core: MakeCore, raw: Any, options: dict[str, Any]) -> None:
    """With the position and the channel's name, as they lie in Redis; nothing of them is recorded."""
    layer = make_core(history=HISTORY, max_message_size=1000, **options)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_send("room", {"n": 0})
    errors, choice = [], random.Random(7)
    for size in range(100, 1500, 100):
        # What no serializer makes smaller.
        text = "".join(choice.choices(string.printable, k=size))
        for _ in range(2):
            try:
                await layer.group_send("room", {"n": 1, "text": text})
            except ValueError as error:
                errors.append(str(error))
    assert errors
    assert all("max_message_size" in error and "group room" in error for error in errors)
    received = await all_of(layer, channel)
    assert len(received) == 29 - len(errors)
    with pytest.raises(ValueError, match="max_message_size"):
        await layer.group_send("room", {"n": 1, "text": "".join(choice.choices(string.printable, k=3000))})


@pytest.mark.parametrize("options", [{}, CODECS["json"]], ids=["msgpack", "json"])
@one_server
async def test_more_bytes_than_one_call_takes(make_core: MakeCore, room: Room, options: dict[str, Any]) -> None:
    """They take two round trips, and their place among the others."""
    layer = make_core(history=HISTORY, **options)
    texts = ["", "x" * 400_000, "", "y" * 100_000, "", ""]
    for _ in range(2):
        await within(asyncio.gather(*(layer.group_send("room", {"text": text}) for text in texts)))
    received = await receive_many(layer, "a", 12)
    assert [message["text"] for message in received] == texts * 2
    assert entries_of(received) == recorded(room.raw, layer, "room")


# What is wrong.


@one_server
async def test_something_else_where_the_stream_was(make_core: MakeCore, room: Room) -> None:
    layer = make_core(history=HISTORY)
    await layer.group_send("room", {})
    key = stream_key(layer, "room")
    room.raw.set(key, "no stream")
    for _ in range(2):
        with pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE"):
            await layer.group_send("room", {})
    assert room.waiting("a", "b") == [1, 1]
    room.raw.delete(key)
    await layer.group_send("room", {})
    assert room.waiting("a", "b") == [2, 2]


@one_server
async def test_something_else_where_the_group_was(make_core: MakeCore, room: Room) -> None:
    layer = make_core(history=HISTORY)
    await layer.group_send("room", {})
    room.raw.set(room.key, "no sorted set")
    for _ in range(2):
        with pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE"):
            await layer.group_send("room", {})
    assert len(recorded(room.raw, layer, "room")) == 1
    room.raw.delete(room.key)
    room.add("a", "b")
    for _ in range(2):
        await layer.group_send("room", {})
    assert room.waiting("a", "b", "c") == [3, 3, 1]


@one_server
async def test_something_else_where_a_channel_was(make_core: MakeCore, room: Room) -> None:
    """The other channels get the message all the same, and once; the sender hears of the error."""
    layer = make_core(history=HISTORY)
    for _ in range(2):
        room.raw.delete(*(f"{room.prefix}{name}" for name in "abcd"))
        room.raw.set(f"{room.prefix}c", "no sorted set")
        with pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE"):
            await layer.group_send("room", {})
        assert room.waiting("a", "b", "d") == [1, 1, 1]
    assert len(recorded(room.raw, layer, "room")) == 2


async def test_a_server_that_runs_no_scripts(make_core: MakeCore, own_server: OwnServer) -> None:
    server = own_server()
    with redis.Redis.from_url(server.url) as raw:
        raw.execute_command("ACL", "SETUSER", "chan", "on", ">s3cret", "~*", "&*", "+@all", "-@scripting")
    layer = make_core(hosts=[f"redis://chan:s3cret@127.0.0.1:{server.port}"], prefix="p", history=HISTORY)
    channel = await layer.new_channel()
    for group in ("room", "other"):
        await layer.group_add(group, channel)
    for _ in range(2):
        outcomes = await asyncio.gather(*(layer.group_send("room", {}) for _ in range(3)), return_exceptions=True)
        for outcome in outcomes:
            assert isinstance(outcome, redis.exceptions.ResponseError)
            assert "'history'" in str(outcome)
            assert "s3cret" not in str(outcome)
    with pytest.raises(redis.exceptions.ResponseError, match="'history'"):
        await layer.group_resume("room", channel, None)
    await layer.group_send("other", {"n": 1})
    assert await receive_many(layer, channel, 1) == [{"n": 1}]
    await layer.close_pools()


async def test_a_user_who_may_not_reach_a_member(make_core: MakeCore, own_server: OwnServer) -> None:
    """The others get each message once, it is recorded, and the sender hears of it."""
    server = own_server()
    with redis.Redis.from_url(server.url) as raw:
        rules = ("~p:*", "~pa", "~pb", "~pd", "+@all")
        raw.execute_command("ACL", "SETUSER", "chan", "on", ">s3cret", *rules)
        layer = make_core(hosts=[f"redis://chan:s3cret@127.0.0.1:{server.port}"], prefix="p", history=HISTORY)
        room = Room(raw, "p")
        room.add("a", "b", "c", "d")
        for n in range(1, 4):
            with pytest.raises(redis.exceptions.NoPermissionError):
                await layer.group_send("room", {"n": n})
            assert room.waiting("a", "b", "c", "d") == [n, n, 0, n]
        assert len(recorded(raw, layer, "room")) == 3
        await layer.close_pools()


class Dear:
    """A capacity that cannot be told."""

    def __init__(self) -> None:
        self.fails = False

    def __call__(self, channel: str) -> int:
        if self.fails:
            raise LookupError(channel)
        return 100


@one_server
async def test_a_capacity_that_cannot_be_told(make_core: MakeCore, room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the site's own code raises is for who sends to that group, and for nobody else."""
    # Each write is one in which a command is timed, also that which comes to have none.
    monkeypatch.setattr(link, "SAMPLE_INTERVAL", 0.0)
    capacity = Dear()
    layer = make_core(history=HISTORY)
    monkeypatch.setattr(layer, "_capacity_of", capacity)
    await layer.group_send("room", {})
    capacity.fails = True
    outcomes = await within(
        asyncio.gather(layer.group_send("room", {}), layer.group_count("room"), return_exceptions=True)
    )
    assert [type(outcome) for outcome in outcomes] == [LookupError, int]
    capacity.fails = False
    await layer.group_send("room", {})
    assert room.waiting("a") == [2]


# A ring, and a cluster.


@pytest.mark.parametrize("options", CODECS.values(), ids=CODECS)
async def test_a_ring(
    make_core: MakeCore, shard_urls: list[str], raw_shards: list[redis.Redis], ear: Ear, options: dict[str, Any]
) -> None:
    """The group's shard records and says who is in it; others are served with the position in the second trip."""
    layer = make_core(hosts=shard_urls, history=HISTORY, capacity=ROOMY, **options)
    raw = raw_shards[layer.consistent_hash("room")]
    names = [f"m{n}" for n in range(30)]
    raw.zadd(group_key(layer, "room"), dict.fromkeys(names, time.time()))
    shards = len({layer.consistent_hash(name) for name in names})
    for _ in range(3):
        ear.heard()
        await layer.group_send("room", {"n": 0})
        assert ear.heard() == DELIVER * (1 + shards)
    await within(asyncio.gather(*(layer.group_send("room", {"n": n}) for n in range(20))))
    stream = recorded(raw, layer, "room")
    assert len(stream) == 23
    received = [raw_shards[layer.consistent_hash(name)].zcard(layer.prefix + name) for name in names]
    assert received == [23] * 30
    await layer.group_add("room", channel := await layer.new_channel())
    await layer.group_send("room", {"n": 20})
    (message,) = await receive_many(layer, channel, 1)
    assert entries_of([message]) == recorded(raw, layer, "room")[-1:]


async def test_a_ring_with_all_members_where_the_group_is(
    make_core: MakeCore, shard_urls: list[str], raw_shards: list[redis.Redis], ear: Ear
) -> None:
    layer = make_core(hosts=shard_urls, history=HISTORY)
    shard = layer.consistent_hash("room")
    here = [f"m{n}" for n in range(100) if layer.consistent_hash(f"m{n}") == shard][:3]
    elsewhere = next(f"m{n}" for n in range(100) if layer.consistent_hash(f"m{n}") != shard)
    raw_shards[shard].zadd(group_key(layer, "room"), dict.fromkeys(here, time.time()))
    ear.heard()
    for expected in (DELIVER * 2, DELIVER, DELIVER):
        await layer.group_send("room", {})
        assert ear.heard() == expected
    raw_shards[shard].zadd(group_key(layer, "room"), {elsewhere: time.time()})
    ear.heard()
    for _ in range(2):
        await layer.group_send("room", {})
        assert ear.heard() == DELIVER * 3
    assert len(recorded(raw_shards[shard], layer, "room")) == 5
    assert [raw_shards[shard].zcard(layer.prefix + name) for name in here] == [5] * 3


@pytest.mark.parametrize("options", CODECS.values(), ids=CODECS)
async def test_a_cluster(make_core: MakeCore, cluster: Cluster, options: dict[str, Any]) -> None:
    layers = [make_core(hosts=[cluster.host], history=HISTORY, capacity=ROOMY, **options) for _ in range(3)]
    channels = {await layer.new_channel(f"kind{n}"): layer for n, layer in enumerate(layers * 2)}
    start = (await layers[0].group_resume("room", next(iter(channels)), None)).position
    for channel, layer in channels.items():
        await layer.group_add("room", channel)
    await within(
        asyncio.gather(*(layers[n % 3].group_send("room", {"n": n, FIELD: "forwarded"}) for n in range(50))), 30
    )
    history = await layers[1].group_history("room")
    assert history.complete
    positions = [message[FIELD] for message in history.messages]
    assert positions == sorted(positions)
    for channel, layer in channels.items():
        received = await all_of(layer, channel)
        assert sorted(received, key=lambda message: message[FIELD]) == history.messages
    again = await layers[2].group_resume("room", await layers[2].new_channel(), start)
    assert (again.messages, again.complete) == (history.messages, True)
    await layers[0].group_forget("room")
    assert (await layers[0].group_history("room", start)).complete is False
    await layers[0].flush()


# Replies.

NO_REPLIES: list[Any] = [
    None, 7, b"OK", [], [4], [1], [1, 1], [1, 0, 0, 0], [1, 0, None], [1, 0, [b"1-1"]], [1, 0, [1, b""]],
    [2, [b"a"], 0, 0], [2, None, b"p", b"p"], [2, [b"a"], b"p"], [0, b"a"], [0, [1]], [0, [b"a"], b"p"],
    [3, 0], [3, [b"a"]], [1, 0, 0, [b"1-1", b""]],
]  # fmt: skip


@pytest.mark.parametrize("reply", NO_REPLIES, ids=repr)
def test_replies_that_the_script_cannot_have_given(reply: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        recorded_calls.Outcome.of(reply, 2)


def test_replies_of_the_script() -> None:
    of = recorded_calls.Outcome.of
    assert of([1, 0, b"WRONGTYPE"], 2) == (1, None, [0, b"WRONGTYPE"], None)
    assert of([1, 0, [b"1-1", b""]], 2) == (1, None, [0], (b"1-1", b""))
    assert of([1, [b"", b"OOM"]], 2) == (1, None, [], (b"", b"OOM"))
    assert of([2, [b"a"], b"p", b"q"], 2) == (2, [b"a"], [b"p", b"q"], None)
    assert of([0], 2) == (0, None, [], None)
    assert of([0, []], 2) == (0, [], [], None)
    assert of([3], 2) == (3, None, [], None)
