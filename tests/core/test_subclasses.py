"""Messages that are a subclass of dict arrive in one form, whichever way they go."""

from __future__ import annotations

from collections.abc import Callable, ItemsView
from typing import Any

import pytest

from channels_redis_fast.hot import decode, encode, envelope
from tests.core.helpers import within


class LastOf(dict[str, Any]):
    """Holds lists of values and shows the last of each, as Django's QueryDict does."""

    def __getitem__(self, key: str) -> Any:
        return super().__getitem__(key)[-1]

    def items(self) -> ItemsView[str, Any]:
        return {key: self[key] for key in self}.items()


@pytest.mark.parametrize("serializer_format", ["msgpack", "json"])
@pytest.mark.parametrize("keys", [None, ["secret"]], ids=["plain", "encrypted"])
async def test_on_all_ways(make_layer: Callable[..., Any], serializer_format: str, keys: Any) -> None:
    layer = make_layer(serializer_format=serializer_format, symmetric_encryption_keys=keys)
    message, shown = LastOf(type=["no", "chat"], q=["1", "2"]), {"type": "chat", "q": "2"}
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.send("general", message)
    assert await within(layer.receive("general")) == shown
    await layer.send(channel, message)
    await layer.send_many([(channel, message)])
    await layer.group_send("room", message)
    assert [await within(layer.receive(channel)) for _ in range(3)] == [shown] * 3


@pytest.mark.parametrize("channel", [None, "a!b"])
def test_compiled_and_pure_agree(channel: str | None) -> None:
    message = LastOf(type=["no", "chat"])
    assert encode(message, channel, 0) == envelope.encode(message, channel, 0)
    assert decode(encode(message, channel, 0), 0) == (channel, {"type": "chat"})
