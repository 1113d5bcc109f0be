"""What a program may ask a Pub/Sub layer, and what it is told nobody knows."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis

from channels_redis_fast.messages import mailbox
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.core.helpers import end, receive_many, started, until, within
from tests.pubsub.helpers import subscriptions

MakeLayer = Callable[..., RedisPubSubChannelLayer]


@pytest.mark.parametrize("method", ["group_count", "group_channels"])
async def test_who_is_in_a_group_is_not_known(make_layer: MakeLayer, method: str) -> None:
    """A number of this process alone would be taken for that of the group."""
    layer = make_layer()
    await layer.group_add("room", await layer.new_channel())
    with pytest.raises(NotImplementedError, match=rf"{method}\(\) does not exist on the Pub/Sub layer"):
        await getattr(layer, method)("room")


async def test_what_waits_for_a_busy_consumer(make_layer: MakeLayer) -> None:
    layer, peer = make_layer(), make_layer()
    channel, other = await layer.new_channel(), await layer.new_channel()
    assert await layer.channel_depth(channel) == 0
    for n in range(5):
        await peer.send(channel, {"n": n})
    await until(lambda: layer.stats()["deliveries"] == 5)
    assert (await layer.channel_depth(channel), await layer.channel_depth(other)) == (5, 0)
    # Looking takes nothing away.
    assert await receive_many(layer, channel, 5) == [{"n": n} for n in range(5)]
    assert await layer.channel_depth(channel) == 0
    waiting = await started(layer.receive(channel))
    assert await layer.channel_depth(channel) == 0
    await end(waiting)


async def test_what_has_expired_does_not_count(make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = make_layer(expiry=1000)
    channel = await layer.new_channel()
    await layer.send(channel, {})
    await until(lambda: layer.stats()["deliveries"] == 1)
    assert await layer.channel_depth(channel) == 1
    now = mailbox.time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(mailbox.time, "monotonic", lambda: now + 1001)
        assert await layer.channel_depth(channel) == 0


async def test_a_channel_of_another_event_loop(make_layer: MakeLayer, new_loop: Callable[[], Any]) -> None:
    layer = make_layer()
    channel = await layer.new_channel()
    await layer.send(channel, {})
    await until(lambda: layer.stats()["deliveries"] == 1)
    found: list[int] = []

    def look() -> None:
        loop = new_loop()
        found.append(loop.run_until_complete(layer.channel_depth(channel)))
        loop.close()

    thread = threading.Thread(target=look)
    thread.start()
    await asyncio.get_running_loop().run_in_executor(None, thread.join, 15)
    assert found == [1]


async def test_a_channel_that_does_not_live_here(make_layer: MakeLayer, raw: redis.Redis, prefix: str) -> None:
    """Zero would be a guess; and asking does not make it live here."""
    layer, peer = make_layer(), make_layer()
    channel = await peer.new_channel()
    for name in (channel, f"{prefix}nobody"):
        with pytest.raises(RuntimeError, match=rf"of this process only, and '{name}' is not"):
            await within(layer.channel_depth(name))
    assert subscriptions(raw, prefix) == {channel}


@pytest.mark.parametrize("name", [None, b"x", 5, ["x"]])
async def test_names_are_text(make_layer: MakeLayer, name: Any) -> None:
    with pytest.raises(TypeError, match="a channel name must be a string"):
        await make_layer().channel_depth(name)
