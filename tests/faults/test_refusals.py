"""What a server refuses: a script it has forgotten, memory it has not, a user's rights, anything while it loads.

The caller hears what is missing, everybody else goes on, and what was not carried out keeps its order.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from channels.exceptions import ChannelFull
from redis.exceptions import NoPermissionError, OutOfMemoryError, RedisError

from bench.server import Server, ServerError
from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.core.general import GeneralChannel
from tests.core.helpers import LIMIT, end, nothing_to_receive, receive_many, started, until, within
from tests.faults.load import SOON
from tests.pubsub.helpers import ready, subscribers

pytestmark = pytest.mark.usefixtures("long_answers")

Make = Callable[..., Any]
OwnServer = Callable[..., Server]
User = Callable[..., str]


@pytest.fixture(params=["specific", "general"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def channel_of(layer: Any, kind: str) -> str:
    return str(await layer.new_channel()) if kind == "specific" else "general"


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "channels_redis_fast" and record.levelno >= logging.WARNING
    ]


# Scripts that the server has forgotten.


async def test_scripts_forgotten_between_batches_keep_the_order(
    make_core: Make, own_server: OwnServer, kind: str
) -> None:
    """Several batches are on their way when the first comes back: they are repeated in the order they had."""
    server = own_server()
    layer = make_core(hosts=[server.url], capacity=10_000)
    channel = await channel_of(layer, kind)
    await layer.send("before", {})
    with redis.Redis.from_url(server.url) as raw:
        for n in range(0, 900, 300):
            raw.script_flush()
            # More than one batch takes before the tick is over, and more behind while the answers come.
            sends = [asyncio.ensure_future(layer.send(channel, {"n": n + i})) for i in range(200)]
            for i in range(200, 300):
                await asyncio.sleep(0)
                sends.append(asyncio.ensure_future(layer.send(channel, {"n": n + i})))
            await within(asyncio.gather(*sends))
            assert await receive_many(layer, channel, 300) == [{"n": n + i} for i in range(300)]


async def test_scripts_forgotten_under_load(make_core: Make, own_server: OwnServer) -> None:
    """SCRIPT FLUSH again and again: nothing is lost or doubled, nothing raises, and each sender's order stays."""
    server = own_server()
    sender, receiver = (make_core(hosts=[server.url], capacity=100_000) for _ in range(2))
    channels = [await receiver.new_channel(), "general"]
    member = await receiver.new_channel("member")
    await sender.group_add("room", member)
    # This connects the receiver: if somebody else loads the script, order may be lost, as docs/delivery.md says.
    await receiver.group_count("room")
    done = threading.Event()
    flushes = 0

    def forget() -> None:
        nonlocal flushes
        with redis.Redis.from_url(server.url) as raw:
            while not done.is_set():
                raw.script_flush()
                flushes += 1

    forgetting = asyncio.ensure_future(asyncio.to_thread(forget))
    receiving = [await started(receive_many(receiver, channel, 2000)) for channel in [*channels, member]]
    try:
        for start in range(0, 2000, 100):
            # However fast the sends are: each hundred of them has a server that forgot.
            before = flushes
            await until(lambda before=before: flushes > before)  # type: ignore[misc]
            numbers = range(start, start + 100)
            sends = [sender.send(channel, {"n": n}) for n in numbers for channel in channels]
            groups = [sender.group_send("room", {"n": n}) for n in numbers]
            await within(asyncio.gather(*sends, *groups))
    finally:
        done.set()
        await within(forgetting)
    expected = [{"n": n} for n in range(2000)]
    *got, of_group = await within(asyncio.gather(*receiving))
    assert got == [expected] * 2
    # Group sends of one tick are calls of their own; in which order they are made nobody has promised.
    assert sorted(of_group, key=lambda message: message["n"]) == expected
    assert flushes >= 20
    for channel in channels:
        await nothing_to_receive(receiver, channel)
    assert sender.stats()["reconnects"] == 0


# No memory.


class Impatient(RedisChannelLayer):
    """A layer whose waits in Redis end soon."""

    brpop_timeout = 1


