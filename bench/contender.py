"""Measure one layer with one workload in this process, and print the result as one line of JSON.

Run with the python of the venv that holds the layer: `python -m bench.contender --layer upstream --workload pairs ...`.
Imports only Channels and the layer asked for; what is done to it is in `bench.cases`. Knows nothing of other
contenders, rounds, ratios or tables.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from bench import baseline
from bench.cases import CASES, Case
from bench.dispatch import DISPATCHES, ROOM, split
from bench.workloads import Clock, Result

BACKENDS = {
    "fast": "channels_redis_fast.core.RedisChannelLayer",
    "upstream": "channels_redis.core.RedisChannelLayer",
    "fast-pubsub": "channels_redis_fast.pubsub.RedisPubSubChannelLayer",
    "upstream-pubsub": "channels_redis.pubsub.RedisPubSubChannelLayer",
    "memory": "channels.layers.InMemoryChannelLayer",
    "fast-memory": "channels_redis_fast.memory.InMemoryChannelLayer",
    "floor": "bench.floor.SortedSetFloor",
    "floor-pubsub": "bench.floor.PubSubFloor",
    "floor-tasks": "bench.floor.TaskFloor",
}
# Ours again, without the compiled modules.
PURE = "-pure"
BACKENDS.update({f"{layer}{PURE}": BACKENDS[layer] for layer in ("fast", "fast-pubsub")})
# The same layers under another dispatch than Channels' own, as their names say.
BACKENDS.update(
    {f"{layer}-{dispatch}": BACKENDS[layer] for layer in ("fast", "fast-pubsub") for dispatch in DISPATCHES}
)
BACKENDS["floor-tasks-direct"] = BACKENDS["floor-tasks"]
SERVERLESS = ("memory", "fast-memory", "floor-tasks", "floor-tasks-direct")
# So high that no workload meets it: what is measured is the layer, not its back-pressure.
CAPACITY = 100_000
EXPIRY = 300
# Longer than any client stays away.
HISTORY = {ROOM: {"size": 1000, "ttl": 300}}
VERSIONS_OF = (
    *("channels-redis-fast", "channels-redis", "channels", "django", "redis", "hiredis", "uvloop"),
    *("uvicorn", "websockets", "daphne", "granian", "picows"),
)


# One server, several that are shards, or the entry of `hosts` for a cluster.
Where = str | Sequence[str] | Mapping[str, Sequence[str]]


def settings_for(layer: str, url: Where, prefix: str, *, encrypted: bool = False) -> dict[str, Any]:
    """The CHANNEL_LAYERS entry of a contender."""
    config: dict[str, Any] = {"capacity": CAPACITY, "expiry": EXPIRY}
    if layer not in SERVERLESS:
        config.update(hosts=[url] if isinstance(url, (str, Mapping)) else list(url), prefix=prefix)
    if split(layer)[1] == "resumable":
        config["history"] = HISTORY
    if encrypted:
        config["symmetric_encryption_keys"] = ["only for the bench"]
    return {"BACKEND": BACKENDS[layer], "CONFIG": config}


def make_layer(layer: str, url: Where, prefix: str, *, encrypted: bool = False) -> Any:
    entry = settings_for(layer, url, prefix, encrypted=encrypted)
    module, _, name = entry["BACKEND"].rpartition(".")
    choose_twin(layer)
    backend = getattr(importlib.import_module(module), name)
    if layer in ("floor", "floor-pubsub"):
        return backend(entry["CONFIG"]["hosts"][0], prefix)
    return backend(**entry["CONFIG"])


def choose_twin(layer: str) -> None:
    """Compiled or pure, as the layer's name says, before anything of ours is imported. Never the other by accident."""
    if not layer.startswith("fast"):
        return
    baseline.use()
    pure = layer.endswith(PURE)
    os.environ["CHANNELS_REDIS_FAST_PURE"] = "1" if pure else ""
    # A baseline may be older than its place among the folders.
    name = "channels_redis_fast.hot"
    hot = importlib.import_module(name if importlib.util.find_spec(name) else "channels_redis_fast._hot")
    if hot.COMPILED is pure:
        raise RuntimeError(f"{layer} would not be measured: the compiled modules are {'not ' * (not pure)}in use")


