"""Commands of one write that a server carries out in part: each is done once, or its caller hears that it was not."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from redis.exceptions import BusyLoadingError

from channels_redis_fast.connection.commands import CommandConnection
from channels_redis_fast.connection.dialer import Dialer
from channels_redis_fast.stats import Stats
from tests.core.helpers import within
from tests.fakeserver import FakeServer, fake_server

Make = Callable[..., Any]

LOADING = b"-LOADING Redis is loading the dataset in memory\r\n"
READONLY = b"-READONLY You can't write against a read only replica.\r\n"
MASTERDOWN = b"-MASTERDOWN Link with MASTER is down\r\n"
TRYAGAIN = b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n"
DONE = b":1\r\n"


class Refusing:
    """Answers a kind of command as planned, then carries out all that come; counts what it carried out."""

    def __init__(self, *answers: bytes, command: bytes = b"PUBLISH") -> None:
        self._answers = list(answers)
        self._command = command
        self.done: Counter[bytes] = Counter()
        self.order: list[bytes] = []
        self.server: FakeServer | None = None

    def __call__(self, command: list[bytes]) -> bytes:
        if command[0] == b"EVALSHA":
            return b"-ERR unknown command 'evalsha'\r\n"
        if command[0] == b"EVAL":
            return b"-ERR unknown command 'eval'\r\n"
        if command[0] == b"ROLE":
            return b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"
        if command[0] == b"ZREVRANGE":
            return b"*0\r\n"
        if command[0] != self._command:
            return DONE if command[0] in (b"EXPIRE", b"ZADD") else b":0\r\n"
        answer = self._answers.pop(0) if self._answers else DONE
        if answer == DONE:
            self.done[command[-1]] += 1
            self.order.append(command[-1])
        return answer

    def slots(self, command: list[bytes]) -> bytes:
        """As a cluster of one server."""
        if command[0] == b"CLUSTER" and command[1] == b"SLOTS":
            assert self.server is not None
            return b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n" % self.server.port
        return self(command)


PLANS = [
    [LOADING, DONE, DONE],
    [DONE, LOADING, DONE],
    [LOADING, DONE, LOADING],
    [READONLY, DONE, MASTERDOWN, LOADING, LOADING],
    [LOADING, LOADING, DONE, LOADING, DONE, LOADING],
]


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("sharded", [False, True], ids=["plain", "sharded"])
async def test_messages_published_in_one_write(make_pubsub: Make, plan: list[bytes], sharded: bool) -> None:
    server = Refusing(*plan, command=b"SPUBLISH" if sharded else b"PUBLISH")
    async with fake_server(server) as fake:
        layer = make_pubsub(hosts=[fake.url], serializer_format="json", sharded=sharded)
        await within(asyncio.gather(*(layer.send("general", {"n": n}) for n in range(3))))
    assert server.done == {b'{"n": %d}' % n: 1 for n in range(3)}


@pytest.mark.parametrize("plan", [*PLANS, [TRYAGAIN, LOADING, DONE], [LOADING, TRYAGAIN, DONE, TRYAGAIN, LOADING]])
async def test_messages_published_in_one_write_to_a_cluster(
    make_pubsub: Make, plan: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Refusing(*plan, command=b"SPUBLISH")
    handshake = {b"PING": b"+PONG\r\n", b"CLIENT": b"+OK\r\n", b"SCRIPT": b"$3\r\nabc\r\n"}
    monkeypatch.setattr("tests.fakeserver.HANDSHAKE", handshake)
    async with fake_server(server.slots) as fake:
        server.server = fake
        layer = make_pubsub(hosts=[{"cluster": [fake.url]}], serializer_format="json")
        sends = [layer.send(f"general{n % 2}", {"n": n}) for n in range(4)]
        await within(asyncio.gather(*sends))
        # Nothing is thought to be under way any more: the next ones are not held back.
        await within(layer.send("general0", {"n": 4}))
    assert server.done == {b'{"n": %d}' % n: 1 for n in range(5)}


async def test_what_is_not_done_for_too_long_fails_alone(make_pubsub: Make) -> None:
    """The others of its write were done."""

    def answer(command: list[bytes]) -> bytes:
        return LOADING if command[-1] == b'{"n": 1}' else DONE

    async with fake_server(answer) as fake:
        layer = make_pubsub(hosts=[{"address": fake.url, "socket_timeout": 0.3}], serializer_format="json")
        sends = [layer.send("general", {"n": n}) for n in range(3)]
        outcomes = await within(asyncio.gather(*sends, return_exceptions=True))
    assert outcomes[0] is None
    assert isinstance(outcomes[1], BusyLoadingError)
    assert outcomes[2] is None


@pytest.mark.parametrize("plan", PLANS)
async def test_commands_of_one_request(plan: list[bytes]) -> None:
    """One that may not be repeated: what another process has taken meanwhile would come again."""
    server = Refusing(*plan, command=b"ZADD")
    async with fake_server(server) as fake:
        dialer = Dialer({"host": "127.0.0.1", "port": fake.port}, "hosts[0]", "core")
        connection = CommandConnection(dialer, asyncio.get_running_loop(), Stats())
        try:
            replies = await within(connection.call(*((b"ZADD", b"key", 1, b"%d" % n) for n in range(3))))
        finally:
            await connection.aclose()
    assert replies == [1, 1, 1]
    assert server.done == {b"%d" % n: 1 for n in range(3)}


async def test_messages_sent_without_scripts(make_core: Make) -> None:
    """One tick's messages on two keys are two ZADD of one request."""
    server = Refusing(LOADING, DONE, command=b"ZADD")
    async with fake_server(server) as fake:
        layer = make_core(hosts=[fake.url])
        await within(asyncio.gather(layer.send("one", {"n": 1}), layer.send("two", {"n": 2})))
    assert len(server.done) == 2
    assert set(server.done.values()) == {1}
