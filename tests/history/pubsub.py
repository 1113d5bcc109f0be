"""Pub/Sub layers whose rooms have a history, on every kind of host; and a crowd that proves that nothing is missed.

Import the fixtures that a module uses.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.conftest import hosts_on
from tests.core.helpers import within

MakeLayer = Callable[..., RedisPubSubChannelLayer]

FIELD = "__position__"

#: Groups of these names have a history, others none.
HISTORY = {"room*": {"size": 100_000, "ttl": 600}}

DOWN, UP, LACKING = {"type": "down"}, {"type": "up"}, {"type": "up", "complete": False}

#: What layers differ in, as far as their messages are concerned.
CODECS: dict[str, dict[str, Any]] = {
    "msgpack": {},
    "encrypted": {"symmetric_encryption_keys": ["secret"]},
    "json": {"serializer_format": "json"},
}

every_codec = pytest.mark.parametrize("codec", list(CODECS))


@pytest.fixture
def codec() -> str:
    """How messages become bytes; `every_codec` has a test run with all of them."""
    return "msgpack"


@pytest.fixture
def sharded() -> bool:
    """Whether layers use sharded Pub/Sub; `both_kinds` has a test run both ways."""
    return False


@pytest.fixture
async def make_layer(redis_server: Any, prefix: str, sharded: bool, codec: str) -> AsyncIterator[MakeLayer]:
    """Make layers with a history and words for outages; several are several processes. Closed afterwards."""
    layers: list[RedisPubSubChannelLayer] = []

    def make(hosts: Any = None, kind: type[RedisPubSubChannelLayer] = RedisPubSubChannelLayer, **options: Any) -> Any:
        given: dict[str, Any] = {"hosts": hosts_on(redis_server, hosts), "prefix": prefix, "sync_hub": "never"}
        given |= {"history": HISTORY, "capacity": 100_000, "on_disconnect": "down", "on_reconnect": "up"}
        given |= CODECS[codec] | ({"sharded": True} if sharded else {}) | options
        layer = kind(**given)
        layers.append(layer)
        return layer

    yield make
    for layer in layers:
        await layer.close_pools()


async def member(layer: RedisPubSubChannelLayer, *groups: str) -> str:
    """A new channel that is in these groups."""
    channel = await layer.new_channel()
    for group in groups:
        await layer.group_add(group, channel)
    return channel


class Receiver:
    """Receives on a channel until a message of the type `last` comes."""

    def __init__(self, layer: RedisPubSubChannelLayer, channel: str) -> None:
        self.channel = channel
        self.got: list[dict[str, Any]] = []
        self._layer = layer
        self.task = asyncio.ensure_future(self._receive())

    async def _receive(self) -> None:
        message: dict[str, Any] = {}
        while message.get("type") != "last":
            message = await self._layer.receive(self.channel)
            self.got.append(message)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """What came from a group with a history."""
        return [message for message in self.got if FIELD in message]

    @property
    def told(self) -> list[dict[str, Any]]:
        """What is said of outages."""
        return [message for message in self.got if message.get("type") in ("down", "up")]


class Crowd:
    """Many senders into one group and some receivers; whatever happens to these meanwhile, all comes."""

    def __init__(self, layer: RedisPubSubChannelLayer, peers: list[RedisPubSubChannelLayer], group: str) -> None:
        self.group = group
        self.errors: list[Exception] = []
        self.sent = 0
        self.receivers: list[Receiver] = []
        self._layer, self._peers = layer, peers
        self._goes_on = True
        self._senders: list[asyncio.Future[None]] = []

    async def start(self, senders: int = 50, receivers: int = 3, pause: float = 0.1) -> None:
        self.receivers = [Receiver(self._layer, await member(self._layer, self.group)) for _ in range(receivers)]
        peers = itertools.cycle(self._peers)
        self._senders = [asyncio.ensure_future(self._send(next(peers), n, pause)) for n in range(senders)]

    async def _send(self, peer: RedisPubSubChannelLayer, number: int, pause: float) -> None:
        for count in itertools.count():
            if not self._goes_on:
                return
            try:
                await peer.group_send(self.group, {"sender": number, "n": count})
                self.sent += 1
            except Exception as error:
                self.errors.append(error)
            await asyncio.sleep(pause)

    async def stop(self) -> None:
        """End the senders, and wait until the receivers have the last message."""
        self._goes_on = False
        await within(asyncio.gather(*self._senders), 30)
        await within(self._peers[0].group_send(self.group, {"type": "last"}))
        await within(asyncio.gather(*(receiver.task for receiver in self.receivers)), 30)

    async def check(self) -> list[dict[str, Any]]:
        """See that each receiver got what is in the stream, each message once and in order; return that."""
        kept = (await self._peers[0].group_history(self.group)).messages
        assert len(kept) >= self.sent + 1
        positions = [message[FIELD] for message in kept]
        assert positions == sorted(set(positions))
        for receiver in self.receivers:
            assert [message[FIELD] for message in receiver.messages] == positions
            assert receiver.messages == kept
        return kept
