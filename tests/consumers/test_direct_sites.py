"""A site whose consumers have direct dispatch, by the setting, on each of four servers, with real clients."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest

from tests.consumers.clients import PATIENCE, crowd_of
from tests.consumers.processes import COMMANDS, site_of
from tests.consumers.test_ending import COMPLAINTS
from tests.core.helpers import until

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

CLIENTS, SPEAKERS, WORDS = 20, 4, 5


@pytest.mark.parametrize("server", COMMANDS)
async def test_room(layers: dict[str, Any], server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Async and sync consumers in one room hear everything once and in order; some vanish."""
    pytest.importorskip(server)
    monkeypatch.setenv("SITE_CONSUMERS", "direct")
    with site_of(layers) as site:
        ports = await asyncio.to_thread(site.serve, server)
        async with crowd_of(CLIENTS, ports, "/async/den", "/sync/den") as crowd:
            await crowd.talk(crowd.clients[:SPEAKERS], WORDS)
            # In the middle of being told something.
            gone = crowd.clients[-4:]
            crowd.clients[:] = crowd.clients[:-4]
            talk = asyncio.ensure_future(crowd.talk(crowd.clients[:SPEAKERS], WORDS))
            for client in gone:
                await client.vanish()
            await talk
        log = site.processes[0].log
        assert not [complaint for complaint in COMPLAINTS if complaint in log], log


@pytest.mark.parametrize("server", COMMANDS)
async def test_the_server_ends_with_clients(
    layers: dict[str, Any], server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(server)
    monkeypatch.setenv("SITE_CONSUMERS", "direct")
    with site_of(layers) as site:
        ports = await asyncio.to_thread(site.serve, server)
        async with crowd_of(4, ports, "/async/den") as crowd:
            await crowd.talk(crowd.clients[:2], 2)
            assert await asyncio.to_thread(site.processes[0].terminate) in (0, -signal.SIGTERM)
            await until(lambda: not any(client.connected for client in crowd.clients), PATIENCE)
        log = site.processes[0].log
        # hypercorn complains of its own connections that it cancels, whatever runs on it.
        complaints = [complaint for complaint in COMPLAINTS if server != "hypercorn" or complaint != "Traceback"]
        assert not [complaint for complaint in complaints if complaint in log], log
        assert "channels_redis_fast" not in log
