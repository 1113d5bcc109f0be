"""
``tune``: finds the capacity that a workload needs, by driving the REAL layer with it on scratch keys.

Prints the sources of the numbers, its progress and the results, and saves the results; the other files here do the
rest.
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
from ...core import RedisChannelLayer
from ...survey.servers import lines
from .. import deployment, progress, values
from ..deployment import Deployment, UsageError
from . import page, plots, profile, report
from .advice import Advice, advise, advise_on_paper
from .drive import Origin, RunFailed
from .measured import Run
from .queueing import is_ideal
from .sample import Sample, take
from .scratch import Scratch, own_server
from .sweep import MOST_MESSAGES, Limits, Plan, Standing, Sweep, default_seconds, ladder, seconds_needed
from .workload import Workload, timetable

HELP = "Find the capacity that a load needs: drive the layer with it and report losses and waiting times."

EXAMPLE = """channels-redis-fast tune --settings mysite.settings --channel thumbnails \\
      --rate 40 --burst 100 --burst-every 10s --service-time 15ms --consumers 2 --max-wait 2s"""

#: The files that are saved.
FILES = ("index.html", *plots.FILES, "sweep.json")

#: The options that select a deployment.
NAMING = ("settings", "alias", "hosts", "cluster", "prefix", "layer", "sharded")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "workload", "the load on the channel: flags override the profile, and the profile overrides --from-live"
    )
    group.add_argument("--profile", type=Path, metavar="FILE", help="JSON or TOML with these fields, such as rate")
    group.add_argument(
        "--from-live", type=values.argument(values.seconds), metavar="TIME",
        help="watch the deployment for this long, read-only, and use what can be seen of its load",
    )  # fmt: skip
    profile.add_flags(group)
    group = parser.add_argument_group("limits")
    group.add_argument(
        "--max-loss", type=values.argument(values.share), default=0.001, metavar="SHARE",
        help="share of the messages that may be lost, such as 1%% (default: 0.1%%)",
    )  # fmt: skip
    group.add_argument(
        "--max-wait", type=values.argument(values.seconds), default=1.0, metavar="TIME",
        help="time that 99%% of the messages may wait for a consumer at most (default: 1s)",
    )  # fmt: skip
    group = parser.add_argument_group("sweep")
    group.add_argument("--channel", metavar="NAME", help="name or glob of the channel that the setting is for")
    group.add_argument(
        "--capacities", type=values.argument(_capacities), metavar="N,N,...",
        help="capacities to measure (default: around what an ideal queue needs, and the one set now)",
    )  # fmt: skip
    group.add_argument(
        "--duration", type=values.argument(values.seconds), metavar="TIME",
        help="time for each capacity (default: as long as --max-loss needs to be shown, 10s to 2m)",
    )  # fmt: skip
    group.add_argument(
        "--seed", type=int, default=1, help="seed of the random times: the same seed sends the same messages"
    )
    group.add_argument(
        "--at-once", type=values.argument(values.count(1, 64)), metavar="N",
        help="capacities measured at the same time (default: as many as this machine can take undisturbed)",
    )  # fmt: skip
    group.add_argument(
        "--repeats", type=values.argument(values.count(0, 100)), default=2, metavar="N",
        help="how often to measure a capacity again that this machine could not keep up with (default: 2)",
    )  # fmt: skip
    group.add_argument(
        "--own-server", action="store_true",
        help="start a redis-server or valkey-server here and use it instead of the deployment's",
    )  # fmt: skip
    group.add_argument(
        "--output", type=Path, metavar="DIR", help=f"directory for {', '.join(FILES)} (default: tune-DATE-TIME)"
    )


def run(arguments: argparse.Namespace, console: Any) -> int:
    """
    Return 0 if a capacity keeps the limits, 1 if none does, or if the run was too short to tell.

    If Ctrl-C or an error stops the sweep, the results so far are reported; then the exception is raised.
    """
    from . import table  # noqa: PLC0415 - needs the extra

    if arguments.max_wait <= 0:
        raise UsageError("--max-wait must be more than 0.")
    if arguments.max_loss <= 0:
        raise UsageError("--max-loss must be more than 0: no measurement shows that nothing is ever lost.")
    if arguments.channel == "*":
        # Without a name, the setting is for all channels.
        arguments.channel = None
    directory = _directory(arguments.output)
    with _target(arguments) as target:
        found = _sample(target, arguments, console) if arguments.from_live is not None else None
        workload = _workload(arguments, found, target.deployment)
        limits = _limits(arguments, target)
        console.print(report.describe(workload), markup=False)
        hopeless = advise_on_paper(workload, limits, arguments.seed)
        if hopeless is not None:
            _print_advice(hopeless, None, console)
            return 1
        console.print(report.describe_limits(limits), markup=False)
        plan = _plan(arguments, workload, limits, target.layer)
        _announce(plan, target.hosts, console)
        runs: list[Run] = []
        stopped: BaseException | None = None
        try:
            asyncio.run(_sweep(target, plan, runs))
        except (Exception, KeyboardInterrupt) as error:
            if not runs:
                raise
            stopped = error
        advice = advise(plan, runs, is_ideal(plan.workload, target.driven.is_core, target.layer.ring_size))
        pasted = report.recommend(target.layer, target.deployment, plan, runs, arguments.channel, advice)
        console.print(table.fitting(plan, runs, advice))
        console.print(table.LEGEND, style="dim", markup=False)
        if runs[0].message_bytes > 1.05 * workload.size:
            console.print(f"Messages took {runs[0].message_bytes} bytes, the least that tune can send.")
        for one in runs:
            if one.doubts:
                console.print(f"Capacity {one.capacity} is unreliable: {' '.join(one.doubts)}", markup=False)
        console.print()
        _print_advice(advice, pasted, console)
        sweep = report.as_json(target.deployment, target.layer, target.hosts, plan, runs, advice, pasted)
        if found is not None:
            sweep["sample"] = found.as_dict()
        _save(directory, sweep, plan, runs)
        console.print(f"Saved in {directory}: {', '.join(FILES)}", markup=False, soft_wrap=True)
        if stopped is not None:
            raise stopped
    return 0 if advice.is_met else 1


@dataclass(frozen=True)
class _Target:
    """What is driven, and how the processes that drive it are configured."""

    deployment: Deployment
    #: The deployment that is driven, perhaps on a server of our own.
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
    with progress.bar() as bar:
        task = bar.add_task("watching", total=1.0)
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
    if found is not None and found.rate_range is not None and "rate" not in fields:
        raise UsageError(_asks_for_rate(found))
    workload = profile.workload_of(fields)
    if workload.to == "general" and not target.is_core:
        raise UsageError("On the Pub/Sub layer, no workers share a general channel: use --to specific or --to group.")
    return workload


def _asks_for_rate(found: Sample) -> str:
    """Return why nothing follows from a sample, and which options to give so that it need not be taken again."""
    assert found.rate_range is not None
    least, most = found.rate_range
    between = f"at least {least:.4g}" if most is None else f"between {least:.4g} and {most:.4g}"
    flags = " ".join(["--rate N", *(f"--{name.replace('_', '-')} {value}" for name, value in found.fields.items())])
    return (
        f"--from-live saw only a part of the traffic: {between} messages a second. Run tune without --from-live, with "
        f"the rate that you expect: {flags}"
    )


def _limits(arguments: argparse.Namespace, target: _Target) -> Limits:
    layer = target.layer
    if isinstance(layer, RedisChannelLayer) and arguments.max_wait >= layer.expiry:
        raise UsageError(
            f"--max-wait must be less than the layer's expiry, {layer.expiry:g} s: messages that wait longer are lost."
        )
    return Limits(arguments.max_loss, arguments.max_wait)


def _plan(arguments: argparse.Namespace, workload: Workload, limits: Limits, layer: RedisLayer) -> Plan:
    seconds = arguments.duration if arguments.duration is not None else default_seconds(workload, limits.max_loss)
    if seconds * workload.mean_rate * workload.copies > MOST_MESSAGES:
        raise UsageError(f"Each capacity would take more than {MOST_MESSAGES:,} messages: give a shorter --duration.")
    times = timetable(workload, seconds, arguments.seed)
    if not times:
        raise UsageError(f"No message is sent within {seconds:g} s: give a longer --duration.")
    capacities = arguments.capacities
    if capacities is None:
        current = report.current_capacity(layer, workload, arguments.channel)
        capacities = ladder(workload, limits, times, current, layer.ring_size)
    return Plan(workload, limits, capacities, seconds, arguments.seed, arguments.at_once, arguments.repeats)


def _announce(plan: Plan, hosts: list[str], console: Any) -> None:
    capacities = ", ".join(str(capacity) for capacity in plan.capacities)
    console.print(
        f"Measuring on {', '.join(hosts)}, with keys of its own: capacities {capacities}, {plan.seconds:g} s each, "
        f"{report.whole_time(plan)}.",
        markup=False,
    )
    needed = seconds_needed(plan.workload, plan.limits.max_loss)
    if needed > 1.01 * plan.seconds:
        console.print(
            f"That is too short to show that less than {report.percent(plan.limits.max_loss)} are lost: --duration "
            f"{needed:.0f}s would be enough."
        )


async def _sweep(target: _Target, plan: Plan, runs: list[Run]) -> None:
    """Carry out a plan; ``runs`` receives each finished run, however the sweep ends."""
    from rich.progress import TextColumn  # noqa: PLC0415 - of the extra

    async with lines(target.driven.make_layer(), "tune") as servers:
        scratch = Scratch(target.driven, servers)
        if scratch.layer.get_capacity("tune") != scratch.layer.capacity and not scratch.layer.channel_capacity:
            raise UsageError(f"{target.driven.backend.__name__} overrides get_capacity, so no setting has any effect.")
        with progress.bar(TextColumn("{task.fields[left]}")) as bar:
            task = bar.add_task("", total=1.0, left="")

            def show(standing: Standing) -> None:
                bar.update(
                    task, completed=standing.part, description=report.standing(standing),
                    left=report.time_left(standing.seconds_left),
                )  # fmt: skip

            try:
                await Sweep(plan, target.origin, scratch, runs, show).run()
            except RunFailed as error:
                raise RuntimeError(str(error)) from error
            finally:
                await scratch.clean()


def _print_advice(advice: Advice, pasted: str | None, console: Any) -> None:
    for sentence in advice.text:
        console.print(sentence, markup=False)
    if pasted is not None:
        console.print(f"\n    {pasted}\n", markup=False, soft_wrap=True)


def _directory(given: Path | None) -> Path:
    """
    Return the directory for the results; it is created when there are some.

    Raises, before the work, ``UsageError`` if it cannot be created, and ``ModuleNotFoundError`` if nothing can be
    drawn.
    """
    import matplotlib  # noqa: F401, PLC0415 - of the extra, and needed at the end

    directory = given or Path(time.strftime("tune-%Y%m%d-%H%M%S"))
    there = next(parent for parent in (directory, *directory.absolute().parents) if parent.exists())
    if not there.is_dir():
        raise UsageError(f"--output {directory}: {there} is not a directory.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"--output {directory}: {there} cannot be written to.")
    return directory


def _save(directory: Path, sweep: dict[str, Any], plan: Plan, runs: list[Run]) -> None:
    """Write all files, or none: whatever can fail comes first."""
    from . import table  # noqa: PLC0415 - needs the extra

    panels = plots.draw(sweep)
    titles = [column.title for column in table.COLUMNS]
    about = [report.describe(plan.workload), report.describe_limits(plan.limits)]
    texts = {
        "index.html": page.page(sweep, about, titles, table.rows(plan, runs), table.LEGEND, panels),
        "sweep.json": json.dumps(sweep, indent=1) + "\n",
        **{panel.file: panel.svg for panel in panels},
    }
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8")


def _capacities(value: object) -> list[int]:
    one = values.count(1, 10_000_000)
    return sorted({one(part) for part in str(value).split(",")})
