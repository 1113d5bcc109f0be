"""`python -m bench.presence`: what a join costs the server, beside a script with the same commands, and the client.

CPU time and not the clock, in rounds that take turns, and their medians: so it says something on a busy machine too.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import redis
import redis.asyncio

from bench.server import start_server
from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.pubsub import RedisPubSubChannelLayer

#: Joins of one round, each in a group of its own for the server's part, and in one group for the client's.
JOINS, ROUNDS = 1_000, 5

#: What the script of a join does in a group that has somebody in it; with an event, published or delivered to one key.
#: The script numbers events, so it also has to make the message.
RAW = """
local call = redis.call
call('HMGET', KEYS[2], 'epoch', 'last', 'told', 'claim', 'of', 'server', 'doubt', 'kept')
local now = call('TIME')
call('HMGET', KEYS[3], 'c' .. ARGV[1], 'n' .. ARGV[2], 'w' .. ARGV[2], 'x' .. ARGV[1])
call('HSET', KEYS[3], 'c' .. ARGV[1], ARGV[3], 'n' .. ARGV[2], 1)
call('HSET', KEYS[1], ARGV[2], '')
local event
if ARGV[4] ~= '' then
  local id, channels = ARGV[3] .. '-' .. 1, {ARGV[1]}
  event = cmsgpack.pack({type = 'presence.join', group = ARGV[5], user = ARGV[2], id = id, channels = channels})
end
if ARGV[4] == 'delivered' then
  call('ZRANGEBYSCORE', KEYS[4], '(' .. now[1] - 86400, '+inf', 'LIMIT', 0, 1001)
  call('ZCARD', KEYS[5])
  call('ZCOUNT', KEYS[5], '(' .. now[1] - 60, '(' .. now[1] + 1)
  call('ZADD', KEYS[5], now[1] .. '.' .. now[2], event)
  call('EXPIRE', KEYS[5], 60)
elseif ARGV[4] ~= '' then
  call('PUBLISH', KEYS[4], event)
end
if ARGV[4] ~= '' then call('HSET', KEYS[2], 'last', 1, 'told', 1) end
return 1
"""


def server_cpu(raw: redis.Redis) -> float:
    info: Any = raw.info("cpu")
    return float(info["used_cpu_user"] + info["used_cpu_sys"])


async def of_server(raw: redis.Redis, run: Callable[[], Awaitable[Any]]) -> float:
    """Microseconds of the server for each join."""
    before = server_cpu(raw)
    await run()
    return 1e6 * (server_cpu(raw) - before) / JOINS


async def delivered(layer: Any) -> None:
    """Wait until all events are delivered."""
    while any(here.queues for here in layer._presences._loops.values()):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def measure(kind: type[Any], url: str, events: bool) -> dict[str, float]:
    is_core = kind is RedisChannelLayer
    # The channels of the core layer share a key, which gets all events.
    options = {"capacity": 100 * JOINS} if is_core else {}
    layer = kind(hosts=[url], presence={"lease": 60, "events": events}, **options)
    channels = [await layer.new_channel() for _ in range(JOINS)]
    raw, client = redis.Redis.from_url(url), redis.asyncio.Redis.from_url(url)
    sha = await client.script_load(RAW)
    figures: dict[str, list[float]] = {"join": [], "raw": [], "client": []}
    how = ("delivered" if is_core else "published") if events else ""
    for turn in range(ROUNDS):
        names = [f"turn{turn}.{number}" for number in range(JOINS)]
        raw_names = [f"raw{turn}.{number}" for number in range(JOINS)]

        async def fill(names: list[str] = [*names, *raw_names]) -> None:  # noqa: B006
            # As a consumer does, and the layer knows the group's members since it has sent something to them.
            await asyncio.gather(*(layer.group_add(name, channels[0]) for name in names))
            await asyncio.gather(*(layer.group_send(name, {"type": "hello"}) for name in names))
            await asyncio.gather(*(layer.presence_join(name, channels[0], "first") for name in names))
            await delivered(layer)

        async def join(names: list[str] = names) -> None:
            await asyncio.gather(
                *(layer.presence_join(name, channel, "ada") for name, channel in zip(names, channels, strict=True))
            )

        async def call(names: list[str] = raw_names) -> None:
            pipe = client.pipeline(transaction=False)
            for name, channel in zip(names, channels, strict=True):
                # Of a group that has somebody in it, as the layer's.
                found = layer._presences.find(name)
                key = channels[0].partition("!")[0] + "!"
                keys = (*found.keys, found.group_key, f"asgi{key}")
                pipe.evalsha(sha, len(keys), *keys, channel, "sada", f"{'p' * 34} sada", how, name)
            await pipe.execute()

        await fill()
        figures["join"].append(await of_server(raw, join))
        figures["raw"].append(await of_server(raw, call))
        await delivered(layer)
        await layer.group_add(f"one{turn}", channels[0])
        await layer.group_send(f"one{turn}", {"type": "hello"})
        # What came before leaves no work for the collector.
        gc.collect()
        before = time.process_time()
        users = range(JOINS)
        await asyncio.gather(*(layer.presence_join(f"one{turn}", channels[user], user) for user in users))
        figures["client"].append(1e3 * (time.process_time() - before))
        await delivered(layer)
        raw.flushall()
        layer._presences.clear()
    await client.aclose()
    raw.close()
    return {name: statistics.median(values) for name, values in figures.items()}


def main() -> None:
    print("| layer | events | join, us of the server | raw script, us | more, us | 1,000 joins, ms of the client |")
    print("|---|---|---:|---:|---:|---:|")
    for kind in (RedisChannelLayer, RedisPubSubChannelLayer):
        for events in (False, True):
            with start_server() as server:
                found = asyncio.run(measure(kind, server.url, events))
            join, raw = found["join"], found["raw"]
            name = "core" if kind is RedisChannelLayer else "pubsub"
            print(
                f"| {name} | {'yes' if events else 'no'} | {join:.1f} | {raw:.1f} | {join - raw:.1f} | "
                f"{found['client']:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