def fill(raw: redis.Redis, bytes_free: int) -> None:
    """Leave a server that much memory; a server without a limit gets one."""
    raw.config_set("maxmemory-policy", "noeviction")
    raw.config_set("maxmemory", int(raw.info("memory")["used_memory"]) + bytes_free)


async def test_a_server_without_memory(make_core: Make, own_server: OwnServer, kind: str) -> None:
    """Sends and group sends raise what Redis says; who receives gets what is there, and then there is room again."""
    server = own_server()
    layer = make_core(hosts=[server.url], capacity=100_000)
    # Waking a wait takes memory too; without any, who joins is served when the wait of those before has ended.
    reader = make_core(Impatient, hosts=[server.url], capacity=100_000)
    channel = await channel_of(reader, kind)
    waiting = await reader.new_channel("waiting")
    receiving = await started(reader.receive(waiting))
    await layer.group_add("room", channel)
    text = "x" * 20_000
    with redis.Redis.from_url(server.url) as raw:
        await until(lambda: int(raw.info("clients")["blocked_clients"]) == 1)
        fill(raw, 2_000_000)
        taken, refused = 0, None
        while refused is None and taken < 1000:
            try:
                await within(layer.send(channel, {"n": taken, "text": text}))
                taken += 1
            except OutOfMemoryError as error:
                refused = error
        assert taken > 10
        assert "maxmemory" in str(refused)
        with pytest.raises(OutOfMemoryError):
            await within(layer.group_send("room", {"n": -1, "text": text}))
        results = await within(
            asyncio.gather(*(layer.send(f"c{n % 3}", {"text": text}) for n in range(9)), return_exceptions=True)
        )
        assert [type(result) for result in results] == [OutOfMemoryError] * 9
        assert len({id(result) for result in results}) == 9, "one error object raised in several tasks"
        assert not receiving.done()
        got = await receive_many(reader, channel, taken)
        assert [message["n"] for message in got] == list(range(taken))
        # Its last part leaves Redis with the receiver's next write.
        await until(lambda: int(raw.info("memory")["used_memory"]) < int(raw.info("memory")["maxmemory"]))
        raw.config_set("maxmemory", 0)
    await within(layer.send(channel, {"n": 1}))
    await within(layer.group_send("room", {"n": 2}))
    assert await receive_many(reader, channel, 2) == [{"n": 1}, {"n": 2}]
    await within(layer.send(waiting, {"n": 3}))
    assert await within(receiving) == {"n": 3}
    assert layer.stats()["reconnects"] == reader.stats()["reconnects"] == 0


