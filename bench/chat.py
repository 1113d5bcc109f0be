"""A small chat site of real Channels consumers on one layer, with its users played by queues instead of browsers.

Run with the python of the venv that holds the layer. Prints one line of JSON as each phase begins, and the result
last: every message is counted where a browser would get it. Knows neither Redis nor the other contenders.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings

from bench.contender import add_layer_arguments, close_layer, run, settings_for, versions
from bench.workloads import Clock, Inbox, Result, percentile, result_of

USERS = 200
ROOM = "demo.room"
PHASES = ("connect", "broadcast", "direct", "latency")
WAIT = 10.0


class ChatConsumer(AsyncWebsocketConsumer):
    """What a site would write: join the room, pass on what the layer brings, leave the room."""

    async def connect(self) -> None:
        await self.channel_layer.group_add(ROOM, self.channel_name)
        await self.accept()
        await self.send(text_data=json.dumps({"channel": self.channel_name}))

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(ROOM, self.channel_name)

    async def chat_message(self, event: dict[str, Any]) -> None:
        await self.send(text_data=json.dumps({"number": event["number"], "text": event["text"]}))


class User:
    """One browser: the ASGI server's side of a WebSocket."""

    def __init__(self, arrived: Callable[[], None]) -> None:
        self.channel = ""
        self.numbers: list[int] = []
        self._arrived = arrived
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        scope = {"type": "websocket", "path": "/", "headers": [], "query_string": b"", "subprotocols": []}
        self._application = asyncio.ensure_future(ChatConsumer.as_asgi()(scope, self._events.get, self._get))
        self._events.put_nowait({"type": "websocket.connect"})

    async def _get(self, event: dict[str, Any]) -> None:
        if event["type"] != "websocket.send":
            return
        frame = json.loads(event["text"])
        if "channel" in frame:
            self.channel = frame["channel"]
        else:
            self.numbers.append(frame["number"])
        self._arrived()

    async def leave(self) -> None:
        self._events.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await asyncio.wait_for(self._application, WAIT)


class Site:
    """The users of one layer and the count of what was meant for them."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.users: list[User] = []
        self.meant = 0
        self._number = 0
        self._missing = 0
        self._complete = asyncio.Event()

    def _arrived(self) -> None:
        self._missing -= 1
        if self._missing == 0:
            self._complete.set()

    async def _until_arrived(self, count: int, action: Awaitable[Any]) -> bool:
        """Do it, and wait until its `count` frames are with the users; False when some never came."""
        self._missing = count
        self._complete.clear()
        await action
        try:
            await asyncio.wait_for(self._complete.wait(), WAIT)
        except asyncio.TimeoutError:
            return False
        return True

    def _message(self) -> dict[str, Any]:
        self._number += 1
        return {"type": "chat.message", "number": self._number, "text": "Hello, is it me you are looking for?"}

    async def connect(self) -> None:
        async def everyone() -> None:
            self.users = [User(self._arrived) for _ in range(USERS)]

        if not await self._until_arrived(USERS, everyone()):
            raise RuntimeError(f"only {sum(bool(user.channel) for user in self.users)} of {USERS} users could connect")

    async def broadcast(self) -> bool:
        self.meant += USERS
        return await self._until_arrived(USERS, self.layer.group_send(ROOM, self._message()))

    async def direct(self) -> bool:
        """One message to each user, all at once."""
        self.meant += USERS
        sends = (self.layer.send(user.channel, self._message()) for user in self.users)
        return await self._until_arrived(USERS, asyncio.gather(*sends))

    async def one(self) -> bool:
        """One message to one user."""
        self.meant += 1
        user = self.users[self._number % USERS]
        return await self._until_arrived(1, self.layer.send(user.channel, self._message()))

    async def leave(self) -> None:
        await asyncio.gather(*(user.leave() for user in self.users))

    @property
    def delivered(self) -> int:
        return sum(len(set(user.numbers)) for user in self.users)

    @property
    def repeated(self) -> int:
        return sum(len(user.numbers) for user in self.users) - self.delivered


async def repeat(action: Callable[[], Awaitable[bool]], seconds: float) -> list[float]:
    """How long each turn took, for as many as fit. Ends early when messages stay away: they are counted as lost."""
    complete = await action()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while complete and (not times or time.perf_counter() < end):
        started = time.perf_counter()
        complete = await action()
        times.append(time.perf_counter() - started)
    return times or [WAIT]


async def site_group(layer: Any, *, count: int) -> Result:
    """`count` broadcasts to the room, each when the last is with every user: the whole way through Channels.

    `layer` is the one that the settings name, which is what the consumers use.
    """
    site = Site(layer)
    clock = Clock()
    await site.connect()
    await site.broadcast()
    for user in site.users:
        user.numbers.clear()
    site.meant = 0
    with clock.measure():
        for _ in range(count):
            if not await site.broadcast():
                clock.seconds -= WAIT
                break
    await site.leave()
    return result_of(site.meant, [Inbox(user.numbers) for user in site.users], clock)


def say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


async def visit(seconds: float) -> dict[str, Any]:
    from channels.layers import get_channel_layer

    layer = get_channel_layer()
    site = Site(layer)
    try:
        say({"phase": "connect"})
        await site.connect()
        say({"phase": "broadcast"})
        broadcasts = await repeat(site.broadcast, seconds)
        say({"phase": "direct"})
        directs = await repeat(site.direct, seconds)
        say({"phase": "latency"})
        trips = await repeat(site.one, seconds / 2)
        await site.leave()
    finally:
        await asyncio.wait_for(close_layer(layer), 30)
    return {
        "broadcast_per_second": len(broadcasts) * USERS / sum(broadcasts),
        "direct_per_second": len(directs) * USERS / sum(directs),
        "p50_us": percentile(trips, 0.50) * 1e6,
        "p99_us": percentile(trips, 0.99) * 1e6,
        "meant": site.meant,
        "delivered": site.delivered,
        "lost": site.meant - site.delivered,
        "repeated": site.repeated,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add_layer_arguments(parser)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each phase")
    arguments = parser.parse_args()
    entry = settings_for(arguments.layer, arguments.url, f"demo{uuid.uuid4().hex[:8]}")
    settings.configure(SECRET_KEY="for the demo", CHANNEL_LAYERS={"default": entry})
    say({"result": run(visit(arguments.seconds), arguments.loop), "versions": versions()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
