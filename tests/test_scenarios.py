"""Each scenario holds for our layers; tests/interop/test_scenarios.py has them fail on channels_redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from bench.server import ForeignServer, Server
from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests import scenarios, scenarios_pubsub
from tests.scenarios import Environment

#: By module: what a peer runs as its main program, and the layer under test here.
LAYERS: dict[Any, type] = {scenarios: RedisChannelLayer, scenarios_pubsub: RedisPubSubChannelLayer}


def cases(wanted: Callable[[Any], bool]) -> list[Any]:
    return [
        pytest.param(module, name, id=f"{module.__name__.rpartition('.')[2]}-{name}")
        for module in LAYERS
        for name, scenario in module.SCENARIOS.items()
        if wanted(scenario)
    ]


@pytest.fixture
def environment(module: Any, redis_server: Server | ForeignServer, second_server: Server, prefix: str) -> Environment:
    return Environment(LAYERS[module], redis_server.url, second_server.url, prefix)


@pytest.mark.parametrize(("module", "name"), cases(lambda scenario: scenario.is_async))
async def test_ours(module: Any, name: str, environment: Environment) -> None:
    try:
        await module.SCENARIOS[name].run(environment)
    finally:
        await environment.close()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize(("module", "name"), cases(lambda scenario: not scenario.is_async))
def test_ours_without_a_loop(
    module: Any, name: str, new_loop: Callable[[], asyncio.AbstractEventLoop], environment: Environment
) -> None:
    environment.new_loop = new_loop
    module.SCENARIOS[name].run(environment)
