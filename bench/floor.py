"""What is there without a layer: the same bytes over one hand-written socket, and the waking of tasks without a server.

Each class has the part of a layer's methods that the workloads need. None checks a name, expires, fills up, reconnects
or survives an error: that is the point. They know nothing of Channels.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import hiredis
import msgpack

Message = dict[str, Any]


class Line(asyncio.Protocol):
    """One socket. Commands of one tick leave in one write; replies resolve futures, in order, or go to `pushed`."""

    def __init__(self, pushed: Callable[[list[Any]], None] | None = None) -> None:
        self._pushed = pushed
        self._reader = hiredis.Reader()
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._unsent: list[bytes] = []

    @classmethod
    async def open(cls, url: str, pushed: Callable[[list[Any]], None] | None = None) -> Line:
        where = urlsplit(url)
        loop = asyncio.get_running_loop()
        _, line = await loop.create_connection(lambda: cls(pushed), where.hostname, where.port or 6379)
        return line

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if self._pushed is not None and isinstance(reply, list) and reply[0] == b"message":
                self._pushed(reply)
                continue
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(reply)

    def call(self, *command: Any) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        if not self._unsent:
            loop.call_soon(self._flush)
        self._unsent.append(hiredis.pack_command(command))
        future = loop.create_future()
        self._waiting.append(future)
        return future

    def _flush(self) -> None:
        self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def close(self) -> None:
        self._transport.close()


class SortedSetFloor:
    """A message is one ZADD on one socket and one BZPOPMIN on another, which is there before the message is."""

    def __init__(self, url: str, prefix: str) -> None:
        self._url = url
        self._prefix = prefix
        self._channels: list[str] = []
        self._armed: dict[str, asyncio.Future[Any]] = {}
        self._lines: tuple[Line, Line] | None = None

    async def new_channel(self) -> str:
        if self._lines is None:
            self._lines = await Line.open(self._url), await Line.open(self._url)
        self._channels.append(f"{self._prefix}{uuid.uuid4().hex}")
        return self._channels[-1]

    async def send(self, channel: str, message: Message) -> None:
        assert self._lines is not None
        await self._lines[0].call("ZADD", channel, str(time.time()), msgpack.packb(message))

    async def receive(self, channel: str) -> Message:
        assert self._lines is not None
        waits = self._lines[1]
        reply = await (self._armed.pop(channel, None) or waits.call("BZPOPMIN", channel, 60))
        if len(self._channels) == 1:
            # The next wait leaves at once. With more channels it would hold up the others on this socket.
            self._armed[channel] = waits.call("BZPOPMIN", channel, 60)
        message: Message = msgpack.unpackb(reply[1])
        return message

    async def flush(self) -> None:
        if self._lines is not None and self._channels:
            await self._lines[0].call("UNLINK", *self._channels)

    async def close_pools(self) -> None:
        for line in self._lines or ():
            line.close()
        await asyncio.sleep(0)


class PubSubFloor:
    """A message is one PUBLISH on one socket and one push on another."""

    def __init__(self, url: str, prefix: str) -> None:
        self._url = url
        self._prefix = prefix
        self._boxes: dict[bytes, TaskBox] = {}
        self._lines: tuple[Line, Line] | None = None

    async def new_channel(self) -> str:
        if self._lines is None:
            self._lines = await Line.open(self._url), await Line.open(self._url, self._arrived)
        channel = f"{self._prefix}{uuid.uuid4().hex}"
        self._boxes[channel.encode()] = TaskBox()
        await self._lines[1].call("SUBSCRIBE", channel)
        return channel

    def _arrived(self, push: list[Any]) -> None:
        self._boxes[push[1]].put(msgpack.unpackb(push[2]))

    async def send(self, channel: str, message: Message) -> None:
        assert self._lines is not None
        await self._lines[0].call("PUBLISH", channel, msgpack.packb(message))

    async def receive(self, channel: str) -> Message:
        return await self._boxes[channel.encode()].get()

    async def flush(self) -> None:
        """Nothing is kept."""

    async def close_pools(self) -> None:
        for line in self._lines or ():
            line.close()
        await asyncio.sleep(0)


class TaskBox:
    """One channel's waiting messages, and the one task that may wait for them."""

    __slots__ = ("messages", "waiting")

    def __init__(self) -> None:
        self.messages: deque[Message] = deque()
        self.waiting: asyncio.Future[Message] | None = None

    def put(self, message: Message) -> None:
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(message)
            self.waiting = None
        else:
            self.messages.append(message)

    async def get(self) -> Message:
        if self.messages:
            return self.messages.popleft()
        self.waiting = asyncio.get_running_loop().create_future()
        return await self.waiting


class TaskFloor:
    """No server and no bytes: a message wakes its receiver, and a sender gives way once. Also the null layer under
    Channels' own consumers."""

    def __init__(self, capacity: int = 0, expiry: int = 0) -> None:
        self._boxes: defaultdict[str, TaskBox] = defaultdict(TaskBox)
        self._groups: defaultdict[str, dict[str, None]] = defaultdict(dict)

    async def new_channel(self, prefix: str = "specific") -> str:
        return f"{prefix}.{uuid.uuid4().hex}!{uuid.uuid4().hex}"

    async def send(self, channel: str, message: Message) -> None:
        self._boxes[channel].put(message)
        await asyncio.sleep(0)

    async def receive(self, channel: str) -> Message:
        return await self._boxes[channel].get()

    async def group_add(self, group: str, channel: str) -> None:
        self._groups[group][channel] = None

    async def group_discard(self, group: str, channel: str) -> None:
        self._groups[group].pop(channel, None)

    async def group_send(self, group: str, message: Message) -> None:
        for channel in self._groups[group]:
            self._boxes[channel].put(message)
        await asyncio.sleep(0)

    async def flush(self) -> None:
        self._boxes.clear()
        self._groups.clear()
