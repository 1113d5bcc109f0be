"""A short run that judges every promise, and nothing else: `python -m bench.check`, or `make bench-check`.

Exits 1 when a promised ratio is missed by more than the spread of the rounds explains, when a promise could not be
judged, or when one of ours lost a message. On a machine with other work it can be wrong in both directions: a report,
not a gate.

With `--against` it measures only our layers, each beside the same layer of another state of this package, and exits 1
when a case has become slower: `bench.against`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from bench import against, baseline
from bench.baseline import BaselineError
from bench.compare import faults_of, measure, plan, promise_table, write
from bench.processes import ContenderError, contenders
from bench.promises import LIMITS, PROMISES, check, needed
from bench.server import ServerError
from bench.sizes import CHECK


def sizes() -> dict[str, dict[str, int]]:
    """Of the short run's sizes those that a promise needs."""
    wanted = needed()
    kept = {
        case: {layer: count for layer, count in counts.items() if (case, layer) in wanted}
        for case, counts in CHECK.items()
    }
    return {case: counts for case, counts in kept.items() if counts}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.check", description=__doc__)
    parser.add_argument("--rounds", type=int, help="turns of each contender (default 3, with --against 7)")
    parser.add_argument("--json", type=Path, help="where to write the report (default bench/results/<time>.json)")
    parser.add_argument("--against", metavar="REVISION", help="or a path: measure only ours, beside ours of there")
    parser.add_argument(
        "--workload", action="append", metavar="CASE", choices=against.cases(), help="with --against; repeatable"
    )
    arguments = parser.parse_args(argv)
    if arguments.rounds is None:
        # A difference of a few per cent takes more rounds than a ratio of 20.
        arguments.rounds = 3 if arguments.against is None else 7
    if arguments.rounds < 2:
        parser.error("--rounds must be at least 2: one round has no spread")
    if arguments.workload and arguments.against is None:
        parser.error("--workload needs --against: without it, every promise is judged")
    console = Console()
    if arguments.against is not None:
        directory = baseline.ensure(arguments.against)
        names = arguments.workload or []
        return against.run(arguments.against, directory, names, arguments.rounds, console, arguments.json)
    rows = contenders(everyone=True)
    short = sizes()
    report = measure(rows, plan(rows, list(short), short, ("asyncio",)), arguments.rounds, console)
    report["promises"] = check(report["measurements"])
    console.print(promise_table(report["promises"]))
    write(report, arguments.json, console)
    faults = faults_of(rows, report["measurements"], console)
    missed = [line for line in report["promises"] if line["verdict"] == "missed"]
    unjudged = len(PROMISES) + len(LIMITS) - len(report["promises"])
    if unjudged:
        console.print(f"[red]{unjudged} promises could not be judged[/]")
    console.print(f"{len(missed)} of {len(PROMISES) + len(LIMITS)} promises missed by more than the spread")
    return 1 if missed or unjudged or faults else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ServerError, ContenderError, BaselineError) as error:
        sys.exit(f"bench.check: {error}")