async def test_what_a_cancelled_receive_gives_back_waits_for_room(
    make_core: Make, own_server: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full server takes nothing back: the message is kept here until it does, or somebody receives."""
    server = own_server()
    layer = make_core(hosts=[server.url])
    give = GeneralChannel.give

    async def taken_by_nobody() -> None:
        receiving = await started(layer.receive("general"))

        def cancel_first(self: GeneralChannel, popped: Any) -> None:
            monkeypatch.setattr(GeneralChannel, "give", give)
            receiving.cancel()
            give(self, popped)

        monkeypatch.setattr(GeneralChannel, "give", cancel_first)
        await asyncio.wait([receiving])
        assert receiving.cancelled()

    with redis.Redis.from_url(server.url) as raw:
        for room in (True, False):
            await layer.send("general", {"room": room})
            fill(raw, -100_000)
            before = layer.stats()["put_back"]
            await within(taken_by_nobody())
            # Tried, refused, and tried again.
            await until(lambda before=before: layer.stats()["put_back"] >= before + 2)  # type: ignore[misc]
            if room:
                raw.config_set("maxmemory", 0)
                await until(lambda: raw.zcard(f"{layer.prefix}general") == 1)
            assert await within(layer.receive("general")) == {"room": room}
            raw.config_set("maxmemory", 0)


async def test_no_memory_is_nothing_to_a_subscriber(make_pubsub: Make, own_server: OwnServer) -> None:
    """Pub/Sub stores nothing: what its sends do without memory is the server's to say, its receivers live on."""
    server = own_server()
    layer = make_pubsub(hosts=[server.url])
    channel = await layer.new_channel()
    receiving = await started(layer.receive(channel))
    with redis.Redis.from_url(server.url) as raw:
        fill(raw, -1)
        with contextlib.suppress(OutOfMemoryError):
            await within(layer.send(channel, {"n": 1}))
        raw.config_set("maxmemory", 0)
    await within(layer.send(channel, {"n": 2}))
    first = await within(receiving)
    assert first in ({"n": 1}, {"n": 2})
    assert first == {"n": 2} or await within(layer.receive(channel)) == {"n": 2}


# Loading.

#: Keys that a server has to load, and the microseconds that each takes until `in_no_time`: ten seconds and more, of
#: which the machine may stand still for some. It answers nothing but -LOADING meanwhile. Redis 6.2 does not take the
#: order while it loads, and has fewer.
KEYS, FEWER, DELAY = 100_000, 20_000, 100

FILLER = "for i = 1, ARGV[1] do redis.call('SET', KEYS[1] .. i, 'x') end"


def loading(server: Server) -> bool:
    """Whether a server is up, and reads its data."""
    with redis.Redis.from_url(server.url, socket_timeout=10) as raw:
        try:
            return bool(raw.info("persistence")["loading"])
        except redis.exceptions.ConnectionError:
            return False


@contextlib.contextmanager
def reloading(server: Server, way: str) -> Iterator[Callable[[], Any]]:
    """Have what makes a server load, slowly until `in_no_time`, and returns when it has loaded."""

    def restart() -> None:
        server.stall()
        server.kill()
        server.arguments += ("--key-load-delay", str(DELAY))
        server.restart()

    def reload() -> None:
        with redis.Redis.from_url(server.url, socket_timeout=30) as raw:
            raw.execute_command("DEBUG", "RELOAD")

    with redis.Redis.from_url(server.url, socket_timeout=30) as raw:
        takes_orders = int(raw.info("server")["redis_version"].partition(".")[0]) >= 7
        raw.eval(FILLER, 1, "filler", KEYS if takes_orders else FEWER)
        if way == "reload":
            # So often does it answer while it loads.
            try:
                raw.config_set("loading-process-events-interval-bytes", 4096)
            except redis.ResponseError:
                pytest.skip("needs a server that can be made to answer often while it loads: Redis 7 or newer")
            raw.config_set("key-load-delay", DELAY)
    yield restart if way == "restart" else reload


def in_no_time(server: Server) -> None:
    """Have a server that loads do the rest as fast as it can."""
    with redis.Redis.from_url(server.url, socket_timeout=30) as raw, contextlib.suppress(redis.ResponseError):
        raw.config_set("key-load-delay", 0)


def debuggable(own_server: OwnServer, *arguments: str) -> Server:
    """A server that takes DEBUG. Redis 6.2 has no option for it, and takes it always."""
    try:
        return own_server(*arguments, "--enable-debug-command", "yes")
    except ServerError:
        return own_server(*arguments)


@pytest.mark.parametrize(("way", "kind"), [("restart", "specific"), ("reload", "general")])
async def test_a_server_that_loads(
    make_core: Make, make_pubsub: Make, own_server: OwnServer, way: str, kind: str
) -> None:
    """Calls made meanwhile are carried out when it has loaded, in order; receivers go on by themselves."""
    server = debuggable(own_server, "--appendonly", "yes", "--appendfsync", "no")
    # However long it takes, nobody gives up.
    host = {"address": server.url, "socket_timeout": 4 * LIMIT}
    core, reader = (make_core(hosts=[host], capacity=1000) for _ in range(2))
    pubsub = make_pubsub(hosts=[host])
    channel, subscribed = await channel_of(reader, kind), await pubsub.new_channel()
    await ready(pubsub, subscribed)
    await core.send("stored", {"n": 0})
    await core.group_add("room", channel)
    await nothing_to_receive(reader, channel)
    receiving = await started(receive_many(reader, channel, 101))
    listening = await started(pubsub.receive(subscribed))
    with reloading(server, way) as load:
        back = asyncio.ensure_future(asyncio.to_thread(load))
        await until(lambda: back.done() or loading(server))
        sends = [await started(core.send(channel, {"n": n})) for n in range(60)]
        joining = await started(core.group_add("room", "other"))
        making = await started(pubsub.new_channel())
        await asyncio.sleep(0.05)  # a tick or two, so that there is more than one write
        sends += [await started(core.send(channel, {"n": n})) for n in range(60, 100)]
        grouped = await started(core.group_send("room", {"group": 1}))
        assert not back.done(), "the server has loaded too fast to show anything"
        assert not any(task.done() for task in [*sends, joining, grouped])
        await asyncio.to_thread(in_no_time, server)
        await within(back)
    loaded = time.monotonic()
    outcomes = await within(asyncio.gather(*sends, joining, grouped, return_exceptions=True))
    assert outcomes == [None] * 102
    got = await within(receiving)
    assert time.monotonic() - loaded < SOON
    # The group's message is a call of its own, with no place among the sends of the same moment.
    assert [message for message in got if "n" in message] == [{"n": n} for n in range(100)]
    assert {"group": 1} in got
    # What was there before is there afterwards.
    assert await within(reader.receive("stored")) == {"n": 0}
    new = await within(making)
    with redis.Redis.from_url(server.url) as raw:
        await until(lambda: subscribers(raw, subscribed) == subscribers(raw, new) == 1, SOON)
    for name in (subscribed, new):
        await within(pubsub.send(name, {"to": name}))
    assert await within(listening) == {"to": subscribed}
    assert await within(pubsub.receive(new)) == {"to": new}


# Rights.


@pytest.fixture
def user(own_server: OwnServer) -> User:
    """Make a server with a user that may do what is said; returns the user's URL."""

    def make(*rules: str, server: Server | None = None) -> str:
        server = server or own_server()
        with redis.Redis.from_url(server.url) as raw:
            raw.execute_command("ACL", "SETUSER", "chan", "on", ">s3cret", "resetkeys", "resetchannels", *rules)
        return f"redis://chan:s3cret@{urlsplit(server.url).hostname}:{server.port}"

    return make


def admin(url: str) -> redis.Redis:
    """The server of a user's URL, for somebody who may do all."""
    parts = urlsplit(url)
    return redis.Redis(host=parts.hostname or "", port=parts.port or 0)


CORE_CALLS: dict[str, Callable[[Any], Any]] = {
    "send": lambda layer: layer.send("jobs", {}),
    "send specific": lambda layer: layer.send("x!local", {}),
    "group_add": lambda layer: layer.group_add("room", "jobs"),
    "group_discard": lambda layer: layer.group_discard("room", "jobs"),
    "group_send": lambda layer: layer.group_send("room", {}),
}


@pytest.mark.parametrize("call", CORE_CALLS)
async def test_keys_that_the_user_may_not_touch(make_core: Make, user: User, call: str) -> None:
    """A user for `asgi*` and a layer with another prefix: the caller hears what is missing, not the password."""
    url = user("~asgi*", "+@all")
    layer = make_core(hosts=[url], prefix="other")
    with pytest.raises(NoPermissionError, match="key") as raised:
        await within(CORE_CALLS[call](layer))
    assert "s3cret" not in str(raised.value)
    allowed = make_core(hosts=[url], prefix="asgi")
    await within(CORE_CALLS[call](allowed))


async def test_a_forbidden_key_spoils_no_other(make_core: Make, user: User) -> None:
    """Sends of one tick leave as one call; the one that is forbidden raises, and the others arrive, in order."""
    layer = make_core(hosts=[user("~asgijobs*", "~asgi:*", "+@all")], prefix="asgi")
    for _ in range(2):
        sends = [layer.send(channel, {"n": n}) for n in range(10) for channel in ("jobs.a", "forbidden", "jobs.b")]
        results = await within(asyncio.gather(*sends, return_exceptions=True))
        assert [type(result) for result in results] == [type(None), NoPermissionError, type(None)] * 10
        for channel in ("jobs.a", "jobs.b"):
            assert await receive_many(layer, channel, 10) == [{"n": n} for n in range(10)]
            await nothing_to_receive(layer, channel)


async def test_a_receive_on_a_forbidden_key(make_core: Make, user: User) -> None:
    """It hears so; who receives on another channel goes on."""
    layer = make_core(hosts=[user("~asgijobs*", "~asgi:*", "+@all")], prefix="asgi")
    receiving = await started(receive_many(layer, "jobs.a", 3))
    await within(layer.send("jobs.a", {"n": 0}))
    with pytest.raises(NoPermissionError, match="key"):
        await within(layer.receive("forbidden"))
    for n in (1, 2):
        await within(layer.send("jobs.a", {"n": n}))
    assert await within(receiving) == [{"n": n} for n in range(3)]


async def test_channels_that_the_user_may_not_publish_on(make_pubsub: Make, user: User) -> None:
    """The caller hears it; other channels of the same moment go on."""
    url = user("&asgi*", "+@all")
    layer = make_pubsub(hosts=[url], prefix="asgi")
    channel = await layer.new_channel()
    results = await within(
        asyncio.gather(
            *(layer.send(name, {"n": n}) for n in range(10) for name in (channel, "forbidden")),
            return_exceptions=True,
        )
    )
    assert [type(result) for result in results] == [type(None), NoPermissionError] * 10
    assert all("channel" in str(result) for result in results[1::2])
    assert await receive_many(layer, channel, 10) == [{"n": n} for n in range(10)]
    other = make_pubsub(hosts=[url], prefix="other")
    for call in (other.send("c", {}), other.group_send("room", {}), other.new_channel(), other.receive("c")):
        with pytest.raises(NoPermissionError, match="channel"):
            await within(call)


# Scripts that the user may not run.

#: Ways to have no scripts, and those in which one way to run them is left.
WITHOUT = {
    "no scripting": ["-@scripting"],
    "no eval": ["-eval", "-evalsha"],
    "only script load": ["-@scripting", "+script"],
}
WITH = {"no script load": ["-script"], "no evalsha": ["-evalsha"], "only eval": ["-@scripting", "+eval"]}


def scripts_run(url: str) -> int:
    """How often scripts have been run on a server; refused calls do not count."""
    with admin(url) as raw:
        stats = raw.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("eval", "evalsha"))


