"""All that a layer can do, once, whatever it is connected to; and the same as a program, for other redis-py versions.

`exercise` is what every kind of host has to stand. `python -m tests.hosts.exercise PLAN` runs it, a burst and long
waits in a process of its own, with the redis-py that PYTHONPATH brings, and prints one line of JSON for each.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import sys
import threading
import traceback
import uuid
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

import redis
import uvloop

from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.core.helpers import started, until, within

LAYERS: dict[str, Any] = {"core": RedisChannelLayer, "pubsub": RedisPubSubChannelLayer}
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}

#: So many names of each kind that several shards get some of them.
CHANNELS, GENERALS, GROUPS = 12, 3, 6


async def exercise(layer: Any, peer: Any) -> None:
    """Everything, from `peer` to `layer`, which stand for two processes: same hosts, same prefix."""
    await within(_exercise(layer, peer), 20)


async def _exercise(layer: Any, peer: Any) -> None:
    channels = [await layer.new_channel() for _ in range(CHANNELS)]
    # Somebody waits already.
    receiving = [await started(layer.receive(channel)) for channel in channels]
    await asyncio.gather(*(peer.send(channel, {"to": channel}) for channel in channels))
    assert await asyncio.gather(*receiving) == [{"to": channel} for channel in channels]
    # Nobody does; and the order stays.
    for channel in channels:
        await asyncio.gather(*(peer.send(channel, {"n": n}) for n in range(5)))
    for channel in channels:
        assert [await layer.receive(channel) for _ in range(5)] == [{"n": n} for n in range(5)]
    for n in range(GENERALS):
        # Not a name that others use: Pub/Sub does not put the prefix in front of it.
        await answered(layer, peer, f"{layer.prefix}.general{n}")

    groups = [f"room{n}" for n in range(GROUPS)]
    for group in groups:
        await asyncio.gather(*(layer.group_add(group, channel) for channel in channels))
    await asyncio.gather(*(peer.group_send(group, {"group": group}) for group in groups))
    for channel in channels:
        # Groups live on different shards: only within one of them is there an order.
        got = [await layer.receive(channel) for _ in groups]
        assert sorted(message["group"] for message in got) == groups
    for channel in channels[::2]:
        await layer.group_discard("room0", channel)
    await peer.group_send("room0", {"again": True})
    for channel in channels:
        await peer.send(channel, {"then": True})
    for channel in channels[::2]:
        assert await layer.receive(channel) == {"then": True}
    for channel in channels[1::2]:
        got = [await layer.receive(channel) for _ in range(2)]
        assert sorted(got, key=str) == [{"again": True}, {"then": True}]

    await peer.send(channels[0], {"to be": "forgotten"})
    await layer.flush()
    await asyncio.gather(*(peer.group_send(group, {"group": group}) for group in groups))
    for channel in channels[:2]:
        await answered(layer, peer, channel)


async def answered(layer: Any, peer: Any, channel: str) -> None:
    """See that what `peer` sends arrives on a channel that may not be listened to yet, and that nothing else does."""
    receiving = asyncio.ensure_future(layer.receive(channel))
    try:
        while not receiving.done():
            await peer.send(channel, {"attempt": True})
            await asyncio.wait([receiving], timeout=0.05)
        message = receiving.result()
        await peer.send(channel, {"last": True})
        while message != {"last": True}:
            assert message == {"attempt": True}
            message = await layer.receive(channel)
    finally:
        receiving.cancel()


async def burst(layer: Any, count: int = 1000) -> None:
    """So many coroutines at the same time, each on a channel of its own and all in one group."""

    async def one(n: int) -> int:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.send(channel, {"n": n})
        message: dict[str, int] = await layer.receive(channel)
        return message["n"]

    assert await within(asyncio.gather(*(one(n) for n in range(count))), 30) == list(range(count))


# As a program.

_REPORTING = threading.Lock()


def make(kind: str, host: Any, **options: Any) -> Any:
    """A layer on one host."""
    return LAYERS[kind](**{"hosts": [host], "prefix": f"asgi{uuid.uuid4().hex[:12]}", **options})


def with_options(host: Any, **options: Any) -> dict[str, Any]:
    """The same host as a dict that holds these keywords too."""
    return {**(host if isinstance(host, dict) else {"address": host}), **options}


async def _exercise_once(kind: str, host: Any) -> None:
    layer = make(kind, host)
    peer = make(kind, host, prefix=layer.prefix)
    try:
        await exercise(layer, peer)
        assert layer.stats()["reconnects"] == peer.stats()["reconnects"] == 0
    finally:
        await layer.close_pools()
        await peer.close_pools()


async def _burst_once(kind: str, host: Any, raw_url: str) -> None:
    name = f"burst-{uuid.uuid4().hex[:12]}"
    layer = make(kind, with_options(host, client_name=name, max_connections=1), capacity=2000)
    try:
        await burst(layer)
        assert len(_ids(raw_url, name)) == 2, "more connections than one for commands and one that waits"
    finally:
        await layer.close_pools()


async def _idle(kind: str, host: Any, raw_url: str, seconds: float, block_time: float | None = None) -> None:
    """Consumers that nobody has anything for: after a long wait the same connections bring the first message."""
    name = f"idle-{uuid.uuid4().hex[:12]}"
    layer = make(kind, with_options(host, client_name=name))
    if block_time is not None:
        layer.brpop_timeout = block_time
    peer = make(kind, host, prefix=layer.prefix)
    try:
        channel, general = await layer.new_channel(), f"{layer.prefix}.general"
        await answered(layer, peer, general)
        receiving = [await started(layer.receive(channel)), await started(layer.receive(general))]
        await until(lambda: len(_ids(raw_url, name)) == (2 if kind == "core" else 1))
        before = _ids(raw_url, name)
        await asyncio.sleep(seconds)
        assert not any(future.done() for future in receiving)
        assert _ids(raw_url, name) == before, "connections were lost and opened again"
        assert layer.stats()["reconnects"] == 0
        for to in (channel, general):
            await peer.send(to, {"to": to})
        assert await within(asyncio.gather(*receiving)) == [{"to": channel}, {"to": general}]
        assert _ids(raw_url, name) >= before
    finally:
        await layer.close_pools()
        await peer.close_pools()


def _ids(raw_url: str, name: str) -> set[str]:
    """The server's numbers for the connections with that name."""
    with redis.Redis.from_url(raw_url) as raw:
        return {client["id"] for client in raw.client_list() if client["name"] == name}


