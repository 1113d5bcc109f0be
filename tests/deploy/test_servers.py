"""SIGTERM to each server, as its own command line starts it: drained first, and then ended in its own way."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
from typing import Any

import pytest

from bench.server import HOST, free_port
from tests.consumers.clients import PATIENCE, Client
from tests.consumers.conftest import layers_of
from tests.consumers.processes import Process, answers
from tests.core.helpers import until

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])

SITE = "tests.deploy.site:application"
ON = f"{HOST}:{{port}}"

#: Command lines by name, and whether the server sends the reason of a close.
SERVERS: dict[str, tuple[list[str], bool]] = {
    "uvicorn": (["uvicorn", "--host", HOST, "--port", "{port}", SITE], True),
    "uvicorn-workers": (
        ["uvicorn", "--workers", "2", "--loop", "asyncio", "--host", HOST, "--port", "{port}", SITE],
        True,
    ),
    "daphne": (["daphne", "--bind", HOST, "--port", "{port}", SITE], False),
    "granian": (["granian", "--interface", "asgi", "--host", HOST, "--port", "{port}", SITE], True),
    "hypercorn": (["hypercorn", "--bind", ON, SITE], True),
    "hypercorn-alone": (["hypercorn", "--workers", "0", "--bind", ON, SITE], True),
    "gunicorn-uvicorn": (
        ["gunicorn", "-k", "uvicorn_worker.UvicornWorker", "--graceful-timeout", "60", "--bind", ON, SITE],
        True,
    ),
    "gunicorn-asgi": (["gunicorn", "-k", "asgi", "--graceful-timeout", "60", "--bind", ON, SITE], True),
}

#: What has to be there besides the server. Gunicorn's own worker is not in its older releases.
NEEDED = {"gunicorn-uvicorn": ["uvicorn_worker"], "gunicorn-asgi": ["gunicorn.workers.gasgi"]}


@pytest.mark.parametrize("server", SERVERS)
async def test_sigterm(redis_server: Any, prefix: str, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command, has_reasons = SERVERS[server]
    for module in [command[0], *NEEDED.get(server, ())]:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}")
    layers = layers_of("core", redis_server.url, prefix, on_drain="layer.drain")
    port = free_port()
    process = Process([word.format(port=port) for word in command], layers, settings="tests.deploy.settings")
    try:
        assert await asyncio.to_thread(answers, process, port), str(process)
        drained = [await Client.join(port, "/drained/den") for _ in range(4)]
        stubborn = await Client.join(port, "/stubborn/den")
        os.kill(process.pid, signal.SIGTERM)
        await until(lambda: not any(client.connected for client in drained), PATIENCE)
        # Daphne refuses to send the other one.
        assert [client.closed[0] for client in drained] == [4012 if server == "daphne" else 1012] * 4
        if has_reasons:
            assert all(0 <= float(client.closed[1]) < 60 for client in drained), [client.closed for client in drained]
        # The server has not begun to end, and one client has no reason to go.
        await until(lambda: any("drained" in frame for frame in stubborn.frames), PATIENCE)
        assert await asyncio.to_thread(answers, process, port)
        await stubborn.say(1)
        await until(lambda: any(frame.get("said") == 1 for frame in stubborn.frames), PATIENCE)
        assert process.running
        await stubborn.leave()
        # Now it has, long before the time of the drain is over.
        await until(lambda: not process.running, 30)
        assert process.code in (0, -signal.SIGTERM), str(process)
        assert "Traceback" not in process.log, process.log
    finally:
        print(process)
        process.end()


async def test_a_second_sigterm_goes_through_at_once(redis_server: Any, prefix: str) -> None:
    layers = layers_of("core", redis_server.url, prefix, on_drain="layer.drain")
    port = free_port()
    process = Process(
        [word.format(port=port) for word in SERVERS["uvicorn"][0]], layers, settings="tests.deploy.settings"
    )
    try:
        assert await asyncio.to_thread(answers, process, port), str(process)
        stubborn = await Client.join(port, "/stubborn/den")
        os.kill(process.pid, signal.SIGTERM)
        await until(lambda: any("drained" in frame for frame in stubborn.frames), PATIENCE)
        assert stubborn.connected
        os.kill(process.pid, signal.SIGTERM)
        await until(lambda: not process.running, 30)
        assert not stubborn.connected or await asyncio.wait_for(stubborn.ended(), PATIENCE)
    finally:
        print(process)
        process.end()
