"""A server on this machine that speaks RESP and says whatever a test wants it to. Knows no layer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import hiredis

#: What an answer returns to have the connection ended in its place.
HANG_UP = None

#: Commands of redis-py's handshake, and their answers.
HANDSHAKE = {b"PING": b"+PONG\r\n", b"CLIENT": b"+OK\r\n", b"SELECT": b"+OK\r\n", b"SCRIPT": b"$3\r\nabc\r\n"}

#: What layers ask beside, of which no test wants to know: who the server is, and what time it has.
ASIDE = {b"INFO": b"-ERR unknown command 'INFO'\r\n", b"TIME": b"-ERR unknown command 'TIME'\r\n"}


class FakeServer:
    """Answers the handshake as Redis does and every other command with ``answer(command)``."""

    def __init__(self, answer: Callable[[list[bytes]], bytes | None]) -> None:
        self._answer = answer
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        #: Connections that were taken.
        self.taken = 0
        #: Whether to read and say nothing.
        self.silent = False

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken += 1
        self._writers.add(writer)
        parser = hiredis.Reader()
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                parser.feed(data)
                while (command := parser.gets()) is not False:
                    answer = b"" if self.silent else HANDSHAKE.get(command[0]) or ASIDE.get(command[0])
                    if answer is None:
                        answer = self._answer(command)
                    if answer is HANG_UP:
                        writer.close()
                        return
                    writer.write(answer)
        writer.close()

    def hang_up(self) -> None:
        """End every connection in good order."""
        for writer in self._writers:
            writer.close()
        self._writers.clear()


@contextlib.asynccontextmanager
async def fake_server(answer: Callable[[list[bytes]], bytes | None]) -> AsyncIterator[FakeServer]:
    fake = FakeServer(answer)
    tasks: set[asyncio.Task[Any]] = set()

    def taken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(fake.serve(reader, writer))
        tasks.add(task)

    server = await asyncio.start_server(taken, "127.0.0.1", 0)
    fake.port = server.sockets[0].getsockname()[1]
    try:
        yield fake
    finally:
        server.close()
        fake.hang_up()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
