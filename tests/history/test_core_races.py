"""Whoever comes back while others send, and servers and connections that die: no gap, no duplicate, no false promise."""

from __future__ import annotations

import asyncio
from bisect import bisect
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import redis

from bench.server import Server
from tests.core.helpers import until, within
from tests.history.core import (
    CODECS,
    FIELD,
    ROOMY,
    MakeCore,
    all_of,
)

OwnServer = Callable[..., Server]

#: Senders, and how often somebody comes back while they send.
SENDERS, ROUNDS = 50, 200


class Senders:
    """Fifty that send to one group, each its next message as soon as the last one is acknowledged."""

    def __init__(self, layers: list[Any], group: str = "room") -> None:
        self.acknowledged = 0
        self.errors: list[Exception] = []
        self._layers, self._group = layers, group
        self._stopped = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Senders:
        self._tasks = [asyncio.ensure_future(self._send(sender)) for sender in range(SENDERS)]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._stopped = True
        await within(asyncio.gather(*self._tasks), 60)

    async def _send(self, sender: int) -> None:
        n = 0
        while not self._stopped:
            try:
                await self._layers[sender % len(self._layers)].group_send(self._group, {"sender": sender, "n": n})
                self.acknowledged += 1
            except redis.exceptions.RedisError as error:
                self.errors.append(error)
                await asyncio.sleep(0.01)
            n += 1

    async def more(self, count: int) -> None:
        """Return when so many more messages were acknowledged."""
        goal = self.acknowledged + count
        await until(lambda: self.acknowledged >= goal, 60)


class Session(NamedTuple):
    """A channel that came back: from where, and what it got since then."""

    since: str
    messages: list[Any]
    #: Whether it was told that nothing is missing.
    is_whole: bool


def check(sessions: list[Session], stream: list[Any]) -> None:
    """
    Compare what channels got with the stream: each all of it from where it came back to where it left, and once.

    ``stream``: all messages that were recorded since the first position.
    """
    positions = [message[FIELD] for message in stream]
    assert all(before < after for before, after in pairwise(positions))
    for session in sessions:
        assert session.is_whole
        got = [message[FIELD] for message in session.messages]
        start = bisect(positions, session.since)
        assert got == positions[start : start + len(got)], "a gap, a duplicate, or another order"
        assert session.messages == stream[start : start + len(got)]
    for sender in range(SENDERS):
        numbers = [message["n"] for message in stream if message["sender"] == sender]
        assert numbers == sorted(numbers)


async def come_and_go(receiving: Any, senders: Senders, rounds: int, *, ordered: bool = True) -> list[Session]:
    """Join the group and leave it, again and again, each time with a new channel and from the last position."""
    sessions = []
    position = (await receiving.group_history("room")).position
    for _ in range(rounds):
        await senders.more(1)
        channel = await receiving.new_channel()
        history = await receiving.group_resume("room", channel, position)
        await senders.more(3)
        await receiving.group_discard("room", channel)
        live = await all_of(receiving, channel)
        if not ordered:
            live.sort(key=lambda message: message[FIELD])
        sessions.append(Session(position, history.messages + live, history.complete))
        position = sessions[-1].messages[-1][FIELD]
    return sessions


@pytest.mark.timeout(120)
@pytest.mark.parametrize("options", [{}, CODECS["encrypted"]], ids=["msgpack", "encrypted"])
async def test_coming_back_while_fifty_send(make_core: MakeCore, options: dict[str, Any]) -> None:
    made = {"history": {"room": {"size": 100_000, "ttl": 60}}, "capacity": ROOMY, **options}
    layers = [make_core(**made) for _ in range(1 if options else 3)]
    receiving = make_core(**made)
    start = (await receiving.group_history("room")).position
    async with Senders(layers) as senders:
        rounds = (come_and_go(receiving, senders, ROUNDS // 10) for _ in range(10))
        sessions = await within(asyncio.gather(*rounds), 100)
    assert not senders.errors
    history = await receiving.group_history("room", start)
    assert (history.complete, len(history.messages)) == (True, senders.acknowledged)
    check([session for channel in sessions for session in channel], history.messages)
