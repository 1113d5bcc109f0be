"""The core layer, on sorted sets: the public names of `channels_redis.core`.

`layer` defines what each call means. A message goes from there through `sender` or `groups` to a connection; on the way
back `pump` takes it from Redis and `receiver` hands it to the mailbox where `receive` waits.
"""

from .layer import ChannelFull, RedisChannelLayer

__all__ = ["ChannelFull", "RedisChannelLayer"]

# The public import path, which its repr shows too, as in channels_redis.
RedisChannelLayer.__module__ = __name__
