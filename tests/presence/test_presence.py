"""Who is present in a group, and what the group is told of it, on both layers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import redis

from bench.server import Server
from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.presence.events import EventInputs
from channels_redis_fast.presence.keys import PresenceKeys, group_key_of, user_field, user_of
from channels_redis_fast.presence.scripts import KEEP_AGAIN, KEPT, KEPT_EMPTY
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from channels_redis_fast.pubsub.scripts import CHANGE_AND_PUBLISH
from tests.clusters import Cluster
from tests.core.helpers import until, within
from tests.presence.attending import PRESENCE, joined, listen

Make = Callable[..., Any]
LAYERS = [RedisChannelLayer, RedisPubSubChannelLayer]

pytestmark = pytest.mark.usefixtures("short_leases")


# The option, and what is refused.


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(
    ("wrong", "error", "text"),
    [
        ({"presence": 7}, TypeError, "Option 'presence' must be a dict or None, not int"),
        ({"presence": {"leese": 7}}, ValueError, "unknown key 'leese'"),
        ({"presence": {"lease": 0.05}}, ValueError, r"Option 'presence\['lease'\]' must be at least"),
        ({"presence": {"grace": -1}}, ValueError, r"Option 'presence\['grace'\]'"),
        ({"presence": {"grace": True}}, TypeError, r"Option 'presence\['grace'\]' must be a number of seconds"),
        ({"presence": {"events": 1}}, TypeError, r"Option 'presence\['events'\]' must be True or False"),
        ({"presence": {"lease": 5}, "lease": 6}, ValueError, "give it once"),
    ],
)
def test_an_option_that_is_none(kind: type[Any], wrong: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        kind(**wrong)


@pytest.mark.parametrize("kind", LAYERS)
def test_presence_and_lease_are_one_lease(kind: type[Any]) -> None:
    assert kind(presence={})._leases.duration == 30
    assert kind(presence={"lease": 5})._leases.duration == 5
    assert kind(presence={}, lease=7)._leases.duration == 7
    assert kind(presence={"lease": 7}, lease=7)._leases.duration == 7
    assert kind(lease=7)._presences is None


async def test_what_is_refused(make: Make) -> None:
    layer, other, without = make(presence=PRESENCE), make(presence=PRESENCE), make()
    channel, foreign = await layer.new_channel(), await other.new_channel()
    for call in (
        without.presence_join("room", channel, "ada"),
        without.presence_leave("room", channel),
        without.presence("room"),
        without.presence_count("room"),
    ):
        with pytest.raises(RuntimeError, match="option 'presence'"):
            await call
    for user in (1.5, b"ada", True):
        with pytest.raises(TypeError, match="a user must be a str or an int, not"):
            await layer.presence_join("room", channel, user)
    for user in (2**64, -(2**63) - 1):
        with pytest.raises(ValueError, match="a user must be an int of at most 64 bits"):
            await layer.presence_join("room", channel, user)
    with pytest.raises(TypeError, match="info for user 'ada' in group room"):
        await layer.presence_join("room", channel, "ada", object())
    with pytest.raises(ValueError, match="channels of this process only"):
        await layer.presence_join("room", foreign, "ada")
    with pytest.raises(TypeError):
        await layer.presence_join(7, channel, "ada")
    with pytest.raises(TypeError):
        await layer.presence_join("room", 7, "ada")
    with pytest.raises(TypeError, match="either a channel or a user"):
        await layer.presence_leave("room")
    with pytest.raises(TypeError, match="either a channel or a user"):
        await layer.presence_leave("room", channel, user="ada")
    assert await layer.presence("room") == {}


def test_keys_and_fields() -> None:
    for key in (b"asgi:group:room", b"a{b}c", b"asgi__group__x"):
        keys = PresenceKeys.of(b"asgi", key)
        assert len(set(keys)) == 3
        assert group_key_of(b"asgi", keys.users) == key
        assert group_key_of(b"asgi", keys.head) is None
    for user in ("ada", "", "7", 7, -7, "é\n"):
        assert user_of(user_field(user)) == user


# Who is there.


@pytest.mark.parametrize("options", [{}, {"symmetric_encryption_keys": ["secret"]}], ids=["plain", "encrypted"])
async def test_who_is_present(make: Make, raw: Any, options: dict[str, Any]) -> None:
    layer, other = (make(presence=PRESENCE, **options) for _ in range(2))
    ada = await joined(layer, "ada", info={"name": "Ada Lovelace"})
    seven = await joined(layer, 7)
    text = await joined(other, "7", info=[1, "two"])
    everybody = {"ada": {"name": "Ada Lovelace"}, 7: None, "7": [1, "two"]}
    for each in (layer, other):
        assert await each.presence("room") == everybody
        assert await each.presence_count("room") == 3
        assert await each.presence("elsewhere") == {}
    again = await joined(other, "ada", info={"name": "Ada"})
    assert (await layer.presence("room"))["ada"] == {"name": "Ada"}
    await layer.presence_leave("room", ada)
    await layer.presence_leave("room", ada)
    assert await layer.presence_count("room") == 3
    await other.presence_leave("room", again)
    await layer.presence_leave("room", seven)
    assert await layer.presence("room") == {"7": [1, "two"]}
    stored = [raw.hgetall(key) for key in raw.keys(f"{layer.prefix}:presence:*")]
    assert len(stored) == 1
    assert ("two" in str(stored)) is not bool(options)
    # Only what is needed is remembered.
    assert not any(group.channels for group in layer._presences._groups.values())
    await other.presence_leave("room", text)
    await joined(layer, "ada")
    await layer.flush()
    assert await layer.presence("room") == {}


async def test_a_flush_of_pubsub_leaves_those_of_core(make_core: Make, make_pubsub: Make, raw: Any) -> None:
    core, pubsub = make_core(presence=PRESENCE), make_pubsub(presence=PRESENCE)
    assert core.prefix == pubsub.prefix
    for layer in (core, pubsub):
        await joined(layer, "ada")
    await pubsub.flush()
    assert await core.presence("room") == {"ada": None}
    assert await pubsub.presence("room") == {}


async def test_a_channel_that_is_another_user(make: Make) -> None:
    layer = make(presence=PRESENCE)
    listener = await listen(layer)
    channel = await joined(layer, "ada")
    await layer.presence_join("room", channel, "bob")
    assert await layer.presence("room") == {"bob": None}
    await listener.heard(("join", "ada"), ("leave", "ada"), ("join", "bob"))
    await listener.end()


async def test_joins_of_a_tick_are_one_call(own_server: Callable[..., Server], make: Make) -> None:
    server = own_server()
    layer = make(hosts=[server.url], presence=PRESENCE | {"events": False, "lease": 60})
    channels = [await layer.new_channel() for _ in range(300)]
    await joined(layer, "first")
    with redis.Redis.from_url(server.url) as raw:
        before = raw.info("commandstats")["cmdstat_evalsha"]["calls"]
        await asyncio.gather(*(layer.presence_join("room", channel, n) for n, channel in enumerate(channels)))
        assert raw.info("commandstats")["cmdstat_evalsha"]["calls"] == before + 1
    assert await layer.presence_count("room") == 301


async def test_synchronous_code(make: Make) -> None:
    layer = make(presence=PRESENCE)
    channel = await layer.new_channel()

    def calls() -> None:
        layer.sync.presence_join("room", channel, "ada", {"n": 1})
        assert layer.sync.presence("room") == {"ada": {"n": 1}}
        assert layer.sync.presence_count("room") == 1
        layer.sync.presence_leave("room", channel)
        assert layer.sync.presence("room") == {}
        layer.sync.presence_join("room", channel, "bob")
        layer.sync.presence_leave("room", user="bob")
        assert layer.sync.presence_count("room") == 0

    await within(asyncio.get_running_loop().run_in_executor(None, calls))


# What a group is told.


async def test_events(make: Make) -> None:
    layer, other = (make(presence=PRESENCE) for _ in range(2))
    listeners = [await listen(layer), await listen(other)]
    ada = await joined(layer, "ada", info={"n": 1})
    again = await joined(other, "ada", info={"n": 2})
    bob = await joined(other, "bob")
    await layer.presence_leave("room", ada)
    await other.presence_leave("room", bob)
    await other.presence_leave("room", again)
    for listener in listeners:
        await listener.heard(("join", "ada"), ("join", "bob"), ("leave", "bob"), ("leave", "ada"))
        first, *_, last = [message for message in listener.messages if message["type"] != "mark"]
        assert first == {"type": "presence.join", "group": "room", "user": "ada", "info": {"n": 1}}
        assert last == {"type": "presence.leave", "group": "room", "user": "ada", "info": {"n": 2}}
        await listener.end()


async def test_scripts_deliver_what_processes_would(make: Make) -> None:
    users = [
        "ada",
        "\u00e4" * 40,
        "x" * 300,
        "y" * 70_000,
        0,
        -7,
        2**53 - 1,
        2**53 + 1,
        2**62,
        2**63,
        2**64 - 1,
        -(2**63),
    ]
    infos = [None, {"n": 1}, [1.5, "x" * 100], "", b"\xc1"]
    layer, other = (make(presence=PRESENCE) for _ in range(2))
    for info in infos:
        listener = await listen(other)
        for user in users:
            listener.messages.clear()
            await layer.presence_leave("room", await joined(layer, user, info=info))
            await listener.heard(("join", user), ("leave", user))
            for kind in ("join", "leave"):
                message = {"type": f"presence.{kind}", "group": "room", "user": user, "info": info}
                assert message in listener.messages
        await listener.end()


async def test_an_event_on_one_server_is_one_call(own_server: Callable[..., Server], make_pubsub: Make) -> None:
    """No claim, and nothing to be taken over. Where the script may not publish, the process does."""
    server = own_server()
    options = {"hosts": [server.url], "presence": PRESENCE | {"lease": 30}}
    layer, other = make_pubsub(**options), make_pubsub(**options)
    listener = await listen(other)
    await joined(layer, "ada")
    with redis.Redis.from_url(server.url) as raw:

        def calls() -> int:
            return int(raw.info("commandstats")["cmdstat_evalsha"]["calls"])

        channel = await layer.new_channel()
        before = calls()
        await layer.presence_join("room", channel, "bob")
        await listener.heard(("join", "ada"), ("join", "bob"))
        assert calls() == before + 1
        assert not raw.hexists(raw.keys("*presence-head*")[0], "claim")
        layer._presences.deliver_in_script(CHANGE_AND_PUBLISH, lambda shard, key: EventInputs((), (b"\xffrefused",)))
        raw.execute_command("ACL", "SETUSER", "default", "resetchannels", "&test*")
        await joined(layer, "carol")
        await listener.heard(("join", "ada"), ("join", "bob"), ("join", "carol"))
    await listener.end()


async def test_an_event_is_one_call_if_all_members_are_on_the_shard_of_the_group(
    own_server: Callable[..., Server], make_core: Make
) -> None:
    """The first event has to find out who the members are; so has one after a process has joined the group."""
    server = own_server()
    options = {"hosts": [server.url], "presence": PRESENCE | {"lease": 30, "grace": 0}}
    layer, other, third = (make_core(**options) for _ in range(3))
    listener, second = await listen(other), await listen(other)
    await layer.group_add("room", "general")
    await joined(layer, "first")
    await listener.heard(("join", "first"))
    with redis.Redis.from_url(server.url) as raw:

        def calls() -> int:
            stats = raw.info("commandstats")
            return sum(int(stats.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("evalsha", "eval"))

        channel = await layer.new_channel()
        before = calls()
        await layer.presence_join("room", channel, "bob", {"name": "Bob"})
        await layer.presence_leave("room", channel)
        await until(lambda: len(second.events) == 3)
        assert calls() == before + 2
        assert not raw.hexists(raw.keys("*presence-head*")[0], "claim")
        assert {"type": "presence.join", "group": "room", "user": "bob", "info": {"name": "Bob"}} in second.messages
        late = await listen(third)
        await joined(layer, "carol")
        await late.heard(("join", "carol"))
    told = [("join", "first"), ("join", "bob"), ("leave", "bob"), ("join", "carol")]
    for each in (listener, second):
        await each.heard(*told)
    messages = [await layer.receive("general") for _ in range(6)]
    assert [m["user"] for m in messages if m["type"] != "mark"] == [user for _, user in told]
    for each in (listener, second, late):
        await each.end()


async def test_an_event_that_the_script_cannot_deliver_to_everybody_is_heard_once_by_all(
    own_server: Callable[..., Server], make_core: Make
) -> None:
    """One key holds something else than messages: the process delivers the event again, and nobody hears it twice."""
    server = own_server()
    layer, other = (make_core(hosts=[server.url], presence=PRESENCE) for _ in range(2))
    listener = await listen(other)
    await layer.group_add("room", "broken")
    with redis.Redis.from_url(server.url) as raw:
        raw.set(f"{layer.prefix}broken", "no sorted set")
        for user in ("ada", "bob", "carol"):
            await joined(layer, user)
        await until(lambda: len(listener.events) == 3)
        raw.delete(f"{layer.prefix}broken")
    await listener.heard(("join", "ada"), ("join", "bob"), ("join", "carol"))
    await listener.end()


async def test_an_event_leaves_older_messages_alone(own_server: Callable[..., Server], make_core: Make) -> None:
    """A key on which an event is delivered by a script keeps for as long as any."""
    server = own_server()
    layer = make_core(hosts=[server.url], presence=PRESENCE, expiry=60)
    await layer.group_add("room", "general")
    await joined(layer, "ada")
    await until(lambda: bool(layer._loops[asyncio.get_running_loop()].group_cache.find(layer._group_key("room"))))
    with redis.Redis.from_url(server.url) as raw:
        key = f"{layer.prefix}general"
        await until(lambda: raw.zcard(key) == 1)
        (first,) = raw.zrange(key, 0, -1)
        raw.zincrby(key, -40, first)
        await joined(layer, "bob")
        await until(lambda: raw.zcard(key) == 2)
        assert 55 <= raw.ttl(key) <= 60
    assert [(await layer.receive("general"))["user"] for _ in range(2)] == ["ada", "bob"]


async def test_many_events_at_once(make: Make) -> None:
    """More than a channel has room for: they are delivered no faster than they are read."""
    layer, other = (make(presence=PRESENCE | {"lease": 30}) for _ in range(2))
    listener = await listen(other)
    await joined(layer, "first")
    await listener.heard(("join", "first"))
    channels = [await layer.new_channel() for _ in range(300)]
    await within(asyncio.gather(*(layer.presence_join("room", channel, n) for n, channel in enumerate(channels))))
    await until(lambda: len(listener.events) == 301)
    assert sorted(user for _, user in listener.events[1:]) == list(range(300))
    assert layer.stats()["over_capacity"] == 0
    await listener.end()


async def test_a_member_that_may_not_be_written_to(own_server: Callable[..., Server], make_core: Make) -> None:
    """The group is not told, which is logged; the user is present nevertheless."""
    server = own_server()
    with redis.Redis.from_url(server.url) as raw:
        raw.execute_command("ACL", "SETUSER", "chat", "reset", "on", ">pw", "~asgi:*", "~asgispecific*", "+@all")
    option = {"presence": PRESENCE | {"lease": 30}, "prefix": "asgi"}
    layer = make_core(hosts=[server.url.replace("redis://", "redis://chat:pw@")], **option)
    listener = await listen(layer)
    await joined(layer, "ada")
    await listener.heard(("join", "ada"))
    other = make_core(hosts=[server.url], **option)
    await other.group_add("room", "elsewhere")
    # Whatever this group is told next is told to both.
    await other.group_send("room", {"type": "mark"})
    with pytest.raises(redis.ResponseError):
        await layer.group_send("room", {"type": "mark"})
    for user in ("bob", "carol"):
        await within(joined(layer, user))
    assert set(await layer.presence("room")) == {"ada", "bob", "carol"}
    await listener.end()


async def test_a_capacity_that_cannot_be_found_out(redis_server: Any, prefix: str) -> None:
    """It is a site's own code, and no reason for a user not to be present."""

    class Broken(RedisChannelLayer):
        def get_capacity(self, channel: str) -> int:
            if self.is_broken:
                raise LookupError(channel)
            return 100

        is_broken = False

    layer = Broken(hosts=[redis_server.url], prefix=prefix, presence=PRESENCE | {"lease": 30})
    listener = await listen(layer)
    await joined(layer, "ada")
    await listener.heard(("join", "ada"))
    Broken.is_broken = True
    await within(joined(layer, "bob"))
    assert set(await layer.presence("room")) == {"ada", "bob"}
    await listener.end()
    await layer.close_pools()


