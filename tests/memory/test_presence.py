"""Who is there: events of joining and leaving, once each and in turn; tabs, grace, and what is refused."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from channels_redis_fast.memory import InMemoryChannelLayer
from tests.core.helpers import LIMIT, until

PRESENCE: dict[str, Any] = {"lease": 30, "grace": 0}


async def listener(layer: InMemoryChannelLayer, group: str = "room") -> str:
    channel = await layer.new_channel()
    await layer.group_add(group, channel)
    return channel


async def events(layer: InMemoryChannelLayer, channel: str) -> list[tuple[str, Any]]:
    found = []
    while await layer.channel_depth(channel):
        message = await layer.receive(channel)
        found.append((message["type"].removeprefix("presence."), message["user"]))
    return found


async def channels(layer: InMemoryChannelLayer, count: int) -> list[str]:
    return [await layer.new_channel() for _ in range(count)]


async def test_tabs_of_one_user_are_one_presence() -> None:
    layer = InMemoryChannelLayer(presence=PRESENCE)
    ear = await listener(layer)
    *tabs, other = await channels(layer, 3)
    await layer.presence_join("room", tabs[0], "ann", {"name": "Ann"})
    await layer.presence_join("room", tabs[1], "ann", {"name": "Ann"})
    await layer.presence_join("room", other, 7)
    assert await layer.receive(ear) == {
        "type": "presence.join", "group": "room", "user": "ann", "info": {"name": "Ann"},
    }  # fmt: skip
    assert await events(layer, ear) == [("join", 7)]
    assert await layer.presence("room") == {"ann": {"name": "Ann"}, 7: None}
    assert (await layer.presence_count("room"), await layer.presence_count("other")) == (2, 0)
    await layer.presence_leave("room", tabs[0])
    await layer.presence_leave("room", tabs[0])
    assert await events(layer, ear) == []
    # From any code: who is thrown out of the group is not there any more.
    await layer.group_discard("room", tabs[1])
    assert await events(layer, ear) == [("leave", "ann")]
    await layer.presence_join("room", tabs[0], 7)
    await layer.presence_leave("room", user=7)
    # At once, with all channels.
    assert await events(layer, ear) == [("leave", 7)]
    assert await layer.presence("room") == {}


async def test_a_channel_that_becomes_another_users() -> None:
    layer = InMemoryChannelLayer(presence=PRESENCE)
    ear = await listener(layer)
    (channel,) = await channels(layer, 1)
    for user in ("ann", "bob"):
        await layer.presence_join("room", channel, user)
    assert await events(layer, ear) == [("join", "ann"), ("leave", "ann"), ("join", "bob")]


async def test_coming_back_in_time_is_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = InMemoryChannelLayer(presence={"grace": 50})
    ear = await listener(layer)
    one, two = await channels(layer, 2)
    clock = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    await layer.presence_join("room", one, "ann")
    await layer.presence_leave("room", one)
    clock += 49
    await layer.presence_join("room", two, "ann")
    assert await events(layer, ear) == [("join", "ann")]
    await layer.presence_leave("room", two)
    clock += 49
    assert await layer.presence_count("room") == 1
    clock += 1
    assert await layer.presence_count("room") == 0
    await layer.presence_join("room", two, "ann")
    assert await events(layer, ear) == [("leave", "ann"), ("join", "ann")]
    # Whoever is told to leave does so at once.
    await layer.presence_leave("room", user="ann")
    assert await events(layer, ear) == [("leave", "ann")]


async def test_leaving_is_told_without_anybody_looking() -> None:
    layer = InMemoryChannelLayer(presence={"grace": 0.01})
    ear, one = await listener(layer), await layer.new_channel()
    await asyncio.to_thread(layer.sync.presence_join, "room", one, "ann")
    await asyncio.to_thread(layer.sync.presence_leave, "room", one)
    assert (await asyncio.wait_for(layer.receive(ear), LIMIT))["type"] == "presence.join"
    assert (await asyncio.wait_for(layer.receive(ear), LIMIT))["type"] == "presence.leave"


async def test_events_of_many_threads_alternate() -> None:
    layer = InMemoryChannelLayer(presence=PRESENCE, capacity=10_000)
    ear = await listener(layer)

    def come_and_go(channel: str) -> None:
        for _ in range(100):
            layer.sync.presence_join("room", channel, "ann")
            layer.sync.presence_leave("room", channel)

    await asyncio.gather(*(asyncio.to_thread(come_and_go, channel) for channel in await channels(layer, 4)))
    kinds = [kind for kind, _ in await events(layer, ear)]
    assert kinds == ["join", "leave"] * (len(kinds) // 2)
    assert await layer.presence_count("room") == 0
    await until(lambda: layer._presence is not None and not layer._presence._users)


async def test_events_are_in_no_history_and_can_be_switched_off() -> None:
    layer = InMemoryChannelLayer(presence=PRESENCE, history={"room": {"size": 5, "ttl": 60}})
    (one,) = await channels(layer, 1)
    await layer.presence_join("room", one, "ann")
    assert (await layer.group_history("room")).messages == []
    await layer.flush()
    assert await layer.presence_count("room") == 0
    silent = InMemoryChannelLayer(presence={"events": False, "grace": 0})
    ear, one = await listener(silent), await silent.new_channel()
    await silent.presence_join("room", one, "ann")
    await silent.presence_leave("room", one)
    assert await events(silent, ear) == []


async def test_those_without_a_name_are_counted() -> None:
    """Each channel is one more, and nobody learns a name."""
    layer = InMemoryChannelLayer(presence=PRESENCE)
    one, two, three = await channels(layer, 3)
    await layer.presence_join("room", one, None)
    await layer.presence_join("room", two, None, {"n": 2})
    await layer.presence_join("room", three, "ann", {"n": 3})
    assert await layer.presence("room") == {"ann": {"n": 3}}
    assert await layer.presence_count("room") == 3
    await layer.group_discard("room", one)


async def test_what_is_refused() -> None:
    layer, other = InMemoryChannelLayer(presence=PRESENCE), InMemoryChannelLayer()
    (one,) = await channels(layer, 1)
    for call in (
        other.presence_join("room", "one", 1),
        other.presence_leave("room", "one"),
        other.presence("room"),
        other.presence_count("room"),
    ):
        with pytest.raises(RuntimeError, match="'presence'"):
            await call
    for user in (1.5, b"ann", True):
        with pytest.raises(TypeError, match="a user must be a str or an int"):
            await layer.presence_join("room", one, user)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="presence in group room"):
        await layer.presence_join("room", one, "ann", object())
    with pytest.raises(ValueError, match="64 bits"):
        await layer.presence_join("room", one, 2**70)
    for channel in (await other.new_channel(), "general"):
        with pytest.raises(ValueError, match="takes channels of this process only"):
            await layer.presence_join("room", channel, "ann")
    for arguments in ({}, {"channel": "one", "user": 1}):
        with pytest.raises(TypeError, match="either a channel or a user"):
            await layer.presence_leave("room", **arguments)
    assert await layer.presence("room") == {}
    for option, text in (
        ({"grace": -1}, "grace"),
        ({"lease": 1}, "lease"),
        ({"x": 1}, "'x'"),
        ({"events": 1}, "events"),
    ):
        with pytest.raises((TypeError, ValueError), match=text):
            InMemoryChannelLayer(presence=option)
