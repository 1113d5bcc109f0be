"""What grows with the servers, and what does not: clusters of 3, 6 and 12 servers beside client-side rings of as many.

    python -m bench.scaling                     counts, speed and memory; Markdown
    python -m bench.scaling --json FILE --only counts --servers 3 12

Counts are of the servers' own numbers: commands carried out, connections, subscriptions, and how even they are over the
servers. Speed is messages for each second of this process' processor, on a cluster of three and on one server, in turns
of one run. Memory is what a connection and a subscription take on a server. Nothing here times a cluster as a cluster:
all servers of a run share one machine.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import redis

from bench import workloads
from bench.server import start_server
from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.clusters import Cluster

LAYERS: dict[str, Any] = {"core": RedisChannelLayer, "pubsub": RedisPubSubChannelLayer}

#: A site: processes, consumers of each, groups, and how many consumers are in each group. The second one has five times
#: the consumers and groups.
PROCESSES, MEMBERS = 24, 4
SITES = {"small": (10, 200), "large": (50, 1000)}

#: Messages to channels, and how many are under way at a time.
SENDS, AT_ONCE = 6000, 50

#: Turns, and messages of each pair or broadcasts to the group in a turn.
TURNS, EACH, BROADCASTS = 9, 300, 100

#: Not a layer's doing in the measured time: ours, and what keeps a cluster and its connections together.
NOT_COUNTED = ("info", "client", "cluster", "config", "ping", "hello", "command", "script")

WAIT = 60.0


@dataclass
class Counts:
    """What one site did to its servers."""

    layer: str
    way: str
    servers: int
    site: str
    consumers: int
    groups: int
    commands_per_send: float
    commands_per_delivery: float
    #: Microseconds of the servers' processors.
    server_us_per_send: float
    server_us_per_delivery: float
    connections_per_process: float
    connections_per_server: float
    subscriptions_per_process: float
    #: The busiest server's share of the commands, 1.0 being an even one: of all, and of group keys or channels alone.
    busiest: float
    busiest_by_groups: float
    redirections: int
    lost: int


@contextmanager
def servers_of(way: str, count: int) -> Iterator[tuple[list[Any], list[redis.Redis]]]:
    """Servers of their own: what goes into `hosts`, and a plain client of each."""
    with ExitStack() as stack:
        if way == "cluster":
            cluster = stack.enter_context(Cluster(count))
            yield [cluster.host], [node.raw for node in cluster.primaries]
        else:
            rings = [stack.enter_context(start_server()) for _ in range(count)]
            yield [server.url for server in rings], [stack.enter_context(redis.Redis(port=s.port)) for s in rings]


class Site:
    """Some processes, as far as Redis can tell: layers with consumers that listen, and groups of these."""

    def __init__(self, kind: str, hosts: list[Any], consumers: int, groups: int) -> None:
        self._make: Callable[[], Any] = lambda: LAYERS[kind](hosts=hosts, capacity=1_000_000)
        self._sizes = consumers, groups
        self._random = random.Random(1)
        self.received = 0
        self._expected = 0
        self._enough = asyncio.Event()

    async def open(self) -> None:
        consumers, groups = self._sizes
        self.layers = [self._make() for _ in range(PROCESSES)]
        self.channels = [[await layer.new_channel() for _ in range(consumers)] for layer in self.layers]
        self.tasks = [
            asyncio.ensure_future(self._consume(layer, channel))
            for layer, channels in zip(self.layers, self.channels, strict=True)
            for channel in channels
        ]
        self.groups = [f"room.{number}" for number in range(groups)]
        members = [
            (self.layers[process], group, self._random.choice(self.channels[process]))
            for group in self.groups
            for process in self._random.sample(range(PROCESSES), MEMBERS)
        ]
        await self._side_by_side([layer.group_add(group, channel) for layer, group, channel in members])
        # Once through everything: what is opened, loaded or looked up the first time is not what is counted.
        await self.send(len(self.layers) * 20)
        await self.send_to_groups()

    async def send(self, count: int) -> None:
        """Send to channels of other processes, and return when all have come, or nothing comes any more."""
        targets = [self._random.choice(self._random.choice(self.channels)) for _ in range(count)]
        senders = [self._random.choice(self.layers) for _ in targets]
        message = {"type": "chat.message", "text": "hello"}
        calls = [layer.send(channel, message) for layer, channel in zip(senders, targets, strict=True)]
        await self._until_received(calls, count)

    async def send_to_groups(self) -> None:
        """Send to each group once."""
        message = {"type": "chat.message", "text": "hello"}
        calls = [self._random.choice(self.layers).group_send(group, message) for group in self.groups]
        await self._until_received(calls, len(calls) * MEMBERS)

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for layer in self.layers:
            await layer.close_pools()

    async def _consume(self, layer: Any, channel: str) -> None:
        while True:
            await layer.receive(channel)
            self.received += 1
            if self.received == self._expected:
                self._enough.set()

    async def _until_received(self, calls: list[Any], count: int) -> None:
        self.received, self._expected = 0, count
        self._enough.clear()
        await self._side_by_side(calls)
        try:
            await asyncio.wait_for(self._enough.wait(), workloads.QUIET)
        except asyncio.TimeoutError:
            print(f"{count - self.received} messages did not come", file=sys.stderr)

    async def _side_by_side(self, calls: Sequence[Any]) -> None:
        left = iter(calls)

        async def one_after_the_other() -> None:
            for call in left:
                await call

        await asyncio.wait_for(asyncio.gather(*(one_after_the_other() for _ in range(AT_ONCE))), WAIT)


def commands(raws: Sequence[redis.Redis]) -> list[int]:
    """How many commands each server has carried out for layers, those inside of scripts among them."""
    return [
        sum(
            stat["calls"]
            for name, stat in raw.info("commandstats").items()
            if name.removeprefix("cmdstat_").partition("|")[0] not in NOT_COUNTED
        )
        for raw in raws
    ]


def processor(raws: Sequence[redis.Redis]) -> float:
    """Microseconds of processor time that the servers have used."""
    used = [raw.info("cpu") for raw in raws]
    return sum(cpu["used_cpu_user"] + cpu["used_cpu_sys"] for cpu in used) * 1e6


def redirections(raws: Sequence[redis.Redis]) -> int:
    """How many commands were answered with the way to another server."""
    stats = [raw.info("errorstats") for raw in raws]
    return sum(stat[name]["count"] for stat in stats for name in ("errorstat_MOVED", "errorstat_ASK") if name in stat)


async def count(kind: str, way: str, size: str, hosts: list[Any], raws: Sequence[redis.Redis]) -> Counts:
    """Let a site do its work on some servers."""
    consumers, groups = SITES[size]
    site = Site(kind, hosts, consumers, groups)
    await site.open()
    try:
        for raw in raws:
            raw.config_resetstat()
        first, cpu_first = commands(raws), processor(raws)
        await site.send(SENDS)
        lost = SENDS - site.received
        second, cpu_second = commands(raws), processor(raws)
        await site.send_to_groups()
        lost += groups * MEMBERS - site.received
        third, cpu_third = commands(raws), processor(raws)
        clients = [raw.client_list() + raw.client_list(_type="pubsub") for raw in raws]
        ours = [
            {one["id"]: one for one in some if one["name"].startswith("channels_redis_fast:")}.values()
            for some in clients
        ]
        subscriptions = [int(one["sub"]) + int(one.get("ssub", 0)) for some in ours for one in some]
        by_groups = Counter(await _servers_of_groups(site, way, raws))
        spent = [last - before for last, before in zip(third, first, strict=True)]
        return Counts(
            layer=kind,
            way=way,
            servers=len(raws),
            site=size,
            consumers=PROCESSES * consumers,
            groups=groups,
            commands_per_send=(sum(second) - sum(first)) / SENDS,
            commands_per_delivery=(sum(third) - sum(second)) / (groups * MEMBERS),
            server_us_per_send=(cpu_second - cpu_first) / SENDS,
            server_us_per_delivery=(cpu_third - cpu_second) / (groups * MEMBERS),
            connections_per_process=sum(map(len, ours)) / PROCESSES,
            connections_per_server=sum(map(len, ours)) / len(raws),
            subscriptions_per_process=sum(subscriptions) / PROCESSES,
            busiest=max(spent) * len(spent) / sum(spent),
            busiest_by_groups=max(by_groups.values()) * len(raws) / groups,
            redirections=redirections(raws),
            lost=lost,
        )
    finally:
        await site.close()


async def _servers_of_groups(site: Site, way: str, raws: Sequence[redis.Redis]) -> list[int]:
    """The server that each group is on, by its number."""
    layer = site.layers[0]
    if way == "ring":
        return [layer.consistent_hash(group) for group in site.groups]
    from channels_redis_fast.cluster.slots import owners_of, slot_of

    core = isinstance(layer, RedisChannelLayer)
    names = [f"asgi:group:{name}" if core else f"asgi__group__{name}" for name in site.groups]
    connection = raws[0].connection_pool.get_connection()
    try:
        connection.send_command("CLUSTER", "SLOTS")
        owners = list(owners_of(connection.read_response(), "127.0.0.1"))
    finally:
        raws[0].connection_pool.release(connection)
    ports = [raw.connection_pool.connection_kwargs["port"] for raw in raws]
    return [
        next(ports.index(address[1]) for first, last, address in owners if first <= slot_of(name.encode()) <= last)
        for name in names
    ]


# Speed.


async def pairs(layer: Any) -> workloads.Result:
    return await workloads.pairs(layer, count=EACH, pairs=50)


async def group(layer: Any) -> workloads.Result:
    return await workloads.group(layer, count=BROADCASTS, consumers=200)


async def spread(layer: Any) -> workloads.Result:
    def make() -> Any:
        return type(layer)(hosts=layer.hosts_given, capacity=1_000_000)

    return await workloads.spread(layer, count=BROADCASTS, make=make)


WORK: dict[str, Callable[[Any], Any]] = {"send -> receive, 50 x 50": pairs, "group of 200, one process": group}


def speed(turns: int) -> list[dict[str, Any]]:
    """Messages for each second of this process' processor: the median of turns that all contenders take in turn."""
    rows: dict[tuple[str, str, str], list[workloads.Result]] = {}
    with servers_of("ring", 1) as (one, _), servers_of("cluster", 3) as (three, _):
        contenders = [(kind, way, hosts) for kind in LAYERS for way, hosts in (("one", one), ("cluster", three))]
        work = {**WORK, "group of 200, ten processes": spread}
        for what, do in work.items():
            for _ in range(turns):
                for kind, way, hosts in contenders:
                    rows.setdefault((what, kind, way), []).append(asyncio.run(_turn(LAYERS[kind], hosts, do)))
    return [
        {
            "work": what,
            "layer": kind,
            "servers": way,
            "per_cpu_second": median(result.received / result.cpu_seconds for result in results),
            "per_second": median(result.received / result.seconds for result in results),
            "lost": sum(result.lost for result in results),
            "turns": [result.received / result.cpu_seconds for result in results],
        }
        for (what, kind, way), results in rows.items()
    ]