async def test_an_event_over_capacity(make_core: Make) -> None:
    """It is not delivered, like a message to a group, and counted."""
    layer = make_core(presence=PRESENCE, channel_capacity={"few": 2})
    await layer.group_add("room", "few")
    for user in ("ada", "bob", "carol", "dave"):
        await joined(layer, user)
    await until(lambda: layer.stats()["over_capacity"] == 2)
    assert [(await layer.receive("few"))["user"] for _ in range(2)] == ["ada", "bob"]


async def test_everything_expires(own_server: Callable[..., Server], make: Make) -> None:
    """A group with users a day after the last process that had a part in it; one without users after ten minutes."""
    server = own_server()
    layer = make(hosts=[server.url], presence=PRESENCE | {"lease": 60})
    with redis.Redis.from_url(server.url) as raw:

        def expiries() -> list[int]:
            return [raw.ttl(key) for key in raw.keys("*presence*")]

        first = await joined(layer, "ada")
        assert len(expiries()) == 3
        assert min(expiries()) > KEPT - 60
        second = await joined(layer, "bob")
        assert min(expiries()) > KEPT - 60
        await layer.presence_leave("room", first)
        await layer.presence_leave("room", second)
        assert await layer.presence("room") == {}
        await until(lambda: 0 < min(expiries()) <= max(expiries()) <= KEPT_EMPTY)
        await joined(layer, "ada")
        await joined(layer, "bob")
        assert len(expiries()) == 3
        assert min(expiries()) > KEPT - 60
        for key in raw.keys("*presence*"):
            raw.expire(key, 5000)
        (head,) = raw.keys("*presence-head*")
        raw.hset(head, "kept", int(raw.hget(head, "kept")) - KEEP_AGAIN)
        await joined(layer, "carol")
        assert min(expiries()) > KEPT - 60


