"""Measure our layers beside upstream's, the in-memory one and the floors: `python -m bench.compare`, or `make bench`.

The contenders take turns (A B C A B C ...), each turn in a fresh process on the same server. Knows rounds, tables and
the JSON report; what is done to a layer is in `bench.cases`, what was promised in `bench.promises`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from bench.cases import CASES, METRICS
from bench.processes import FAMILIES, Contender, ContenderError, contenders, knows, result_of
from bench.promises import Spread, check, lines_of, metric_of, ratio, values
from bench.server import ServerError, server_from_environment, start_server
from bench.sizes import FULL, HEADLINES, QUICK, size_of
from bench.tables import colored, new_table, number
from bench.upstream import ROOT
from tests.clusters import Cluster

TURN_TIMEOUT = 180.0
LOOPS = ("asyncio", "uvloop")

# A contender in a case on a loop, and how much it is given.
Turn = tuple[str, Contender, str, int]


def machine(server_url: str) -> dict[str, Any]:
    import redis

    with redis.Redis.from_url(server_url) as client:
        server = client.info("server")
    name = server.get("server_name", "redis")
    return {
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "server": f"{name} {server.get(f'{name}_version', server['redis_version'])}",
    }


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def plan(
    rows: list[Contender], names: Sequence[str], sizes: dict[str, dict[str, int]], loops: Sequence[str]
) -> list[list[Turn]]:
    """The turns of one round, by case. The second loop has its turns in the headline cases alone."""
    rounds = []
    for name in names:
        here = loops if len(loops) == 1 or name in HEADLINES else loops[:1]
        sized = [(name, row, loop, size_of(sizes, name, row.layer)) for loop in here for row in rows]
        rounds.append([turn for turn in sized if turn[3]])
    return [turns for turns in rounds if turns]


def take_turns(
    turns_by_case: list[list[Turn]], rounds: int, urls: list[str], console: Console, nodes: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Measure it all. A turn that fails is a line too, and the others go on."""
    measurements = []
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("measuring", total=rounds * sum(len(turns) for turns in turns_by_case))
        for turns in turns_by_case:
            began = time.monotonic()
            for number in range(1, rounds + 1):
                for turn in turns:
                    name, contender, loop, _ = turn
                    progress.update(task, description=f"{name} {number}/{rounds} {contender.label} {loop}")
                    measurements.append({"round": number, **take_turn(turn, urls, console, nodes)})
                    progress.advance(task)
            if not console.is_terminal:
                console.print(f"{turns[0][0]}: {rounds} rounds in {time.monotonic() - began:.0f} s")
    return measurements


def take_turn(turn: Turn, urls: list[str], console: Console, nodes: Sequence[str] = ()) -> dict[str, Any]:
    """Measure one contender. `nodes`: of the cluster, where the case needs one."""
    name, contender, loop, size = turn
    options = ["--layer", contender.layer, "--workload", name, "--n", str(size), "--loop", loop]
    for url in nodes if CASES[name].cluster else urls[: CASES[name].shards]:
        options += ["--url", url]
    try:
        line = result_of(contender.python, "bench.contender", options, TURN_TIMEOUT, contender.directory)
        return {**line, "layer": contender.name}
    except ContenderError as error:
        console.print(f"[red]{contender.label}, {name}: failed[/]")
        console.print(str(error), markup=False, highlight=False)
        return {"layer": contender.name, "workload": name, "loop": loop, "n": size, "failed": str(error)}


def workload_table(workload: str, rows: list[Contender], measurements: list[dict[str, Any]]) -> Table:
    metric = metric_of(workload)
    headings = (f"{METRICS[metric][0]}\nmedian", "lowest -\nhighest", "x up-\nstream", "x In-\nMemory")
    table = new_table(CASES[workload].title, "layer", *headings, "CPU µs\n+ server", "lost")
    for loop in LOOPS:
        for row in rows:
            lines = [line for line in measurements if (line["layer"], line["loop"]) == (row.layer, loop)]
            if not any(line["workload"] == workload for line in lines):
                continue
            label = row.label if loop == LOOPS[0] else f"{row.label}, {loop}"
            found = values(lines, row.layer, workload, metric, loop)
            if not found:
                table.add_row(label, "failed", *[""] * 5)
                continue
            measured = list(lines_of(lines, row.layer, workload, loop))
            spread = Spread.of(found)
            ratios = [
                None if other is None else ratio(measurements, row.layer, other, workload, loop=loop)
                for other in row.peers
            ]
            cpu = Spread.of([line["cpu_seconds"] / line["sent"] * 1e6 for line in measured]).median
            server = Spread.of([line["server"].get("cpu_us", 0) / line["sent"] for line in measured]).median
            table.add_row(
                label,
                number(spread.median),
                f"{number(spread.low)} -\n{number(spread.high)}",
                *("" if one is None else f"{one.median:.2f}" for one in ratios),
                f"{cpu:.1f}\n+ {server:.1f}",
                colored(sum(line["lost"] for line in measured)),
            )
    return table


