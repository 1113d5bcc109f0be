"""10,000 receives cancelled at random moments while messages come: none is lost, none is doubled, the order stays."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.core.helpers import started, until, within
from tests.faults.load import LAST, ROOMY, Ledger, channels_on_all_shards

Make = Callable[..., Any]

#: In each test, of which there are eight and two of the other layer: how many receives waited when they were cancelled.
CANCELLED = 1_250

#: How many channels share them, and how many messages are under way on each at most.
CHANNELS, UNDER_WAY = 5, 20


class Impatient:
    """One receiver at a time of a channel, each of which is cancelled soon."""

    def __init__(self, ledger: Ledger, layer: Any, channel: str, moments: random.Random) -> None:
        self.ledger, self.layer, self.channel = ledger, layer, channel
        self.moments = moments
        self.cancelled = 0
        self.done = False

    async def send(self, sender: Any) -> None:
        """Keep messages coming, until enough receives have been cancelled."""
        sent = 0
        while self.cancelled < CANCELLED // CHANNELS:
            if sent - self.ledger.received_at(self.channel) < UNDER_WAY:
                # Alone and in batches, which come to the receiver in different ways.
                batch = self.moments.randint(1, 4)
                sent += batch
                await asyncio.gather(*(self.ledger.send(sender, self.channel, "load") for _ in range(batch)))
            await asyncio.sleep(self.moments.uniform(0, 0.002))

    async def receive(self) -> None:
        while not self.done:
            receiving = asyncio.ensure_future(self.layer.receive(self.channel))
            if self.moments.random() < 0.5:
                for _ in range(self.moments.randrange(10)):
                    await asyncio.sleep(0)
            else:
                await asyncio.wait([receiving], timeout=self.moments.uniform(0, 0.003))
            self.cancelled += receiving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                self._take(await receiving)

    def _take(self, message: Any) -> None:
        self.done = message == LAST
        if not self.done:
            self.ledger.take(message, self.channel)


@pytest.mark.parametrize("shards", [1, 2], ids=["one shard", "two shards"])
@pytest.mark.parametrize("kind", ["specific", "general"])
async def test_core(make_core: Make, shard_urls: list[str], kind: str, shards: int) -> None:
    hosts = shard_urls[:shards]
    layer, sender = make_core(hosts=hosts, capacity=ROOMY), make_core(hosts=hosts, capacity=ROOMY)
    if kind == "specific":
        channels = await channels_on_all_shards(layer, CHANNELS)
    else:
        channels = [f"jobs{number}" for number in range(CHANNELS)]
    # The order across shards is nobody's to keep: a general channel's messages take turns on them.
    await cancel_receives(layer, sender, channels[:CHANNELS], ordered=kind == "specific" or shards == 1)
    if kind == "general":
        assert layer.stats()["put_back"], "no receive was cancelled after a message had been popped for it"


async def test_pubsub(make_pubsub: Make, shard_urls: list[str]) -> None:
    """The channel goes on listening, for the time that its receiver may take to come back."""
    layer, sender = make_pubsub(hosts=shard_urls), make_pubsub(hosts=shard_urls)
    await cancel_receives(layer, sender, (await channels_on_all_shards(layer, CHANNELS))[:CHANNELS])


async def cancel_receives(layer: Any, sender: Any, channels: list[str], *, ordered: bool = True) -> None:
    ledger = Ledger()
    receivers = [Impatient(ledger, layer, channel, random.Random(n)) for n, channel in enumerate(channels)]
    tasks = [await started(receiver.receive()) for receiver in receivers]
    try:
        await within(asyncio.gather(*(receiver.send(sender) for receiver in receivers)), 60)
        # What was doubled would come before the last message, or be found in Redis by whoever receives then.
        with contextlib.suppress(asyncio.TimeoutError):
            # What was lost is counted below.
            await until(lambda: ledger.received >= ledger.sent)
        await within(asyncio.gather(*(sender.send(channel, LAST) for channel in channels)))
        await within(asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    ledger.check(ordered=ordered)
    assert not ledger.raised
    assert sum(receiver.cancelled for receiver in receivers) >= CANCELLED