async def _turn(kind: Any, hosts: list[Any], do: Callable[[Any], Any]) -> workloads.Result:
    gc.collect()
    layer = kind(hosts=hosts, capacity=1_000_000)
    layer.hosts_given = hosts
    try:
        result: workloads.Result = await do(layer)
        return result
    finally:
        await layer.flush()
        await layer.close_pools()


# Memory.


def memory() -> dict[str, float]:
    """Bytes of a server for a connection that has been used, and for a subscription to a name of our length."""
    connections, names = 500, 50_000
    with servers_of("ring", 1) as (_, (raw,)), ExitStack() as stack:
        start = raw.info("memory")["used_memory"]
        port = raw.connection_pool.connection_kwargs["port"]
        clients = [stack.enter_context(redis.Redis(port=port)) for _ in range(connections)]
        for client in clients:
            client.set("x", "y" * 1000)
        middle = raw.info("memory")["used_memory"]
        subscriber = stack.enter_context(clients[0].pubsub())
        for first in range(0, names, 1000):
            some = [f"asgispecific.{number:032x}!{number:032x}" for number in range(first, first + 1000)]
            subscriber.execute_command("SUBSCRIBE", *some)
            for _ in some:
                subscriber.parse_response()
        end = raw.info("memory")["used_memory"]
    return {"connection": (middle - start) / connections, "subscription": (end - middle) / names}