async def test_no_events(make: Make) -> None:
    layer = make(presence=PRESENCE | {"events": False})
    listener = await listen(layer)
    await layer.presence_leave("room", await joined(layer, "ada"))
    await listener.heard()
    await listener.end()


async def test_who_comes_back_in_time_has_not_left(make: Make) -> None:
    layer, other = (make(presence={"grace": 0.3}) for _ in range(2))
    listener = await listen(layer)
    ada, bob = await joined(layer, "ada"), await joined(layer, "bob")
    await layer.presence_leave("room", ada)
    await layer.presence_leave("room", bob)
    assert set(await layer.presence("room")) == {"ada", "bob"}
    again = await joined(other, "ada")
    await until(lambda: ("leave", "bob") in listener.events)
    assert set(await other.presence("room")) == {"ada"}
    await other.presence_leave("room", again)
    await listener.heard(("join", "ada"), ("join", "bob"), ("leave", "bob"), ("leave", "ada"))
    await listener.end()


async def test_ended_by_others(make: Make) -> None:
    """By `group_discard` in any process, and all of a user at once."""
    layer, other = (make(presence=PRESENCE) for _ in range(2))
    listener = await listen(other)
    ada, bob = await joined(layer, "ada"), await joined(layer, "bob")
    await joined(other, "bob")
    await other.group_discard("room", ada)
    await until(lambda: ("leave", "ada") in listener.events)
    await layer.group_discard("room", bob)
    assert await layer.presence("room") == {"bob": None}
    await layer.presence_leave("room", user="bob")
    await layer.presence_leave("room", user="nobody")
    await listener.heard(("join", "ada"), ("join", "bob"), ("leave", "ada"), ("leave", "bob"))
    await listener.end()


