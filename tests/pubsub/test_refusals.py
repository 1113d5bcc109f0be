"""Subscriptions that a server refuses for a while, or never answers: nobody stays deaf, nor is told otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable

import hiredis
import pytest
import redis
from redis.exceptions import NoPermissionError, TimeoutError

from bench.server import Server
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.core.helpers import nothing_to_receive, started, until, within
from tests.pubsub.helpers import both_kinds, subscribers

MakeLayer = Callable[..., RedisPubSubChannelLayer]
OwnServer = Callable[..., Server]

DOWN, UP = {"type": "down"}, {"type": "up"}


def allow(server: Server, *patterns: str) -> None:
    """Let the user subscribe to these names alone. Who is subscribed to others is disconnected."""
    with redis.Redis.from_url(server.url) as raw:
        raw.execute_command("ACL", "SETUSER", "chan", "on", ">s3cret", "~*", "resetchannels", *patterns, "+@all")


def refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if " refuses " in record.getMessage()]


@both_kinds
async def test_a_permission_that_is_missing_for_a_while(
    make_layer: MakeLayer, own_server: OwnServer, caplog: pytest.LogCaptureFixture
) -> None:
    """``on_reconnect`` comes when it is true, and everything is heard again."""
    server = own_server()
    allow(server, "&*")
    layer = make_layer(hosts=[f"redis://chan:s3cret@127.0.0.1:{server.port}"], on_disconnect="down", on_reconnect="up")
    channels = [await layer.new_channel() for _ in range(5)]
    await layer.group_add("room", channels[0])
    allow(server, "&nothing")
    for channel in channels:
        assert await within(layer.receive(channel)) == DOWN
    await until(lambda: refusals(caplog))
    assert [await layer.channel_depth(channel) for channel in channels] == [0] * 5
    with pytest.raises(NoPermissionError):
        await within(layer.new_channel())
    # A refusal is repeated many times, and said once.
    assert len(refusals(caplog)) <= 3
    allow(server, "&*")
    for channel in channels:
        assert await within(layer.receive(channel)) == UP
        await layer.send(channel, {"to": channel})
        assert await within(layer.receive(channel)) == {"to": channel}
    await layer.group_send("room", {"n": 1})
    assert await within(layer.receive(channels[0])) == {"n": 1}


@both_kinds
async def test_a_permission_that_is_missing_for_one_group(
    make_layer: MakeLayer, own_server: OwnServer, prefix: str
) -> None:
    """Only who is in it waits for that."""
    server = own_server()
    allow(server, "&*")
    layer = make_layer(hosts=[f"redis://chan:s3cret@127.0.0.1:{server.port}"], on_disconnect="down", on_reconnect="up")
    member, leaver, other = [await layer.new_channel() for _ in range(3)]
    for channel in (member, leaver):
        await layer.group_add("room", channel)
    allow(server, f"&{prefix}specific.*")
    for channel in (member, leaver, other):
        assert await within(layer.receive(channel)) == DOWN
    assert await within(layer.receive(other)) == UP
    await nothing_to_receive(layer, member)
    await layer.group_discard("room", leaver)
    assert await within(layer.receive(leaver)) == UP
    await layer.send(member, {"n": 1})
    assert await within(layer.receive(member)) == {"n": 1}
    allow(server, "&*")
    assert await within(layer.receive(member)) == UP
    await layer.group_send("room", {"n": 2})
    assert await within(layer.receive(member)) == {"n": 2}
    await nothing_to_receive(layer, other)


@both_kinds
async def test_a_busy_server_is_waited_for(
    make_layer: MakeLayer, own_server: OwnServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A script that runs too long makes the server refuse SUBSCRIBE: who subscribes meanwhile waits."""
    server = own_server("--lua-time-limit", "1")
    caplog.set_level(logging.ERROR)
    layer = make_layer(hosts=[server.url])
    channel = await layer.new_channel()
    with redis.Redis.from_url(server.url) as raw, redis.Redis.from_url(server.url) as other:
        running = asyncio.get_running_loop().run_in_executor(None, _run, raw)
        await until(lambda: _is_busy(other))
        waiting = [await started(layer.new_channel()), await started(layer.group_add("room", channel))]
        await until(lambda: len(refusals(caplog)) > 0)
        assert not any(task.done() for task in waiting)
        other.script_kill()
        await running
        new, _ = await within(asyncio.gather(*waiting))
        await until(lambda: subscribers(other, new) == 1)
    await layer.send(new, {"n": 1})
    assert await within(layer.receive(new)) == {"n": 1}
    await layer.group_send("room", {"n": 2})
    assert await within(layer.receive(channel)) == {"n": 2}


