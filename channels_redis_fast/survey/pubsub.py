"""
Takes the picture of a deployment on the Pub/Sub layer: who subscribes to what, which groups have histories, and who is
present in them. Read-only; publishes nothing.

Redis lists subscriptions without a cursor: PUBSUB CHANNELS returns all names of the prefix at once. PUBSUB
SHARDCHANNELS lists sharded channels, and each server lists only its own. Knows nothing of tables.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from redis.exceptions import RedisError, ResponseError

from ..cluster.flush import literal
from ..pubsub import RedisPubSubChannelLayer
from .core import describe_shard
from .entries import note_failure, note_refusal
from .histories import HistorySurvey
from .leases import survey_leases
from .line import Line
from .presences import PresenceSurvey
from .scan import BATCH, Sweep
from .snapshot import Picture, Shard, Subscription, printable


async def survey_pubsub(
    layer: RedisPubSubChannelLayer, lines: Sequence[Line], picture: Picture, max_names: int
) -> None:
    """
    Fill a picture.

    For each shard, at most ``max_names`` names are counted, those of groups first, and as many keys of the database are
    examined.
    """
    shards = await asyncio.gather(*(_survey_shard(layer, line, picture, max_names) for line in lines))
    picture.shards += shards


async def _survey_shard(layer: RedisPubSubChannelLayer, line: Line, picture: Picture, max_names: int) -> Shard:
    shard = Shard(line.index, line.label)
    channels, subscribers = (b"SHARDCHANNELS", b"SHARDNUMSUB") if layer.sharded else (b"CHANNELS", b"NUMSUB")
    counting = f"PUBSUB {subscribers.decode()}"
    group_prefix = f"{layer.prefix}__group__".encode()
    try:
        await describe_shard(line, shard)
        await survey_leases(layer, line, shard, picture)
        await _survey_keys(layer, line, shard, picture, max_names)
        (names,) = await line.ask((b"PUBSUB", channels, literal(layer.prefix.encode()) + b"*"))
        if isinstance(names, ResponseError):
            shard.refused.append(f"PUBSUB {channels.decode()}")
            shard.complete = False
            return shard
        names.sort(key=lambda name: (not name.startswith(group_prefix), name))
        shard.complete = shard.complete and len(names) <= max_names
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
        note_failure(shard, error)
    return shard


async def _survey_keys(
    layer: RedisPubSubChannelLayer, line: Line, shard: Shard, picture: Picture, max_keys: int
) -> None:
    prefix = layer.prefix.encode()
    group_prefix = prefix + b"__group__"
    histories = HistorySurvey(line, shard, picture, prefix, group_prefix)
    presences = PresenceSurvey(line, shard, picture, prefix, group_prefix)
    sweep = Sweep(line, layer.prefix + ":", max_keys)
    async for keys in sweep.batches():
        await histories.look_at([key for key in keys if key.startswith(histories.start)])
        await presences.look_at([key for key in keys if key.startswith(presences.start)])
    if sweep.refused is not None:
        note_refusal(shard, "SCAN", sweep.refused)
        return
    shard.complete = sweep.is_complete
    shard.keys_examined = sweep.examined if shard.keys is None else min(shard.keys, sweep.examined)
