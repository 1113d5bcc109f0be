"""A server process that is told to end while clients are connected: it ends, and there is nothing to complain of."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest

from tests.consumers.clients import PATIENCE, crowd_of
from tests.consumers.processes import SERVERS, site_of
from tests.core.helpers import until

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

#: What asyncio says of tasks and sockets that were left behind, and Python of anything that went wrong.
COMPLAINTS = ("Traceback", "was never", "was destroyed", "unclosed", "ERROR")


@pytest.mark.parametrize("server", SERVERS)
async def test_with_clients(layers: dict[str, Any], server: str) -> None:
    with site_of(layers) as site:
        ports = await asyncio.to_thread(site.serve, server)
        async with crowd_of(10, ports, "/async/den") as crowd:
            await crowd.talk(crowd.clients[:2], 2)
            assert await asyncio.to_thread(site.processes[0].terminate) in (0, -signal.SIGTERM)
            await until(lambda: not any(client.connected for client in crowd.clients), PATIENCE)
        log = site.processes[0].log
        assert not [complaint for complaint in COMPLAINTS if complaint in log]
