"""Redis channel layers for Django Channels.

The layers live in `channels_redis_fast.core` and `channels_redis_fast.pubsub`. Nothing is imported here, so that naming
the package, in settings or in a tool that only asks for its version, costs nothing.
"""

__version__ = "0.1.0"