def layer_of(arguments: argparse.Namespace) -> Any:
    return make_layer(arguments.layer, arguments.url, arguments.prefix)


async def close_layer(layer: Any, *, flush: bool = True) -> None:
    """Leave nothing on the server. The prefix is random, so a flush meets only our own keys."""
    if flush:
        await layer.flush()
    close = getattr(layer, "close_pools", None)
    if close is not None:
        await close()


def measure(arguments: argparse.Namespace) -> Result:
    """Do what the case says, in the way that its kind needs, with the servers watched."""
    from bench.meter import ServerMeter

    case = CASES[arguments.workload]
    arguments.prefix = f"bench{uuid.uuid4().hex[:8]}"
    if arguments.layer in SERVERLESS:
        return dispatch(arguments, case)
    with ServerMeter(arguments.url) as meter:
        Clock.read_server, Clock.read_connections = meter.read, meter.connections
        return dispatch(arguments, case)


def dispatch(arguments: argparse.Namespace, case: Case) -> Result:
    where = {"cluster": arguments.url} if case.cluster else arguments.url
    make = partial(make_layer, arguments.layer, where, arguments.prefix, encrypted=case.encrypted)
    loop = partial(run, loop_name=arguments.loop)
    result: Result
    if case.kind == "sync":
        if arguments.layer == "floor-tasks":
            from bench.synccalls import sync_nothing

            return sync_nothing(count=arguments.n)
        result = case.function()(make, close_layer, loop, count=arguments.n, **case.parameters)
        return result
    if case.kind in ("site", "consumers"):
        from django.conf import settings

        choose_twin(arguments.layer)
        entry = settings_for(arguments.layer, arguments.url, arguments.prefix)
        settings.configure(SECRET_KEY="for the bench", CHANNEL_LAYERS={"default": entry})
    result = loop(in_loop(arguments, case, make))
    return result


async def in_loop(arguments: argparse.Namespace, case: Case, make: Callable[[], Any]) -> Result:
    parameters = dict(case.parameters)
    if case.kind == "crowd":
        context = ["--layer", arguments.layer, "--loop", arguments.loop, "--prefix", arguments.prefix]
        parameters["context"] = [*context, *(word for url in arguments.url for word in ("--url", url))]
    if case.kind == "layers":
        parameters["make"] = make
    if case.kind == "consumers":
        parameters["dispatch"] = split(arguments.layer)[1]
    if case.kind == "sockets":
        parameters["context"] = {"layer": arguments.layer, "url": arguments.url[0], "prefix": arguments.prefix}
        parameters["loop"] = arguments.loop
    if case.kind in ("site", "consumers"):
        from channels.layers import get_channel_layer

        layer = get_channel_layer()
    else:
        layer = make()
    try:
        result: Result = await case.function()(layer, count=arguments.n, **parameters)
        return result
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
    parser.add_argument(
        "--url", action="append", default=[], help="a server; several are shards or nodes of a cluster, some need none"
    )
    parser.add_argument("--loop", default="asyncio", choices=("asyncio", "uvloop"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add_layer_arguments(parser)
    parser.add_argument("--workload", required=True, choices=list(CASES))
    parser.add_argument("--n", type=int, required=True, help="messages per sender, broadcasts, round trips or storms")
    arguments = parser.parse_args()
    result = measure(arguments)
    line = {"layer": arguments.layer, "workload": arguments.workload, "loop": arguments.loop, "n": arguments.n}
    found = versions()
    if not arguments.layer.startswith("fast"):
        # Seen from the source tree, though not installed where this runs.
        found.pop("channels-redis-fast", None)
    print(json.dumps({**line, **result.as_dict(), "versions": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