# The whole.


def markdown(report: dict[str, Any]) -> str:
    lines: list[str] = []
    if "counts" in report:
        lines += [
            "| layer | servers | consumers, groups | commands a message, a group delivery | µs of a server a message, "
            "a group delivery | connections of a process, of a server | subscriptions of a process | busiest server: "
            "all, groups alone | redirected |",
            "|---|---|---|--:|--:|--:|--:|--:|--:|",
        ]
        lines += [
            f"| {c['layer']} | {c['way']} of {c['servers']} | {c['consumers']:,}, {c['groups']:,} "
            f"| {c['commands_per_send']:.2f}, {c['commands_per_delivery']:.2f} "
            f"| {c['server_us_per_send']:.0f}, {c['server_us_per_delivery']:.0f} "
            f"| {c['connections_per_process']:.1f}, {c['connections_per_server']:.0f} "
            f"| {c['subscriptions_per_process']:.1f} | {c['busiest']:.2f}, {c['busiest_by_groups']:.2f} "
            f"| {c['redirections']} |"
            for c in report["counts"]
        ]
        lines += ["", f"Lost: {sum(c['lost'] for c in report['counts'])}.", ""]
    if "speed" in report:
        lines += ["| work | layer | one server | cluster of 3 | of it |", "|---|---|--:|--:|--:|"]
        found = {(row["work"], row["layer"], row["servers"]): row for row in report["speed"]}
        for (work, layer, way), row in found.items():
            if way == "one":
                one, three = row["per_cpu_second"], found[work, layer, "cluster"]["per_cpu_second"]
                lines.append(f"| {work} | {layer} | {one:,.0f} | {three:,.0f} | {three / one:.0%} |")
        lines += ["", f"Lost: {sum(row['lost'] for row in report['speed'])}.", ""]
    if "memory" in report:
        lines += [f"A {name}: {size:,.0f} bytes of the server's memory." for name, size in report["memory"].items()]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", nargs="+", type=int, default=[3, 6, 12], help="how many (default: 3 6 12)")
    parser.add_argument("--only", nargs="+", choices=("counts", "speed", "memory"), default=None)
    parser.add_argument("--turns", type=int, default=TURNS, help=f"of each contender (default: {TURNS})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    arguments = parser.parse_args()
    wanted = arguments.only or ("counts", "speed", "memory")
    report: dict[str, Any] = {}
    if "counts" in wanted:
        report["counts"] = []
        for servers in arguments.servers:
            for way in ("cluster", "ring"):
                with servers_of(way, servers) as (hosts, raws):
                    for kind in LAYERS:
                        for size in SITES:
                            counts = asyncio.run(count(kind, way, size, hosts, raws))
                            report["counts"].append(asdict(counts))
                            for raw in raws:
                                raw.flushall()
                            print(asdict(counts), file=sys.stderr)
    if "speed" in wanted:
        report["speed"] = speed(arguments.turns)
    if "memory" in wanted:
        report["memory"] = memory()
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    print(markdown(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
