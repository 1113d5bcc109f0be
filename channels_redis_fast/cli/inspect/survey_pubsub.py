"""
Takes the picture of a deployment on the Pub/Sub layer: who subscribes to what. Read-only; publishes nothing.

Redis keeps nothing of this layer but subscriptions, and lists these without a cursor: PUBSUB CHANNELS gives all names
of the prefix at once. Sharded channels are listed by PUBSUB SHARDCHANNELS, by each server its own. Knows nothing of
tables.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from redis.exceptions import RedisError, ResponseError

from ...core.flush import literal
from ...pubsub import RedisPubSubChannelLayer
from ..line import Line
from ..scan import BATCH
from .snapshot import Picture, Shard, Subscription, printable
from .survey import describe_shard


async def survey_pubsub(
    layer: RedisPubSubChannelLayer, lines: Sequence[Line], picture: Picture, max_names: int
) -> None:
    """Fill a picture; of each shard at most ``max_names`` names are counted, those of groups first."""
    shards = await asyncio.gather(*(_survey_shard(layer, line, picture, max_names) for line in lines))
    picture.shards += shards


async def _survey_shard(layer: RedisPubSubChannelLayer, line: Line, picture: Picture, max_names: int) -> Shard:
    shard = Shard(line.index, line.label)
    channels, subscribers = (b"SHARDCHANNELS", b"SHARDNUMSUB") if layer.sharded else (b"CHANNELS", b"NUMSUB")
    counting = f"PUBSUB {subscribers.decode()}"
    group_prefix = f"{layer.prefix}__group__".encode()
    try:
        await describe_shard(line, shard)
        (names,) = await line.ask((b"PUBSUB", channels, literal(layer.prefix.encode()) + b"*"))
        if isinstance(names, ResponseError):
            shard.refused.append(f"PUBSUB {channels.decode()}")
            shard.complete = False
            return shard
        names.sort(key=lambda name: (not name.startswith(group_prefix), name))
        shard.complete = len(names) <= max_names
        for start in range(0, min(len(names), max_names), BATCH):
            some = names[start : min(start + BATCH, max_names)]
            (reply,) = await line.ask((b"PUBSUB", subscribers, *some))
            if isinstance(reply, ResponseError) and counting not in shard.refused:
                shard.refused.append(counting)
            counts = [None] * len(some) if isinstance(reply, ResponseError) else reply[1::2]
            for name, count in zip(some, counts, strict=True):
                is_group = name.startswith(group_prefix)
                shown = printable(name[len(group_prefix) :] if is_group else name)
                known = picture.subscribed_groups if is_group else picture.subscribed_channels
                known.append(Subscription(shown, line.index, count))
    except RedisError as error:
        shard.error = str(error)
    return shard
