"""
Resolves host names in dedicated threads, since those of the event loop's default executor may all be busy.

Knows how redis-py's connections open a socket: to which address, and that they forget a transport that they close.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from functools import partial
from typing import Any


async def resolve(host: str, port: int) -> list[str]:
    """
    Return the addresses of a host, in the order in which to try them.

    Raises ``socket.gaierror`` for an unknown name.
    """
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return [host]
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[Any]] = loop.create_future()

    def settle(answer: list[Any] | OSError | UnicodeError) -> None:
        if found.done():
            return
        if isinstance(answer, Exception):
            found.set_exception(answer)
        else:
            found.set_result(answer)

    def look_up() -> None:
        answer: Any
        try:
            answer = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            answer = error
        # A loop that has been closed meanwhile needs no answer.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, answer)

    try:
        # Not an executor: its threads would have to be replaced in a forked child and joined at exit.
        threading.Thread(target=look_up, name="channels_redis_fast-resolver", daemon=True).start()
    except RuntimeError:
        # This process cannot start another thread.
        return [host]
    return list(dict.fromkeys(str(entry[4][0]) for entry in await found))


def resolve_apart(connection: Any) -> None:
    """Make a redis-py connection resolve its host here when it connects, if it connects to a host."""
    connect, arguments = getattr(connection, "_connect", None), getattr(connection, "_connection_arguments", None)
    if connect is None or arguments is None or not isinstance(getattr(connection, "host", None), str):
        return

    def at(address: str) -> dict[str, Any]:
        given = dict(arguments())
        if given.get("ssl"):
            # The certificate is for the name, not for the address.
            given.setdefault("server_hostname", connection.host)
        return {**given, "host": address}

    async def connect_to_one() -> None:
        *others, last = await resolve(connection.host, int(connection.port))
        for address in others:
            connection._connection_arguments = partial(at, address)
            with contextlib.suppress(OSError):
                await connect_and_remember()
                return
        connection._connection_arguments = partial(at, last)
        await connect_and_remember()

    async def connect_and_remember() -> None:
        await connect()
        connection._opened = connection._writer.transport

    connection._connect = connect_to_one


def hand_over(connection: Any) -> asyncio.StreamWriter:
    """Take its socket away from a redis-py connection, which then neither closes it nor warns about it."""
    writer: asyncio.StreamWriter = connection._writer
    connection._reader = connection._writer = connection._opened = None
    return writer


def drop(connection: Any) -> None:
    """
    Abort what a redis-py connection has opened, and undo ``resolve_apart``, which makes it refer to itself.

    Closing would wait for a TLS server's ``close_notify``. One that has refused the client never sends it.
    """
    transport = getattr(connection, "_opened", None)
    if transport is not None:
        transport.abort()
    # Without waiting, since the task may be being cancelled.
    connection._close()
    for name in ("_connect", "_connection_arguments", "_opened"):
        vars(connection).pop(name, None)
