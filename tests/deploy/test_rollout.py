"""A rolling restart under load, the short form of ``bench.rollout``: nothing missed, and no stampede."""

from __future__ import annotations

from typing import Any

import pytest

from bench.rollout import Rollout

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])

CLIENTS, OVER = 60, 3.0


async def test_clients_come_back_spread_out_and_miss_nothing(redis_server: Any, prefix: str) -> None:
    """Of two processes one is drained; the other, which has all clients then, just ends."""
    rollout = Rollout(redis_server.url, prefix, CLIENTS, 0.05)
    async with rollout.running(OVER, None):
        drained = await rollout.restart(0)
        plain = await rollout.restart(1, replace=False)
    assert rollout.missing() == 0
    assert drained.clients == CLIENTS // 2
    assert drained.back_95 <= OVER + 2
    # The process need not wait for its clients to be back.
    assert drained.ended < OVER
    # As many as come in one second when nobody tells them when, but for chance.
    assert drained.peak / drained.clients < 0.6 * plain.peak / plain.clients
