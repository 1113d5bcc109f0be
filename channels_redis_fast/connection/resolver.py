"""
Looking host names up in threads of their own, since those of the event loop's default executor may all be busy.

Knows redis-py's connections as far as what they connect to.
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
    Return the addresses of a host, in the order in which they are to be tried.

    Raises ``socket.gaierror`` for a name that is not known.
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
        # A loop that has closed meanwhile wants no answer.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, answer)

    try:
        # No executor: its threads would have to be replaced in a forked child, and waited for at exit.
        threading.Thread(target=look_up, name="channels_redis_fast-resolver", daemon=True).start()
    except RuntimeError:
        # This process can have no more threads.
        return [host]
    return list(dict.fromkeys(str(entry[4][0]) for entry in await found))


def resolve_apart(connection: Any) -> None:
    """Have a connection of redis-py's look its host up here when it connects, if it connects to a host."""
    connect, arguments = getattr(connection, "_connect", None), getattr(connection, "_connection_arguments", None)
    if connect is None or arguments is None or not isinstance(getattr(connection, "host", None), str):
        return

    def at(address: str) -> dict[str, Any]:
        given = dict(arguments())
        if given.get("ssl"):
            # Of the name, which the certificate is for.
            given.setdefault("server_hostname", connection.host)
        return {**given, "host": address}

    async def connect_to_one() -> None:
        *others, last = await resolve(connection.host, int(connection.port))
        for address in others:
            connection._connection_arguments = partial(at, address)
            with contextlib.suppress(OSError):
                await connect()
                return
        connection._connection_arguments = partial(at, last)
        await connect()

    connection._connect = connect_to_one


def release(connection: Any) -> None:
    """Undo ``resolve_apart``, by which a connection refers to itself."""
    for name in ("_connect", "_connection_arguments"):
        vars(connection).pop(name, None)
