"""Thousands of receivers in one process that a group message wakes: others have their turn between them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from tests.core.helpers import within

Make = Callable[..., Any]

MEMBERS, SLICE, MESSAGES = 7_000, 5_000, 3


@pytest.fixture(params=["core", "pubsub"])
def make(request: pytest.FixtureRequest, make_core: Make, make_pubsub: Make) -> Make:
    return make_core if request.param == "core" else make_pubsub


async def test_they_are_woken_in_slices(make: Make) -> None:
    """Each gets all messages in order: those too who are cancelled before their slice, in whose place others come."""
    layer, sender = make(), make()
    names = await within(asyncio.gather(*(layer.new_channel() for _ in range(MEMBERS))))
    got: dict[str, list[int]] = {name: [] for name in names}
    total = woken = 0

    async def consume(name: str) -> None:
        nonlocal total, woken
        while True:
            got[name].append((await layer.receive(name))["n"])
            total += 1
            # The others may be there when it comes back for them.
            woken += len(got[name]) == 1

    tasks = {name: asyncio.create_task(consume(name)) for name in names}
    try:
        for start in range(0, MEMBERS, 1000):
            await within(asyncio.gather(*(layer.group_add("crowd", name) for name in names[start : start + 1000])))
        sending = asyncio.create_task(send_all(sender))
        seen: list[int] = []
        replaced: list[asyncio.Task[None]] = []

        async def look() -> None:
            while total < MEMBERS * MESSAGES:
                seen.append(woken)
                if 0 < woken < MEMBERS and not replaced:
                    # From both ends: some have been woken, some wait for their turn.
                    for name in [*names[:100], *names[-100:]]:
                        replaced.append(tasks[name])
                        tasks[name].cancel()
                        tasks[name] = asyncio.create_task(consume(name))
                await asyncio.sleep(0)

        await within(look(), 60)
        await within(sending)
        assert len(replaced) == 200
        assert {tuple(numbers) for numbers in got.values()} == {tuple(range(MESSAGES))}
        steps = [after - before for before, after in itertools.pairwise([*seen, woken])]
        assert max(steps) <= SLICE
        assert sum(step > 0 for step in steps) >= 2
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.wait([*tasks.values(), *replaced])


async def send_all(layer: Any) -> None:
    for n in range(MESSAGES):
        await layer.group_send("crowd", {"n": n})
