"""No server, a server that goes away, one that says nothing: what is told, what is repeated, what goes on."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from redis.exceptions import AuthenticationError, ConnectionError, TimeoutError

from bench.server import Server, free_port
from channels_redis_fast.core import RedisChannelLayer
from tests.core.helpers import (
    blocked,
    clients,
    end,
    named,
    nothing_to_receive,
    receive_many,
    started,
    until,
    waiting,
    within,
)

MakeLayer = Callable[..., RedisChannelLayer]
OwnServer = Callable[..., Server]

CALLS: dict[str, Callable[[RedisChannelLayer], Any]] = {
    "send": lambda layer: layer.send("general", {}),
    "send specific": lambda layer: layer.send("x!local", {}),
    "group_send": lambda layer: layer.group_send("room", {}),
    "group_add": lambda layer: layer.group_add("room", "general"),
    "group_discard": lambda layer: layer.group_discard("room", "general"),
    "receive": lambda layer: layer.receive("general"),
    "receive specific": lambda layer: layer.receive(f"specific.{layer.client_prefix}!local"),
    "flush": lambda layer: layer.flush(),
}


@pytest.fixture(params=["specific", "general"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def channel_of(layer: RedisChannelLayer, kind: str) -> str:
    return await layer.new_channel() if kind == "specific" else "general"


def pause(server: Server) -> None:
    """Let a server be silent: it keeps its connections, and answers nothing."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)


def go_on(server: Server) -> None:
    assert server.pid is not None
    os.kill(server.pid, signal.SIGCONT)


# Nobody there.


@pytest.mark.parametrize("call", CALLS)
async def test_no_server(make_layer: MakeLayer, call: str) -> None:
    port = free_port()
    layer = make_layer(hosts=[f"redis://user:s3cret@127.0.0.1:{port}"])
    for _ in range(2):  # the second time as the first
        with pytest.raises(ConnectionError, match=f"127.0.0.1:{port}") as raised:
            await within(CALLS[call](layer), 8)
        assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("host", [("127.0.0.1", 0), {"path": ""}], ids=["tcp", "unix"])
async def test_the_host_is_named_in_every_form(make_layer: MakeLayer, tmp_path: Any, host: Any) -> None:
    host = {"path": str(tmp_path / "none")} if isinstance(host, dict) else ("127.0.0.1", free_port())
    label = host["path"] if isinstance(host, dict) else f"127.0.0.1:{host[1]}"
    with pytest.raises(ConnectionError, match=label):
        await within(make_layer(hosts=[host]).send("general", {}), 8)


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield listener.getsockname()[1]


@pytest.mark.parametrize("call", ["send", "group_add", "receive", "receive specific"])
async def test_a_server_that_says_nothing(make_layer: MakeLayer, silent: int, call: str) -> None:
    layer = make_layer(hosts=[{"host": "127.0.0.1", "port": silent, "socket_connect_timeout": 0.1}])
    with pytest.raises((ConnectionError, TimeoutError), match=f"127.0.0.1:{silent}"):
        await within(CALLS[call](layer), 8)


async def test_all_sends_of_a_tick_hear_it(make_layer: MakeLayer) -> None:
    layer = make_layer(hosts=[("127.0.0.1", free_port())])
    results = await within(asyncio.gather(*(layer.send(f"c{n % 3}", {}) for n in range(50)), return_exceptions=True))
    assert [type(result) for result in results] == [ConnectionError] * 50


async def test_a_server_that_comes_later(make_layer: MakeLayer, own_server: OwnServer, kind: str) -> None:
    """An error is no verdict: the next call tries again."""
    server = own_server()
    server.kill()
    layer = make_layer(hosts=[server.url])
    channel = await channel_of(layer, kind)
    for call in (layer.send(channel, {}), layer.receive(channel)):
        with pytest.raises(ConnectionError):
            await within(call, 8)
    server.restart()
    receiving = await started(layer.receive(channel))
    await within(layer.send(channel, {"n": 1}))
    assert await within(receiving) == {"n": 1}


async def test_one_dead_shard_of_two(
    make_layer: MakeLayer, redis_server: Any, own_server: OwnServer, kind: str
) -> None:
    """Receivers go on with the other; what belongs to the dead one says so."""
    dead = own_server()
    dead.kill()
    layer = make_layer(hosts=[redis_server.url, dead.url])
    live = make_layer()
    channel = await channel_of(layer, kind)
    receiving = await started(layer.receive(channel))
    await within(live.send(channel, {"n": 1}))
    assert await within(receiving) == {"n": 1}
    results = await within(asyncio.gather(*(layer.send("spread", {}) for _ in range(4)), return_exceptions=True))
    assert [type(result) for result in results if result] == [ConnectionError] * 2
    assert all(str(dead.port) in str(result) for result in results if result)
    # Once the other is up, it is waited on too.
    receiving = await started(layer.receive(channel))
    dead.restart()
    await within(make_layer(hosts=[dead.url]).send(channel, {"n": 2}))
    assert await within(receiving) == {"n": 2}


