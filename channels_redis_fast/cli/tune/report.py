"""
A sweep for readers and machines: the table, the lines to paste, the JSON. Prints and writes nothing itself.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ... import __version__
from ...base import RedisLayer
from ..deployment import Deployment
from . import queueing
from .advice import Advice, counted, judge, spell
from .measured import Run
from .profile import as_fields
from .sweep import Plan
from .workload import Workload

#: The number of the JSON's shape: fields are added under the same number, and none changes its meaning.
SHAPE = 1

#: What matches the channels that ``new_channel`` makes: on the core layer, and on Pub/Sub, where a prefix comes first.
SPECIFIC = {True: "specific.*", False: "*specific.*"}

COLUMNS = (
    "capacity", "lost", "at most", "refused", "dropped", "p50", "p95", "p99", "at most", "full key", "CPU, µs",
    "verdict",
)  # fmt: skip

LEGEND = (
    '"At most" is the upper end of the interval of 95 %. A full key is what it takes in Redis. CPU for each message: '
    "sending + consuming + server."
)


def rows(plan: Plan, runs: Sequence[Run]) -> list[list[str]]:
    """Return the table's lines, a cell for each of ``COLUMNS``."""
    table = []
    for run in runs:
        wait = run.wait_p99
        times = [run.wait_p50, run.wait_p95, *((None, None) if wait is None else (wait.estimate, wait.high))]
        table.append([
            f"{run.capacity:,}",
            f"{run.loss.estimate:.3%}",
            f"{run.loss.high:.3%}",
            f"{run.refused:,}",
            f"{run.dropped:,}",
            *("" if one is None else spell(one) for one in times),
            _bytes(run.memory_full),
            _processor(run),
            "unreliable" if run.doubts else str(judge(run, plan.limits)),
        ])  # fmt: skip
    return table


def _bytes(number: int | None) -> str:
    if number is None:
        return ""
    return f"{number / 1000:,.1f} kB" if number < 10**6 else f"{number / 10**6:,.1f} MB"


def _processor(run: Run) -> str:
    """Return microseconds of processor for each delivery offered: sending, consuming, in the server."""
    parts = (run.cpu_sender, run.cpu_consumers, run.cpu_server)
    return "+".join("?" if part is None else f"{part / max(run.offered, 1) * 1e6:.0f}" for part in parts)


def describe(workload: Workload) -> str:
    """Return a workload in one sentence."""
    comes = []
    if workload.rate:
        comes.append(f"{workload.rate:g} a second {'at random' if workload.arrivals == 'poisson' else 'evenly'}")
    if workload.burst:
        over = f" within {spell(workload.burst_length)}" if workload.burst_length else " at once"
        comes.append(f"{workload.burst}{over} every {spell(workload.burst_every)}")
    to = {"general": "a general channel", "specific": "specific channels", "group": "a group"}[workload.to]
    taking = "on average" if workload.service_spread == "exponential" else "for each"
    does = "computing" if workload.service == "cpu" else "waiting"
    who = f"{counted(workload.processes, 'process')} with {counted(workload.consumers, 'consumer')}"
    return (
        f"Messages of {workload.size} bytes to {to}, {' and '.join(comes)}; {who}, {does} for "
        f"{spell(workload.service_time)} {taking}: busy {workload.utilisation():.0%} of the time."
    )


def setting(deployment: Deployment, workload: Workload, channel: str | None, capacity: int) -> str:
    """
    Return the ``channel_capacity`` to paste into the layer's CONFIG: the new entry, and those that are there already.

    ``channel``: the name or glob that it is for; None for all channels of the workload's kind.
    """
    pattern = channel or ("*" if workload.to == "general" else SPECIFIC[deployment.is_core])
    existing = deployment.options.get("channel_capacity")
    entries: dict[Any, Any] = {pattern: capacity}
    if isinstance(existing, Mapping):
        # The first that matches counts.
        entries.update((name, value) for name, value in existing.items() if name != pattern)
    text = ", ".join(f"{_literal(name)}: {value}" for name, value in entries.items())
    return f'"channel_capacity": {{{text}}},'


def _literal(pattern: Any) -> str:
    if isinstance(pattern, re.Pattern):
        return f"re.compile({pattern.pattern!r}, {int(pattern.flags)})"
    return '"' + str(pattern).replace("\\", "\\\\").replace('"', '\\"') + '"'


def current_capacity(layer: RedisLayer, workload: Workload, channel: str | None) -> int:
    """Return the capacity that the deployment has now for the channels of a workload."""
    if channel is not None and "*" not in channel:
        return layer.get_capacity(channel)
    if workload.to == "general":
        return layer.capacity
    name = "specific.0123456789abcdef!0123456789abcdef"
    return layer.get_capacity(name if layer.layer_name == "core" else f"{layer.prefix}{name}")


def modelled(plan: Plan, runs: Sequence[Run], layer: RedisLayer) -> dict[int, float] | None:
    """Return the loss of an ideal queue by capacity, None where the layer is not meant to be one."""
    workload = plan.workload
    is_core = layer.layer_name == "core"
    if not queueing.is_ideal(workload, is_core, layer.ring_size):
        return None
    middle = sorted(runs, key=lambda run: run.fetch_time)[len(runs) // 2]
    slower = max(middle.service_time - workload.service_time, 0.0)
    # An exponential time is told apart from a slow machine by nobody: then only the fetch counts.
    overhead = middle.fetch_time + (slower if workload.service_spread == "constant" else 0.0)
    queues = queueing.lines(workload, plan.times(), overhead)
    capacities = sorted({run.capacity for run in runs} | set(range(1, min(runs[-1].capacity, 64))))
    return {capacity: queueing.outcome(queues, capacity, not is_core)[0] for capacity in capacities}


def as_json(
    deployment: Deployment,
    layer: RedisLayer,
    hosts: Sequence[str],
    plan: Plan,
    runs: Sequence[Run],
    advice: Advice,
    pasted: str | None,
) -> dict[str, Any]:
    """Return the whole sweep: what was asked, what was measured, what follows. ``hosts``: without passwords."""
    ideal = modelled(plan, runs, layer)
    return {
        "shape": SHAPE,
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "version": __version__,
        "deployment": {
            "name": deployment.name,
            "layer": layer.layer_name,
            "hosts": list(hosts),
            "capacity": layer.capacity,
        },
        "workload": as_fields(plan.workload),
        "limits": {"max_loss": plan.limits.max_loss, "max_wait": plan.limits.max_wait},
        "seconds": plan.seconds,
        "seed": plan.seed,
        "runs": [
            {
                **run.as_dict(),
                "verdict": str(judge(run, plan.limits)),
                "ideal_loss": None if ideal is None else ideal[run.capacity],
            }
            for run in runs
        ],
        "ideal": None if ideal is None else [[capacity, loss] for capacity, loss in ideal.items()],
        "advice": {**advice.as_dict(), "setting": pasted},
    }
