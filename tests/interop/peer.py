"""One process of a mixed fleet: layers of one of the two packages, worked by orders on stdin.

    python peer.py channels_redis_fast [asyncio|uvloop]

An order is a line of JSON, `{"id": 1, "do": "call", "layer": "a", ...}`; its answer on stdout has the same id and
either `result` or `error`. Orders are carried out at the same time, as soon as they are read; each ends within its
`seconds`. When stdin ends, so does the process. Imports nothing that channels_redis' venv does not have, and knows
both packages only by their public names. `fleet.py` is the other end.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import importlib
import inspect
import json
import logging
import os
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

#: Where the layers of both packages are.
LAYERS = {"core": ("core", "RedisChannelLayer"), "pubsub": ("pubsub", "RedisPubSubChannelLayer")}

#: Seconds after which a process that was to end says why it does not.
STUCK = 5.0


# The lines. JSON has no bytes, and messages do.


def dumps(value: Any) -> str:
    return json.dumps(value, default=lambda data: {"$bytes": base64.b64encode(data).decode()})


def loads(line: str | bytes) -> Any:
    def bytes_again(value: dict[str, Any]) -> Any:
        return base64.b64decode(value["$bytes"]) if set(value) == {"$bytes"} else value

    return json.loads(line, object_hook=bytes_again)


# Serializers of a site's own, registered in both packages.


class Deflated:
    """Of no base class; does what there is to do with random prefixes by itself."""

    def __init__(self, random_prefix_length: int = 0, **others: Any) -> None:
        self.random_prefix_length = random_prefix_length

    def serialize(self, message: dict[str, Any]) -> bytes:
        return os.urandom(self.random_prefix_length) + zlib.compress(json.dumps(message).encode())

    def deserialize(self, stored: bytes) -> Any:
        return json.loads(zlib.decompress(stored[self.random_prefix_length :]))


def backwards(base: Any) -> type[Any]:
    """A subclass of a package's own base class, which brings random prefixes and encryption with it."""

    class Backwards(base):  # type: ignore[misc]
        def as_bytes(self, message: Any, *args: Any, **kwargs: Any) -> bytes:
            return json.dumps(message).encode()[::-1]

        def from_bytes(self, message: bytes, *args: Any, **kwargs: Any) -> Any:
            return json.loads(message[::-1])

    return Backwards


# The process.


class Record:
    """What came on a channel, in order; an error stands as {"$error": its type}."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self._came = asyncio.Event()

    def add(self, message: Any) -> None:
        self.messages.append(message)
        self._came.set()

    async def reach(self, count: int) -> None:
        while len(self.messages) < count:
            self._came.clear()
            await self._came.wait()


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class Peer:
    def __init__(self, package: str) -> None:
        self._package = package
        self._layers: dict[str, Any] = {}
        self._records: dict[tuple[str, str], Record] = {}
        self._listeners: dict[str, list[asyncio.Task[None]]] = {}
        self._log = Lines()
        logging.getLogger(package).addHandler(self._log)
        logging.getLogger(package).setLevel(logging.INFO)
        serializers = importlib.import_module(f"{package}.serializers")
        serializers.registry.register_serializer("deflated", Deflated)
        serializers.registry.register_serializer("backwards", backwards(serializers.BaseMessageSerializer))
        self._orders: dict[str, Callable[..., Coroutine[Any, Any, Any]]] = {
            "open": self.open,
            "close": self.close,
            "call": self.call,
            "listen": self.listen,
            "heard": self.heard,
            "collect": self.collect,
            "post": self.post,
            "logged": self.logged,
        }

    async def obey(self, order: dict[str, Any]) -> Any:
        seconds = order.pop("seconds")
        return await asyncio.wait_for(self._orders[order.pop("do")](**order), seconds)

    # Orders.

    async def open(self, layer: str, kind: str, options: dict[str, Any]) -> None:
        module, name = LAYERS[kind]
        self._layers[layer] = getattr(importlib.import_module(f"{self._package}.{module}"), name)(**options)
        self._listeners[layer] = []

    async def close(self, layer: str) -> None:
        listeners = self._listeners.pop(layer)
        for listener in listeners:
            listener.cancel()
        await asyncio.gather(*listeners, return_exceptions=True)
        closing = self._layers.pop(layer)
        for key in [key for key in self._records if key[0] == layer]:
            del self._records[key]
        # channels_redis' Pub/Sub layer closes by `flush`, which is its own business only.
        await (closing.close_pools() if hasattr(type(closing), "close_pools") else closing.flush())

    async def call(self, layer: str, name: str, arguments: list[Any]) -> Any:
        """Call any method."""
        result = getattr(self._layers[layer], name)(*arguments)
        return await result if inspect.isawaitable(result) else result

    async def listen(self, layer: str, channel: str) -> None:
        """Receive on a channel from now on until the layer is closed, and record what comes."""
        record = self._records.setdefault((layer, channel), Record())
        self._listeners[layer].append(asyncio.ensure_future(self._receive(layer, channel, record)))
        # Up to the first wait, where messages can come.
        await asyncio.sleep(0)

    async def heard(self, layer: str, channel: str, count: int, patience: float) -> list[Any]:
        """What came on a channel where there is a listener: all of it, as soon as it is `count` messages or more."""
        record = self._records[layer, channel]
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(record.reach(count), patience)
        return record.messages

    async def collect(self, layer: str, channel: str, count: int) -> list[Any]:
        """Receive just so many messages, one after the other."""
        return [await self._layers[layer].receive(channel) for _ in range(count)]

    async def post(self, layer: str, name: str, to: str, messages: list[Any], width: int) -> dict[str, int]:
        """Send all messages by `send` or `group_send`, `width` at a time; return how often which error came."""
        method = getattr(self._layers[layer], name)
        errors: Counter[str] = Counter()
        for start in range(0, len(messages), width):
            sends = (method(to, message) for message in messages[start : start + width])
            for outcome in await asyncio.gather(*sends, return_exceptions=True):
                if isinstance(outcome, BaseException):
                    errors[type(outcome).__name__] += 1
        return errors

    async def logged(self) -> list[str]:
        """What the package has logged since this was last asked."""
        lines, self._log.lines = self._log.lines, []
        return lines

    # Inner works.

    async def _receive(self, layer: str, channel: str, record: Record) -> None:
        while True:
            try:
                record.add(await self._layers[layer].receive(channel))
            except Exception as error:
                record.add({"$error": type(error).__name__})


async def serve(package: str) -> None:
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader(limit=2**24)
    pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    peer = Peer(package)
    running: set[asyncio.Task[None]] = set()

    async def answer(number: int, order: dict[str, Any]) -> None:
        reply: dict[str, Any] = {"id": number}
        try:
            reply["result"] = await peer.obey(order)
        except Exception as error:
            reply["error"] = [type(error).__name__, str(error)]
        print(dumps(reply), flush=True)

    while line := await orders.readline():
        order = loads(line)
        task = asyncio.ensure_future(answer(order.pop("id"), order))
        running.add(task)
        task.add_done_callback(running.discard)
    pipe.close()
    # What keeps the process, should it not end now.
    loop.call_later(STUCK, lambda: [task.print_stack() for task in asyncio.all_tasks()])


def main(package: str, loop: str = "asyncio") -> None:
    # Each of them cancels what is left, and waits for it.
    importlib.import_module(loop).run(serve(package))


if __name__ == "__main__":
    main(*sys.argv[1:])