# Passwords.


@pytest.mark.parametrize("form", ["url", "dict"])
async def test_a_wrong_password_is_not_repeated(
    make_layer: MakeLayer, own_server: OwnServer, caplog: pytest.LogCaptureFixture, form: str
) -> None:
    server = own_server("--requirepass", "right")
    wrong: Any = f"redis://:s3cret@127.0.0.1:{server.port}"
    if form == "dict":
        wrong = {"host": "127.0.0.1", "port": server.port, "password": "s3cret"}
    for call in CALLS.values():
        with pytest.raises(AuthenticationError, match=f"127.0.0.1:{server.port}") as raised:
            await within(call(make_layer(hosts=[wrong])), 8)
        assert "s3cret" not in str(raised.value)
    assert "s3cret" not in caplog.text
    layer = make_layer(hosts=[f"redis://:right@127.0.0.1:{server.port}"])
    await within(layer.send("general", {"n": 1}))
    assert await within(layer.receive("general")) == {"n": 1}


# Opening.


@pytest.mark.single_server("a server's pool is made when it is first needed")
async def test_a_connection_is_opened_without_a_look_at_the_disk(
    make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """redis-py 8 finds out its own version for each connection, unless it is told: most of what opening one takes."""
    layer = make_layer()
    asked: list[str] = []

    def version(name: str) -> str:
        asked.append(name)
        return "0"

    monkeypatch.setattr(importlib.metadata, "version", version)
    await within(layer.send("general", {}))
    assert await within(layer.receive("general")) == {}
    assert layer.stats()["connections_open"] == 2
    assert asked == []


# Gone and back.


async def test_a_receive_survives_a_restart(
    own_server: OwnServer, make_layer: MakeLayer, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    server = own_server()
    layer = make_layer(hosts=[server.url])
    channel = await channel_of(layer, kind)
    await within(layer.send(channel, {"n": 0}))
    assert await within(layer.receive(channel)) == {"n": 0}
    receiving = await started(layer.receive(channel))
    for n in range(2):
        with redis.Redis.from_url(server.url) as raw:
            await until(lambda raw=raw: any("b" in client["flags"] for client in raw.client_list()))  # type: ignore[misc]
        server.kill()
        await until(lambda: f"127.0.0.1:{server.port} lost" in caplog.text)
        server.restart()
        await within(make_layer(hosts=[server.url]).send(channel, {"n": n}))
        assert await within(receiving) == {"n": n}
        receiving = await started(layer.receive(channel))
        caplog.clear()
    await end(receiving)
    assert layer.stats()["reconnects"] >= 2


async def test_commands_go_out_after_a_restart(
    make_layer: MakeLayer, own_server: OwnServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The first call after the loss was noticed included."""
    server = own_server()
    layer = make_layer(hosts=[server.url])
    await within(layer.send("general", {"n": 0}))
    for n in range(1, 4):
        caplog.clear()
        server.restart()
        await until(lambda: f"127.0.0.1:{server.port} lost" in caplog.text)
        await within(layer.send("general", {"n": n}))
        assert await within(layer.receive("general")) == {"n": n}
        await within(layer.group_add("room", "general"))
        await within(layer.group_send("room", {"group": n}))
        assert await within(layer.receive("general")) == {"group": n}


async def test_what_is_sent_during_an_outage_goes_out_afterwards(
    make_layer: MakeLayer, own_server: OwnServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that was there is waited for, as long as an answer may take."""
    server = own_server()
    layer = make_layer(hosts=[server.url])
    await within(layer.send("before", {}))
    server.kill()
    await until(lambda: f"127.0.0.1:{server.port} lost" in caplog.text)
    sends = [asyncio.create_task(layer.send("general", {"n": n})) for n in range(20)]
    joining = await started(layer.group_add("room", "general"))
    assert not any(task.done() for task in [*sends, joining])
    server.restart()
    await within(asyncio.gather(*sends, joining))
    await within(layer.group_send("room", {"n": 20}))
    assert await receive_many(layer, "general", 21) == [{"n": n} for n in range(21)]


@pytest.mark.parametrize("is_noticed", [True, False], ids=["noticed", "not yet noticed"])
async def test_a_first_receive_during_an_outage_waits_it_out(
    make_layer: MakeLayer, own_server: OwnServer, kind: str, is_noticed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The host was reached, though not by the connection that receives."""
    server = own_server()
    layer = make_layer(hosts=[server.url])
    channel = await channel_of(layer, kind)
    await within(layer.send("before", {}))
    server.kill()
    if is_noticed:
        await until(lambda: f"127.0.0.1:{server.port} lost" in caplog.text)
    receiving = await started(layer.receive(channel))
    (pump,) = layer._loops[asyncio.get_running_loop()].receiver.pumps
    # Until it has been refused.
    await until(lambda: pump._lost_at is not None or receiving.done())
    server.restart()
    await within(layer.send(channel, {"n": 1}))
    assert await within(receiving) == {"n": 1}


async def test_a_server_without_room_for_the_connection_that_receives(
    make_layer: MakeLayer, own_server: OwnServer, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = own_server()
    layer = make_layer(hosts=[server.url])
    channel = await channel_of(layer, kind)
    await within(layer.send(channel, {"n": 1}))
    with redis.Redis.from_url(server.url) as raw:
        raw.config_set("maxclients", len(raw.client_list()))
        receiving = await started(layer.receive(channel))
        await until(lambda: "refuses a connection that receives" in caplog.text or receiving.done())
        raw.config_set("maxclients", 100)
        assert await within(receiving) == {"n": 1}


async def test_an_outage_that_lasts_is_told(make_layer: MakeLayer, own_server: OwnServer) -> None:
    server = own_server()
    layer = make_layer(hosts=[{"address": server.url, "socket_timeout": 0.3}])
    await within(layer.send("general", {}))
    server.kill()
    with pytest.raises(ConnectionError, match=f"127.0.0.1:{server.port}"):
        await within(layer.send("general", {}), 10)


async def test_a_send_without_an_answer_raises_since_it_may_have_happened(
    make_layer: MakeLayer, own_server: OwnServer
) -> None:
    """Written, and the server died: repeating it might deliver it twice. What may be repeated is."""
    server = own_server()
    layer = make_layer(hosts=[server.url])
    await within(layer.send("general", {}))
    await layer.group_add("room", "general")
    pause(server)
    sends = [await started(layer.send("general", {"n": n})) for n in range(3)]
    joining = await started(layer.group_add("room", "other"))
    await asyncio.sleep(0)  # the end of the tick, when it is written
    server.kill()
    results = await within(asyncio.gather(*sends, return_exceptions=True))
    assert [type(result) for result in results] == [ConnectionError] * 3
    assert len({id(result) for result in results}) == 3, "one error object raised in three tasks"
    assert all(f"127.0.0.1:{server.port}" in str(result) for result in results)
    assert not joining.done()
    server.restart()
    await within(joining)
    with redis.Redis.from_url(server.url) as raw:
        prefix = layer.prefix
        assert raw.zrange(f"{prefix}:group:room", 0, -1) == [b"other"]
        assert not raw.exists(f"{prefix}general")


async def test_a_server_that_falls_silent_counts_as_gone(make_layer: MakeLayer, own_server: OwnServer) -> None:
    server = own_server()
    layer = make_layer(hosts=[{"address": server.url, "socket_timeout": 0.3}])
    await within(layer.send("general", {"n": 1}))
    pause(server)
    try:
        with pytest.raises(ConnectionError, match=f"127.0.0.1:{server.port}"):
            await within(layer.send("general", {"n": 2}), 8)
    finally:
        go_on(server)
    # The server had both in its buffer, and does what it has read.
    assert await receive_many(layer, "general", 2) == [{"n": 1}, {"n": 2}]
    await within(layer.send("general", {"n": 3}))
    assert await within(layer.receive("general")) == {"n": 3}


async def test_an_idle_receive_is_not_taken_for_dead(
    make_layer: MakeLayer, raw: redis.Redis, redis_server: Any, prefix: str, kind: str
) -> None:
    """However short an answer may take: a wait may be longer."""

    class Short(RedisChannelLayer):
        brpop_timeout = 0.5

    layer = make_layer(Short, hosts=[{**named(redis_server.url, prefix), "socket_timeout": 0.2}])
    channel = await channel_of(layer, kind)
    receiving = await started(layer.receive(channel))
    await until(lambda: blocked(raw, prefix) == 1)
    [its] = [client["id"] for client in waiting(raw, prefix)]
    begin = time.monotonic()
    # Over the end of one wait in Redis and into the next.
    await until(lambda: time.monotonic() - begin > 0.7)
    assert its in [client["id"] for client in clients(raw, prefix)]
    await within(make_layer().send(channel, {"n": 1}))
    assert await within(receiving) == {"n": 1}
    assert layer.stats()["reconnects"] == 0


# Connections killed.


@pytest.mark.usefixtures("soon_again")
async def test_killed_connections_while_receiving(
    make_layer: MakeLayer, raw: redis.Redis, redis_server: Any, prefix: str, kind: str
) -> None:
    """Between messages: none is lost, none comes twice, the order stays."""
    layer = make_layer(hosts=[named(redis_server.url, prefix)])
    sender = make_layer()
    channel = await channel_of(layer, kind)
    for n in range(0, 30, 3):
        receiving = await started(receive_many(layer, channel, 3))
        await until(lambda: blocked(raw, prefix) == 1)
        for client in clients(raw, prefix):
            raw.client_kill_filter(_id=client["id"])
        for i in range(n, n + 3):
            await within(sender.send(channel, {"n": i}))
        assert await receiving == [{"n": i} for i in range(n, n + 3)]
    await nothing_to_receive(layer, channel)


@pytest.mark.usefixtures("soon_again")
async def test_killed_connections_under_load_deliver_nothing_twice(
    make_layer: MakeLayer, raw: redis.Redis, redis_server: Any, prefix: str
) -> None:
    """Each death may cost one message, the one on its way; those left come once and in order."""
    layer = make_layer(hosts=[named(redis_server.url, prefix)], capacity=10_000)
    sender = make_layer(capacity=10_000)
    channel = await layer.new_channel()
    got: list[int] = []

    async def receive() -> None:
        while not got or got[-1] < 2000:
            got.append((await layer.receive(channel))["n"])

    receiving = await started(receive())
    kills = 0
    for start in range(0, 2000, 100):
        await until(lambda: bool(clients(raw, prefix)))
        await asyncio.gather(*(sender.send(channel, {"n": n}) for n in range(start, start + 100)))
        for client in clients(raw, prefix):
            kills += raw.client_kill_filter(_id=client["id"])
    assert kills >= 20
    # The last message may be the one that dies; it is repeated until one arrives.
    while not receiving.done():
        await within(sender.send(channel, {"n": 2000}))
        await asyncio.wait([receiving], timeout=0.5)
    await receiving
    assert got == sorted(set(got)), "twice, or out of order"
    assert len(got) >= 2000 - kills


@pytest.mark.usefixtures("soon_again")
async def test_sends_during_kills_end_one_way_or_the_other(
    make_layer: MakeLayer, raw: redis.Redis, redis_server: Any, prefix: str
) -> None:
    """Every send returns or raises, and what returned is there."""
    layer = make_layer(hosts=[named(redis_server.url, prefix)], capacity=10_000)
    arrived: set[int] = set()
    for start in range(0, 1000, 50):
        sends = [asyncio.create_task(layer.send("general", {"n": n})) for n in range(start, start + 50)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for client in clients(raw, prefix):
            raw.client_kill_filter(_id=client["id"])
        results = await within(asyncio.gather(*sends, return_exceptions=True))
        assert {type(result) for result in results} <= {type(None), ConnectionError}
        arrived |= {start + n for n, result in enumerate(results) if result is None}
    assert arrived
    received = set()
    peer = make_layer()
    for _ in range(raw.zcard(f"{prefix}general")):
        received.add((await within(peer.receive("general")))["n"])
    assert arrived <= received


async def test_a_forgotten_script_is_sent_again(make_layer: MakeLayer, own_server: OwnServer) -> None:
    server = own_server()
    layer = make_layer(hosts=[server.url], capacity=1000)
    await layer.group_add("room", "general")
    with redis.Redis.from_url(server.url) as raw:
        for n in range(0, 40, 20):
            raw.script_flush()
            await within(asyncio.gather(*(layer.send("general", {"n": i}) for i in range(n, n + 20))))
            raw.script_flush()
            await within(layer.group_send("room", {"group": n}))
            expected: list[Any] = [{"n": i} for i in range(n, n + 20)]
            assert await receive_many(layer, "general", 21) == [*expected, {"group": n}]


async def test_two_connections_whatever_the_load(
    make_layer: MakeLayer, raw: redis.Redis, redis_server: Any, prefix: str
) -> None:
    layer = make_layer(hosts=[named(redis_server.url, prefix)], capacity=10_000)
    channels = [await layer.new_channel() for _ in range(300)] + [f"general{n}" for n in range(50)]
    receiving = [await started(layer.receive(channel)) for channel in channels]
    await within(asyncio.gather(*(layer.send(channel, {"to": channel}) for channel in channels)))
    assert await within(asyncio.gather(*receiving)) == [{"to": channel} for channel in channels]
    # To each server, where there are several.
    by_server = Counter(client.get("node") for client in clients(raw, prefix))
    assert set(by_server.values()) == {2}


@pytest.mark.single_server("it writes on the one connection for commands")
@pytest.mark.parametrize("repeatable", [False, True])
async def test_what_cannot_be_written_fails(make_layer: MakeLayer, repeatable: bool) -> None:
    """Nobody waits for ever, and what comes later goes out."""
    connection = make_layer()._loops[asyncio.get_running_loop()].commands[0]
    await within(connection.call((b"PING",)))
    with pytest.raises(TypeError):
        await within(connection.call((b"ECHO", object()), repeatable=repeatable))
    assert await within(connection.call((b"ECHO", b"1"))) == [b"1"]
