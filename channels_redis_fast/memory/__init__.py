"""
The in-memory layer: what the core layer means, within one process and without a server.

Messages go straight from ``send`` into the mailboxes in which the other layers keep what they have fetched. For
development and tests; ``channels_redis_fast.testing`` has what tests need beside it.
"""

from channels.exceptions import ChannelFull

from .layer import InMemoryChannelLayer

__all__ = ["ChannelFull", "InMemoryChannelLayer"]
