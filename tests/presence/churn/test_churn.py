"""A few rounds with fixed seeds; `make presence` runs others, for as long as one likes."""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.chaos.servers import Servers
from tests.presence.churn.driver import Run, Size
from tests.presence.churn.plan import SETUPS

SIZE = Size(processes=3, users=40, share=0.5)

ROUNDS = {"core-single": ("stop_long", "restart_empty"), "pubsub-ring": ("kill",)}


@pytest.mark.parametrize("setup", ROUNDS)
def test_rounds(setup: str) -> None:
    async def rounds(servers: Servers) -> list[str]:
        async with Run(setup, 1, SIZE, servers) as running:
            await running.fill()
            for name in ROUNDS[setup]:
                await running.round(name)
            assert running.tally.counts["events"] > 10
            return running.tally.violations

    with Servers(SETUPS[setup][1]) as servers:
        assert asyncio.run(rounds(servers)) == []
