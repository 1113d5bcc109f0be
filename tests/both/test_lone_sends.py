"""Messages that come one at a time are written at once. Those that have company leave together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.core.helpers import receive_many, started, within

MakeLayer = Callable[..., Any]


@pytest.fixture
async def layer(make_layer: MakeLayer) -> Any:
    """A layer that has sent something alone, and a channel of its own."""
    layer = make_layer()
    layer.channel = await layer.new_channel()
    for number in range(3):
        await layer.send(layer.channel, {"number": number})
    assert await receive_many(layer, layer.channel, 3) == [{"number": 0}, {"number": 1}, {"number": 2}]
    return layer


async def is_written_at_once(layer: Any) -> bool:
    """Send a message. Return whether it was written in the first step of the task."""
    before = layer.stats()["batches"]
    sending = await started(layer.send(layer.channel, {"type": "lone"}))
    is_written: bool = layer.stats()["batches"] > before
    assert not is_written or layer.stats()["commands_in_flight"]
    await within(sending)
    return is_written


async def test_messages_without_company_are_written_at_once(layer: Any) -> None:
    # Not every time: a receiver may have a command under way.
    assert sum([await is_written_at_once(layer) for _ in range(10)]) >= 5
    assert await receive_many(layer, layer.channel, 10) == [{"type": "lone"}] * 10


async def test_company_leaves_together(layer: Any) -> None:
    """The first of several may go alone, since nobody knows that there will be more; from then on they share calls."""
    numbers = range(20)

    async def send_all() -> int:
        before = layer.stats()["batches"]
        await within(asyncio.gather(*(layer.send(layer.channel, {"number": number}) for number in numbers)))
        batches: int = layer.stats()["batches"] - before
        assert await receive_many(layer, layer.channel, len(numbers)) == [{"number": number} for number in numbers]
        return batches

    first, *others = [await send_all() for _ in range(3)]
    assert first in (1, 2)
    assert others == [1, 1]
    # One that comes alone again waits for company once.
    assert not await is_written_at_once(layer)


async def test_a_lone_send_that_is_cancelled_was_sent(layer: Any) -> None:
    """It was written in the first step, so it takes place."""
    while True:
        before = layer.stats()["batches"]
        sending = await started(layer.send(layer.channel, {"type": "lone"}))
        if is_written := layer.stats()["batches"] > before:
            sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        assert await receive_many(layer, layer.channel, 1) == [{"type": "lone"}]
        if is_written:
            break
