"""
A server's properties and configuration: version, role, memory, clients, clock, latency. Read-only.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

from ...survey.line import Line
from ...survey.server_facts import Facts
from ..texts import duration, size
from .findings import OK, PROBLEM, UNSEEN, WARNING, Finding

#: The first version of Redis with BZPOPMIN. Valkey began at 7.2.
OLDEST = 5

#: How full memory and the client list may be before there is a warning.
NEARLY_FULL = 0.9

#: Seconds. Clocks of well-maintained hosts differ by less; round trips within a data centre take less.
SKEW, SLOW = 1.0, 0.01

CLOCK_SAMPLES, PINGS = 7, 21


#: The first version of Redis with sharded Pub/Sub.
OLDEST_SHARDED = 7


def check_facts(
    facts: Facts, keeps: str | None, is_sharded: bool = False, on_cluster: bool = False
) -> Iterator[Finding]:
    """
    Report what the facts about a server mean for the layer.

    ``keeps``: what the layer has in Redis, None for nothing; ``is_sharded``: whether it needs sharded Pub/Sub;
    ``on_cluster``: whether the server should be part of a cluster.
    """
    yield _version(facts, is_sharded, on_cluster)
    yield from _role(facts)
    yield _memory(facts, keeps)
    yield from _clients(facts)


def _version(facts: Facts, is_sharded: bool, on_cluster: bool) -> Finding:
    if facts.version is None:
        return Finding(UNSEEN, "version", "unknown: the user may use neither INFO nor HELLO; see the commands below")
    name = f"{facts.server or 'server'} {facts.version}"
    major = facts.version.partition(".")[0]
    if facts.server == "redis" and major.isdecimal() and int(major) < OLDEST:
        return Finding(PROBLEM, "version", f"{name} has no BZPOPMIN", f"Use Redis {OLDEST}.0 or newer, or any Valkey.")
    if is_sharded and facts.server == "redis" and major.isdecimal() and int(major) < OLDEST_SHARDED:
        fix = f"Use Redis {OLDEST_SHARDED}.0 or newer, or any Valkey."
        return Finding(PROBLEM, "version", f"{name} has no sharded Pub/Sub", fix)
    # The field's name in Redis' INFO, in Valkey's INFO, and in HELLO.
    if not on_cluster and any(facts.info.get(name) == "cluster" for name in ("redis_mode", "server_mode", "mode")):
        return Finding(
            PROBLEM,
            "version",
            f"{name}, a node of a cluster: it refuses keys of other nodes",
            'Configure the cluster: "hosts": [{"cluster": ["redis://HOST:PORT"]}], or --cluster.',
        )
    return Finding(OK, "version", name)


def _role(facts: Facts) -> Iterator[Finding]:
    role = facts.info.get("role")
    if role in ("slave", "replica"):
        yield Finding(
            PROBLEM,
            "role",
            "a replica: it refuses writes",
            "Name the primary, or let Sentinels find it.",
        )
    elif role is not None:
        yield Finding(OK, "role", "primary")


def _memory(facts: Facts, keeps: str | None) -> Finding:
    item = "maxmemory"
    if keeps is None:
        return Finding(OK, item, "this layer keeps nothing in Redis")
    limit, used, policy = facts.number("maxmemory"), facts.number("used_memory"), facts.info.get("maxmemory_policy")
    if limit is None:
        return Finding(
            UNSEEN, item, "the user may not use INFO: make sure that maxmemory-policy is noeviction, or maxmemory is 0"
        )
    if limit == 0:
        return Finding(OK, item, f"no limit; {size(used)} in use")
    text = f"{size(used)} of {size(limit)} in use"
    if policy is not None and policy != "noeviction":
        gone = facts.number("evicted_keys") or 0
        return Finding(
            WARNING,
            item,
            f"{text}; with {policy} the server deletes {keeps} when it is full"
            + (f" ({gone:,} keys evicted so far)" if gone else ""),
            "CONFIG SET maxmemory-policy noeviction: sends then raise an error instead. Or use a separate server.",
        )
    if used is not None and used > NEARLY_FULL * limit:
        return Finding(WARNING, item, f"{text}; when it is full, sends raise OutOfMemoryError", "Raise `maxmemory`.")
    return Finding(OK, item, f"{text}, {policy or 'unknown policy'}")


def _clients(facts: Facts) -> Iterator[Finding]:
    connected, limit = facts.number("connected_clients"), facts.number("maxclients")
    if connected is None or not limit:
        return
    text = f"{connected:,} of {limit:,} connected"
    if connected > NEARLY_FULL * limit:
        yield Finding(WARNING, "clients", text, "Raise the server's `maxclients`, or look for a leak (CLIENT LIST).")
    else:
        yield Finding(OK, "clients", text)


async def check_clock(line: Line, expiry: float, is_core: bool) -> Finding:
    """
    Compare the server's clock with this host's. ``expiry`` is the layer's, in seconds.

    Raises ``redis.exceptions.ConnectionError`` naming the host.
    """
    item = "clock"
    samples: list[tuple[float, float]] = []
    for _ in range(CLOCK_SAMPLES):
        before, began = time.time(), time.perf_counter()
        (reply,) = await line.ask((b"TIME",))
        taken = time.perf_counter() - began
        if isinstance(reply, Exception):
            return Finding(UNSEEN, item, "the user may not use TIME")
        samples.append((taken, int(reply[0]) + int(reply[1]) / 1e6 - (before + taken / 2)))
    # The shortest round trip has the most precise midpoint.
    taken, ahead = min(samples)
    way = "ahead of" if ahead > 0 else "behind"
    text = f"{duration(abs(ahead))} {way} this host's (within {duration(taken / 2)})"
    if not is_core or abs(ahead) - taken / 2 < SKEW:
        return Finding(OK, item, text)
    fix = "Synchronize both hosts with the same time server (chrony, systemd-timesyncd)."
    if abs(ahead) - taken / 2 < expiry:
        return Finding(WARNING, item, f"{text}: messages and group memberships live that much shorter or longer", fix)
    return Finding(
        PROBLEM, item, f"{text}, more than `expiry` ({expiry:g} s): messages can be expired when they arrive", fix
    )


async def check_latency(line: Line) -> Finding:
    """
    Time some PINGs, one after another.

    Raises ``redis.exceptions.ConnectionError`` naming the host.
    """
    times: list[float] = []
    for _ in range(PINGS):
        began = time.perf_counter()
        await line.ask((b"PING",))
        times.append(time.perf_counter() - began)
    median = statistics.median(times)
    text = f"{duration(median)} for a PING (median of {PINGS}; the slowest {duration(max(times))})"
    if median > SLOW:
        fix = "Every send takes at least that long. Is the server far away or busy (SLOWLOG GET)? Is this host busy?"
        return Finding(WARNING, "latency", text, fix)
    return Finding(OK, "latency", text)
