"""Coming back to a group: what was missed and what follows, without a gap and without anything twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import redis

from bench.server import Server
from channels_redis_fast.history.positions import WIDTH
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.core.helpers import nothing_to_receive, receive_many, started, until, within
from tests.history.pubsub import (
    DOWN,
    FIELD,
    UP,
    MakeLayer,
    codec,
    every_codec,
    make_layer,
    member,
    sharded,
)
from tests.pubsub.helpers import both_kinds, subscribers

__all__ = ["codec", "make_layer", "sharded"]

OwnServer = Callable[..., Server]


def numbers(messages: list[dict[str, Any]]) -> list[Any]:
    return [message["n"] for message in messages]


async def positions(layer: RedisPubSubChannelLayer, count: int, group: str = "room") -> list[str]:
    """Send so many messages, numbered; return where they are."""
    before = len((await layer.group_history(group)).messages)
    for n in range(count):
        await layer.group_send(group, {"n": n})
    return [message[FIELD] for message in (await layer.group_history(group)).messages[before:]]


@both_kinds
@every_codec
async def test_what_was_missed_and_what_follows(make_layer: MakeLayer) -> None:
    layer, peer = make_layer(), make_layer()
    at = await positions(peer, 10)
    for since in (0, 5, 9):
        channel = await layer.new_channel()
        history = await layer.group_resume("room", channel, at[since])
        assert (numbers(history.messages), history.complete) == (list(range(since + 1, 10)), True)
        assert history.position == at[-1]
        assert [message[FIELD] for message in history.messages] == at[since + 1 :]
    for _ in range(2):
        # By one who is in the group already.
        again = await layer.group_resume("room", channel, at[3])
        assert (numbers(again.messages), again.complete) == (list(range(4, 10)), True)
    await peer.group_send("room", {"n": 10})
    assert (await within(layer.receive(channel)))["n"] == 10
    await nothing_to_receive(layer, channel)
    assert layer.stats()["incomplete"] == 0


@both_kinds
@every_codec
async def test_under_load_nothing_is_missing_and_nothing_comes_twice(make_layer: MakeLayer) -> None:
    """Many come back at any time while others send: each gets all behind its position, once and in order."""
    layer, peers = make_layer(), [make_layer() for _ in range(2)]
    at = await positions(peers[0], 5)
    goes_on = True

    async def send(number: int) -> None:
        while goes_on:
            await peers[number % 2].group_send("room", {"sender": number})
            await asyncio.sleep(0.005)

    async def come_back(number: int) -> list[dict[str, Any]]:
        channel = await layer.new_channel()
        for _ in range(3):
            history = await layer.group_resume("room", channel, at[2])
            assert history.complete
            got = list(history.messages)
            while len(got) < 20 * (1 + number % 3) + len(history.messages):
                got.append(await layer.receive(channel))
            # Somebody else's group, as far as this channel is concerned.
            await layer.group_discard("room", channel)
            while await layer.channel_depth(channel):
                got.append(await layer.receive(channel))
        return got

    senders = [asyncio.ensure_future(send(n)) for n in range(10)]
    results = await within(asyncio.gather(*(come_back(n) for n in range(10))), 40)
    goes_on = False
    await within(asyncio.gather(*senders))
    kept = (await peers[0].group_history("room", at[2])).messages
    for got in results:
        assert got == kept[: len(got)]


async def test_two_at_the_same_time(make_layer: MakeLayer) -> None:
    layer, peer = make_layer(), make_layer()
    at = await positions(peer, 10)
    channel = await layer.new_channel()
    first, second = await within(
        asyncio.gather(
            layer.group_resume("room", channel, at[7]),
            layer.group_resume("room", channel, at[2]),
        )
    )
    assert (numbers(first.messages), numbers(second.messages)) == ([8, 9], list(range(3, 10)))
    await nothing_to_receive(layer, channel)


async def test_from_another_event_loop(make_layer: MakeLayer) -> None:
    layer, peer = make_layer(), make_layer()
    at = await positions(peer, 3)
    channel = await layer.new_channel()
    history = await asyncio.to_thread(lambda: asyncio.run(layer.group_resume("room", channel, at[0])))
    assert (numbers(history.messages), history.complete) == ([1, 2], True)
    await peer.group_send("room", {"n": 3})
    assert (await within(layer.receive(channel)))["n"] == 3


async def test_from_the_beginning(make_layer: MakeLayer) -> None:
    """As on the core layer: without a position all that is kept, and then what follows."""
    layer, peer = make_layer(), make_layer()
    for n in range(3):
        await peer.group_send("room", {"n": n})
    channel = await layer.new_channel()
    history = await layer.group_resume("room", channel, None)
    assert (numbers(history.messages), history.complete) == ([0, 1, 2], True)
    await peer.group_send("room", {"n": 3})
    assert (await within(layer.receive(channel)))["n"] == 3


async def test_what_is_wrong(make_layer: MakeLayer) -> None:
    layer = make_layer()
    channel = await layer.new_channel()
    position = (await layer.group_history("room")).position
    with pytest.raises(RuntimeError, match="'lobby' has no history"):
        await layer.group_resume("lobby", channel, position)
    with pytest.raises(TypeError, match="since"):
        await layer.group_resume("room", channel, 7)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="group name"):
        await layer.group_resume(5, channel, position)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match=r"group_resume\(\) takes channels of this process only"):
        await layer.group_resume("room", "nobody's", position)
    with pytest.raises(RuntimeError, match="no option 'history'"):
        await make_layer(history=None).group_resume("room", channel, position)
    assert not layer.groups


async def test_a_position_that_is_none(make_layer: MakeLayer) -> None:
    """All that there is comes, and nobody says that it is complete; what follows comes once."""
    layer, peer = make_layer(), make_layer()
    at, others = await positions(peer, 3), await positions(peer, 3, "room-other")
    never = "9" * 13 + at[0][13:]
    for since, expected in (
        ("", [0, 1, 2]),
        ("text", [0, 1, 2]),
        (others[0], [0, 1, 2]),
        ("0" * WIDTH, [0, 1, 2]),
        (never, []),
    ):
        channel = await member(layer)
        history = await layer.group_resume("room", channel, since)
        assert (numbers(history.messages), history.complete) == (expected, False)
        assert history.position == at[-1]
        await peer.group_send("room", {"n": 0})
        assert (await within(layer.receive(channel)))["n"] == 0
        await peer.group_forget("room")
        await layer.group_discard("room", channel)
        at = await positions(peer, 3)


async def test_an_outage_afterwards(make_layer: MakeLayer, own_server: OwnServer) -> None:
    """What was returned does not come once more with what the group has missed."""
    server = own_server()
    layer, peer = make_layer(hosts=[server.url]), make_layer(hosts=[server.url])
    old = await member(layer, "room")
    at = await positions(peer, 3)
    channel = await layer.new_channel()
    await receive_many(layer, old, 3)
    assert numbers((await layer.group_resume("room", channel, at[0])).messages) == [1, 2]
    with redis.Redis.from_url(server.url) as raw:
        raw.client_kill_filter(_type="pubsub")
        assert subscribers(raw, f"{layer.prefix}__group__room") == 0
        sending = await started(peer.group_send("room", {"n": 3}))
        third = await member(layer)
        history = await layer.group_resume("room", third, at[1])
        await within(sending)
    for name in (old, channel):
        got = await receive_many(layer, name, 3)
        assert [got[0], got[-1], got[1]["n"]] == [DOWN, UP, 3]
    more = [message for message in [*history.messages, *await drained(layer, third)] if FIELD in message]
    assert numbers(more) == [2, 3]


async def drained(layer: RedisPubSubChannelLayer, channel: str) -> list[dict[str, Any]]:
    """What waits on a channel."""
    await layer.send(channel, {"type": "end"})
    got = []
    while (message := await within(layer.receive(channel))) != {"type": "end"}:
        got.append(message)
    return got


class Gate:
    """Keeps what was read of histories until it is opened: the reply has come, and nobody has seen it."""

    def __init__(self, layer: RedisPubSubChannelLayer, monkeypatch: pytest.MonkeyPatch) -> None:
        histories = layer._histories
        assert histories is not None
        self._ask = histories.ask
        self._opened = asyncio.Event()
        self.replies = 0
        monkeypatch.setattr(histories, "ask", self._asked)

    def _asked(self, way: Any, stream: Any, asked: Any) -> asyncio.Future[Any]:
        reading = self._ask(way, stream, asked)
        return reading if asked.limit is not None else asyncio.ensure_future(self._pass(reading))

    async def _pass(self, reading: asyncio.Future[Any]) -> Any:
        history = await reading
        self.replies += 1
        await self._opened.wait()
        return history

    def open(self) -> None:
        self._opened.set()


@pytest.mark.parametrize("ends", ["well", "cancelled", "leaves", "closes", "flushed"])
async def test_what_happens_before_it_is_read(
    make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """The channel is in the group as after ``group_add``; what was held is there, and what follows comes."""
    layer, peer = make_layer(), make_layer()
    at = await positions(peer, 3)
    other, channel = await member(layer, "room"), await layer.new_channel()
    gate = Gate(layer, monkeypatch)
    state = next(iter(layer._loops.values()))
    resuming = asyncio.ensure_future(layer.group_resume("room", channel, at[0]))
    await until(lambda: gate.replies == 1)
    await peer.group_send("room", {"n": 3})
    assert (await within(layer.receive(other)))["n"] == 3
    assert not resuming.done()
    assert state.boxes.depth(channel) == 0
    if ends == "cancelled":
        resuming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await resuming
    elif ends == "leaves":
        await layer.group_discard("room", channel)
    elif ends == "closes":
        await within(layer.close_pools())
    elif ends == "flushed":
        receiving = await started(layer.receive(channel))
        await within(layer.flush())
        await layer.send(channel, {"type": "flushed"})
        assert await within(receiving) == {"type": "flushed"}
    gate.open()
    if ends != "cancelled":
        history = await within(resuming)
        # ``flush`` deletes the history and ends the subscription.
        assert (numbers(history.messages), history.complete) == ([1, 2], ends != "flushed")
    assert state.recovery is not None
    assert not state.recovery._holds
    await peer.group_send("room", {"n": 4})
    if ends in ("leaves", "flushed"):
        await nothing_to_receive(layer, channel)
    else:
        assert numbers(await receive_many(layer, channel, 2)) == [3, 4]


async def test_one_that_fails(make_layer: MakeLayer, own_server: OwnServer) -> None:
    """The channel is in the group, and gets what is sent."""
    server = own_server()
    layer, peer = make_layer(hosts=[server.url]), make_layer(hosts=[server.url])
    at = await positions(peer, 3)
    channel = await layer.new_channel()
    with redis.Redis.from_url(server.url) as raw:
        raw.execute_command("ACL SETUSER default -xrange")
        with pytest.raises(redis.exceptions.RedisError):
            await within(layer.group_resume("room", channel, at[0]))
        raw.execute_command("ACL SETUSER default +xrange")
    await peer.group_send("room", {"n": 4})
    assert (await within(layer.receive(channel)))["n"] == 4


async def test_a_mailbox_that_is_full_meanwhile(make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held for a channel has the channel's bounds: the oldest give way and are counted."""
    layer, peer = make_layer(capacity=3), make_layer()
    at = await positions(peer, 1)
    channel, other = await member(layer), await member(layer, "room")
    state = next(iter(layer._loops.values()))
    assert state.recovery is not None
    with state.recovery.holding(f"{layer.prefix}__group__room", channel):
        await layer.group_add("room", channel)
        for n in range(10):
            await peer.group_send("room", {"n": n})
            assert (await within(layer.receive(other)))["n"] == n
        assert state.boxes.depth(channel) == 0
        assert layer.stats()["dropped"] == 7
    assert numbers(await receive_many(layer, channel, 3)) == [7, 8, 9]
    assert at


async def test_a_thousand_at_once(make_layer: MakeLayer) -> None:
    layer, peer = make_layer(), make_layer()
    at = await positions(peer, 51)
    channels = await asyncio.gather(*(layer.new_channel() for _ in range(1000)))
    histories = await within(asyncio.gather(*(layer.group_resume("room", channel, at[0]) for channel in channels)))
    assert {len(history.messages) for history in histories} == {50}
    assert all(history.complete for history in histories)
    await peer.group_send("room", {"n": 99})
    await until(lambda: layer.stats()["deliveries"] >= 1000)
    assert numbers([await within(layer.receive(channel)) for channel in channels[:10]]) == [99] * 10
