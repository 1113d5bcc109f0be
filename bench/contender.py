"""Measure one layer with one workload in this process, and print the result as one line of JSON.

Run with the python of the venv that holds the layer: `python -m bench.contender --layer upstream --workload pairs ...`.
Imports only Channels and the layer asked for. Knows nothing of other contenders, rounds, ratios or tables.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.metadata
import json
import platform
import sys
import uuid
from collections.abc import Callable
from typing import Any

from bench.workloads import WORKLOADS, Result

BACKENDS = {
    "fast": "channels_redis_fast.core.RedisChannelLayer",
    "upstream": "channels_redis.core.RedisChannelLayer",
    "fast-pubsub": "channels_redis_fast.pubsub.RedisPubSubChannelLayer",
    "upstream-pubsub": "channels_redis.pubsub.RedisPubSubChannelLayer",
    "memory": "channels.layers.InMemoryChannelLayer",
}
# So high that no workload meets it: what is measured is the layer, not its back-pressure.
CAPACITY = 100_000
EXPIRY = 300
VERSIONS_OF = ("channels-redis-fast", "channels-redis", "channels", "django", "redis", "hiredis", "uvloop")


def settings_for(layer: str, url: str, prefix: str) -> dict[str, Any]:
    """The CHANNEL_LAYERS entry of a contender."""
    config: dict[str, Any] = {"capacity": CAPACITY, "expiry": EXPIRY}
    if layer != "memory":
        config.update(hosts=[url], prefix=prefix)
    return {"BACKEND": BACKENDS[layer], "CONFIG": config}


def make_layer(layer: str, url: str, prefix: str) -> Any:
    entry = settings_for(layer, url, prefix)
    module, _, name = entry["BACKEND"].rpartition(".")
    return getattr(importlib.import_module(module), name)(**entry["CONFIG"])


async def close_layer(layer: Any) -> None:
    """Leave nothing on the server. The prefix is random, so a flush meets only our own keys."""
    await layer.flush()
    close = getattr(layer, "close_pools", None)
    if close is not None:
        await close()


async def measure(arguments: argparse.Namespace) -> Result:
    layer = make_layer(arguments.layer, arguments.url, f"bench{uuid.uuid4().hex[:8]}")
    try:
        return await WORKLOADS[arguments.workload](layer, count=arguments.n)
    finally:
        await asyncio.wait_for(close_layer(layer), 30)


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "asyncio":
        return asyncio.new_event_loop
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def run(main: Any, loop_name: str) -> Any:
    """`asyncio.run` on the loop of that name; its own `loop_factory` came with Python 3.12."""
    loop = loop_factory(loop_name)()
    try:
        return loop.run_until_complete(main)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in VERSIONS_OF:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def add_layer_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--layer", required=True, choices=sorted(BACKENDS))
    parser.add_argument("--url", default="", help="the server; the in-memory layer needs none")
    parser.add_argument("--loop", default="asyncio", choices=("asyncio", "uvloop"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add_layer_arguments(parser)
    parser.add_argument("--workload", required=True, choices=sorted(WORKLOADS))
    parser.add_argument("--n", type=int, required=True, help="messages per sender, broadcasts, round trips or storms")
    arguments = parser.parse_args()
    result = run(measure(arguments), arguments.loop)
    line = {"layer": arguments.layer, "workload": arguments.workload, "loop": arguments.loop, "n": arguments.n}
    print(json.dumps({**line, **result.as_dict(), "versions": versions()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
