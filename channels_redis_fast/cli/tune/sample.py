"""
A workload as a live deployment shows it, observed in Redis without changing anything: ``--from-live``.

What can be seen: how many messages wait on a channel's key and since when, how large one is, what is in groups, which
connections there are, how many commands the server carried out. MONITOR is never used, and nothing is configured.

What cannot: a message that comes and is taken between two looks. While some messages wait, every arrival is seen, since
the new ones are behind them. Otherwise only a range is known: at least what was seen, and no more than the server's
count of ZADD (PUBLISH on Pub/Sub), which includes group memberships and everybody else on that server, and counts a
batch of messages once. No rate follows from that. How long a consumer takes can be seen only while messages wait and
the number of consumers is known. Workers of a general channel cannot be seen, only their connections: one for each
process.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from statistics import fmean, median
from typing import Any

from ...base import RedisLayer
from ...connection.hosts import is_cluster
from ...core import RedisChannelLayer
from ...pubsub import RedisPubSubChannelLayer
from ...survey.line import Line
from ...survey.scan import Sweep
from ...survey.server_facts import ask_facts, own_connections
from ...survey.servers import lines
from ..deployment import Deployment, UsageError

ROLE = "tune"

#: Seconds between two looks, and between two searches for keys.
LOOK, SEARCH = 0.1, 5.0

#: How many keys are looked at, the deepest first; how many a search goes over; how many members of a group are read.
MOST_KEYS, MOST_SEARCHED, MOST_MEMBERS = 100, 20_000, 1000

#: The size in bytes of what precedes the message in a stored member: the default of ``random_prefix_length``.
IN_FRONT = 12


#: The share of the looks that has to be complete before a rate follows from them.
COMPLETE = 0.95


@dataclass
class Sample:
    """
    What was seen: ``fields`` of a workload, sentences about them, and the underlying numbers.

    ``rate_range``: if only a part of the traffic was seen, the messages per second that were seen and, if they are
    more, the commands per second that may have carried some; None if a rate is among the fields.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    rate_range: tuple[float, float | None] | None = None
    notes: list[str] = field(default_factory=list)
    seen: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the sample for the JSON of a sweep."""
        return asdict(self)


@dataclass
class Watched:
    """What the looks at one key showed."""

    key: bytes
    name: str
    #: For each look: the messages that had come since the last one and waited, and how many waited in all.
    arrived: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    #: Whether everything that had come since the last look was still there.
    complete: list[bool] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    @property
    def messages(self) -> int:
        return sum(self.arrived)


async def take(
    deployment: Deployment, seconds: float, channel: str | None, progress: Callable[[float], None] = lambda _: None
) -> Sample:
    """
    Look at a deployment for some seconds. ``channel``: a name or glob; if None, the channel with the most arrivals.

    Raises ``UsageError`` if there is nothing to see, redis-py's ``ConnectionError`` naming the host.
    """
    layer = deployment.make_layer()
    async with lines(layer, ROLE) as servers:
        before = await _calls(servers)
        began = time.monotonic()
        watched = await _watch(servers, layer.prefix, seconds, channel, progress) if deployment.is_core else []
        if not deployment.is_core:
            while (left := seconds - (time.monotonic() - began)) > 0:
                progress(1 - left / seconds)
                await asyncio.sleep(min(left, LOOK))
        took = time.monotonic() - began
        after = await _calls(servers)
        processes = await _processes(servers, layer)
        members = await _members(servers, layer.prefix) if deployment.is_core else Counter[str]()
    command = "zadd"
    if isinstance(layer, RedisPubSubChannelLayer):
        command = "spublish" if layer.sharded else "publish"
    calls = None if before is None or after is None else (after[command] - before[command]) / took
    return conclude(watched, took, calls, processes, members)


def conclude(
    watched: Sequence[Watched], seconds: float, calls: float | None, processes: int | None, members: Counter[str]
) -> Sample:
    """
    Return what follows from the looks.

    ``calls``: commands per second that add or publish messages, None if the server does not tell; ``processes``:
    connections that receive; ``members``: channels in groups by the process that they belong to.
    """
    sample = Sample()
    sample.seen = {"seconds": seconds, "commands_per_second": calls, "processes": processes, "groups": len(members)}
    busiest = max(watched, key=lambda one: (one.messages, sum(one.depths)), default=None)
    is_specific = busiest is not None and busiest.name.endswith("!")
    if busiest is not None and busiest.messages:
        _arrivals(sample, busiest, seconds, calls)
    elif calls:
        sample.rate_range = 0.0, calls
        sample.notes.append(
            f"No message was seen waiting. The server carried out {calls:.4g} commands a second that add or publish "
            "messages, for all of its clients."
        )
    else:
        raise UsageError(f"No message arrived within {seconds:.3g} s: look longer, or give --rate.")
    if members:
        mean = max(round(fmean(members.values())), 1)
        sample.seen["members_per_process"] = mean
        if is_specific or not (busiest is not None and busiest.messages):
            sample.fields.update(to="group", consumers=mean, processes=len(members))
            sample.notes.append(f"Groups have {members.total()} members in {len(members)} processes.")
            return sample
    if is_specific:
        sample.fields["to"] = "specific"
    if processes:
        sample.fields["processes"] = processes
        sample.notes.append(
            f"{processes} connections receive, one for each process. Give --consumers for the number in each."
        )
    return sample


def _arrivals(sample: Sample, busiest: Watched, seconds: float, calls: float | None) -> None:
    looks = max(len(busiest.arrived), 1)
    steady = busiest.messages / seconds
    complete = sum(busiest.complete) / looks
    sample.seen.update(
        channel=busiest.name, arrivals_per_second=steady, complete=complete, depth_mean=fmean(busiest.depths),
        depth_most=max(busiest.depths),
    )  # fmt: skip
    where = (
        f"On {busiest.name}, {steady:.4g} messages a second were seen to arrive, and at most {max(busiest.depths)} "
        "waited"
    )
    if complete < COMPLETE:
        sample.rate_range = steady, calls if calls is not None and calls > steady else None
        sample.notes.append(f"{where}. In {1 - complete:.0%} of the looks, some may have come and gone unseen.")
    else:
        sample.notes.append(f"{where}.")
        _bursts(sample, busiest, seconds, steady)
    if busiest.sizes:
        sample.fields["size"] = max(round(fmean(busiest.sizes)) - IN_FRONT, 1)
    each = _throughput(busiest, seconds / looks)
    if each is not None:
        sample.seen["busy_messages_per_second"] = each
        sample.notes.append(
            f"While messages waited, {each:.4g} a second were taken: with n consumers that is --service-time "
            f"n × {1000 / each:.4g}ms."
        )


def _bursts(sample: Sample, busiest: Watched, seconds: float, steady: float) -> None:
    """Separate seconds with far more arrivals than chance explains from the rest."""
    per_second = max(round(len(busiest.arrived) / seconds), 1)
    sums = [sum(busiest.arrived[at : at + per_second]) for at in range(0, len(busiest.arrived), per_second)]
    usual = median(sums)
    limit = usual + 4 * usual**0.5 + 5
    high = [number for number in sums if number > limit]
    if not high:
        sample.fields["rate"] = steady
        return
    rest = [number for number in sums if number <= limit]
    sample.fields.update(
        rate=fmean(rest) if rest else 0.0, burst=round(max(high) - usual), burst_every=seconds / len(high),
        burst_length=min(1.0, seconds / len(high)),
    )  # fmt: skip
    sample.notes.append(f"In {len(high)} of {len(sums)} seconds there were bursts, of up to {max(high)} messages.")


def _throughput(busiest: Watched, interval: float) -> float | None:
    """Return how many messages per second were taken between looks at which some waited all the time."""
    taken = [
        busiest.depths[at - 1] + busiest.arrived[at] - busiest.depths[at]
        for at in range(1, len(busiest.depths))
        if busiest.complete[at] and busiest.depths[at] and busiest.depths[at - 1]
    ]
    if len(taken) < 10 or sum(taken) <= 0:
        return None
    return sum(taken) / (len(taken) * interval)


async def _watch(
    servers: Sequence[Line], prefix: str, seconds: float, channel: str | None, progress: Callable[[float], None]
) -> list[Watched]:
    parts = await asyncio.gather(*(_watch_shard(line, prefix, seconds, channel, progress) for line in servers))
    together: dict[str, Watched] = {}
    for part in (one for shard in parts for one in shard):
        same = together.get(part.name)
        if same is None:
            together[part.name] = part
            continue
        # A general channel has a key on each shard. The looks were at about the same times.
        same.arrived = [a + b for a, b in zip(same.arrived, part.arrived, strict=False)]
        same.depths = [a + b for a, b in zip(same.depths, part.depths, strict=False)]
        same.complete = [a and b for a, b in zip(same.complete, part.complete, strict=False)]
        same.sizes += part.sizes
    return list(together.values())


async def _watch_shard(
    line: Line, prefix: str, seconds: float, channel: str | None, progress: Callable[[float], None]
) -> list[Watched]:
    start = time.monotonic()
    watched: dict[bytes, Watched] = {}
    searched = float("-inf")
    last = await _clock(line)
    looks = 0
    while (now := time.monotonic() - start) < seconds:
        if now - searched >= SEARCH:
            searched = now
            for key, name in await _search(line, prefix, channel):
                if key not in watched and len(watched) < MOST_KEYS:
                    # Messages that came since the last search, and went before this one, were not seen.
                    nothing = [0] * looks
                    watched[key] = Watched(key, name, [*nothing], [*nothing], [False] * looks)
        next_look = await _look(line, list(watched.values()), last, sizes=looks % round(1 / LOOK) == 0)
        last, looks = next_look, looks + 1
        progress(now / seconds)
        await asyncio.sleep(max(start + looks * LOOK - time.monotonic(), 0))
    return list(watched.values())


async def _look(line: Line, watched: list[Watched], last: float, sizes: bool) -> float:
    """Ask what has come to each key after ``last``, by the server's clock; return the time of this look."""
    since = f"({last:.6f}"
    commands: list[tuple[Any, ...]] = [(b"TIME",)]
    for one in watched:
        commands += [
            (b"ZCARD", one.key),
            (b"ZCOUNT", one.key, since, b"+inf"),
            (b"ZCOUNT", one.key, b"-inf", since[1:]),
        ]
        if sizes:
            commands.append((b"ZRANGE", one.key, -1, -1))
    replies = iter(await line.ask(*commands))
    clock = next(replies)
    for one in watched:
        depth, new, old = (reply if isinstance(reply, int) else 0 for reply in (next(replies) for _ in range(3)))
        one.depths.append(depth)
        one.arrived.append(new)
        # The oldest goes first: if an earlier message is left, none of the new ones has gone.
        one.complete.append(old > 0)
        if sizes:
            newest = next(replies)
            if isinstance(newest, list) and newest:
                one.sizes.append(len(newest[0]))
    return _seconds(clock)


