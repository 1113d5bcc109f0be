"""Servers that hang up, fall silent, go on for ever, or answer something else: each call ends, with a clear error."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.exceptions import ConnectionError, ResponseError

from channels_redis_fast.connection import commands, link, reconnecting
from channels_redis_fast.connection.dialer import SHORT_LIVES
from channels_redis_fast.core import pump
from tests.core.helpers import end, started, until, within
from tests.fakeserver import FakeServer, fake_server

Make = Callable[..., Any]

#: What a host answers within here.
SHORT = {"socket_timeout": 0.5, "socket_connect_timeout": 5}


def of(fake: FakeServer, **options: Any) -> dict[str, Any]:
    return {"hosts": [{"address": fake.url, **SHORT, **options}]}


async def error_of(call: Awaitable[Any]) -> ConnectionError:
    """The error that a call ends with."""
    with pytest.raises(ConnectionError) as raised:
        await within(call)
    return raised.value


WRONG = [b":7\r\n", b"$1\r\nx\r\n", b"$0\r\n\r\n", b"$-1\r\n", b"*0\r\n", b"*1\r\n*1\r\n:1\r\n", b"*2\r\n:1\r\n:2\r\n"]


@pytest.mark.parametrize("reply", WRONG)
async def test_a_send_that_is_answered_in_another_type(make_core: Make, reply: bytes) -> None:
    """The send fails, and the socket on which replies cannot be told apart is dropped."""
    async with fake_server(lambda command: reply) as fake:
        layer = make_core(**of(fake))
        error = await error_of(layer.send("general", {"n": 1}))
        assert f"127.0.0.1:{fake.port}" in str(error)
        assert "unexpected reply" in str(error)
        await until(lambda: layer.stats()["connections_open"] == 0)


@pytest.mark.parametrize("reply", [b"*1\r\n*1\r\n:1\r\n", b"+OK\r\n", b"$1\r\nx\r\n"])
async def test_other_calls_that_are_answered_in_another_type(make_core: Make, reply: bytes) -> None:
    async with fake_server(lambda command: reply) as fake:
        layer = make_core(**of(fake))
        for call in (
            layer.group_send("room", {"n": 1}),
            layer.group_add("room", "general"),
            layer.group_discard("room", "general"),
            layer.group_count("room"),
            layer.channel_depth("general"),
            layer.flush(),
        ):
            assert "unexpected reply" in str(await error_of(call))


async def test_a_publish_that_is_answered_in_another_type(make_pubsub: Make) -> None:
    async with fake_server(lambda command: b"$1\r\nx\r\n") as fake:
        assert "unexpected reply" in str(await error_of(make_pubsub(**of(fake)).send("general", {"n": 1})))


@pytest.mark.parametrize("reply", [b":1\r\n", b"*1\r\n*1\r\n:1\r\n", b"$1\r\nx\r\n", b"*3\r\n:1\r\n:2\r\n:3\r\n"])
async def test_receivers_that_are_answered_in_another_type(
    make_core: Make, reply: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They wait on, without a storm of lines in the log, whatever the number of connections."""
    monkeypatch.setattr(reconnecting, "BACKOFF_LAST", 0.1)
    async with fake_server(lambda command: reply) as fake:
        layer = make_core(**of(fake))
        receiving = [await started(layer.receive(await layer.new_channel())), await started(layer.receive("general"))]
        await until(lambda: fake.taken >= 15)
        assert not any(task.done() for task in receiving)
        assert len(caplog.records) <= 2 * SHORT_LIVES + 2
        await end(*receiving)


async def test_a_server_that_hangs_up_at_each_call(make_core: Make, caplog: pytest.LogCaptureFixture) -> None:
    """What can be repeated has one deadline over all attempts, and these become rarer."""
    caplog.set_level(logging.INFO)
    async with fake_server(lambda command: None) as fake:
        layer = make_core(**of(fake, socket_timeout=1))
        begin = time.monotonic()
        error = await error_of(layer.group_add("room", "general"))
        assert f"127.0.0.1:{fake.port}" in str(error)
        assert time.monotonic() - begin > 0.9
        assert fake.taken < 12
        assert len(caplog.records) <= 2 * SHORT_LIVES + 2


@pytest.mark.parametrize("begin", [b"$600000000\r\n", b"+", b"-ERR "])
async def test_a_reply_without_end(make_core: Make, monkeypatch: pytest.MonkeyPatch, begin: bytes) -> None:
    """Bytes of a reply are activity up to a bound."""
    monkeypatch.setattr(link, "MAX_REPLY", 1_000_000)
    monkeypatch.setattr(link, "MAX_LINE", 1_000_000)
    async with fake_server(lambda command: begin + b"x" * 2_000_000) as fake:
        error = await error_of(make_core(**of(fake)).send("general", {"n": 1}))
        assert "more than 1000000 bytes" in str(error)


