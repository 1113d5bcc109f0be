"""A process with a lease: it adds a channel to the group "room", says which, and then what that receives, as JSON."""

from __future__ import annotations

import asyncio
import json
import sys

from channels_redis_fast import options
from channels_redis_fast.core import RedisChannelLayer


async def main(url: str, prefix: str, lease: str) -> None:
    options.MIN_LEASE = 0.1  # type: ignore[assignment]
    layer = RedisChannelLayer(hosts=[url], prefix=prefix, expiry=1, lease=float(lease))
    channel = await layer.new_channel()
    await layer._leases.hold()  # type: ignore[union-attr]
    await layer.group_add("room", channel)
    print(json.dumps(channel), flush=True)
    while True:
        print(json.dumps(await layer.receive(channel)), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