@pytest.fixture(params=[*WITHOUT, "unknown command"])
def scriptless(request: pytest.FixtureRequest, own_server: OwnServer, user: User) -> str:
    """The URL of a server on which this user can run no scripts."""
    if request.param == "unknown command":
        server = own_server("--rename-command", "EVAL", "", "--rename-command", "EVALSHA", "")
        return user("~*", "&*", "+@all", server=server)
    return user("~*", "&*", "+@all", *WITHOUT[request.param])


async def test_without_scripts_all_goes_on(make_core: Make, scriptless: str, caplog: pytest.LogCaptureFixture) -> None:
    """Sends, batches, groups, capacities and order are as ever; one warning says what it costs."""
    layer, reader = (make_core(hosts=[scriptless], capacity=200) for _ in range(2))
    small = make_core(hosts=[scriptless], capacity=3)
    caplog.set_level(logging.INFO)
    # The first call is the one that finds out; more are on their way behind it.
    specific = await reader.new_channel()
    names = [specific, "general", *(f"c{n}" for n in range(100))]
    await within(asyncio.gather(*(layer.send(name, {"n": n}) for n in range(30) for name in names[:2])))
    await within(asyncio.gather(*(layer.send(name, {"to": name}) for name in names[2:])))
    for name in names[:2]:
        assert await receive_many(reader, name, 30) == [{"n": n} for n in range(30)]
    for name in names[2:]:
        assert await within(reader.receive(name)) == {"to": name}
    # Capacity: alone, in a batch, and in a batch with other keys.
    await within(asyncio.gather(*(small.send("few", {"n": n}) for n in range(2))))
    results = await within(
        asyncio.gather(
            *(small.send(name, {"n": n}) for n in range(2, 6) for name in ("few", "many")), return_exceptions=True
        )
    )
    assert [type(result) for result in results[::2]] == [type(None), *[ChannelFull] * 3]
    assert [type(result) for result in results[1::2]] == [*[type(None)] * 3, ChannelFull]
    with pytest.raises(ChannelFull):
        await within(small.send("few", {}))
    assert small.stats()["channel_full"] == 5
    # Groups, and who is over capacity.
    for name in ("few", "free", "many"):
        await within(small.group_add("room", name))
    await within(small.group_send("room", {"group": 1}))
    assert small.stats()["over_capacity"] == 2
    told = [record.getMessage() for record in caplog.records if "over capacity" in record.getMessage()]
    assert told == ["2 of 3 channels over capacity in group room"]
    assert await receive_many(reader, "few", 3) == [{"n": n} for n in range(3)]
    assert await within(reader.receive("free")) == {"group": 1}
    await nothing_to_receive(reader, "few")
    assert scripts_run(scriptless) == 0
    warnings = warnings_of(caplog)
    assert len(warnings) == 3, f"one for each layer that sends, that is for each of its hosts: {warnings}"
    assert all("EVAL" in line and f":{urlsplit(scriptless).port}" in line for line in warnings)
    assert not any("s3cret" in record.getMessage() for record in caplog.records)


