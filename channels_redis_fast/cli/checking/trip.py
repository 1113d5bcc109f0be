"""
One message through the real layer on each shard: whatever the other checks did not think of shows here.

Sends to a channel of its own, which nobody else knows; what is left of it in Redis goes away within a minute.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from redis.exceptions import ConnectionError

from ...base import RedisLayer
from ...core import RedisChannelLayer
from ..deployment import Deployment
from ..texts import duration
from .findings import OK, PROBLEM, UNSEEN, Finding

#: Seconds that a message may take.
PATIENCE = 10.0

#: Names that are tried for each shard until one of them belongs to it.
TRIES = 200

MESSAGE = {"type": "channels_redis_fast.check", "text": "\u00e9", "number": 1}


async def check_trips(place: Deployment, shards: list[int]) -> AsyncIterator[tuple[int, Finding]]:
    """Send and receive on each of these shards; yield what came of it."""
    layer = place.make_layer()
    try:
        left = set(shards)
        for number in range(TRIES * layer.ring_size):
            if not left:
                return
            try:
                channel = await asyncio.wait_for(layer.new_channel(f"check{number}"), PATIENCE)
            except (ConnectionError, asyncio.TimeoutError):
                # A Pub/Sub layer subscribes at once, perhaps on a shard that is known to be gone.
                continue
            shard = layer.consistent_hash(_hashed(layer, channel))
            if shard in left:
                left.remove(shard)
                yield shard, await _trip(layer, channel)
        for shard in sorted(left):
            yield shard, Finding(UNSEEN, "send and receive", "no channel name leads to this shard")
    finally:
        await layer.close_pools()


def _hashed(layer: RedisLayer, channel: str) -> str:
    return channel[: channel.find("!") + 1] if isinstance(layer, RedisChannelLayer) else channel


async def _trip(layer: RedisLayer, channel: str) -> Finding:
    item = "send and receive"
    try:
        # The first one opens the connections; the second is timed.
        for _ in range(2):
            began = time.perf_counter()
            await asyncio.wait_for(layer.send(channel, dict(MESSAGE)), PATIENCE)
            message = await asyncio.wait_for(layer.receive(channel), PATIENCE)
            taken = time.perf_counter() - began
    except asyncio.TimeoutError:
        return Finding(
            PROBLEM, item, f"nothing came within {PATIENCE:g} s", "Is something else reading, or flushing, this prefix?"
        )
    except Exception as error:
        # Whatever the layer, a site's serializer or its capacities raise: the layer's own sentence says it best.
        return Finding(PROBLEM, item, f"{type(error).__name__}: {error}", "This is what the project's own sends raise.")
    if message != MESSAGE:
        return Finding(
            PROBLEM, item, "another message came back than was sent", "Look at the serializer, or at its overrides."
        )
    return Finding(OK, item, f"a message came back in {duration(taken)}")
