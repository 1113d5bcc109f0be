"""
The helpers that ``channels_redis.utils`` offers, under the same names. They only re-export.
"""

from __future__ import annotations

from ._hot import shard as _consistent_hash
from .dialer import create_pool
from .hosts import decode_hosts

__all__ = ["_consistent_hash", "create_pool", "decode_hosts"]
