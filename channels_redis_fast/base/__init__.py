"""What both layers have in common, and what the in-memory layer shares with them."""

from .histories import HistoryMethods
from .layer import RedisLayer
from .limits import LimitedLayer
from .overriding import overrides, weakly

__all__ = ["HistoryMethods", "LimitedLayer", "RedisLayer", "overrides", "weakly"]