async def test_events_are_in_no_history(make: Make) -> None:
    layer = make(presence=PRESENCE, history={"*": {"size": 100, "ttl": 60}})
    listener = await listen(layer)
    await joined(layer, "ada")
    await layer.group_send("room", {"type": "said"})
    await listener.heard(("join", "ada"))
    assert {message["type"] for message in (await layer.group_history("room")).messages} == {"said", "mark"}
    await listener.end()


# Other places.


async def come_and_go(make: Make, hosts: list[Any], groups: int = 6) -> None:
    """Two processes, in groups that are in several places."""
    layer, other = (make(hosts=hosts, presence=PRESENCE) for _ in range(2))
    names = [f"room{n}" for n in range(groups)]
    listeners = [await listen(other, name) for name in names]
    channel = await layer.new_channel()
    await asyncio.gather(*(layer.presence_join(name, channel, name) for name in names))
    for name, listener in zip(names, listeners, strict=True):
        assert await other.presence(name) == {name: None}
        await layer.presence_leave(name, channel)
        await listener.heard(("join", name), ("leave", name))
        await listener.end()


async def test_a_ring(make: Make, redis_server: Any, second_server: Server) -> None:
    await come_and_go(make, [redis_server.url, second_server.url])


async def test_a_cluster(make: Make, cluster: Cluster) -> None:
    await come_and_go(make, [cluster.host])
