"""
``tune``: finds the capacity that a workload needs, by driving the REAL layer with it on scratch keys.

Prints where the numbers come from, its progress and the results, and saves these; the other files here do the rest.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...base import RedisLayer
from ...connection.hosts import host_label
from ...survey.servers import lines
from .. import deployment, values
from ..deployment import Deployment, UsageError
from . import page, plots, profile, report
from .advice import Advice, advise
from .drive import Origin, RunFailed
from .measured import Run
from .queueing import is_ideal
from .sample import Sample, take
from .scratch import Scratch, own_server
from .sweep import MOST_MESSAGES, Limits, Plan, Sweep, default_seconds, ladder, seconds_needed
from .workload import Workload, timetable

HELP = "find the capacity that a workload needs: drives the layer with it and says what was lost and who waited"

EXAMPLE = """channels-redis-fast tune --settings mysite.settings --channel thumbnails \\
      --rate 40 --burst 100 --burst-every 10s --service-time 15ms --consumers 2 --max-wait 2s"""

#: What a deployment is named by.
NAMING = ("settings", "alias", "hosts", "cluster", "prefix", "layer", "sharded")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "workload", "what the channel has to bear: flags win over the profile, and the profile over a sample"
    )
    group.add_argument("--profile", type=Path, metavar="FILE", help="JSON or TOML with these fields, such as rate")
    group.add_argument(
        "--from-live", type=values.argument(values.seconds), metavar="TIME",
        help="look at the deployment for so long, without changing anything, and take from it what can be seen",
    )  # fmt: skip
    profile.add_flags(group)
    group = parser.add_argument_group("limits")
    group.add_argument(
        "--max-loss", type=values.argument(values.share), default=0.001, metavar="SHARE",
        help="part of the messages that may be lost (default: 0.1%%)",
    )  # fmt: skip
    group.add_argument(
        "--max-wait", type=values.argument(values.seconds), default=1.0, metavar="TIME",
        help="time that 99 of 100 messages may wait at most for their consumer (default: 1s)",
    )  # fmt: skip
    group = parser.add_argument_group("sweep")
    group.add_argument("--channel", metavar="NAME", help="name or glob of the channel that the setting is for")
    group.add_argument(
        "--capacities", type=values.argument(_capacities), metavar="N,N,...",
        help="what to try (default: around what an ideal queue needs, and what is set now)",
    )  # fmt: skip
    group.add_argument(
        "--duration", type=values.argument(values.seconds), metavar="TIME",
        help="time for each capacity (default: what --max-loss takes to be shown, 10s to 2m)",
    )  # fmt: skip
    group.add_argument("--seed", type=int, default=1, help="for the random times: equal seeds, equal messages")
    group.add_argument(
        "--at-once", type=values.argument(values.count(1, 64)), metavar="N",
        help="capacities driven at the same time (default: as many as this machine bears undisturbed)",
    )  # fmt: skip
    group.add_argument(
        "--repeats", type=values.argument(values.count(0, 100)), default=2, metavar="N",
        help="how often a capacity is driven again, alone, that this machine could not keep up with (default: 2)",
    )  # fmt: skip
    group.add_argument(
        "--own-server", action="store_true",
        help="drive a redis-server or valkey-server started here for it, in place of the deployment's",
    )  # fmt: skip
    group.add_argument(
        "--output", type=Path, metavar="DIR", help="where sweep.json, sweep.png and index.html go (default: tune-TIME)"
    )


def run(arguments: argparse.Namespace, console: Any) -> int:
    """Return 0 when a capacity keeps the limits, 1 when none does, or the run was too short to tell."""
    if arguments.max_wait <= 0:
        raise UsageError("--max-wait must be longer than nothing.")
    if arguments.max_loss <= 0:
        raise UsageError("--max-loss must be more than nothing: no measurement shows that nothing is ever lost.")
    with _target(arguments) as target:
        found = _sample(target, arguments, console) if arguments.from_live is not None else None
        workload = _workload(arguments, found, target.deployment)
        plan = _plan(arguments, workload, target.layer)
        directory = _directory(arguments.output)
        _announce(plan, target.hosts, console)
        runs, advice = asyncio.run(_sweep(target, plan, console))
        pasted = None
        if advice.capacity is not None:
            pasted = report.setting(target.deployment, workload, arguments.channel, advice.capacity)
        _show(plan, runs, advice, pasted, console)
        sweep = report.as_json(target.deployment, target.layer, target.hosts, plan, runs, advice, pasted)
        if found is not None:
            sweep["sample"] = found.as_dict()
        _save(directory, sweep, plan, runs)
        console.print(f"Saved: {directory}/sweep.json, sweep.png, index.html", soft_wrap=True)
    return 0 if advice.is_met else 1


@dataclass(frozen=True)
class _Target:
    """What is driven, and how the processes that do it are configured."""

    deployment: Deployment
    #: The deployment as it is driven: on a server of our own, perhaps.
    driven: Deployment
    layer: RedisLayer
    origin: Origin
    #: The servers' names, for the report.
    hosts: list[str]


@contextlib.contextmanager
def _target(arguments: argparse.Namespace) -> Iterator[_Target]:
    with contextlib.ExitStack() as stack:
        named = {name: getattr(arguments, name) for name in NAMING}
        changes: dict[str, Any] = {}
        if arguments.own_server:
            url = stack.enter_context(own_server())
            is_named = any((arguments.hosts, arguments.cluster, arguments.settings))
            if not is_named and not os.environ.get("DJANGO_SETTINGS_MODULE"):
                if arguments.from_live is not None:
                    raise UsageError(
                        "--from-live looks at a deployment: name it with --settings, --hosts or --cluster."
                    )
                named["hosts"] = [url]
            else:
                changes["hosts"] = [url]
        found = deployment.find(argparse.Namespace(**named))
        driven = Deployment(found.name, found.alias, found.backend, {**found.options, **changes}, found.is_twin)
        layer = driven.make_layer()
        hosts = ["a server of its own"] if arguments.own_server else [host_label(host) for host in layer.hosts]
        yield _Target(found, driven, layer, Origin(named, changes), hosts)


def _sample(target: _Target, arguments: argparse.Namespace, console: Any) -> Sample:
    with _progress(console) as bar:
        task = bar.add_task("looking", total=1.0)
        found = asyncio.run(
            take(
                target.deployment, arguments.from_live, arguments.channel, lambda part: bar.update(task, completed=part)
            )
        )
    for note in found.notes:
        console.print(note, markup=False)
    return found


def _workload(arguments: argparse.Namespace, found: Sample | None, target: Deployment) -> Workload:
    fields = dict(found.fields) if found is not None else {}
    if arguments.profile is not None:
        fields.update(profile.read_file(arguments.profile))
    fields.update(profile.flags_of(arguments))
    if not target.is_core:
        fields.setdefault("to", "group")
    workload = profile.workload_of(fields)
    if workload.to == "general" and not target.is_core:
        raise UsageError("On the Pub/Sub layer a general channel is no queue of workers: use --to specific or group.")
    return workload


def _plan(arguments: argparse.Namespace, workload: Workload, layer: RedisLayer) -> Plan:
    limits = Limits(arguments.max_loss, arguments.max_wait)
    seconds = arguments.duration if arguments.duration is not None else default_seconds(workload, limits.max_loss)
    if seconds * workload.mean_rate * workload.copies > MOST_MESSAGES:
        raise UsageError(
            f"These are more than {MOST_MESSAGES:,} messages for each capacity: give a shorter --duration."
        )
    times = timetable(workload, seconds, arguments.seed)
    if not times:
        raise UsageError(f"No message comes within {seconds:g} s: give a longer --duration.")
    capacities = arguments.capacities
    if capacities is None:
        current = report.current_capacity(layer, workload, arguments.channel)
        capacities = ladder(workload, limits, times, current, layer.ring_size)
    return Plan(workload, limits, capacities, seconds, arguments.seed, arguments.at_once, arguments.repeats)


def _announce(plan: Plan, hosts: list[str], console: Any) -> None:
    console.print(report.describe(plan.workload), markup=False)
    capacities = ", ".join(str(capacity) for capacity in plan.capacities)
    console.print(
        f"Driven on {', '.join(hosts)}, on keys of its own, with capacities {capacities}: {plan.seconds:g} s for each, "
        "less where some fit side by side.",
        markup=False,
    )
    needed = seconds_needed(plan.workload, plan.limits.max_loss)
    if needed > 1.01 * plan.seconds:
        console.print(
            f"That is too short to be sure that less than {plan.limits.max_loss:.3%} are lost: --duration "
            f"{needed:.0f}s would be enough."
        )


async def _sweep(target: _Target, plan: Plan, console: Any) -> tuple[list[Run], Advice]:
    async with lines(target.driven.make_layer(), "tune") as servers:
        scratch = Scratch(target.driven, servers)
        if scratch.layer.get_capacity("tune") != scratch.layer.capacity and not scratch.layer.channel_capacity:
            raise UsageError(f"{target.driven.backend.__name__} has a get_capacity of its own, so no setting matters.")
        with _progress(console) as bar:
            tasks: dict[str, Any] = {}

            def progress(label: str, part: float) -> None:
                if label not in tasks:
                    tasks[label] = bar.add_task(label, total=1.0)
                bar.update(tasks[label], completed=part)

            try:
                runs = await Sweep(plan, target.origin, scratch, progress).run()
            except RunFailed as error:
                raise RuntimeError(str(error)) from error
            finally:
                await scratch.clean()
    return runs, advise(plan, runs, is_ideal(plan.workload, target.driven.is_core, target.layer.ring_size))


def _progress(console: Any) -> Any:
    from rich.progress import Progress  # noqa: PLC0415 - of the extra

    return Progress(console=console, transient=True, disable=not console.is_terminal)


def _show(plan: Plan, runs: list[Run], advice: Advice, pasted: str | None, console: Any) -> None:
    from rich.table import Table  # noqa: PLC0415 - of the extra

    table = Table(box=None, padding=(0, 1, 0, 0))
    for name in report.COLUMNS:
        table.add_column(name, justify="left" if name == "verdict" else "right", overflow="fold")
    for one, row in zip(runs, report.rows(plan, runs), strict=True):
        table.add_row(*row, style="bold" if one.capacity == advice.capacity else None)
    console.print(table)
    console.print(report.LEGEND, style="dim", markup=False)
    for one in runs:
        if one.doubts:
            console.print(f"Capacity {one.capacity} is unreliable: {' '.join(one.doubts)}", markup=False)
    console.print()
    for sentence in advice.text:
        console.print(sentence, markup=False)
    if pasted is not None:
        console.print(f"\n    {pasted}\n", markup=False, soft_wrap=True)


def _directory(given: Path | None) -> Path:
    """Make the directory before the work: if that fails, nothing is wasted."""
    import matplotlib  # noqa: F401, PLC0415 - of the extra, and needed at the end

    directory = given or Path(time.strftime("tune-%Y%m%d-%H%M%S"))
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output {directory} cannot be written to: {error.strerror}.") from error
    if not os.access(directory, os.W_OK):
        raise UsageError(f"--output {directory} cannot be written to.")
    return directory


def _save(directory: Path, sweep: dict[str, Any], plan: Plan, runs: list[Run]) -> None:
    picture = plots.draw(sweep)
    (directory / "sweep.json").write_text(json.dumps(sweep, indent=1) + "\n", encoding="utf-8")
    (directory / "sweep.png").write_bytes(picture)
    text = page.page(
        sweep, report.describe(plan.workload), report.COLUMNS, report.rows(plan, runs), report.LEGEND, picture
    )
    (directory / "index.html").write_text(text, encoding="utf-8")


def _capacities(value: object) -> list[int]:
    one = values.count(1, 10_000_000)
    return sorted({one(part) for part in str(value).split(",")})
