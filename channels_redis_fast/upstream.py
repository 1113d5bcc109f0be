"""
What code written for channels_redis may reach into or override, and whether that works here.

Tables decide. A method of channels_redis that a subclass overrides is honoured, refused when the layer is made, or
ignored if that is harmless (`checks` warns about it). An attribute that is read from outside exists, or raises
`AttributeError` naming its replacement. Knows names. The layers do what the tables say.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple, NoReturn, TypeVar

Class = TypeVar("Class", bound=type)


class Fate(Enum):
    """How an override is treated."""

    HONOURED = "honoured"
    REFUSED = "refused"
    PASSED_OVER = "passed over"


class Rule(NamedTuple):
    """The fate of one name, and a sentence about what to do instead."""

    fate: Fate
    instead: str = ""


HONOURED = Rule(Fate.HONOURED)

#: Methods and properties of channels_redis' layers that subclasses override, by layer.
OVERRIDES: dict[str, dict[str, Rule]] = {
    "core": {
        "connection": HONOURED,
        "consistent_hash": HONOURED,
        "create_pool": HONOURED,
        "deserialize": HONOURED,
        "get_capacity": HONOURED,
        "ring_size": HONOURED,
        "serialize": HONOURED,
        "_group_key": HONOURED,
        "_backup_channel_name": Rule(Fate.PASSED_OVER, "no backup queue is written; remove the method."),
        "_clean_receive_backup": Rule(Fate.PASSED_OVER, "no backup queue is written; remove the method."),
        "_brpop_with_clean": Rule(Fate.REFUSED, "override receive() instead."),
        "_map_channel_keys_to_connection": Rule(
            Fate.REFUSED, "override consistent_hash(), get_capacity() or serialize() instead."
        ),
        "receive_single": Rule(Fate.REFUSED, "override receive() instead."),
    },
    "pubsub": {
        "consistent_hash": HONOURED,
        "create_pool": HONOURED,
        "deserialize": HONOURED,
        "get_capacity": HONOURED,
        "ring_size": HONOURED,
        "serialize": HONOURED,
        "_get_group_channel_name": HONOURED,
        "_get_layer": Rule(Fate.REFUSED, "one layer serves every event loop; override the methods themselves."),
        "_get_shard": Rule(Fate.REFUSED, "override consistent_hash() instead."),
        "_subscribe_to_channel": Rule(Fate.REFUSED, "override new_channel() or receive() instead."),
    },
}

#: Attributes of channels_redis' layers that outside code reads and that do not exist here, by layer.
ABSENT: dict[str, dict[str, str]] = {
    "core": {
        "receive_buffer": "channel_depth(channel) returns the number of waiting messages",
        "receive_locks": "several receives on one channel need no lock",
        "receive_count": "stats() has counters",
        "receive_tasks": "a cancelled receive leaves nothing behind",
        "_layers": "one layer serves every event loop; close_pools() closes the connections of the running one",
        "pools": "connection(index) is a redis-py client of a shard",
    },
    "pubsub": {
        "_get_layer": "one layer serves every event loop, and this would return the layer itself",
        "_layers": "one layer serves every event loop; close_pools() closes the connections of the running one",
        "_lock": "subscriptions need no lock",
        "_proxy": "one layer serves every event loop, and needs no proxy",
        "_shards": "redis.asyncio.Redis(connection_pool=layer.create_pool(index)) is a client of a shard",
        "_redis": "redis.asyncio.Redis(connection_pool=layer.create_pool(index)) is a client of a shard",
    },
}


#: Names of channels_redis' modules that do not exist here, by module.
ABSENT_FROM_MODULES: dict[str, dict[str, str]] = {
    "pubsub": {
        "RedisSingleShardConnection": "RedisPubSubChannelLayer has the connections of all shards",
    },
    "utils": {
        "_wrap_close": "a layer closes its sockets when their event loop closes",
    },
}


class Absent:
    """
    An attribute that a layer does not have: reading it raises an error that says what to use. A value assigned to it is
    returned as usual.

    Not ``__getattr__``: in a class with that method, reading any attribute costs several times as much.
    """

    __slots__ = ("_instead", "_name")

    def __init__(self, name: str, instead: str) -> None:
        self._name = name
        self._instead = instead

    def __get__(self, layer: object, owner: type) -> NoReturn:
        thing = f"type object {owner.__name__!r}" if layer is None else f"{type(layer).__name__!r} object"
        text = _explained(f"{thing} has no attribute {self._name!r}", self._instead)
        raise AttributeError(text, name=self._name, obj=owner if layer is None else layer)


def explains_absent(layer: str) -> Callable[[Class], Class]:
    """Return a class decorator for a layer, which makes it explain the attributes that it does not have."""

    def decorate(cls: Class) -> Class:
        for name, instead in ABSENT[layer].items():
            setattr(cls, name, Absent(name, instead))
        return cls

    return decorate


def absent_from(module: str, path: str, name: str) -> str:
    """Return the text of the ``AttributeError`` for a name that a module does not have."""
    return _explained(f"module {path!r} has no attribute {name!r}", ABSENT_FROM_MODULES[module].get(name))


def _explained(text: str, instead: str | None) -> str:
    return text if instead is None else f"{text}: it is one of channels_redis' own; here {instead}"