async def test_without_scripts_messages_expire(make_core: Make, user: User) -> None:
    """What has expired is trimmed and makes room; each key is kept as long as its messages."""
    url = user("~*", "&*", "+@all", "-@scripting")
    layer = make_core(hosts=[url], prefix="p", capacity=1, expiry=30)
    with admin(url) as raw:
        for send in (lambda: layer.send("jobs", {"n": 1}), lambda: layer.group_send("room", {"n": 1})):
            await within(layer.group_add("room", "jobs"))
            raw.zadd("pjobs", {b"0123456789ab\x81\xa1n\x00": time.time() - 31})
            await within(send())
            assert raw.zcard("pjobs") == 1
            assert 25 <= raw.ttl("pjobs") <= 30
            [(_, score)] = raw.zrange("pjobs", 0, -1, withscores=True)
            assert abs(score - time.time()) < 5
            assert await within(layer.receive("jobs")) == {"n": 1}


async def test_without_scripts_order_holds_under_load(make_core: Make, user: User) -> None:
    """Of one sender, awaited or not, while it is received; with no receive and with several senders' capacity."""
    url = user("~*", "&*", "+@all", "-@scripting")
    layer, reader = (make_core(hosts=[url], capacity=5000) for _ in range(2))
    channels = [await reader.new_channel(), "general"]
    receiving = [await started(receive_many(reader, channel, 1000)) for channel in channels]
    for start in range(0, 1000, 200):
        sends = [layer.send(channel, {"n": n}) for n in range(start, start + 200) for channel in channels]
        await within(asyncio.gather(*sends))
    for task in receiving:
        assert await within(task) == [{"n": n} for n in range(1000)]
    # One by one, when nobody fetches them in between.
    for n in range(50):
        await within(layer.send("later", {"n": n}))
    await within(asyncio.gather(*(layer.send("later", {"n": n}) for n in range(50, 150))))
    assert await receive_many(reader, "later", 150) == [{"n": n} for n in range(150)]