async def _report(name: str, test: Coroutine[Any, Any, None]) -> None:
    error = None
    try:
        await test
    except BaseException:
        error = traceback.format_exc()
    # Two threads report at the same time.
    with _REPORTING:
        print(json.dumps({"name": name, "error": error}), flush=True)


def _waits(plan: dict[str, Any], loop: str) -> Iterable[tuple[str, Coroutine[Any, Any, None]]]:
    for place, host in plan["hosts"].items():
        for kind in LAYERS:
            yield f"idle-{place}-{loop}-{kind}", _idle(kind, host, plan["raw"][place], plan["idle"])
    # The host's own limit is shorter than the wait in Redis.
    short = with_options(plan["hosts"]["plain"], socket_timeout=1)
    yield f"short-{loop}", _idle("core", short, plan["raw"]["plain"], 4, block_time=3)


def _run_waits(plan: dict[str, Any], name: str) -> None:
    async def all_at_once() -> None:
        await asyncio.gather(*(_report(test, coroutine) for test, coroutine in _waits(plan, name)))

    _run(name, all_at_once())


def _run(name: str, coroutine: Coroutine[Any, Any, None]) -> None:
    loop = LOOPS[name]()
    try:
        loop.run_until_complete(coroutine)
    finally:
        loop.close()


def main(plan: dict[str, Any]) -> None:
    """Run everything; the long waits at last and all together, in threads."""
    # Whoever waits for a result in vain is told where this was.
    faulthandler.dump_traceback_later(80)
    origin = Path(str(redis.__file__)).resolve()
    assert redis.__version__.startswith(f"{plan['version']}."), f"redis-py {redis.__version__} from {origin}"
    assert origin.is_relative_to(Path(plan["tree"]).resolve()), f"redis-py from {origin}"
    for name in LOOPS:
        for kind in LAYERS:
            for place, host in plan["hosts"].items():
                _run(name, _report(f"{place}-{name}-{kind}", _exercise_once(kind, host)))
            host, raw_url = plan["hosts"]["plain"], plan["raw"]["plain"]
            _run(name, _report(f"burst-{name}-{kind}", _burst_once(kind, host, raw_url)))
    # Not meanwhile: who waits must be able to answer the server in time, and a burst needs all of a busy machine.
    waits = [threading.Thread(target=_run_waits, args=(plan, name)) for name in LOOPS]
    for thread in waits:
        thread.start()
    for thread in waits:
        thread.join()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