async def _search(line: Line, prefix: str, channel: str | None) -> list[tuple[bytes, str]]:
    """Return the current keys of channels, with the channels' names; the deepest first."""
    found: list[bytes] = []
    sweep = Sweep(line, prefix, MOST_SEARCHED)
    inner = prefix.encode() + b":"
    async for keys in sweep.batches():
        found += [key for key in keys if not key.startswith(inner) and not key.endswith(b"$inflight")]
    named = [(key, key[len(prefix.encode()) :].decode(errors="replace")) for key in found]
    if channel is not None:
        named = [(key, name) for key, name in named if fnmatchcase(name, channel) or name == channel]
    depths = await line.ask(*((b"ZCARD", key) for key, _ in named)) if named else []
    ranked = zip(depths, named, strict=True)
    return [one for _, one in sorted(ranked, key=lambda pair: -pair[0] if isinstance(pair[0], int) else 0)][:MOST_KEYS]


async def _clock(line: Line) -> float:
    (clock,) = await line.ask((b"TIME",))
    return _seconds(clock)


def _seconds(clock: Any) -> float:
    return time.time() if isinstance(clock, Exception) else int(clock[0]) + int(clock[1]) / 1e6


async def _calls(servers: Sequence[Line]) -> Counter[str] | None:
    """Return how often the servers have carried out each command, None if one does not tell."""
    calls: Counter[str] = Counter()
    for line in servers:
        (told,) = await line.ask((b"INFO", b"commandstats"))
        if isinstance(told, Exception):
            return None
        for text in told.decode().split():
            name, _, figures = text.partition(":calls=")
            if figures:
                calls[name.removeprefix("cmdstat_")] += int(figures.partition(",")[0])
    return calls


async def _processes(servers: Sequence[Line], layer: RedisLayer) -> int | None:
    """
    Return how many connections receive, None if a server does not tell.

    A process has one on each shard. In a cluster it has one on each server with a name that it listens on; the server
    with the most of them counts.
    """
    on_cluster = is_cluster(layer.hosts[0])
    waits = isinstance(layer, RedisChannelLayer) and not on_cluster
    role = f"{layer.layer_name}:{'receiver' if waits else 'subscriber'}"
    counts: list[int] = []
    for line in servers if on_cluster else servers[:1]:
        facts = await ask_facts(line)
        if facts.clients is None:
            return None
        counts.append(own_connections(facts.clients, line.host).get(role, 0))
    return max(counts) or None


async def _members(servers: Sequence[Line], prefix: str) -> Counter[str]:
    """Return how many channels of each process are in groups."""
    channels: set[str] = set()
    for line in servers:
        async for keys in Sweep(line, f"{prefix}:group:", MOST_SEARCHED).batches():
            for members in await line.ask(*((b"ZRANGE", key, 0, MOST_MEMBERS - 1) for key in keys)):
                if isinstance(members, list):
                    channels.update(member.decode(errors="replace") for member in members)
    return Counter(channel.partition("!")[0] for channel in channels)
