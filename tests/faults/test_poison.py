"""Payloads that nobody can read, among good ones: each is told of once, and costs nobody anything else."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
import redis

from tests.core.helpers import nothing_to_receive, receive_many, started, until, within

Make = Callable[..., Any]

#: In every poison and in no good message: what was sent is nobody's business who reads the log.
SECRET = "for-your-eyes-only"

RUBBISH = {
    "cut off": msgpack.packb({"type": "x", "text": SECRET})[:-1],
    "no dict": msgpack.packb([SECRET]),
    "no text": b"\x81\xa4text\xb4" + SECRET.encode() + b"\xff\xfe",
    "more behind": msgpack.packb({"type": SECRET}) + SECRET.encode(),
    "unhashable": b"\x81\x91" + msgpack.packb(SECRET) + b"\x01",
}

GOOD = 12

KEYS = {"symmetric_encryption_keys": ["ours"]}
FOREIGN = {"symmetric_encryption_keys": ["theirs"]}

CASES = ["rubbish", "json", "unknown key", "not encrypted"]


def options_of(case: str) -> dict[str, Any]:
    if case == "json":
        return {"serializer_format": "json"}
    return KEYS if case in ("unknown key", "not encrypted") else {}


class Poisoner:
    """Writes what the layers of this case cannot read, as somebody else: to a channel, or to a group."""

    def __init__(self, case: str, make: Make, write: Callable[[bytes], None], is_pubsub: bool = False) -> None:
        self._layer = make(**FOREIGN) if case == "unknown key" else make() if case == "not encrypted" else None
        self._write = write
        # A message of Pub/Sub may be a list.
        self._rubbish = [rubbish for kind, rubbish in RUBBISH.items() if kind != "no dict" or not is_pubsub]

    async def send(self, n: int, group: bool, name: str) -> None:
        if self._layer is None:
            self._write(self._rubbish[n % len(self._rubbish)])
        elif group:
            await self._layer.group_send(name, {"text": SECRET, "n": n})
        else:
            await self._layer.send(name, {"text": SECRET, "n": n})


def check_log(caplog: pytest.LogCaptureFixture, count: int, name: str) -> None:
    """One error for each poison, with the name of its key and without what is in it; nothing else to complain of."""
    records = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(records) == count
    assert all(record.name == "channels_redis_fast" and name in record.getMessage() for record in records)
    assert SECRET not in caplog.text
    # Nor a token that holds it: all of Fernet's begin so.
    assert "gAAAA" not in caplog.text


@pytest.mark.parametrize("kind", ["specific", "general", "group"])
@pytest.mark.parametrize("case", CASES)
async def test_on_the_core_layer(
    make_core: Make, raw: redis.Redis, prefix: str, caplog: pytest.LogCaptureFixture, case: str, kind: str
) -> None:
    caplog.set_level(logging.WARNING)
    layer, sender = (make_core(**options_of(case)) for _ in range(2))
    channel = "jobs" if kind == "general" else await layer.new_channel()
    beside = await layer.new_channel() if kind != "general" else "beside"
    group = kind == "group"
    name = "room" if group else channel
    await layer.group_add("room", channel)
    key = prefix + layer.non_local_name(channel)
    numbers = itertools.count()

    def write(payload: bytes) -> None:
        # Behind all that is there: the score of a message to come is higher than that of the last.
        last = raw.zrange(key, -1, -1, withscores=True)
        score = last[0][1] if last else float(raw.time()[0])
        raw.zadd(key, {b"~%011d" % next(numbers) + payload: score})

    poisoner = Poisoner(case, make_core, write)
    # Half of it waits in Redis before anybody receives, half comes while receivers wait.
    waits = await started(layer.receive(beside))
    for n in range(GOOD // 2):
        await (sender.group_send if group else sender.send)(name, {"n": n})
        await poisoner.send(n, group, name)
    receiving = await started(receive_many(layer, channel, GOOD))
    await until(lambda: layer.stats()["undecodable"] == GOOD // 2)
    for n in range(GOOD // 2, GOOD):
        await poisoner.send(n, group, name)
        await until(lambda n=n: layer.stats()["undecodable"] == n + 1)  # type: ignore[misc]
        await (sender.group_send if group else sender.send)(name, {"n": n})
    assert await within(receiving) == [{"n": n} for n in range(GOOD)]
    assert not waits.done()
    await sender.send(beside, {"to": "beside"})
    assert await within(waits) == {"to": "beside"}
    await nothing_to_receive(layer, channel)
    stats = layer.stats()
    assert stats["undecodable"] == GOOD
    assert stats["reconnects"] == stats["dropped"] == stats["put_back"] == 0
    check_log(caplog, GOOD, key)
    await layer.close_pools()
    assert not raw.exists(key), "what was skipped stayed in Redis"


@pytest.mark.parametrize("kind", ["channel", "group"])
@pytest.mark.parametrize("case", CASES)
async def test_on_the_pubsub_layer(
    make_pubsub: Make, raw: redis.Redis, prefix: str, caplog: pytest.LogCaptureFixture, case: str, kind: str
) -> None:
    caplog.set_level(logging.WARNING)
    layer, sender = (make_pubsub(**options_of(case)) for _ in range(2))
    channel, beside = await layer.new_channel(), await layer.new_channel()
    group = kind == "group"
    name = "room" if group else channel
    await layer.group_add("room", channel)
    redis_channel = f"{prefix}__group__room" if group else channel
    poisoner = Poisoner(case, make_pubsub, lambda payload: raw.publish(redis_channel, payload), is_pubsub=True)
    waits = await started(layer.receive(beside))
    for n in range(GOOD):
        if n == GOOD // 2:
            receiving = await started(receive_many(layer, channel, GOOD))
        await (sender.group_send if group else sender.send)(name, {"n": n})
        await poisoner.send(n, group, name)
    assert await within(receiving) == [{"n": n} for n in range(GOOD)]
    await until(lambda: layer.stats()["undecodable"] == GOOD)
    assert not waits.done()
    await sender.send(beside, {"to": "beside"})
    assert await within(waits) == {"to": "beside"}
    await nothing_to_receive(layer, channel)
    stats = layer.stats()
    assert stats["undecodable"] == GOOD
    assert stats["reconnects"] == stats["dropped"] == 0
    check_log(caplog, GOOD, redis_channel)


@pytest.mark.parametrize("kind", ["specific", "general"])
async def test_a_flood_of_it(make_core: Make, raw: redis.Redis, prefix: str, kind: str) -> None:
    """Thousands on one key are gone through, and neither the loop nor the other channels stand still meanwhile."""
    layer = make_core(capacity=10_000)
    channel, beside = (
        (await layer.new_channel(), await layer.new_channel("beside")) if kind == "specific" else ("jobs", "beside")
    )
    key = prefix + layer.non_local_name(channel)
    now = float(raw.time()[0])
    raw.zadd(key, {b"%012d" % n + RUBBISH["no dict"]: now for n in range(2000)})
    await layer.send(channel, {"n": 1})
    receiving = await started(layer.receive(channel))
    rounds = 0
    while not receiving.done():
        await within(layer.send(beside, {"n": rounds}))
        assert await within(layer.receive(beside)) == {"n": rounds}
        rounds += 1
    assert await receiving == {"n": 1}
    assert layer.stats()["undecodable"] == 2000
    assert rounds > 1
    await asyncio.sleep(0)
    await nothing_to_receive(layer, channel)
