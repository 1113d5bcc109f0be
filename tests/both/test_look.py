"""How many messages wait on a channel, as a program may ask either layer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.core.helpers import end, receive_many, started, within
from tests.loops import run

MakeLayer = Callable[..., Any]


async def depth(layer: Any, channel: str, expected: int) -> None:
    """See a depth become what it is to be: a message that was sent arrives, and one that was received leaves Redis."""

    async def wait() -> None:
        # On Pub/Sub nothing is waited for: without the sleep, the event loop would never read what has arrived.
        while await layer.channel_depth(channel) != expected:  # noqa: ASYNC110
            await asyncio.sleep(0)

    await within(wait())


async def test_what_waits_for_a_busy_consumer(make_layer: MakeLayer) -> None:
    layer, peer = make_layer(), make_layer()
    channel, other = await layer.new_channel("one"), await layer.new_channel("other")
    assert await layer.channel_depth(channel) == 0
    for n in range(5):
        await peer.send(channel, {"n": n})
    await depth(layer, channel, 5)
    assert await layer.channel_depth(other) == 0
    # Looking takes nothing away.
    assert await receive_many(layer, channel, 5) == [{"n": n} for n in range(5)]
    await depth(layer, channel, 0)
    waiting = await started(layer.receive(channel))
    assert await layer.channel_depth(channel) == 0
    await end(waiting)


async def test_a_channel_of_another_event_loop(make_layer: MakeLayer, new_loop: Callable[[], Any]) -> None:
    layer = make_layer()
    channel = await layer.new_channel()
    await layer.send(channel, {})
    await depth(layer, channel, 1)
    assert await within(asyncio.to_thread(run, new_loop, layer.channel_depth(channel))) == 1


@pytest.mark.parametrize("name", [None, b"room", 5, ["x"]])
async def test_names_are_text(make_layer: MakeLayer, name: Any) -> None:
    with pytest.raises(TypeError, match="hannel name"):
        await make_layer().channel_depth(name)