async def test_without_scripts_what_is_wrong_with_one_key_leaves_the_others_alone(make_core: Make, user: User) -> None:
    """Somebody else's string under a name: its sends raise, those of the same moment to other keys arrive."""
    url = user("~*", "&*", "+@all", "-@scripting")
    layer = make_core(hosts=[url], prefix="p")
    with admin(url) as raw:
        raw.set("pbad", "in the way")
    for _ in range(2):
        results = await within(
            asyncio.gather(*(layer.send(name, {"n": 1}) for name in ("a", "bad", "b")), return_exceptions=True)
        )
        assert results[0] is results[2] is None
        assert isinstance(results[1], RedisError)
        for name in ("a", "b"):
            assert await within(layer.receive(name)) == {"n": 1}


@pytest.mark.parametrize("rules", WITH)
async def test_one_way_to_run_scripts_is_enough(
    make_core: Make, user: User, caplog: pytest.LogCaptureFixture, rules: str
) -> None:
    """EVALSHA without SCRIPT LOAD, and EVAL without either: scripts all the same, in order, and no warning."""
    url = user("~*", "&*", "+@all", *WITH[rules])
    layer = make_core(hosts=[url], capacity=1000)
    await layer.group_add("room", "jobs")
    for _ in range(2):
        await within(asyncio.gather(*(layer.send("jobs", {"n": n}) for n in range(200))))
        await within(layer.group_send("room", {"group": 1}))
        assert await receive_many(layer, "jobs", 201) == [*({"n": n} for n in range(200)), {"group": 1}]
    assert scripts_run(url) > 0
    assert warnings_of(caplog) == []