async def test_a_reply_in_drips(make_core: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that comes slower than any network is not waited for."""
    monkeypatch.setattr(link, "MIN_REPLY_RATE", 1_000_000)
    dripping: list[asyncio.Task[None]] = []

    async def drip(fake: FakeServer) -> None:
        while True:
            for writer in list(fake._writers):
                writer.write(b"x")
            await asyncio.sleep(0.02)

    def answer(command: list[bytes]) -> bytes:
        if not dripping:
            dripping.append(asyncio.ensure_future(drip(fake)))
        return b"$100000\r\n"

    async with fake_server(answer) as fake:
        error = await error_of(make_core(**of(fake)).send("general", {"n": 1}))
        assert "no whole reply" in str(error)
        await end(*dripping)


async def test_a_server_that_refuses_each_wait(
    make_core: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As a server does that is BUSY, or has MISCONF: it is asked again and again, and the log has one line."""
    monkeypatch.setattr(pump, "ERROR_PAUSE", 0.01)
    asked = 0

    def answer(command: list[bytes]) -> bytes:
        nonlocal asked
        asked += command[0] == b"BZPOPMIN"
        return b"-BUSY Redis is busy running a script.\r\n" if command[0] == b"BZPOPMIN" else b"*0\r\n"

    async with fake_server(answer) as fake:
        receiving = await started(make_core(**of(fake)).receive("jobs"))
        await until(lambda: asked >= 20)
        await end(receiving)
    assert [record.message for record in caplog.records if "refuses" in record.message] == [
        f"Redis at 127.0.0.1:{fake.port} refuses to wait for messages: BUSY Redis is busy running a script."
    ]


async def test_a_long_error_is_cut(make_core: Make) -> None:
    async with fake_server(lambda command: b"-ERR " + b"x" * 100_000 + b"\r\n") as fake:
        with pytest.raises(Exception, match="characters") as raised:
            await within(make_core(**of(fake)).send("general", {"n": 1}))
        assert len(str(raised.value)) < 1500


async def test_a_group_send_that_two_servers_refuse(make_core: Make) -> None:
    """The first error is raised, and nothing is said of the other behind it."""
    members = b"".join(b"$4\r\nc%03d\r\n" % number for number in range(40))

    def answer(command: list[bytes]) -> bytes:
        replies = {b"ZREMRANGEBYSCORE": b":0\r\n", b"ZRANGE": b"*40\r\n" + members}
        return replies.get(command[0], b"-ERR not today\r\n")

    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
    async with contextlib.AsyncExitStack() as stack:
        fakes = [await stack.enter_async_context(fake_server(answer)) for _ in range(2)]
        layer = make_core(hosts=[fake.url for fake in fakes])
        with pytest.raises(ResponseError, match="not today"):
            await within(layer.group_send("room", {"n": 1}))
        gc.collect()
        await asyncio.sleep(0)
        assert not complaints


# Connections that have ended, or gone, while nobody looked.


async def test_a_connection_that_ended_while_the_loop_was_busy(make_core: Make) -> None:
    """Nothing is written to it: the call goes out on the next one."""

    def answer(command: list[bytes]) -> bytes:
        return b":0\r\n" if command[0] != b"ZRANGE" else b"*0\r\n"

    async with fake_server(answer) as fake:
        layer = make_core(**of(fake))
        for call in (
            lambda: layer.send("general", {}),
            lambda: layer.group_send("room", {}),
            lambda: layer.send_many([("general", {})]),
        ):
            for _ in range(3):
                await within(call())
                before = fake.taken
                fake.hang_up()
                # One round of the loop to send the end, and it is not read in that.
                asyncio.get_running_loop().call_soon(time.sleep, 0.05)
                await asyncio.sleep(0)
                time.sleep(0.05)  # noqa: ASYNC251  the point of the test
                await within(call())
                assert fake.taken == before + 1


async def test_a_connection_that_has_gone_without_a_word(make_core: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a long silence a PING goes ahead; without an answer the write takes a new connection, and loses nothing."""
    monkeypatch.setattr(commands, "SILENCE", 0.05)
    monkeypatch.setattr(commands, "PROBE_TIMEOUT", 0.2)
    asked: list[bytes] = []

    def answer(command: list[bytes]) -> bytes:
        asked.append(command[0])
        return b":0\r\n"

    async with fake_server(answer) as fake:
        layer = make_core(**of(fake, socket_timeout=60, socket_connect_timeout=1))
        await within(layer.send("general", {}))
        await asyncio.sleep(0.1)
        await within(layer.send("general", {}))
        assert fake.taken == 1
        await asyncio.sleep(0.1)
        fake.silent = True
        sending = await started(layer.send("general", {}))
        await until(lambda: layer.stats()["connections_open"] == 0)
        fake.silent = False
        await within(sending)
        assert fake.taken >= 2
        assert asked == [b"EVALSHA"] * 3
