"""Those who ask for a history at the same time are served by one call, and each gets what it would get alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import redis

from bench.server import Server
from channels_redis_fast.history import FIELD
from channels_redis_fast.history.positions import Position
from tests.core.helpers import receive_many, within
from tests.history.recording import ROOMY, numbered, numbers, record, stream_of

Make = Callable[..., Any]
OwnServer = Callable[..., Server]

HISTORY = {"room*": ROOMY}
CODECS: list[dict[str, Any]] = [{}, {"symmetric_encryption_keys": ["secret"]}, {"serializer_format": "json"}]


def calls(raw: redis.Redis) -> int:
    """How many scripts were called."""
    stats: dict[str, Any] = raw.info("commandstats")
    return int(stats.get("cmdstat_evalsha", {"calls": 0})["calls"])


def moved(position: str, **change: Any) -> str:
    parsed = Position.parse(position)
    assert parsed is not None
    return str(parsed._replace(**change))


@pytest.mark.parametrize("harm", ["none", "deleted", "foreign", "undecodable"])
@pytest.mark.parametrize("options", CODECS, ids=["plain", "encrypted", "json"])
async def test_each_gets_what_it_would_alone(
    make: Make, own_server: OwnServer, options: dict[str, Any], harm: str
) -> None:
    """Whatever position it has, and whatever those beside it have."""
    server = own_server()
    layer = make(hosts=[server.url], history=HISTORY, **options)
    with redis.Redis.from_url(server.url) as raw:
        start = await within(layer.group_history("room"))
        key = stream_of(layer).key
        positions = record(raw, layer, *numbered(1, 10))
        if harm == "deleted":
            raw.xdel(key, raw.xrange(key)[5][0])
        elif harm == "foreign":
            raw.xadd(key, {"h": b"\xff b c d", "m": "x"})
        elif harm == "undecodable":
            record(raw, layer, b"\xc1")
        positions += record(raw, layer, *numbered(11, 20))
        since = [
            *positions,
            start.position,
            None,
            "malformed",
            moved(positions[3], epoch="0123abcd"),
            moved(positions[3], group="0123abcd"),
            moved(positions[3], number=999_999),
            moved(positions[-1], milliseconds=9_999_999_999_999),
        ]
        alone = [await within(layer.group_history("room", since=each)) for each in since]
        assert {history.complete for history in alone} == {True, False}
        before = calls(raw)
        together = await within(asyncio.gather(*(layer.group_history("room", since=each) for each in since)))
        assert calls(raw) == before + 1
        assert together == alone
        # Each message is its receiver's own.
        seen = [message for history in together for message in history.messages]
        assert len({id(message) for message in seen}) == len(seen) > 100
        # Of limits each is a question of its own.
        one, two = await within(
            asyncio.gather(layer.group_history("room", positions[0], 3), layer.group_history("room", positions[0], 5))
        )
        assert (len(one.messages), len(two.messages)) == (3, 5)


async def test_one_who_gives_up_harms_nobody(make: Make, raw: Any) -> None:
    layer = make(history=HISTORY)
    record(raw, layer, *numbered(1, 3))
    tasks = [asyncio.ensure_future(layer.group_history("room")) for _ in range(3)]
    await asyncio.sleep(0)
    tasks[2].cancel()
    outcomes = await within(asyncio.gather(*tasks, return_exceptions=True))
    assert [numbers(history) for history in outcomes[:2]] == [[1, 2, 3]] * 2
    assert outcomes[0].messages[0] is not outcomes[1].messages[0]
    assert isinstance(outcomes[2], asyncio.CancelledError)


async def test_an_error_is_for_all_of_them(make: Make, raw: Any) -> None:
    layer = make(history=HISTORY)
    raw.set(stream_of(layer).key, "no stream")
    outcomes = await within(asyncio.gather(*(layer.group_history("room") for _ in range(3)), return_exceptions=True))
    assert len({id(error) for error in outcomes}) == 3
    assert all("WRONGTYPE" in str(error) for error in outcomes)
    raw.delete(stream_of(layer).key)
    assert (await within(layer.group_history("room"))).complete


async def test_more_than_one_call_takes(make: Make, raw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("channels_redis_fast.history.streams.MAX_ASKED", 3)
    layer = make(history=HISTORY)
    record(raw, layer, *numbered(1, 3))
    found = await within(asyncio.gather(*(layer.group_history("room") for _ in range(10))))
    assert [numbers(history) for history in found] == [[1, 2, 3]] * 10
    assert not layer._histories._open


async def test_many_who_resume_while_others_send(make: Make) -> None:
    """From positions of their own: no gap, no duplicate, in order."""
    layer, peer = make(history=HISTORY), make(history=HISTORY)
    positions = [(await within(peer.group_history("room"))).position]
    for n in range(10):
        await within(peer.group_send("room", {"n": n}))
        positions.append((await within(peer.group_history("room"))).position)
    channels = [await layer.new_channel() for _ in range(40)]

    async def back(number: int, channel: str) -> list[int]:
        history = await layer.group_resume("room", channel, positions[number % 11])
        assert history.complete
        missed = numbers(history)
        return missed + [
            message["n"] for message in await receive_many(layer, channel, 29 - missed[-1] if missed else 20)
        ]

    async def send() -> None:
        for n in range(10, 30):
            await peer.group_send("room", {"n": n})

    *found, _ = await within(asyncio.gather(*(back(*each) for each in enumerate(channels)), send()))
    for number, got in enumerate(found):
        assert got == list(range(number % 11, 30))


async def test_what_is_handed_in_stays_in_order(make_core: Make, raw: Any) -> None:
    """Who leaves and comes back in one tick is there; who comes back and leaves is not."""
    layer = make_core(history=HISTORY)
    first, second, third = [await layer.new_channel() for _ in range(3)]
    await layer.group_add("room", second)
    await within(
        asyncio.gather(
            layer.group_resume("room", first, None),
            layer.group_discard("room", second),
            layer.group_resume("room", second, None),
            layer.group_resume("room", third, None),
            layer.group_discard("room", third),
        )
    )
    assert sorted(await layer.group_channels("room")) == sorted([first, second])
    await layer.group_send("room", {"n": 1})
    for channel in (first, second):
        assert [message["n"] for message in await receive_many(layer, channel, 1)] == [1]
    history = await layer.group_history("room")
    assert [list(message) for message in history.messages] == [["n", FIELD]]


async def test_whom_a_message_excludes_is_a_matter_of_each(make: Make, raw: Any) -> None:
    """Of the one history that is read, each gets what is meant for it, and nobody sees the names of others."""
    layer, peer = make(history=HISTORY), make(history=HISTORY)
    channels = [await layer.new_channel() for _ in range(4)]
    start = (await within(peer.group_history("room"))).position
    excludes = [channels[:1], channels[1:3], [], channels[:3], [channels[0], "stranger"], channels]
    for n, names in enumerate(excludes):
        await within(peer.group_send("room", {"n": n, "to": {"many": ["x"]}}, exclude=names))
    before = calls(raw)
    found = await within(asyncio.gather(*(layer.group_resume("room", channel, start) for channel in channels)))
    # On Pub/Sub one more asks for the newest position first.
    assert calls(raw) - before <= 2
    for channel, history in zip(channels, found, strict=True):
        assert numbers(history) == [n for n, names in enumerate(excludes) if channel not in names]
        assert history.complete
        assert all({*message} == {"n", "to", FIELD} for message in history.messages)
    inner = [message["to"]["many"] for history in found for message in history.messages]
    assert len({id(each) for each in inner}) == len(inner)
    whole = await within(layer.group_history("room", start))
    assert numbers(whole) == list(range(len(excludes)))
