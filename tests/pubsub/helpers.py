"""What the tests of the Pub/Sub layer see from outside: subscriptions, published payloads.

Waiting is `tests.core.helpers`' business. Knows a layer only by its public API.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.core.helpers import LIMIT, clients, within

#: For tests of what plain and sharded Pub/Sub have in common: `make_layer` makes the one and the other.
both_kinds = pytest.mark.parametrize("sharded", [False, True], ids=["plain", "sharded"])


#: Before Redis 7.0 nothing is sharded; and a raw cluster has counted what is as if it were plain.
NOT_SHARDED = (redis.exceptions.ResponseError, AttributeError)


def subscribers(raw: redis.Redis, name: str) -> int:
    """How many connections are subscribed to a Redis channel, plain or sharded."""
    [(_, count)] = raw.pubsub_numsub(name)
    with contextlib.suppress(*NOT_SHARDED):
        [(_, more)] = raw.pubsub_shardnumsub(name)
        count += more
    return int(count)


def subscriptions(raw: redis.Redis, prefix: str = "") -> set[str]:
    """The Redis channels of that prefix that somebody is subscribed to, plain or sharded."""
    names = raw.pubsub_channels(f"{prefix}*")
    with contextlib.suppress(*NOT_SHARDED):
        names += raw.pubsub_shardchannels(f"{prefix}*")
    return {name.decode() for name in names}


def subscribed(client: dict[str, Any]) -> int:
    """How many subscriptions a connection has, plain and sharded, by what CLIENT LIST says of it."""
    return int(client["sub"]) + int(client.get("ssub", 0))


def subscribing(raw: redis.Redis, name: str) -> list[dict[str, Any]]:
    """The connections with that client name that are subscribed to something."""
    return [client for client in clients(raw, name) if subscribed(client)]


@contextlib.contextmanager
def listening(raw: redis.Redis, *names: str) -> Iterator[Any]:
    """A raw subscriber, acknowledged; read it with `payload`."""
    with raw.pubsub() as pubsub:
        pubsub.subscribe(*names)
        for _ in names:
            assert pubsub.get_message(timeout=LIMIT)["type"] == "subscribe"
        yield pubsub


def payload(pubsub: Any) -> bytes:
    """What was published next to a raw subscriber."""
    message = pubsub.get_message(timeout=LIMIT)
    assert message is not None, "nothing was published"
    assert message["type"] == "message"
    return bytes(message["data"])


async def ready(layer: Any, *channels: str) -> None:
    """See that a layer gets what is sent to these channels; everything sent before is thrown away."""
    for channel in channels:
        await layer.send(channel, {"type": "ready"})
        while await within(layer.receive(channel)) != {"type": "ready"}:
            pass
