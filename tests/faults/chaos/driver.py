"""Runs rounds: servers, layers, traffic and faults as planned, then the checker's verdict."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import uvloop

from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.faults.chaos.checker import Verdict, check, trace
from tests.faults.chaos.plan import OF_PROCESSES, Fault, Plan
from tests.faults.chaos.record import Record
from tests.faults.chaos.rules import Allowance, Happened
from tests.faults.chaos.servers import Servers
from tests.faults.chaos.traffic import JOBS, Traffic
from tests.faults.chaos.worker import worker

#: Room for all that a round sends: no message is refused, and none gives way.
ROOMY = 1_000_000
#: Seconds without anything new after which what is missing is lost.
PATIENCE = 3.0
SENDING, RECEIVING, WORKING = range(3)


@dataclass
class Tally:
    """What came out of the rounds of one setup."""

    rounds: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    #: Seeds and rounds with violations.
    violated: list[str] = field(default_factory=list)


def run_round(plan: Plan, servers: Servers) -> tuple[Record, Verdict, tuple[Happened, ...]]:
    """Run one round on servers of the plan's kind, in an event loop of its own."""
    loop = uvloop.new_event_loop() if plan.loop == "uvloop" else asyncio.new_event_loop()
    try:
        return loop.run_until_complete(_run(plan, servers))
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def _run(plan: Plan, servers: Servers) -> tuple[Record, Verdict, tuple[Happened, ...]]:
    kind = RedisChannelLayer if plan.layer == "core" else RedisPubSubChannelLayer
    options: dict[str, Any] = {"prefix": f"chaos{uuid.uuid4().hex[:12]}", "capacity": ROOMY}
    hub = "auto" if plan.callers == "hub" else "never"
    record = Record()
    happened: list[Happened] = []
    async with contextlib.AsyncExitStack() as stack:
        hosts = await stack.enter_async_context(servers.router(3 if plan.processes else 2))
        sender = kind(hosts=hosts[SENDING], sync_hub=hub, **options)
        receiver = kind(hosts=hosts[RECEIVING], sync_hub="never", **options)
        stack.push_async_callback(_close, record, sender, receiver)
        traffic = Traffic(plan, record, sender, receiver)
        pids = []
        for number in range(plan.processes):
            its = {"hosts": hosts[WORKING], **options}
            pids.append(await stack.enter_async_context(worker(its, JOBS, "jobs", f"process{number}", record)))
        await traffic.start()
        traffic.produce()
        begun = record.now()

        async def happen(fault: Fault) -> None:
            since = record.now()
            if fault.name == "pause_client":
                await _pause_client(pids[fault.number % len(pids)], fault.seconds)
            elif fault.name in OF_PROCESSES:
                await traffic.apply(fault)
            else:
                await servers.apply(fault)
            happened.append(Happened(fault.name, since, record.now()))

        async def happen_later(fault: Fault) -> None:
            await asyncio.sleep(fault.at)
            await happen(fault)

        for fault in plan.faults:
            # Not before the last one has ended: a failover takes as long as it takes.
            await asyncio.sleep(max(begun + fault.at - record.now(), 0.0))
            ends = await asyncio.gather(happen(fault), *map(happen_later, fault.beside), return_exceptions=True)
            for error in filter(None, ends):
                raise error
        await asyncio.sleep(max(begun + plan.seconds - record.now(), 0.0))
        await traffic.stop_sending()
        await servers.settle()
        await traffic.finish(PATIENCE)
    faults = tuple(happened)
    allowance = Allowance(plan.layer, faults, servers.shards, 1 + plan.processes)
    return record, check(record, allowance), faults


async def _close(record: Record, *layers: Any) -> None:
    for layer in layers:
        try:
            await asyncio.wait_for(layer.close_pools(), 15.0)
        except asyncio.TimeoutError:
            record.stuck.append("the last close_pools")


async def _pause_client(pid: int, seconds: float) -> None:
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        os.kill(pid, signal.SIGCONT)


def report(plan: Plan, record: Record, verdict: Verdict, faults: tuple[Happened, ...], traces: int = 5) -> str:
    """All that is needed to think about a violation: seed, plan, what happened when, and traces of the messages."""
    again = f"SEED={plan.seed} SETUP={plan.setup}, round {plan.round}"
    lines = [f"VIOLATION: {again}", str(plan)]
    lines += [f"  {fault.begun:8.3f} to {fault.ended:.3f} {fault.name}: {fault.rule.reason}" for fault in faults]
    lines += verdict.violations[:20]
    if len(verdict.violations) > 20:
        lines.append(f"... and {len(verdict.violations) - 20} more")
    for flow, number, place in verdict.about[:traces]:
        lines += [f"{flow} {number} at {place}:", *trace(record, flow, number, place)]
    return "\n".join(lines)


def add(tally: Tally, plan: Plan, verdict: Verdict, faults: tuple[Happened, ...]) -> None:
    tally.rounds += 1
    tally.counts.update(verdict.counts)
    tally.counts["faults"] += len(faults)
    if verdict.violations:
        tally.violated.append(f"{plan.seed}/{plan.round}")


COLUMNS = ("sends", "faults", "received", "lost", "duplicated", "reordered", "stuck")


def table(tallies: dict[str, Tally]) -> str:
    """Markdown, a row for each setup. What was lost and allowed counts as lost too; `violations` are rounds."""
    rows = [f"| setup | rounds | {' | '.join(COLUMNS)} | violations |", "|---|" + "---:|" * (len(COLUMNS) + 2)]
    for setup, tally in tallies.items():
        cells = [f"{tally.counts[column]:,}" for column in COLUMNS]
        rows.append(f"| {setup} | {tally.rounds} | {' | '.join(cells)} | {len(tally.violated)} |")
    return "\n".join(rows)
