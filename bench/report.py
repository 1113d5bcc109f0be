"""A report of the bench as Markdown and pictures: `python -m bench.report bench/results/X.json`.

Writes the parts of docs/performance.md between two marks each, and the plots beside it. A part of which the run has
nothing stays as it is. Knows JSON, text and matplotlib; starts and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cases import CASES, METRICS
from bench.dispatch import split
from bench.processes import IN_MEMORY
from bench.promises import Spread, lines_of, metric_of, ratio, values
from bench.tables import number
from bench.upstream import ROOT

Report = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """What a page shows between two marks: all cases of these kinds, and the pictures of them."""

    name: str
    kinds: tuple[str, ...]
    pictures: tuple[str, ...]

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


LAYERS = Part(
    "measured",
    ("loop", "layers", "crowd", "sync", "site"),
    ("times-channels-redis", "latency-against-load", "cost-per-delivery-against-members"),
)
CONSUMERS = Part(
    "sites",
    ("consumers", "sockets"),
    ("sites-times-channels-redis", "frames-per-second-to-sockets", "p99-from-group-send-to-the-last-client"),
)
PARTS = (LAYERS, CONSUMERS)
LOADS = {name: case.parameters["rate"] for name, case in CASES.items() if case.workload == "loads:offered"}
SITES = [name for name, case in CASES.items() if case.kind == "sockets"]
GROUPS = {name: case.parameters["consumers"] for name, case in CASES.items() if case.workload == "workloads:group"}
# The same contender has the same color in every picture.
COLORS = {
    "fast": "#1b6ca8",
    "fast-pure": "#7fb3d5",
    "upstream": "#c0392b",
    "fast-pubsub": "#1e8449",
    "fast-pubsub-pure": "#82c99b",
    "upstream-pubsub": "#e67e22",
    "memory": "#7d6608",
    "fast-memory": "#d4ac0d",
    "floor": "#808b96",
    "floor-pubsub": "#aab7b8",
    "floor-tasks": "#566573",
    "floor-tasks-direct": "#2c3e50",
    "fast-direct": "#154c79",
    "fast-loop": "#99a3a4",
    "fast-pubsub-direct": "#145a32",
    "fast-pubsub-loop": "#ccd1d1",
}
FAMILIES = (("core", "fast", "upstream"), ("Pub/Sub", "fast-pubsub", "upstream-pubsub"))
SITE_FAMILIES = tuple((family, f"{ours}-direct", theirs) for family, ours, theirs in FAMILIES)


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


def main_loop(report: Report) -> str:
    return min(line["loop"] for line in report["measurements"])


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


def markdown(report: Report, pictures: list[str]) -> str:
    """The measured part of the page; `pictures` are paths as the page has to write them."""
    parts = [preamble(report), *(f"![{Path(name).stem.replace('-', ' ')}]({name})" for name in pictures)]
    parts += [promise_table(report), *(case_table(report, case) for case in cases_of(report))]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def put_between(page: str, text: str, part: Part = LAYERS) -> str:
    """The page with that part of it replaced. Raises ValueError when it has no marks."""
    before, begin, rest = page.partition(part.begin)
    _, end, after = rest.partition(part.end)
    if not begin or not end:
        raise ValueError(f"the page lacks the marks {part.begin} and {part.end}")
    return f"{before}{part.begin}\n\n{text}\n{part.end}{after}"


# Pictures. Each returns False when the report has nothing for it.


def plot_ratios(report: Report, axes: Any) -> bool:
    """Bars: how many times channels_redis ours is, one bar for each case and family."""
    loop = main_loop(report)
    bars = []
    for case in cases_of(report):
        if case in LOADS:
            continue
        # What a site gains is drawn with what it would then use.
        for family, ours, theirs in SITE_FAMILIES if case in SITES else FAMILIES:
            one = ratio(report["measurements"], ours, theirs, case, loop=loop)
            # Where ours cost nothing measurable there is no ratio to draw.
            if one is not None and 0 < one.median < float("inf"):
                bars.append((f"{CASES[case].title} ({family})", one, COLORS[split(ours)[0]]))
    bars.reverse()
    for at, (_, one, color) in enumerate(bars):
        error = [[one.median - one.low], [one.high - one.median]]
        axes.barh(at, one.median, color=color, xerr=error, error_kw={"linewidth": 0.8})
        axes.text(one.high * 1.08, at, f"{number(one.median)} ×", va="center", fontsize=8)
    axes.set_yticks(range(len(bars)), [label for label, _, _ in bars], fontsize=8)
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("times channels_redis 4.3: median, lowest, highest")
    axes.margins(x=0.15, y=0.01)
    if bars:
        axes.figure.set_size_inches(9, 1.2 + 0.24 * len(bars))
    return bool(bars)


def plot_curves(
    report: Report, axes: Any, points: dict[str, int], number_of: Callable[[dict[str, Any]], float | None]
) -> bool:
    """One line for each contender over the cases of `points`, with the spread of its rounds as a band."""
    drawn = False
    loop = main_loop(report)
    for layer, label in report["labels"].items():
        curve = []
        for case, x in points.items():
            found = [number_of(line) for line in lines_of(report["measurements"], layer, case, loop)]
            numbers = [one for one in found if one is not None]
            if numbers:
                curve.append((x, Spread.of(numbers)))
        if len(curve) < 2:
            continue
        xs = [x for x, _ in curve]
        color = COLORS.get(layer)
        axes.plot(xs, [one.median for _, one in curve], marker="o", label=label, color=color)
        axes.fill_between(xs, [one.low for _, one in curve], [one.high for _, one in curve], alpha=0.15, color=color)
        drawn = True
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(list(points.values()), [f"{x:,}" for x in points.values()])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    if drawn:
        axes.legend(fontsize=8)
    return drawn


def plot_load(report: Report, axes: Any) -> bool:
    axes.set_xlabel("messages offered per second")
    axes.set_ylabel("p50 from send to receive, µs")
    return plot_curves(report, axes, LOADS, lambda line: line["p50_us"])


def plot_members(report: Report, axes: Any) -> bool:
    axes.set_xlabel("members of the group")
    axes.set_ylabel("µs per delivery")
    return plot_curves(
        report, axes, GROUPS, lambda line: line["seconds"] / line["received"] * 1e6 if line["received"] else None
    )


def plot_sites(report: Report, axes: Any, metric: str, scale: float) -> bool:
    """Bars: one for each contender of each site with real clients, the sites one below the other."""
    loop = main_loop(report)
    at, ticks, drawn = 0.0, [], False
    for case in SITES:
        for layer, label in report["labels"].items():
            found = values(report["measurements"], layer, case, metric, loop)
            if not found:
                continue
            one = Spread.of([value * scale for value in found])
            error = [[one.median - one.low], [one.high - one.median]]
            axes.barh(at, one.median, color=COLORS.get(layer), xerr=error, error_kw={"linewidth": 0.8})
            axes.text(one.high * 1.05, at, number(one.median), va="center", fontsize=8)
            site, _, _ = CASES[case].title.partition(" in one room")
            ticks.append((at, f"{site}: {label}"))
            at, drawn = at - 1, True
        at -= 0.6
    axes.set_yticks([at for at, _ in ticks], [label for _, label in ticks], fontsize=8)
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.01)
    if drawn:
        axes.figure.set_size_inches(9, 1.2 + 0.24 * len(ticks))
    return drawn


def plot_site_frames(report: Report, axes: Any) -> bool:
    axes.set_xlabel("frames per second to all clients of a room: median, lowest, highest")
    return plot_sites(report, axes, "per_second", 1.0)


def plot_site_tail(report: Report, axes: Any) -> bool:
    axes.set_xlabel("p99 from group_send to the last client, ms: median, lowest, highest")
    return plot_sites(report, axes, "p99_us", 1e-3)


PICTURES: dict[str, Callable[[Report, Any], bool]] = {
    "times-channels-redis": plot_ratios,
    "sites-times-channels-redis": plot_ratios,
    "latency-against-load": plot_load,
    "cost-per-delivery-against-members": plot_members,
    "frames-per-second-to-sockets": plot_site_frames,
    "p99-from-group-send-to-the-last-client": plot_site_tail,
}


def plots(report: Report, directory: Path, names: Sequence[str]) -> list[Path]:
    """Draw those pictures that the report has numbers for, and return the files."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    directory.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name in names:
        figure = Figure(figsize=(8, 4.8), layout="constrained")
        FigureCanvasAgg(figure)
        if PICTURES[name](report, figure.add_subplot()):
            path = directory / f"{name}.png"
            figure.savefig(path, dpi=110, metadata={"Software": None})
            drawn.append(path)
    return drawn


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("json", type=Path, help="what bench.compare has written")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "performance.md", help="the page with the marks")
    arguments = parser.parse_args(argv)
    report = json.loads(arguments.json.read_text())
    page = arguments.page
    text, count = page.read_text(), 0
    for part in PARTS:
        measured = part.of(report)
        if not measured["measurements"]:
            continue
        drawn = plots(measured, page.parent / "images", part.pictures)
        names = [path.relative_to(page.parent).as_posix() for path in drawn]
        text, count = put_between(text, markdown(measured, names), part), count + len(drawn)
    page.write_text(text)
    print(f"written: {page} and {count} pictures")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, ValueError) as error:
        sys.exit(f"bench.report: {error}")