async def test_a_server_that_stays_busy(make_layer: MakeLayer, own_server: OwnServer) -> None:
    """Who waits hears it after the time that an answer may take, with the name and the host."""
    server = own_server("--lua-time-limit", "1")
    layer = make_layer(hosts=[{"address": server.url, "socket_timeout": 0.5}])
    await layer.new_channel()
    with redis.Redis.from_url(server.url) as raw, redis.Redis.from_url(server.url) as other:
        running = asyncio.get_running_loop().run_in_executor(None, _run, raw)
        await until(lambda: _is_busy(other))
        with pytest.raises(TimeoutError, match=rf"127\.0\.0\.1:{server.port}.*'general' was refused"):
            await within(layer.receive("general"))
        other.script_kill()
        await running


def _run(raw: redis.Redis) -> None:
    with contextlib.suppress(redis.exceptions.ResponseError):
        raw.eval("while true do end", 0)


def _is_busy(raw: redis.Redis) -> bool:
    try:
        raw.ping()
    except redis.exceptions.ResponseError as error:
        return str(error).startswith("BUSY") or "busy" in str(error)
    return False


class Mute:
    """A server that answers PING, and acknowledges subscriptions on the connections that it is told to."""

    def __init__(self) -> None:
        self.acknowledges = True
        self.subscribing = 0
        self.port = 0
        self._writers: list[asyncio.StreamWriter] = []

    def hang_up(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        parser, acknowledges, is_subscribed = hiredis.Reader(), self.acknowledges, False
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                parser.feed(data)
                while (command := parser.gets()) is not False:
                    if command[0] in (b"SUBSCRIBE", b"UNSUBSCRIBE"):
                        is_subscribed = True
                        self.subscribing += command[0] == b"SUBSCRIBE"
                        for name in command[1:] if acknowledges else ():
                            kind = command[0].lower()
                            writer.write(b"*3\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n:1\r\n" % (len(kind), kind, len(name), name))
                    elif command[0] == b"PING" and is_subscribed:
                        writer.write(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n")
                    else:
                        writer.write(b"+OK\r\n")
        writer.close()


@pytest.fixture
async def mute() -> AsyncIterator[Mute]:
    mute = Mute()
    server = await asyncio.start_server(mute.serve, "127.0.0.1", 0)
    mute.port = server.sockets[0].getsockname()[1]
    yield mute
    mute.hang_up()
    server.close()


async def test_a_subscription_that_is_never_acknowledged(make_layer: MakeLayer, mute: Mute) -> None:
    """Though PING is answered: the caller hears it."""
    mute.acknowledges = False
    layer = make_layer(hosts=[{"address": f"redis://127.0.0.1:{mute.port}", "socket_timeout": 0.5}])
    with pytest.raises(TimeoutError, match=rf"127\.0\.0\.1:{mute.port}.*'general' was not acknowledged for 0\.5 s"):
        await within(layer.receive("general"))


async def test_a_connection_on_which_nothing_is_acknowledged(make_layer: MakeLayer, mute: Mute) -> None:
    """It is dropped, and what is wanted is subscribed on the next."""
    layer = make_layer(
        hosts=[{"address": f"redis://127.0.0.1:{mute.port}", "socket_timeout": 0.5}],
        on_disconnect="down",
        on_reconnect="up",
    )
    channel = await layer.new_channel()
    mute.acknowledges, before = False, mute.subscribing
    mute.hang_up()
    assert await within(layer.receive(channel)) == DOWN
    await until(lambda: mute.subscribing > before)
    mute.acknowledges = True
    assert await within(layer.receive(channel)) == UP
