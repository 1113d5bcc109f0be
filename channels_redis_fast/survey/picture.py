"""Takes the picture of one layer, of either kind, sorted for display: the fullest first. Read-only."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..base import RedisLayer
from ..core import RedisChannelLayer
from ..pubsub import RedisPubSubChannelLayer
from .core import survey_core
from .line import Line
from .pubsub import survey_pubsub
from .scan import MAX_KEYS
from .snapshot import Picture


async def take_picture(name: str, layer: RedisLayer, shards: Sequence[Line], max_keys: int = MAX_KEYS) -> Picture:
    """
    Return the picture of a layer. What could not be examined is in it with the reason.

    ``name``: the deployment's name in the picture. ``shards``: the lines that ``servers.lines`` returned for this
    layer. ``max_keys``: how many keys of each server's database are examined.
    """
    picture = Picture(name, layer.layer_name, layer.prefix, time.time())
    if isinstance(layer, RedisChannelLayer):
        await survey_core(layer, shards, picture, max_keys)
    elif isinstance(layer, RedisPubSubChannelLayer):
        await survey_pubsub(layer, shards, picture, max_keys)
    picture.channels.sort(key=lambda channel: (-channel.fill, -channel.depth, channel.channel, channel.shard))
    picture.groups.sort(key=lambda group: (-group.members, group.group, group.shard))
    picture.histories.sort(key=lambda history: (-(history.bytes or 0), history.group, history.shard))
    picture.presences.sort(key=lambda presence: (-(presence.users or 0), presence.group, presence.shard))
    picture.leftovers.sort(key=lambda leftover: (leftover.kind, leftover.key, leftover.shard))
    for subscriptions in (picture.subscribed_groups, picture.subscribed_channels):
        subscriptions.sort(key=lambda entry: (-(entry.subscribers or 0), entry.name, entry.shard))
    return picture
