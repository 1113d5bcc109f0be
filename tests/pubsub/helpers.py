"""What the tests of the Pub/Sub layer see from outside: subscriptions, published payloads.

Waiting is `tests.core.helpers`' business. Knows a layer only by its public API.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import redis

from tests.core.helpers import LIMIT, clients, within


def subscribers(raw: redis.Redis, name: str) -> int:
    """How many connections are subscribed to a Redis channel."""
    [(_, count)] = raw.pubsub_numsub(name)
    return int(count)


def subscriptions(raw: redis.Redis, prefix: str) -> set[str]:
    """The Redis channels of that prefix that somebody is subscribed to."""
    return {name.decode() for name in raw.pubsub_channels(f"{prefix}*")}


def subscribing(raw: redis.Redis, name: str) -> list[dict[str, Any]]:
    """The connections with that client name that are subscribed to something."""
    return [client for client in clients(raw, name) if int(client["sub"])]


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
