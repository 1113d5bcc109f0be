"""Receives that end by ``close()`` or by the garbage collector: what they were given comes first, in its order."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest

from tests.core.helpers import receive_many, until, within

Make = Callable[..., Any]

close = pytest.mark.parametrize("how", ["closed", "collected"])


def end(receives: list[Any], how: str) -> None:
    if how == "closed":
        # The later ones first.
        for receive in reversed(receives):
            receive.close()
    receives.clear()
    gc.collect()


async def begun(layer: Any, channel: str, count: int = 1) -> list[Any]:
    """Receives that wait. No task has them, whose end would be a cancellation."""
    receives = [layer.receive(channel) for _ in range(count)]
    for receive in receives:
        receive.send(None)
    return receives


async def order(layer: Any, peer: Any, channel: str, how: str, lost: int) -> list[Any]:
    """The order in which three messages come, of which the first were given to receives that ended unheard."""
    receives = await begun(layer, channel, lost)
    before = layer.stats()["deliveries"]
    for n in (1, 2, 3):
        await peer.send(channel, {"n": n})
    # One more than was awaited, on sorted sets; the others stay there.
    await until(lambda: layer.stats()["deliveries"] >= before + min(lost + 1, 3))
    end(receives, how)
    return [message["n"] for message in await receive_many(layer, channel, 3)]


@close
@pytest.mark.parametrize("lost", [1, 2])
@pytest.mark.parametrize("shards", [1, 2])
async def test_core(make_core: Make, shard_urls: list[str], how: str, lost: int, shards: int) -> None:
    layer, peer = make_core(hosts=shard_urls[:shards]), make_core(hosts=shard_urls[:shards])
    assert await order(layer, peer, await layer.new_channel(), how, lost) == [1, 2, 3]


@close
@pytest.mark.parametrize("lost", [1, 2])
async def test_pubsub(make_pubsub: Make, how: str, lost: int) -> None:
    layer, peer = make_pubsub(), make_pubsub()
    assert await order(layer, peer, await layer.new_channel(), how, lost) == [1, 2, 3]


@close
async def test_who_waits_behind_is_told(make_core: Make, make_pubsub: Make, how: str) -> None:
    """Though nothing else happens."""
    for layer, peer in ((make_core(), make_core()), (make_pubsub(), make_pubsub())):
        channel = await layer.new_channel()
        receives = await begun(layer, channel)
        behind = asyncio.ensure_future(layer.receive(channel))
        await asyncio.sleep(0)
        before = layer.stats()["deliveries"]
        await peer.send(channel, {"n": 1})
        await until(lambda layer=layer, before=before: layer.stats()["deliveries"] == before + 1)  # type: ignore[misc]
        end(receives, how)
        assert await within(behind) == {"n": 1}


@close
async def test_a_general_channel(make_core: Make, how: str) -> None:
    """Who comes next gets it, and not what is popped meanwhile."""
    layer, peer = make_core(), make_core()
    receives = await begun(layer, "general")
    await peer.send("general", {"n": 1})
    await until(lambda: layer.stats()["deliveries"] == 1)
    receiver = layer._loops[asyncio.get_running_loop()].receiver
    (general,) = receiver._generals.values()
    end(receives, how)
    waiting = layer.receive("general")
    got = None
    try:
        waiting.send(None)
        general.give(({"n": 2}, receiver.pumps[0], b"member of 2", b"2"))
        waiting.send(None)
    except StopIteration as ended:
        # A coroutine that is stepped by hand ends like this.
        got = ended.value
    assert got == {"n": 1}
