"""A process with users: `python -m tests.presence.churn.worker JSON`. Takes orders on stdin and answers on stdout.

It does what it is told until it succeeds, as a consumer does whose client stays: a server may be away for a while. An
observer, a channel that is in the group and nothing else, tells all events that come. So is told for how long the
process' lease had run out, whenever it renews one.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import redis.exceptions
import uvloop

from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.pubsub import RedisPubSubChannelLayer

GROUP = "room"

#: What passes when the server is back.
PASSING = (redis.exceptions.RedisError, OSError, asyncio.TimeoutError)


def say(**said: Any) -> None:
    # In one write: whoever stops this process finds all of a line or nothing.
    os.write(1, (json.dumps(said) + "\n").encode())


async def insist(call: Callable[[], Awaitable[Any]]) -> Any:
    while True:
        try:
            return await call()
        except PASSING as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            await asyncio.sleep(0.05)


class Worker:
    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.channels: dict[int, str] = {}
        self.receivers: dict[str, asyncio.Future[None]] = {}

    async def channel(self, heard: Callable[[dict[str, Any]], None]) -> str:
        channel: str = await insist(self.layer.new_channel)
        self.receivers[channel] = asyncio.ensure_future(self.receive(channel, heard))
        return channel

    async def receive(self, channel: str, heard: Callable[[dict[str, Any]], None]) -> None:
        while True:
            heard(await insist(lambda: self.layer.receive(channel)))

    async def observe(self) -> None:
        def heard(message: dict[str, Any]) -> None:
            say(event=message)

        channel = await self.channel(heard)
        await insist(lambda: self.layer.group_add(GROUP, channel))

    async def do_open(self, tab: int, user: Any) -> str:
        channel = self.channels[tab] = await self.channel(lambda message: None)
        await insist(lambda: self.layer.presence_join(GROUP, channel, user, {"of": user}))
        return channel

    async def do_close(self, tab: int) -> None:
        channel = self.channels.pop(tab)
        await insist(lambda: self.layer.presence_leave(GROUP, channel))
        self.forget(channel)

    async def do_kick(self, channel: str) -> None:
        await insist(lambda: self.layer.group_discard(GROUP, channel))

    async def do_leave(self, user: Any) -> None:
        await insist(lambda: self.layer.presence_leave(GROUP, user=user))

    async def do_presence(self) -> Any:
        told = await self.layer.presence(GROUP)
        wrong = [user for user, info in told.items() if info != {"of": user}]
        if wrong:
            raise ValueError(f"the info of somebody else: {wrong}")
        return [list(told), await self.layer.presence_count(GROUP)]

    def forget(self, channel: str) -> None:
        self.receivers.pop(channel).cancel()

    async def answer(self, number: int, do: str, arguments: dict[str, Any]) -> None:
        try:
            say(id=number, result=await getattr(self, f"do_{do}")(**arguments))
        except Exception as error:
            say(id=number, error=f"{type(error).__name__}: {error}")


async def work(kind: str, options: dict[str, Any]) -> None:
    layers: dict[str, Any] = {"core": RedisChannelLayer, "pubsub": RedisPubSubChannelLayer}
    worker = Worker(layers[kind](**options))
    worker.layer._leases.on_lapse(lambda lapse: say(lapse=lapse.overdue))
    await worker.observe()
    say(ready=True)
    orders = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    under_way = set()
    while line := await orders.readline():
        order = json.loads(line)
        task = asyncio.ensure_future(worker.answer(order.pop("id"), order.pop("do"), order))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    # Whoever gave the orders has gone.
    os._exit(0)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    if given["loop"] == "uvloop":
        uvloop.install()
    asyncio.run(work(given["kind"], given["options"]))