def promise_table(checked: list[dict[str, Any]]) -> Table:
    """The promised ratios beside the measured ones, and beside what bare tasks reach where they were measured."""
    table = new_table("promised", "work", "against", "promised", "measured", "low - high", "verdict")
    for line in checked:
        measured = line["measured"]
        style = {"kept": "green", "missed": "red"}.get(line["verdict"], "yellow")
        if "at_most" in line:
            against, promised, unit, what = line["metric"], f"<= {line['at_most']:g}", "", ""
        else:
            against, promised, unit = line["than"] or line["against"], f"{line['factor']:.3g}x", "x"
            if "floor" in line:
                promised += f"\ntasks {line['floor']['median']:.3g}x"
            what = f", {METRICS[line['metric']][0]}" if line.get("metric") else ""
        table.add_row(
            f"{line['layer']} {line['workload']}{what}",
            against,
            promised,
            f"{measured['median']:.2f}{unit}",
            f"{measured['low']:.1f} - {measured['high']:.1f}",
            f"[{style}]{line['verdict']}[/]",
        )
    return table


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("--rounds", type=int, help="turns of each contender (default 5, with --quick 3)")
    parser.add_argument("--quick", action="store_true", help="a few cases, fewer rounds and messages: under 2 minutes")
    parser.add_argument("--promise", action="store_true", help="check the promised ratios; exit 1 if one is missed")
    parser.add_argument("--loop", choices=(*LOOPS, "both"), help="default both, with --quick asyncio")
    parser.add_argument("--layer", choices=FAMILIES, help="only this one of ours, upstream's and the in-memory layer")
    parser.add_argument("--workload", action="append", choices=list(FULL), help="only this one (repeatable)")
    parser.add_argument("--json", type=Path, help="where to write the report (default bench/results/<time>.json)")
    arguments = parser.parse_args(argv)
    if arguments.rounds is None:
        arguments.rounds = 3 if arguments.quick else 5
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    if arguments.loop is None:
        arguments.loop = "asyncio" if arguments.quick else "both"
    return arguments


def measure(rows: list[Contender], turns_by_case: list[list[Turn]], rounds: int, console: Console) -> dict[str, Any]:
    """Start the servers, take the turns, and return the report."""
    began = datetime.now(timezone.utc)
    shards = max(CASES[turns[0][0]].shards for turns in turns_by_case)
    with ExitStack() as stack:
        server = stack.enter_context(server_from_environment())
        about = machine(server.url)
        console.print(f"{about['processor']}, {about['cores']} cores, {about['server']}")
        urls = [server.url, *(stack.enter_context(start_server()).url for _ in range(shards - 1))]
        cluster = max(CASES[turns[0][0]].cluster for turns in turns_by_case)
        nodes = stack.enter_context(Cluster(cluster)).urls if cluster else []
        measurements = take_turns(turns_by_case, rounds, urls, console, nodes)
    about["load_after"] = os.getloadavg()
    versions = {line["layer"]: line.pop("versions") for line in measurements if "versions" in line}
    labels = {row.name: row.label for row in rows}
    return {
        "began": began.isoformat(),
        "ended": datetime.now(timezone.utc).isoformat(),
        "machine": about,
        "rounds": rounds,
        "labels": labels,
        "versions": versions,
        "measurements": measurements,
    }


def write(report: dict[str, Any], path: Path | None, console: Console) -> None:
    if path is None:
        path = ROOT / "bench" / "results" / f"{datetime.fromisoformat(report['began']):%Y%m%dT%H%M%S}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    console.print(f"written: {path}", soft_wrap=True)


def faults_of(rows: list[Contender], measurements: list[dict[str, Any]], console: Console) -> int:
    """Say who repeated or reordered messages or failed, and count what ours did. No speed makes up for it."""
    ours = {row.layer for row in rows if row.ours}
    faults = 0
    for line in measurements:
        if "failed" in line:
            faults += line["layer"] in ours
            continue
        if line["repeated"] or line["disordered"]:
            what = f"{line['repeated']:,} repeated, {line['disordered']:,} out of order"
            console.print(f"[red]{line['layer']}, {line['workload']}: {what}[/]")
        if line["layer"] in ours:
            faults += line["lost"] + line["repeated"] + line["disordered"]
    if faults:
        console.print(f"[red]our layers lost, repeated or reordered {faults:,} messages, or failed[/]")
    return faults


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    console = Console()
    sizes = {**FULL, **QUICK} if arguments.quick else FULL
    names = arguments.workload or list(QUICK if arguments.quick else FULL)
    # The quick run is about what a user would pick; the others take their turns in the full one.
    rows = contenders([arguments.layer] if arguments.layer else FAMILIES, everyone=not arguments.quick)
    loops = LOOPS if arguments.loop == "both" else (arguments.loop,)
    if "uvloop" in loops:
        without = [python for python in {row.python for row in rows} if not knows(python, "uvloop")]
        if without:
            raise ContenderError(f"no uvloop for {', '.join(map(str, without))}; run with --loop asyncio")
    report = measure(rows, plan(rows, names, sizes, loops), arguments.rounds, console)
    measurements = report["measurements"]
    for name in names:
        console.print(workload_table(name, rows, measurements))
    report["promises"] = check(measurements, loops[0])
    if arguments.promise:
        console.print(promise_table(report["promises"]))
    write(report, arguments.json, console)
    faults = faults_of(rows, measurements, console)
    if not arguments.promise:
        return 0
    return 1 if faults or any(line["verdict"] == "missed" for line in report["promises"]) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ServerError, ContenderError) as error:
        sys.exit(f"bench.compare: {error}")
