"""A report of the bench as tables in Markdown, and their charts: `python -m bench.report bench/results/X.json`.

Writes the parts of docs/performance-tables.md between two marks each, and draws the charts of docs/performance.md from
all tables that are then there. A part of which the run has nothing stays as it is. Knows JSON and text; starts and
measures nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import charts
from bench.cases import CASES, METRICS
from bench.dispatch import split
from bench.processes import IN_MEMORY
from bench.promises import Spread, lines_of, metric_of, ratio, values
from bench.tables import number

Report = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """What a page shows between two marks: all cases of these kinds."""

    name: str
    kinds: tuple[str, ...]

    @property
    def begin(self) -> str:
        return f"<!-- {self.name}: begin (python -m bench.report writes from here to the end mark) -->"

    @property
    def end(self) -> str:
        return f"<!-- {self.name}: end -->"

    def of(self, report: Report) -> Report:
        """The report of this part alone."""
        kept = {name for name, case in CASES.items() if case.kind in self.kinds}
        lines, checked = report["measurements"], report.get("promises", [])
        return {
            **report,
            "measurements": [line for line in lines if line["workload"] in kept],
            "promises": [line for line in checked if line["workload"] in kept],
        }


LAYERS = Part("measured", ("loop", "layers", "crowd", "sync", "site"))
CONSUMERS = Part("sites", ("consumers", "sockets"))
PARTS = (LAYERS, CONSUMERS)


def cases_of(report: Report) -> list[str]:
    """What was measured, in the order of `bench.cases`."""
    measured = {line["workload"] for line in report["measurements"]}
    return [name for name in CASES if name in measured]


def contenders_of(report: Report, case: str) -> list[tuple[str, str]]:
    """The (layer, loop) pairs that took part in a case, those of the first loop first."""
    lines = report["measurements"]
    taken = {(line["layer"], line["loop"]) for line in lines if line["workload"] == case}
    loops = sorted({loop for _, loop in taken})
    return [(layer, loop) for loop in loops for layer in report["labels"] if (layer, loop) in taken]


def per_message(lines: list[dict[str, Any]], what: Callable[[dict[str, Any]], float]) -> str:
    return number(Spread.of([what(line) / line["sent"] for line in lines]).median)


def commands(line: dict[str, Any]) -> int:
    """Calls of all commands, those inside scripts too."""
    return sum(calls for name, calls in line["server"].items() if name != "cpu_us")


def case_table(report: Report, case: str) -> str:
    metric = metric_of(case)
    latency = metric == "p50_us"
    site = CASES[case].kind == "sockets"
    heading = [
        METRICS[metric][0],
        "lowest – highest",
        "× channels_redis",
        "× InMemory",
        "CPU µs, client",
        "CPU µs, server",
    ]
    heading += ["commands", "lost", "repeated"]
    if latency:
        heading.insert(2, "p99 µs")
    if site:
        heading[2:2] = ["p50 ms", "p99 ms"]
    rows = [["", *heading], ["---", *["---:"] * len(heading)]]
    for layer, loop in contenders_of(report, case):
        label = report["labels"][layer] + ("" if loop == "asyncio" else f", {loop}")
        lines = list(lines_of(report["measurements"], layer, case, loop))
        found = values(report["measurements"], layer, case, metric, loop)
        if not found:
            rows.append([label, "failed", *[""] * (len(heading) - 1)])
            continue
        spread = Spread.of(found)
        row = [label, f"**{number(spread.median)}**", f"{number(spread.low)} – {number(spread.high)}"]
        if latency:
            row.append(number(Spread.of([line["p99_us"] for line in lines]).median))
        if site:
            for percentile in ("p50_us", "p99_us"):
                found = values(report["measurements"], layer, case, percentile, loop)
                row.append(number(Spread.of(found).median / 1000) if found else "")
        name, dispatch = split(layer.removesuffix("-pure"))
        # The hand-written loop is no product that could replace anything.
        peer = None if dispatch == "loop" else {"fast": "upstream", "fast-pubsub": "upstream-pubsub"}.get(name)
        for other in (peer, "memory" if peer or layer == IN_MEMORY else None):
            one = None if other is None else ratio(report["measurements"], layer, other, case, loop=loop)
            row.append("" if one is None else number(one.median))
        row.append(per_message(lines, lambda line: line["cpu_seconds"] * 1e6))
        row.append(per_message(lines, lambda line: line["server"].get("cpu_us", 0)))
        row.append(per_message(lines, commands))
        row += [f"{sum(line[what] for line in lines):,}" for what in ("lost", "repeated")]
        rows.append(row)
    text = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    extras = extra_lines(report, case)
    return f"### {CASES[case].title}\n\n{text}\n" + (f"\n{extras}\n" if extras else "")


def extra_lines(report: Report, case: str) -> str:
    """Numbers that only some cases have, as a list."""
    said = []
    for layer, loop in contenders_of(report, case):
        lines = list(lines_of(report["measurements"], layer, case, loop))
        names = dict.fromkeys(name for line in lines for name in line["extra"])
        told = []
        for name in names:
            median = Spread.of([line["extra"][name] for line in lines if name in line["extra"]]).median
            told.append(f"{METRICS[name][0]} {number(median)}")
        if told:
            said.append(f"- {report['labels'][layer]}: {', '.join(told)}")
    return "\n".join(said)


def promise_table(report: Report) -> str:
    checked = report.get("promises", [])
    if not checked:
        return ""
    rows = ["| promise | beside | promised | measured | lowest – highest | |", "|---|---|---:|---:|---:|---|"]
    for line in checked:
        measured = line["measured"]
        if "at_most" in line:
            beside, promised, unit = METRICS[line["metric"]][0], f"at most {line['at_most']:g}", ""
        else:
            than = line["than"]
            beside = CASES[than].title if than else report["labels"].get(line["against"], line["against"])
            promised, unit = f"{number(line['factor'])} ×", " ×"
            if "floor" in line:
                promised += f" (only tasks: {number(line['floor']['median'])} ×)"
        label = report["labels"].get(line["layer"], line["layer"])
        spread = f"{number(measured['low'])} – {number(measured['high'])}"
        title = CASES[line["workload"]].title
        if "factor" in line and line.get("metric"):
            title += f", {METRICS[line['metric']][0]}"
        rows.append(
            f"| {label}: {title} | {beside} | {promised} | {number(measured['median'])}{unit} | {spread} "
            f"| {line['verdict']} |"
        )
    return "### Promised and measured\n\n" + "\n".join(rows) + "\n"


def preamble(report: Report) -> str:
    about = report["machine"]
    versions = [
        f"{report['labels'][layer]}: {', '.join(f'{name} {version}' for name, version in found.items())}"
        for layer, found in report["versions"].items()
        if layer in ("fast", "upstream")
    ]
    load = f"{about['load'][0]:.1f} before and {about['load_after'][0]:.1f} after"
    return "\n".join([
        f"Measured {report['began'][:16].replace('T', ' ')} UTC on {about['processor']}, {about['cores']} cores "
        f"({about['platform']}), {about['server']}; {report['rounds']} rounds; load average {load}.",
        "",
        *(f"- {line}" for line in versions),
    ])  # fmt: skip


def markdown(report: Report) -> str:
    """The measured part of the page."""
    parts = [preamble(report), promise_table(report), *(case_table(report, case) for case in cases_of(report))]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def put_between(page: str, text: str, part: Part = LAYERS) -> str:
    """The page with that part of it replaced. Raises ValueError when it has no marks."""
    before, begin, rest = page.partition(part.begin)
    _, end, after = rest.partition(part.end)
    if not begin or not end:
        raise ValueError(f"the page lacks the marks {part.begin} and {part.end}")
    return f"{before}{part.begin}\n\n{text}\n{part.end}{after}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("json", type=Path, help="what bench.compare has written")
    parser.add_argument("--page", type=Path, default=charts.PAGE, help="the page with the marks")
    arguments = parser.parse_args(argv)
    report = json.loads(arguments.json.read_text())
    page = arguments.page
    text = page.read_text(encoding="utf-8")
    for part in PARTS:
        measured = part.of(report)
        if measured["measurements"]:
            text = put_between(text, markdown(measured), part)
    page.write_text(text, encoding="utf-8")
    drawn = charts.draw(text, page.parent / "images")
    print(f"written: {page} and {len(drawn)} charts")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, ValueError) as error:
        sys.exit(f"bench.report: {error}")
