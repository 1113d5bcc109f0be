"""What a program may ask a Pub/Sub layer, and what it is told nobody knows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from channels_redis_fast.messages import mailbox
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.core.helpers import until, within
from tests.pubsub.helpers import subscriptions

MakeLayer = Callable[..., RedisPubSubChannelLayer]


@pytest.mark.parametrize("method", ["group_count", "group_channels"])
async def test_who_is_in_a_group_is_not_known(make_layer: MakeLayer, method: str) -> None:
    """A number of this process alone would be taken for that of the group."""
    layer = make_layer()
    await layer.group_add("room", await layer.new_channel())
    with pytest.raises(NotImplementedError, match=rf"{method}\(\) does not exist on the Pub/Sub layer"):
        await getattr(layer, method)("room")


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


async def test_a_channel_that_does_not_live_here(make_layer: MakeLayer, raw: redis.Redis, prefix: str) -> None:
    """Zero would be a guess; and asking does not make it live here."""
    layer, peer = make_layer(), make_layer()
    channel = await peer.new_channel()
    for name in (channel, f"{prefix}nobody"):
        with pytest.raises(RuntimeError, match=rf"of this process only, and '{name}' is not"):
            await within(layer.channel_depth(name))
    assert subscriptions(raw, prefix) == {channel}
