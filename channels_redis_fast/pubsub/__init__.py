"""The Pub/Sub layer: the public names of `channels_redis.pubsub`.

`layer` defines what each call means. A message goes from there through `publisher` to a connection; on the way back
`subscriber` takes it from the socket and `loop` hands it to the mailbox where `receive` waits.
"""

from typing import TYPE_CHECKING, Any

from .. import upstream
from .layer import RedisPubSubChannelLayer, RedisPubSubLoopLayer

__all__ = ["RedisPubSubChannelLayer", "RedisPubSubLoopLayer"]

# Where users import them from, and so what their repr names, as in channels_redis.
RedisPubSubChannelLayer.__module__ = RedisPubSubLoopLayer.__module__ = __name__


if not TYPE_CHECKING:
    # Hidden from type checkers, which would conclude that every name exists.
    def __getattr__(name: str) -> Any:
        raise AttributeError(upstream.absent_from("pubsub", __name__, name))
