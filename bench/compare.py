"""Measure our layers beside upstream's and the in-memory one: `python -m bench.compare`, or `make bench`.

The contenders take turns (A B C A B C ...), each turn in a fresh process on the same server. Knows rounds, tables and
the JSON report; what is done to a layer is in `bench.workloads`, what was promised in `bench.promises`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.processes import FAMILIES, Contender, ContenderError, contenders, result_of
from bench.promises import PROMISES, Spread, metric_of, ratio, values, verdict
from bench.server import ServerError, server_from_environment
from bench.sizes import FULL, QUICK
from bench.tables import colored, new_table
from bench.upstream import ROOT

TURN_TIMEOUT = 300.0


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


def take_turns(
    rows: list[Contender], names: list[str], arguments: argparse.Namespace, url: str, console: Console
) -> list[dict[str, Any]]:
    measurements = []
    sizes = QUICK if arguments.quick else FULL
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("measuring", total=len(names) * arguments.rounds * len(rows))
        for name in names:
            for number in range(1, arguments.rounds + 1):
                for contender in rows:
                    progress.update(task, description=f"{name} {number}/{arguments.rounds} {contender.label}")
                    measurements.append(turn(contender, name, sizes[name][contender.layer], url, arguments.loop))
                    progress.advance(task)
                if not console.is_terminal:
                    console.print(f"{name}: round {number} of {arguments.rounds} done")
    return measurements


def turn(contender: Contender, workload: str, size: int, url: str, loop: str) -> dict[str, Any]:
    options = ["--layer", contender.layer, "--workload", workload, "--n", str(size), "--url", url, "--loop", loop]
    return result_of(contender.python, "bench.contender", options, TURN_TIMEOUT)


def workload_table(workload: str, rows: list[Contender], measurements: list[dict[str, Any]]) -> Table:
    metric = metric_of(workload)
    unit = {"p50_us": "p50 µs", "per_second": "per s"}[metric]
    headings = (f"{unit}\nmedian", "lowest -\nhighest", "x up-\nstream", "x In-\nMemory", "CPU µs\neach", "lost")
    table = new_table(workload, "layer", *headings)
    for row in rows:
        measured = [line for line in measurements if line["layer"] == row.layer and line["workload"] == workload]
        spread = Spread.of(values(measurements, row.layer, workload, metric))
        cpu = Spread.of([line["cpu_seconds"] / line["sent"] * 1e6 for line in measured])
        others = (row.against, "memory") if row.against else ()
        ratios = [f"{ratio(measurements, row.layer, other, workload).median:.2f}" for other in others]
        table.add_row(
            row.label,
            f"{spread.median:,.0f}",
            f"{spread.low:,.0f} -\n{spread.high:,.0f}",
            *(ratios or ("", "")),
            f"{cpu.median:.1f}",
            colored(sum(line["lost"] for line in measured)),
        )
    return table


def check_promises(
    rows: list[Contender], names: list[str], measurements: list[dict[str, Any]], console: Console
) -> list[dict[str, Any]]:
    """Print the promised ratios beside the measured ones, and return them for the report."""
    table = new_table("promised", "workload", "against", "promised", "measured", "low - high", "verdict")
    checked = []
    families = {row.layer: row.family for row in rows if row.ours}
    for promise in PROMISES:
        if promise.layer not in families or promise.workload not in names:
            continue
        measured = ratio(measurements, promise.layer, promise.against, promise.workload)
        word = verdict(promise, measured)
        style = {"kept": "green", "missed": "red"}.get(word, "yellow")
        table.add_row(
            f"{families[promise.layer]} {promise.workload}",
            "memory" if promise.against == "memory" else "upstream",
            f"{promise.factor:g}x",
            f"{measured.median:.2f}x",
            f"{measured.low:.1f} - {measured.high:.1f}",
            f"[{style}]{word}[/]",
        )
        checked.append({**vars(promise), "measured": vars(measured), "verdict": word})
    console.print(table)
    return checked


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("--rounds", type=int, help="turns of each contender (default 5, with --quick 3)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and messages")
    parser.add_argument("--promise", action="store_true", help="check the promised ratios; exit 1 if one is missed")
    parser.add_argument("--loop", default="asyncio", choices=("asyncio", "uvloop"))
    parser.add_argument("--layer", choices=FAMILIES, help="only this one of ours, upstream's and the in-memory layer")
    parser.add_argument("--workload", action="append", choices=list(FULL), help="only this one (repeatable)")
    parser.add_argument("--json", type=Path, help="where to write the report (default bench/results/<time>.json)")
    arguments = parser.parse_args(argv)
    if arguments.rounds is None:
        arguments.rounds = 3 if arguments.quick else 5
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    return arguments


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    console = Console()
    names = arguments.workload or list(FULL)
    rows = contenders([arguments.layer] if arguments.layer else FAMILIES)
    began = datetime.now(timezone.utc)
    with server_from_environment() as server:
        about = machine(server.url)
        console.print(f"{about['processor']}, {about['cores']} cores, {about['server']}, {arguments.loop} loop")
        measurements = take_turns(rows, names, arguments, server.url, console)
    for name in names:
        console.print(workload_table(name, rows, measurements))
    for line in measurements:
        if line["repeated"] or line["disordered"]:
            what = f"{line['repeated']:,} repeated, {line['disordered']:,} out of order"
            console.print(f"[red]{line['layer']}, {line['workload']}: {what}[/]")
    checked = check_promises(rows, names, measurements, console) if arguments.promise else []
    report = {"began": began.isoformat(), "machine": about, "loop": arguments.loop, "rounds": arguments.rounds}
    path = arguments.json or ROOT / "bench" / "results" / f"{began:%Y%m%dT%H%M%S}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**report, "measurements": measurements, "promises": checked}, indent=1) + "\n")
    console.print(f"written: {path}", soft_wrap=True)
    if not arguments.promise:
        return 0
    # A lost or repeated message breaks a promise no speed makes up for.
    ours = {row.layer for row in rows if row.ours}
    faults = sum(line["lost"] + line["repeated"] + line["disordered"] for line in measurements if line["layer"] in ours)
    if faults:
        console.print(f"[red]our layers lost, repeated or reordered {faults:,} messages[/]")
    return 1 if faults or any(line["verdict"] == "missed" for line in checked) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ServerError, ContenderError) as error:
        sys.exit(f"bench.compare: {error}")
