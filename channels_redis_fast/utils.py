"""
The helpers that ``channels_redis.utils`` offers, under the same names. They only re-export.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import upstream
from .connection.dialer import close_client as _close_redis
from .connection.dialer import create_pool
from .connection.hosts import decode_hosts
from .hot import shard as _consistent_hash

__all__ = ["_close_redis", "_consistent_hash", "create_pool", "decode_hosts"]


if not TYPE_CHECKING:
    # Hidden from type checkers, to which it would say that every name exists.
    def __getattr__(name: str) -> Any:
        raise AttributeError(upstream.absent_from("utils", __name__, name))
