"""Senders that propose positions take turns where they overtake one another; nothing depends on whose turn it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from redis.exceptions import ResponseError

from channels_redis_fast.history import proposals
from tests.core.helpers import receive_many, within
from tests.history.recording import ROOMY, numbers, stream_of

Make = Callable[..., Any]

SEALED: dict[str, Any] = {"history": {"room*": ROOMY}, "symmetric_encryption_keys": ["secret"]}


async def test_a_turn_ends_when_its_message_is_recorded(make: Make, raw: Any) -> None:
    layer = make(**SEALED)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_send("room", {"n": 1})
    stream = stream_of(layer)
    ahead = int(raw.time()[0] + 60) * 1000
    raw.xadd(stream.key, {"h": "0 - 0 0"}, id=f"{ahead}-5")
    assert not raw.exists(stream.turn)
    await within(asyncio.gather(*(layer.group_send("room", {"n": n}) for n in range(2, 10))))
    assert not raw.exists(stream.turn)
    assert [message["n"] for message in await receive_many(layer, channel, 9)] == list(range(1, 10))


@pytest.mark.parametrize("members", [0, 1])
async def test_a_holder_that_has_gone(make: Make, raw: Any, members: int) -> None:
    """Its turn expires, and the others, who have waited in order, go on."""
    layer = make(**SEALED)
    channels = [await layer.new_channel() for _ in range(members)]
    for channel in channels:
        await layer.group_add("room", channel)
    await layer.group_send("room", {"n": 0})
    turn = stream_of(layer).turn
    raw.xadd(turn, {"by": "somebody"})
    raw.pexpire(turn, 100)
    sends = [asyncio.ensure_future(layer.group_send("room", {"n": n})) for n in range(1, 5)]
    await asyncio.sleep(0.02)
    assert not any(send.done() for send in sends)
    later = asyncio.ensure_future(layer.group_send("room", {"n": 5}))
    await within(asyncio.gather(*sends, later))
    assert numbers(await layer.group_history("room")) == list(range(6))
    for channel in channels:
        assert [message["n"] for message in await receive_many(layer, channel, 6)] == list(range(6))


async def test_a_turn_that_never_comes(make: Make, raw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sender is told, by name; those behind it wait as long."""
    monkeypatch.setattr(proposals, "PATIENCE", 0.05)
    layer = make(**SEALED)
    turn = stream_of(layer).turn
    raw.xadd(turn, {"by": "somebody"})
    outcomes = await within(
        asyncio.gather(*(layer.group_send("room", {"n": n}) for n in range(2)), return_exceptions=True)
    )
    for outcome in outcomes:
        assert isinstance(outcome, ResponseError)
        assert "group room was not sent: it has waited 0.05 s for its turn" in str(outcome)
    raw.delete(turn)
    await within(layer.group_send("room", {"n": 2}))
    assert numbers(await layer.group_history("room")) == [2]


async def test_something_else_where_the_turn_was(make: Make, raw: Any) -> None:
    layer = make(**SEALED)
    turn = stream_of(layer).turn
    raw.set(turn, "no stream")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await within(layer.group_send("room", {"n": 1}))
    raw.delete(turn)
    await within(layer.group_send("room", {"n": 2}))
    assert numbers(await layer.group_history("room")) == [2]
