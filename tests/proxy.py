"""A link to a server on this machine that fails in the ways that links do. Knows bytes and sockets, no protocol."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator


class Proxy:
    """Passes bytes as they come; or holds them, delays them, cuts them into pieces; or hangs up; or is not there."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._transient = asyncio.Event()
        self._transient.set()
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._left: int | None = None
        self.port = 0
        #: How many bytes from the server were passed on.
        self.replied = 0
        #: What was passed on to the server last.
        self.asked = b""
        #: Seconds that each byte is under way, in either direction.
        self.delay = 0.0
        #: Whether each byte travels alone.
        self.slicing = False

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def stall(self) -> None:
        """Keep every connection, take new ones, and pass nothing."""
        self._transient.clear()

    def go_on(self) -> None:
        """Pass what was held, and all that follows."""
        self._transient.set()

    def cut(self) -> None:
        """End every connection."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def cut_after(self, count: int) -> None:
        """Pass `count` more bytes from the server, see them arrive, and end the connection that had the last one."""
        self._left = count

    def has_cut(self) -> bool:
        """Whether `cut_after` has been done."""
        return self._left is None

    async def accept(self) -> None:
        """Take connections, on the port of the first time."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """End every connection, and let nobody connect until `accept`."""
        if self._server is not None:
            self._server.close()
        self.cut()

    async def aclose(self) -> None:
        self.refuse()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers.append(back)
        await asyncio.gather(self._pass(reader, back), self._pass(there, writer, replies=True))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, replies: bool = False) -> None:
        loop = asyncio.get_running_loop()
        held: deque[tuple[float, bytes]] = deque()
        came = asyncio.Event()

        async def read() -> None:
            with contextlib.suppress(OSError):
                while data := await reader.read(65536):
                    held.append((loop.time() + self.delay, data))
                    came.set()
            held.append((loop.time() + self.delay, b""))
            came.set()

        reading = asyncio.ensure_future(read())
        try:
            while True:
                await came.wait()
                came.clear()
                while held:
                    due, data = held.popleft()
                    await asyncio.sleep(max(due - loop.time(), 0.0))
                    await self._transient.wait()
                    if not data or not await self._write(writer, data, replies):
                        return
        finally:
            reading.cancel()
            await asyncio.wait([reading])
            writer.transport.abort()

    async def _write(self, writer: asyncio.StreamWriter, data: bytes, replies: bool) -> bool:
        """Pass bytes on; return whether the connection goes on."""
        last = False
        if replies and self._left is not None:
            last = len(data) >= self._left
            data = data[: self._left]
            self._left = None if last else self._left - len(data)
        if replies:
            self.replied += len(data)
        else:
            self.asked = data
        if writer.transport.is_closing():
            # uvloop raises where asyncio drops what is written.
            data = b""
        if self.slicing:
            for position in range(len(data)):
                writer.write(data[position : position + 1])
                await asyncio.sleep(0)
        elif data:
            writer.write(data)
        if last:
            # In good order, so that the last bytes arrive: an abort may take them along.
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        return not last


@contextlib.asynccontextmanager
async def proxy_to(port: int) -> AsyncIterator[Proxy]:
    proxy = Proxy(port)
    await proxy.accept()
    try:
        yield proxy
    finally:
        await proxy.aclose()
