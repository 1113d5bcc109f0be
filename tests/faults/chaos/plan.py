"""The plan of a round: who sends, who receives, and which faults come when. The same seed gives the same plan."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

#: What happens to processes; all other faults are of servers and of the ways to them.
OF_PROCESSES = ("cancel", "close_senders", "close_receivers", "fork")
#: What can happen anywhere, and what only where it can be made to happen.
EVERYWHERE = ("kill", "pause", "script_flush", "cancel", "cancel", "close_senders", "close_receivers", "fork")
PROXIED = ("stall", "cut", "cut_after", "refuse", "delay", "slice", "restart_aof", "restart_empty")
REPLICATED = ("failover", "kill_primary")
#: What can happen beside another fault, besides `OF_PROCESSES`, unless that fault takes the server away.
BESIDE = ("kill", "script_flush")
TAKE_SERVERS_AWAY = ("restart_aof", "restart_empty", *REPLICATED)

#: By setup: the layers it runs, its servers, who calls (`hub`: synchronous threads), and processes that share its jobs.
SETUPS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], int]] = {
    "single": (("core",), ("single",), ("async",), 0),
    "ring": (("core",), ("ring",), ("async",), 0),
    "sentinel": (("core",), ("sentinel",), ("async",), 0),
    "cluster": (("core",), ("cluster",), ("async",), 0),
    "pubsub": (("pubsub",), ("single", "ring"), ("async",), 0),
    "pubsub-sentinel": (("pubsub",), ("sentinel",), ("async",), 0),
    "pubsub-cluster": (("pubsub",), ("cluster",), ("async",), 0),
    "hub": (("core", "pubsub"), ("single", "ring"), ("hub",), 0),
    "processes": (("core",), ("single",), ("async",), 2),
}


@dataclass(frozen=True)
class Fault:
    """
    At `at` seconds `name` happens, for `seconds`; `number` is what it chooses by (a shard, a count). `beside`: what
    happens while it does, at seconds since its begin.
    """

    at: float
    name: str
    seconds: float
    number: int
    beside: tuple[Fault, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A round. It can be written down: its `repr` is all there is to it."""

    seed: int
    setup: str
    round: int
    layer: str
    servers: str
    loop: str
    callers: str
    processes: int
    seconds: float
    producers: int
    specific: int
    general: int
    members: int
    burst: int
    faults: tuple[Fault, ...]


def make_plan(seed: int, setup: str, number: int) -> Plan:
    chance = random.Random(f"{seed}/{setup}/{number}")
    layers, servers, callers, processes = SETUPS[setup]
    kind = chance.choice(servers)
    names = list(EVERYWHERE) + list(PROXIED if kind in ("single", "ring") else REPLICATED)
    if processes:
        names += ["pause_client"] * 3
    seconds = round(chance.uniform(1.5, 3.0), 3)
    faults = tuple(
        _beset(chance, _fault(chance, at, chance.choice(names), 1.5))
        for at in sorted(round(chance.uniform(0.1, seconds), 3) for _ in range(chance.randint(1, 4)))
    )
    return Plan(
        seed,
        setup,
        number,
        layer := chance.choice(layers),
        kind,
        chance.choice(("asyncio", "uvloop")),
        chance.choice(callers),
        processes,
        seconds,
        producers=chance.randint(1, 4),
        specific=chance.randint(1, 4),
        # A Pub/Sub message to a channel goes to everybody who listens: there are no jobs to share.
        general=chance.randint(1, 3) if layer == "core" else 1,
        members=chance.randint(1, 5),
        burst=chance.choice((1, 3, 10)),
        faults=faults,
    )


def _fault(chance: random.Random, at: float, name: str, longest: float) -> Fault:
    return Fault(at, name, round(chance.uniform(0.05, longest), 3), chance.randrange(10_000))


def _beset(chance: random.Random, fault: Fault) -> Fault:
    """Let others happen beside two faults of five."""
    if chance.random() > 0.4:
        return fault
    names = OF_PROCESSES if fault.name in TAKE_SERVERS_AWAY else OF_PROCESSES + BESIDE
    times = sorted(round(chance.uniform(0.0, fault.seconds), 3) for _ in range(chance.randint(1, 3)))
    return replace(fault, beside=tuple(_fault(chance, at, chance.choice(names), 0.3) for at in times))
