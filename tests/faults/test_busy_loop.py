"""Writes of a loop that was busy for a while: unread replies delay none, and none goes out behind an unread end."""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Callable
from typing import Any

import pytest

from bench.server import Server
from channels_redis_fast.connection import commands
from channels_redis_fast.connection.commands import CommandConnection
from channels_redis_fast.connection.link import END
from tests.core.helpers import within

Make = Callable[..., Any]

pytestmark = pytest.mark.skipif(not END, reason="this kernel does not tell replies from the end of a connection")


@pytest.fixture
def server(own_server: Callable[..., Server]) -> Server:
    return own_server()


def connection_of(make_core: Make, server: Server) -> CommandConnection:
    layer = make_core(hosts=[server.url])
    connection: CommandConnection = layer._loops[asyncio.get_running_loop()].commands[0]
    return connection


def ping(connection: CommandConnection) -> asyncio.Future[list[Any]]:
    """Submit a command, and have it written before the tick ends."""
    answer = connection.call((b"PING",))
    connection.write_now()
    return answer


def stay_busy_until(connection: CommandConnection, event: int) -> None:
    """Keep the loop from running until the kernel reports an event on a socket, and for long enough to be silence."""
    assert connection.link is not None
    poll = select.poll()
    poll.register(connection.link._transport.get_extra_info("socket").fileno(), event)
    assert poll.poll(10_000)
    time.sleep(2 * commands.QUIET)


async def test_unread_replies_delay_no_write(make_core: Make, server: Server) -> None:
    """A busy loop's writes leave at once, so that the server works while the process continues."""
    connection = connection_of(make_core, server)
    await within(ping(connection))
    first = ping(connection)
    assert connection.in_flight == 1
    stay_busy_until(connection, select.POLLIN)
    second = ping(connection)
    assert connection.in_flight == 2
    assert await within(asyncio.gather(first, second)) == [[b"PONG"], [b"PONG"]]


async def test_nothing_is_written_behind_an_end_that_was_not_read(make_core: Make, server: Server) -> None:
    """The replies before it are read, and the call goes out on the next connection."""
    connection = connection_of(make_core, server)
    await within(ping(connection))
    first = ping(connection)
    stay_busy_until(connection, select.POLLIN)
    server.kill()
    stay_busy_until(connection, END)
    second = ping(connection)
    assert connection.in_flight == 1
    assert await within(first) == [b"PONG"]
    server.restart()
    assert await within(second) == [b"PONG"]
