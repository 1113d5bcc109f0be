"""A process in which users are present in the group "room", each by two channels, until it is killed."""

from __future__ import annotations

import asyncio
import json
import sys

from channels_redis_fast import options
from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.pubsub import RedisPubSubChannelLayer


async def main(kind: str, url: str, prefix: str, option: str, *users: str) -> None:
    options.MIN_LEASE = 0.1  # type: ignore[assignment]
    make = RedisChannelLayer if kind == "core" else RedisPubSubChannelLayer
    layer = make(hosts=[url], prefix=prefix, presence=json.loads(option))
    for user in users * 2:
        await layer.presence_join("room", await layer.new_channel(), user)
    print("joined", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
