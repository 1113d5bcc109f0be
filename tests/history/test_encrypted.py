"""Histories of layers with encryption: sealed in the stream, and positions that senders propose."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis

from channels_redis_fast.history import proposals
from channels_redis_fast.history.positions import Position
from tests.core.helpers import within
from tests.history.core import (
    FIELD,
    HISTORY,
    ROOMY,
    MakeCore,
    all_of,
    bare,
    entries_of,
    receive_many,
    recorded,
    stream_key,
)

SEALED: dict[str, Any] = {"history": HISTORY, "symmetric_encryption_keys": ["secret"], "capacity": ROOMY}


async def test_nothing_readable_is_in_redis(make_core: MakeCore, raw: Any) -> None:
    layer = make_core(**SEALED)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    for _ in range(3):
        await layer.group_send("room", {"text": "a word that gives it away"})
    stored = [fields[b"m"] for _, fields in raw.xrange(stream_key(layer, "room")) if b"m" in fields]
    stored += raw.zrange(f"{layer.prefix}{channel.split('!')[0]}!", 0, -1)
    assert len(stored) == 6
    assert not any(b"gives" in data or FIELD.encode() in data for data in stored)
    assert (await layer.group_history("room")).messages == await receive_many(layer, channel, 3)


async def test_keys_that_were_rotated(make_core: MakeCore) -> None:
    """The old key decrypts what was kept; without it that is missing, and said to be."""
    layer = make_core(**SEALED)
    channel = await layer.new_channel()
    position = (await layer.group_resume("room", channel, None)).position
    await layer.group_send("room", {"n": 1})
    both = make_core(**{**SEALED, "symmetric_encryption_keys": ["new", "secret"]})
    new = make_core(**{**SEALED, "symmetric_encryption_keys": ["new"]})
    await both.group_send("room", {"n": 2})
    history = await both.group_history("room", position)
    assert (bare(history.messages), history.complete) == ([{"n": 1}, {"n": 2}], True)
    history = await new.group_history("room", position)
    assert (bare(history.messages), history.complete) == ([{"n": 2}], False)


async def test_it_is_kept_for_longer_than_a_message_lives(make_core: MakeCore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message on its way is refused some seconds after its expiry; one that is kept is not."""
    layer = make_core(**SEALED, expiry=1)
    await layer.group_send("room", {"n": 1})
    from cryptography import fernet

    now = fernet.time.time
    monkeypatch.setattr(fernet.time, "time", lambda: now() + 1000)
    history = await layer.group_history("room")
    assert (bare(history.messages), history.complete) == ([{"n": 1}], True)


@pytest.mark.parametrize("layers", [1, 50], ids=["one process", "fifty processes"])
async def test_fifty_senders_in_one_group(make_core: MakeCore, raw: Any, layers: int) -> None:
    """All that was sent is there, once, in the order of positions; and nobody was refused."""
    made = [make_core(**SEALED) for _ in range(layers)]
    receiving = make_core(**SEALED)
    channel = await receiving.new_channel()
    position = (await receiving.group_resume("room", channel, None)).position

    async def send(sender: int) -> None:
        for n in range(10):
            await made[sender % layers].group_send("room", {"sender": sender, "n": n})

    await within(asyncio.gather(*(send(sender) for sender in range(50))), 60)
    received = await all_of(receiving, channel)
    assert entries_of(received) == recorded(raw, receiving, "room")
    assert entries_of(received) == sorted(entries_of(received), key=lambda entry: [*map(int, entry.split(b"-"))])
    for sender in range(50):
        assert [message["n"] for message in received if message["sender"] == sender] == list(range(10))
    assert len(received) == 500
    history = await receiving.group_history("room", position)
    assert (history.messages, history.complete) == (received, True)


async def test_a_position_that_is_always_taken(make_core: MakeCore, raw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is proposed five times; then the sender is told, and those behind it get their turn."""
    layer = make_core(**SEALED)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_send("room", {"n": 0})
    refused: list[bytes] = []
    propose, overtaken = proposals.Proposer.propose, proposals.Proposer.overtaken

    def too_low(self: Any, *arguments: Any) -> Any:
        return (1, 1) if len(refused) < 5 else propose(self, *arguments)

    def note(self: Any, key: bytes, newest: bytes) -> None:
        refused.append(newest)
        overtaken(self, key, newest)

    monkeypatch.setattr(proposals.Proposer, "propose", too_low)
    monkeypatch.setattr(proposals.Proposer, "overtaken", note)
    with pytest.raises(redis.exceptions.ResponseError, match=r"group room was not sent: 5 positions"):
        await layer.group_send("room", {"n": 1})
    assert refused == recorded(raw, layer, "room") * 5
    refused.clear()
    outcomes = await asyncio.gather(*(layer.group_send("room", {"n": n}) for n in (2, 3, 4)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [redis.exceptions.ResponseError, type(None), type(None)]
    received = await all_of(layer, channel)
    assert [message["n"] for message in received] == [0, 3, 4]
    assert entries_of(received) == recorded(raw, layer, "room")


AHEAD = [1, 1_000, 86_400_000]


@pytest.mark.parametrize("ahead", AHEAD)
async def test_a_sender_whose_clock_is_ahead(make_core: MakeCore, raw: Any, ahead: int) -> None:
    """Positions rise all the same, whoever sends next, with encryption or without."""
    layer = make_core(**SEALED)
    channel = await layer.new_channel()
    position = (await layer.group_resume("room", channel, None)).position
    parsed = Position.parse(position)
    assert parsed is not None
    epoch = f"{parsed.epoch} {parsed.entry}-{parsed.epoch} 300 0"
    body = layer._codec.encode({"n": 0}, None)
    raw.xadd(stream_key(layer, "room"), {"h": epoch, "m": body}, id=f"{parsed.milliseconds + ahead}-7")
    other = make_core(**SEALED)
    for n in (1, 2):
        await layer.group_send("room", {"n": n})
        await other.group_send("room", {"n": n})
    history = await layer.group_history("room", position)
    assert [message["n"] for message in history.messages] == [0, 1, 1, 2, 2]
    assert history.complete
    assert [message[FIELD] for message in history.messages] == sorted(message[FIELD] for message in history.messages)
    assert entries_of(await receive_many(layer, channel, 4)) == recorded(raw, layer, "room")[1:]


async def test_a_stream_whose_entries_are_all_gone(make_core: MakeCore, raw: Any) -> None:
    """It remembers its newest ID, which is ahead of the time."""
    layer = make_core(**SEALED)
    key = stream_key(layer, "room")
    raw.xadd(key, {"a": "b"}, id="9000000000000-5")
    raw.xtrim(key, maxlen=0, approximate=False)
    for n in range(2):
        await layer.group_add("room", "somebody")
        await layer.group_send("room", {"n": n})
    (first, second) = (entry.split(b"-") for entry in recorded(raw, layer, "room"))
    assert first[0] == second[0] == b"9000000000000"
    assert 5 < int(first[1]) < int(second[1])
