"""Messages to small groups take one round trip, and nobody gets one who is not in the group at that moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from bench.server import Server
from channels_redis_fast.core import RedisChannelLayer, group_cache
from channels_redis_fast.core.group_cache import GroupMembershipCache
from channels_redis_fast.serializers import registry
from tests.core.helpers import nothing_to_receive, receive_many, within

MakeLayer = Callable[..., RedisChannelLayer]

pytestmark = pytest.mark.single_server("a group and its members are of different slots, as a rule")

LOOK, DELIVER = ["ZREMRANGEBYSCORE", "ZRANGE"], ["EVALSHA"]


class Ear:
    """Hears the commands that clients send, not those of scripts, about the keys of one test."""

    def __init__(self, raw: redis.Redis, monitor: Any, prefix: str) -> None:
        self._raw, self._monitor, self._prefix = raw, monitor, prefix

    def heard(self) -> list[str]:
        """The names of the commands since the last time."""
        names = []
        self._raw.echo(f"end of {self._prefix}")
        while not (command := self._monitor.next_command())["command"].endswith(f"end of {self._prefix}"):
            if command["client_type"] != "lua" and self._prefix in command["command"]:
                names.append(command["command"].split(" ", 1)[0].upper())
        return names


@pytest.fixture
def ear(raw: redis.Redis, prefix: str) -> Iterator[Ear]:
    with raw.monitor() as monitor:
        yield Ear(raw, monitor, prefix)


class Room:
    """A group of general channels, as foreign processes see and change it."""

    def __init__(self, raw: redis.Redis, prefix: str) -> None:
        self.raw, self.prefix = raw, prefix
        self.key = f"{prefix}:group:room"

    def add(self, *names: str, at: float | None = None) -> None:
        # One after the other: those of one score are in the order of their names.
        for name in names:
            self.raw.zadd(self.key, {name: time.time() if at is None else at})

    def waiting(self, *names: str) -> list[int]:
        return [self.raw.zcard(f"{self.prefix}{name}") for name in names]


@pytest.fixture
def room(raw: redis.Redis, prefix: str) -> Room:
    made = Room(raw, prefix)
    made.add("a", "b", "c", "d")
    return made


KINDS: dict[str, dict[str, Any]] = {
    "msgpack": {},
    "json": {"serializer_format": "json"},
    "encrypted": {"symmetric_encryption_keys": ["secret"]},
    "not ordered": {"random_prefix_length": 0},
}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
async def test_a_group_that_is_what_it_was(make_layer: MakeLayer, ear: Ear, options: dict[str, Any]) -> None:
    layer, other = make_layer(**options), make_layer(**options)
    channels = [await maker.new_channel() for maker in (layer, layer, other)]
    for channel in [*channels, "general"]:
        await layer.group_add("room", channel)
    ear.heard()
    for n in range(3):
        await layer.group_send("room", {"n": n})
        assert ear.heard() == (DELIVER if n else LOOK + DELIVER)
    for owner, channel in [*zip((layer, layer, other), channels, strict=True), (other, "general")]:
        assert await receive_many(owner, channel, 3) == [{"n": n} for n in range(3)]
        await nothing_to_receive(owner, channel)
    assert layer.stats()["group_sends"] == 3


def other_name(room: Room) -> None:
    room.raw.zrem(room.key, "d")
    room.add("e")


def another_process_channel(room: Room) -> None:
    room.raw.zrem(room.key, "d")
    room.add("x.y!z")


def deleted_and_made_again(room: Room) -> None:
    room.raw.delete(room.key)
    room.add("d", "b")


CHANGES: dict[str, Callable[[Room], Any]] = {
    "added": lambda room: room.add("e"),
    "added with an old score": lambda room: room.add("e", at=time.time() - 1000),
    "removed": lambda room: room.raw.zrem(room.key, "b"),
    "expired": lambda room: room.add("b", at=time.time() - 90_000),
    "added again": lambda room: room.add("a"),
    "another of the same length": other_name,
    "another kind": another_process_channel,
    "another group": deleted_and_made_again,
    "one left": lambda room: room.raw.zremrangebyrank(room.key, 0, 2),
    "nobody left": lambda room: room.raw.zremrangebyrank(room.key, 0, -1),
    "all expired": lambda room: room.add("a", "b", "c", "d", at=time.time() - 90_000),
    "not a name": lambda room: room.raw.zadd(room.key, {b"\xff": time.time()}),
    "two in one": lambda room: (room.raw.zrem(room.key, "c", "d"), room.add("c\0d", "c d")),
}
NAMES = ["a", "b", "c", "d", "e", "x.y!", "c\0d", "c d", "cd"]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_group_that_has_changed(make_layer: MakeLayer, room: Room, ear: Ear, change: Any) -> None:
    """By somebody else, after the last message: who is in it gets the next one, once, and nobody else."""
    layer = make_layer()
    for n in range(2):
        await layer.group_send("room", {"n": n})
    assert room.waiting(*NAMES) == [2, 2, 2, 2, 0, 0, 0, 0, 0]
    change(room)
    ear.heard()
    await layer.group_send("room", {"n": 2})
    heard = ear.heard()
    # Who expires is removed by the group_send itself, so this is who was in the group when it came.
    members = [name.decode(errors="replace") for name in room.raw.zrange(room.key, 0, -1)]
    keys = {name.split("!")[0] + "!" * ("!" in name) for name in members}
    expected = [2 * (name in list("abcd")) + (name in keys) for name in NAMES]
    assert room.waiting(*NAMES) == expected
    assert heard == DELIVER + (DELIVER if members else []), "the script says who is in the group, nobody asks again"
    ear.heard()
    await layer.group_send("room", {"n": 3})
    readable = bool(members) and "\ufffd" not in "".join(members)
    assert ear.heard() == (DELIVER if readable else LOOK + DELIVER * bool(members))
    expected = [count + (name in keys) for name, count in zip(NAMES, expected, strict=True)]
    assert room.waiting(*NAMES) == expected


async def test_a_member_that_is_as_it_was_with_another_score(make_layer: MakeLayer, room: Room, ear: Ear) -> None:
    layer = make_layer()
    await layer.group_send("room", {})
    room.add("d")
    ear.heard()
    await layer.group_send("room", {})
    assert ear.heard() == DELIVER


async def test_random_changes(make_layer: MakeLayer, room: Room) -> None:
    """A few hundred messages while foreign clients come and go: each goes to exactly those that are there."""
    import random

    layer, choice = make_layer(capacity=10_000), random.Random(7)
    names = [f"m{n}" for n in range(8)]
    expected = dict.fromkeys(names, 0)
    for n in range(300):
        for _ in range(choice.choice([0, 0, 1, 2])):
            name = choice.choice(names)
            if choice.random() < 0.5:
                room.add(name)
            else:
                room.raw.zrem(room.key, name)
        await layer.group_send("room", {"n": n})
        for member in room.raw.zrange(room.key, 0, -1):
            if member.decode() in expected:
                expected[member.decode()] += 1
    assert room.waiting(*names) == list(expected.values())


async def test_order_of_messages_that_are_not_awaited_one_by_one(make_layer: MakeLayer, room: Room, ear: Ear) -> None:
    """The first finds a group that has changed and takes two round trips: those behind it do not overtake it."""
    layer = make_layer()
    await layer.group_send("room", {"n": -1})
    for n in range(0, 30, 10):
        room.add(f"new{n}")
        await within(asyncio.gather(*(layer.group_send("room", {"n": n + i}) for i in range(10))))
    assert [message["n"] for message in await receive_many(layer, "a", 31)] == list(range(-1, 30))
    assert [message["n"] for message in await receive_many(layer, "new10", 20)] == list(range(10, 30))
    ear.heard()
    await layer.group_send("room", {})
    assert ear.heard() == DELIVER, "nothing is under way any more"


async def test_a_caller_that_gives_up(make_layer: MakeLayer, room: Room, ear: Ear) -> None:
    layer = make_layer()
    await layer.group_send("room", {})
    for steps in range(4):
        task = asyncio.ensure_future(layer.group_send("room", {}))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    await layer.group_send("room", {})
    ear.heard()
    await layer.group_send("room", {})
    assert ear.heard() == DELIVER


# Capacities.


async def test_capacity_is_that_of_the_first_member_whoever_that_is_now(make_layer: MakeLayer, room: Room) -> None:
    layer = make_layer(channel_capacity={"x.y!large": 5, "x.y!small": 2})
    room.raw.delete(room.key)
    room.add("x.y!large", "x.y!small")
    for _ in range(4):
        await layer.group_send("room", {})
    assert (room.waiting("x.y!"), layer.stats()["over_capacity"]) == ([4], 0)
    room.add("x.y!large")
    await layer.group_send("room", {})
    assert (room.waiting("x.y!"), layer.stats()["over_capacity"]) == ([4], 1)


async def test_a_capacity_that_is_assigned_later(make_layer: MakeLayer, room: Room) -> None:
    layer = make_layer()
    await layer.group_send("room", {})
    layer.capacity = 1
    await layer.group_send("room", {})
    assert (room.waiting("a", "b", "c", "d"), layer.stats()["over_capacity"]) == ([1] * 4, 4)


# Groups that take two round trips.


async def test_a_large_group(make_layer: MakeLayer, room: Room, ear: Ear) -> None:
    layer = make_layer(capacity=1000)
    await layer.group_send("room", {})
    room.add(*(f"m{n}" for n in range(group_cache.MAX_MEMBERS - 3)))
    ear.heard()
    await layer.group_send("room", {})
    assert ear.heard() == DELIVER * 2
    await layer.group_send("room", {})
    assert ear.heard() == LOOK + DELIVER
    room.raw.zremrangebyrank(room.key, 4, -1)
    for expected in (LOOK + DELIVER, DELIVER):
        ear.heard()
        await layer.group_send("room", {})
        assert ear.heard() == expected
    # So large that the script does not even look at it.
    room.raw.zadd(room.key, {f"m{n}": time.time() for n in range(1000)})
    for expected in (DELIVER + LOOK + DELIVER * 2, LOOK + DELIVER * 2):
        ear.heard()
        await layer.group_send("room", {})
        assert ear.heard() == expected
    assert room.waiting("a", "m0", "m999") == [7, 4, 2]


async def test_members_on_other_shards(
    make_layer: MakeLayer, shard_urls: list[str], raw_shards: list[redis.Redis], prefix: str, ear: Ear
) -> None:
    layer = make_layer(hosts=shard_urls[:2])
    names = {index: [f"m{n}" for n in range(20) if layer.consistent_hash(f"m{n}") == index][:3] for index in (0, 1)}
    group = next(f"g{n}" for n in range(20) if layer.consistent_hash(f"g{n}") == 1)
    key = f"{prefix}:group:{group}"
    for members, each in (([*names[1]], DELIVER), ([*names[0], *names[1]], LOOK + DELIVER * 2)):
        raw_shards[1].zadd(key, dict.fromkeys(members, time.time()))
        await layer.group_send(group, {})
        for _ in range(2):
            ear.heard()
            await layer.group_send(group, {})
            assert ear.heard() == each
    assert [raw_shards[1].zcard(f"{prefix}{name}") for name in names[1]] == [6] * 3
    assert [raw_shards[0].zcard(f"{prefix}{name}") for name in names[0]] == [3] * 3


class Elsewhere(RedisChannelLayer):
    """Groups on the first shard, channels on the last."""

    def consistent_hash(self, value: str | bytes) -> int:
        return 0 if value == "room" else self.ring_size - 1


async def test_a_site_that_has_its_own_shards(
    make_layer: MakeLayer, shard_urls: list[str], raw_shards: list[redis.Redis], prefix: str, ear: Ear
) -> None:
    layer = make_layer(Elsewhere, hosts=shard_urls[:2])
    raw_shards[0].zadd(f"{prefix}:group:room", {"a": time.time()})
    for _ in range(3):
        ear.heard()
        await layer.group_send("room", {})
        assert ear.heard() == LOOK + DELIVER
    assert raw_shards[1].zcard(f"{prefix}a") == 3


class Greedy:
    """A serializer that takes what it is given apart."""

    def serialize(self, message: dict[str, Any]) -> bytes:
        names, said = message["__asgi_channel__"], repr(message["__asgi_channel__"])
        names.clear()
        return said.encode()

    def deserialize(self, message: bytes) -> dict[str, Any]:
        return {}


async def test_a_serializer_that_takes_the_names_apart(
    make_layer: MakeLayer, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry._registry, "greedy", lambda **options: Greedy())
    layer = make_layer(serializer_format="greedy")
    room.raw.delete(room.key)
    room.add("x.y!1", "x.y!2", "a")
    for n in range(3):
        await layer.group_send("room", {})
        assert room.raw.zrange(f"{room.prefix}x.y!", 0, -1) == [b"['x.y!1', 'x.y!2']"]
        assert room.raw.zpopmin(f"{room.prefix}a", 1)[0][0] == b"['a']", n


# What is wrong.


async def test_something_else_where_the_group_was(make_layer: MakeLayer, room: Room) -> None:
    layer = make_layer()
    await layer.group_send("room", {})
    room.raw.set(room.key, "no sorted set")
    for _ in range(2):
        with pytest.raises(redis.exceptions.ResponseError, match=r"^WRONGTYPE"):
            await layer.group_send("room", {})
    room.raw.delete(room.key)
    room.add("a", "b")
    for _ in range(2):
        await layer.group_send("room", {})
    assert room.waiting("a", "b", "c") == [3, 3, 1]


async def test_something_else_where_a_channel_was(make_layer: MakeLayer, room: Room) -> None:
    """The other channels get the message all the same, and once; the sender hears of the error."""
    layer = make_layer()
    for known in (False, True):
        room.raw.delete(*(f"{room.prefix}{name}" for name in "abcd"))
        room.raw.set(f"{room.prefix}c", "no sorted set")
        with pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE"):
            await layer.group_send("room", {})
        assert room.waiting("a", "b", "d") == [1, 1, 1], known


async def test_scripts_that_the_server_has_forgotten(make_layer: MakeLayer, room: Room) -> None:
    layer = make_layer()
    for n in range(3):
        await layer.group_send("room", {"n": n})
        room.raw.script_flush()
    assert room.waiting("a", "b", "c", "d") == [3] * 4


RULES = {
    "a member's key": ("resetkeys", "~{prefix}:group:*", "~{prefix}a", "~{prefix}b", "~{prefix}d"),
    "all scripts": ("-@scripting",),
    "evalsha": ("-evalsha",),
}


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
async def test_a_user_who_may_do_less_than_before(
    make_layer: MakeLayer, own_server: Callable[..., Server], rules: tuple[str, ...]
) -> None:
    """Those whom it may reach get each message once, and the server is not asked for ever what it refuses."""
    server = own_server()
    with redis.Redis.from_url(server.url) as raw:
        raw.execute_command("ACL", "SETUSER", "chan", "on", ">s3cret", "~*", "+@all")
        layer = make_layer(hosts=[f"redis://chan:s3cret@127.0.0.1:{server.port}"], prefix="p")
        room = Room(raw, "p")
        room.add("a", "b", "c", "d")
        for _ in range(2):
            await layer.group_send("room", {})
        raw.execute_command("ACL", "SETUSER", "chan", *(rule.format(prefix="p") for rule in rules))
        forbidden = "~{prefix}a" in rules
        for n in range(3):
            if forbidden:
                with pytest.raises(redis.exceptions.NoPermissionError):
                    await layer.group_send("room", {})
            else:
                await layer.group_send("room", {})
            assert room.waiting("a", "b", "d") == [3 + n] * 3
        assert room.waiting("c") == [2 if forbidden else 5]
        with raw.monitor() as monitor:
            ear = Ear(raw, monitor, "p")
            if forbidden:
                with pytest.raises(redis.exceptions.NoPermissionError):
                    await layer.group_send("room", {})
                # The script that nobody runs is not in what is heard.
                assert ear.heard()[:2] == LOOK
        await layer.close_pools()


async def test_a_primary_that_is_none_for_a_while(make_layer: MakeLayer, own_server: Callable[..., Server]) -> None:
    """It refuses what a script would write: the message waits, and is delivered once."""
    server = own_server()
    with redis.Redis.from_url(server.url) as raw:
        layer, room = make_layer(hosts=[server.url], prefix="p"), Room(raw, "p")
        room.add("a", "b")
        for _ in range(2):
            await layer.group_send("room", {})
        raw.replicaof("127.0.0.1", 1)
        sending = asyncio.ensure_future(layer.group_send("room", {}))
        done, _ = await asyncio.wait([sending], timeout=0.1)
        assert not done
        assert room.waiting("a", "b") == [2, 2]
        raw.replicaof("NO", "ONE")
        await within(sending)
        assert room.waiting("a", "b") == [3, 3]
        await layer.close_pools()


# What is remembered.


def names(count: int, length: int = 4) -> list[bytes]:
    return [b"%0*d" % (length, n) for n in range(count)]


def known(remembered: GroupMembershipCache, key: bytes) -> bool:
    found = remembered.enter(key) is not None
    remembered.leave(key)
    return found


def test_what_is_remembered_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_cache, "MAX_GROUPS", 3)
    monkeypatch.setattr(group_cache, "MAX_ALL_MEMBERS", 100)
    remembered = GroupMembershipCache()
    for n in range(50):
        remembered.remember(b"%d" % n, names(2), [b"k"], [["c"]])
    assert [n for n in range(50) if known(remembered, b"%d" % n)] == [47, 48, 49]
    assert known(remembered, b"47")
    remembered.remember(b"new", names(90), [b"k"], [["c"]])
    assert [key for key in (b"47", b"48", b"49", b"new") if known(remembered, key)] == [b"47", b"49", b"new"]
    remembered.remember(b"more", names(9), [b"k"], [["c"]])
    # 47 was used before 49 and new were.
    assert [key for key in (b"47", b"49", b"new", b"more") if known(remembered, key)] == [b"new", b"more"]
    for key in (b"new", b"more"):
        remembered.forget(key)
    assert (remembered._members, remembered._known, remembered._under_way) == (0, {}, {})


def test_large_and_empty_groups_are_not_remembered() -> None:
    remembered = GroupMembershipCache()
    for count, expected in (
        (group_cache.MAX_MEMBERS, True),
        (group_cache.MAX_MEMBERS + 1, False),
        (1, True),
        (0, False),
    ):
        remembered.remember(b"key", names(count), [b"k"], [["c"]])
        assert known(remembered, b"key") is expected


def test_a_group_is_known_to_one_at_a_time() -> None:
    remembered = GroupMembershipCache()
    remembered.remember(b"key", names(2), [b"k"], [["c"]])
    assert remembered.enter(b"key") is not None
    assert remembered.enter(b"key") is None
    remembered.leave(b"key")
    assert remembered.enter(b"key") is None
    remembered.leave(b"key")
    remembered.leave(b"key")
    assert remembered.enter(b"key") is not None


async def test_thousands_of_groups_leave_little_behind(make_layer: MakeLayer, raw: redis.Redis, prefix: str) -> None:
    layer = make_layer(capacity=10**6)
    pipe = raw.pipeline()
    for n in range(group_cache.MAX_GROUPS + 300):
        pipe.zadd(f"{prefix}:group:g{n}", {"a": time.time()})
    pipe.execute()
    for start in range(0, group_cache.MAX_GROUPS + 300, 100):
        await within(asyncio.gather(*(layer.group_send(f"g{n}", {}) for n in range(start, start + 100))))
    remembered = layer._loops[asyncio.get_running_loop()].group_cache
    assert (len(remembered._known), remembered._under_way) == (group_cache.MAX_GROUPS, {})
