"""
A sweep for readers and machines: its sentences, the setting to paste, the JSON. Prints and writes nothing itself.
"""

from __future__ import annotations

import math
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
from .sweep import Limits, Plan, Standing
from .workload import Workload

#: The version of the JSON's shape. Fields may be added under the same number, but none changes its meaning.
SHAPE = 1

#: A pattern for the channels that ``new_channel`` makes: on the core layer, and on Pub/Sub, where a prefix comes first.
SPECIFIC = {True: "specific.*", False: "*specific.*"}

#: A general channel for which no setting is made.
UNNAMED = "tune"


def describe(workload: Workload) -> str:
    """Return a workload in two sentences."""
    comes = []
    if workload.rate:
        comes.append(f"{workload.rate:.4g} a second {'at random' if workload.arrivals == 'poisson' else 'evenly'}")
    if workload.burst:
        over = f" within {spell(workload.burst_length)}" if workload.burst_length else " at once"
        comes.append(f"bursts of {workload.burst:,}{over} every {spell(workload.burst_every)}")
    to = {"general": "a general channel", "specific": "specific channels", "group": "a group"}[workload.to]
    does = "of processor time" if workload.service == "cpu" else "of waiting"
    taking = " on average" if workload.service_spread == "exponential" else ""
    each = " each" if workload.processes > 1 else ""
    return (
        f"Load: messages of {workload.size:,} bytes to {to}, {' and '.join(comes)}. "
        f"{counted(workload.processes, 'process')} with {counted(workload.consumers, 'consumer')}{each}, "
        f"{spell(workload.service_time)}{taking} {does} for each message. Utilisation: {workload.utilisation():.0%}."
    )


def describe_limits(limits: Limits) -> str:
    """Return the limits in one sentence, so that a misread limit is noticed."""
    return (
        f"Limits: at most {percent(limits.max_loss)} of the messages lost; 99% of the others wait at most "
        f"{spell(limits.max_wait)}."
    )


def whole_time(plan: Plan) -> str:
    """Return how long a plan takes, as far as that is known in advance."""
    rounds = math.ceil(len(plan.capacities) / (plan.at_once or 1))
    less = "" if plan.at_once or rounds == 1 else ", less if several can run at the same time"
    return f"about {_rounded(rounds * plan.seconds)} in all{less}"


def standing(standing: Standing) -> str:
    """Return the progress of a sweep, for its progress line."""
    driving = ", ".join(str(capacity) for capacity in standing.driving)
    return f"{standing.measured} of {standing.planned} measured, now {driving}"


def time_left(seconds: float) -> str:
    """Return a time in the format of a clock."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}:{rest:02} left"


def _rounded(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def percent(share: float) -> str:
    """Return a share as text, with all its digits."""
    return f"{100 * share:.6g}%"


def setting(layer: RedisLayer, deployment: Deployment, workload: Workload, channel: str | None, capacity: int) -> str:
    """
    Return the line to paste into the layer's CONFIG.

    With a ``channel`` (a name or glob) it is ``channel_capacity``: the new entry in front of the existing ones. Without
    one it is ``capacity``, unless an entry would hide that from the channels of the workload.
    """
    if channel is None and not _is_hidden(layer, workload):
        return f'"capacity": {capacity},'
    pattern = channel or SPECIFIC[deployment.is_core]
    existing = deployment.options.get("channel_capacity")
    entries: dict[Any, Any] = {pattern: capacity}
    if isinstance(existing, Mapping):
        # The first match counts.
        entries.update((name, value) for name, value in existing.items() if name != pattern)
    text = ", ".join(f"{_literal(name)}: {value}" for name, value in entries.items())
    return f'"channel_capacity": {{{text}}},'


def recommend(
    layer: RedisLayer, deployment: Deployment, plan: Plan, runs: Sequence[Run], channel: str | None, advice: Advice
) -> str | None:
    """
    Return the setting to paste, None if no capacity keeps the limits; add its meaning to the advice.

    One load says nothing about the other channels. So a setting that would lower the capacity of all of them is not
    recommended as long as the current one keeps the limits too.
    """
    if not advice.is_met or advice.capacity is None:
        return None
    workload, capacity = plan.workload, advice.capacity
    current = current_capacity(layer, workload, channel)
    keeps = any(run.capacity == current and not run.doubts and judge(run, plan.limits).keeps for run in runs)
    if current > capacity and keeps:
        advice.text.append(f"The capacity that is set now, {current}, keeps both limits too.")
    if channel is None and not _is_hidden(layer, workload):
        if current > capacity and keeps:
            capacity = current
            advice.text.append(
                "Keep it, because it applies to all channels and only this load was measured. Name the channel with "
                "--channel to get a setting for that channel alone."
            )
        else:
            advice.text.append(
                "This setting applies to all channels, and only this load was measured. Name the channel with "
                "--channel to get a setting for that channel alone."
            )
        if workload.to == "general" and any(pattern.match(UNNAMED) for pattern, _ in layer.channel_capacity):
            advice.text.append("Remove the entry of channel_capacity that matches all channels: it hides this setting.")
    return setting(layer, deployment, workload, channel, capacity)


def _is_hidden(layer: RedisLayer, workload: Workload) -> bool:
    """Whether a workload's specific channels match an entry of ``channel_capacity``, which hides ``capacity``."""
    if workload.to == "general":
        return False
    name = _specific_name(layer)
    return any(pattern.match(name) for pattern, _ in layer.channel_capacity)


def _specific_name(layer: RedisLayer) -> str:
    """Return a name like those that ``new_channel`` makes."""
    name = "specific.0123456789abcdef!0123456789abcdef"
    return name if layer.layer_name == "core" else f"{layer.prefix}{name}"


def _literal(pattern: Any) -> str:
    if isinstance(pattern, re.Pattern):
        return f"re.compile({pattern.pattern!r}, {int(pattern.flags)})"
    return '"' + str(pattern).replace("\\", "\\\\").replace('"', '\\"') + '"'


def current_capacity(layer: RedisLayer, workload: Workload, channel: str | None) -> int:
    """Return the deployment's current capacity for the channels of a workload."""
    if channel is not None and "*" not in channel:
        return layer.get_capacity(channel)
    return layer.capacity if workload.to == "general" else layer.get_capacity(_specific_name(layer))


def modelled(plan: Plan, runs: Sequence[Run], layer: RedisLayer) -> dict[int, float] | None:
    """Return the loss of an ideal queue by capacity, None if the layer is not meant to be one."""
    workload = plan.workload
    is_core = layer.layer_name == "core"
    if not queueing.is_ideal(workload, is_core, layer.ring_size):
        return None
    middle = sorted(runs, key=lambda run: run.fetch_time)[len(runs) // 2]
    slower = max(middle.service_time - workload.service_time, 0.0)
    # Exponential service times cannot be distinguished from a slow machine, so then only the fetch counts.
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
    """Return the whole sweep: what was asked, measured and concluded. ``hosts``: without passwords."""
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
