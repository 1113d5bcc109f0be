"""
The in-memory layer: the semantics of the core layer, within one process and without a server.

Messages go straight from ``send`` into the same kind of mailboxes in which the other layers keep fetched messages. For
development and tests; ``channels_redis_fast.testing`` has further helpers for tests.
"""

from channels.exceptions import ChannelFull

from .layer import InMemoryChannelLayer

__all__ = ["ChannelFull", "InMemoryChannelLayer"]