async def test_a_user_who_gets_the_right_back(make_core: Make, user: User) -> None:
    """Rights change while a process runs; whichever way is taken then, sends go through, in order."""
    url = user("~*", "&*", "+@all")
    layer = make_core(hosts=[url], capacity=1000)
    for rule in ("-@scripting", "+@scripting", "-@scripting"):
        with admin(url) as raw:
            raw.execute_command("ACL", "SETUSER", "chan", rule)
        await within(asyncio.gather(*(layer.send("jobs", {"n": n}) for n in range(200))))
        assert await receive_many(layer, "jobs", 200) == [{"n": n} for n in range(200)]


async def test_pubsub_needs_no_scripts(make_pubsub: Make, user: User, caplog: pytest.LogCaptureFixture) -> None:
    url = user("~*", "&*", "+@all", "-@scripting")
    layer = make_pubsub(hosts=[url])
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await within(layer.send(channel, {"n": 1}))
    await within(layer.group_send("room", {"n": 2}))
    assert await receive_many(layer, channel, 2) == [{"n": 1}, {"n": 2}]
    assert warnings_of(caplog) == []


async def test_a_subscriber_that_may_not_ping_is_no_subscriber_in_danger(make_pubsub: Make, user: User) -> None:
    """Refused or not, an answer to PING says that the server is there."""
    url = user("~*", "&*", "+@all", "-ping")
    layer = make_pubsub(hosts=[{"address": url, "socket_timeout": 0.2}])
    channel = await layer.new_channel()
    receiving = await started(layer.receive(channel))
    begin = time.monotonic()
    # Idle for several times the deadline: that is what is tested, not a pause for something to finish.
    await until(lambda: time.monotonic() - begin > 0.8)
    assert layer.stats()["reconnects"] == 0
    await within(layer.send(channel, {"n": 1}))
    assert await within(receiving) == {"n": 1}
    await end(await started(layer.receive(channel)))


# Refused in the moment in which the event loop ends.


@pytest.mark.parametrize("kind", ["core", "pubsub"])
async def test_an_attempt_that_is_cancelled_as_it_is_refused_ends(
    make_core: Make, make_pubsub: Make, own_server: OwnServer, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """`asyncio.run` cancels what runs and waits for it: while a server is away that must not take until it is back."""
    server = own_server()
    layer = (make_core if kind == "core" else make_pubsub)(hosts=[server.url])
    channel = await layer.new_channel()
    receiving = await started(layer.receive(channel))
    await layer.send("elsewhere", {})
    await until(lambda: layer.stats()["connections_open"] == 2)
    cancelled: list[asyncio.Task[Any]] = []

    async def refuse(*args: Any) -> None:
        # In the step in which the attempt fails, everything is cancelled: the attempt is done with both at once.
        for task in asyncio.all_tasks():
            if task not in cancelled and "_open" in repr(task.get_coro()):
                cancelled.append(task)
                task.cancel()
        raise redis.exceptions.ConnectionError("refused")

    with monkeypatch.context() as patched:
        patched.setattr(layer._dialers[0], "_greet", refuse)
        server.kill()
        await until(lambda: bool(cancelled))
        await within(asyncio.wait(cancelled[:1]), SOON)
        assert cancelled[0].cancelled()
    server.restart()
    # Pub/Sub misses what comes before it is subscribed again.
    while not receiving.done():
        await within(layer.send(channel, {"n": 1}))
        await asyncio.wait([receiving], timeout=0.1)
    assert await receiving == {"n": 1}
