"""A message above `max_message_size` is refused before anything is sent, by channel and size; others go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.core.helpers import started, within

Make = Callable[..., Any]

LARGE = {"body": "x" * 2000}


@pytest.mark.parametrize("kind", ["core", "pubsub"])
async def test_a_message_that_is_too_large(kind: str, make_core: Make, make_pubsub: Make) -> None:
    layer = (make_core if kind == "core" else make_pubsub)(max_message_size=1000)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    receiving = await started(layer.receive(channel))
    calls = [layer.send(channel, LARGE), layer.group_send("room", LARGE), layer.send(channel, {"n": 1})]
    one, group, other = await within(asyncio.gather(*calls, return_exceptions=True))
    assert isinstance(one, ValueError)
    assert channel in str(one)
    assert "1000" in str(one)
    assert isinstance(group, ValueError)
    assert "group room" in str(group)
    assert other is None
    assert await within(receiving) == {"n": 1}


@pytest.mark.parametrize("value", [0, -1, 1.5, "many", True])
@pytest.mark.parametrize("kind", ["core", "pubsub"])
async def test_a_size_that_is_none(kind: str, value: Any, make_core: Make, make_pubsub: Make) -> None:
    with pytest.raises((TypeError, ValueError), match="max_message_size"):
        (make_core if kind == "core" else make_pubsub)(max_message_size=value)
