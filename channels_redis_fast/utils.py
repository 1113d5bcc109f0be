"""
The helpers that ``channels_redis.utils`` offers, under the same names. They only re-export.
"""

from __future__ import annotations

from .connection.dialer import create_pool
from .connection.hosts import decode_hosts
from .hot import shard as _consistent_hash

__all__ = ["_consistent_hash", "create_pool", "decode_hosts"]
