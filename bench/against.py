"""Whether a case has become slower: each of our layers beside the same layer of another state of this package.

The two take turns in each case of the short run: `python -m bench.check --against main`. The verdict is by the
processor time of client and server for each message, which other work on the machine reaches least. Cases that have
none are judged by their usual number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.baseline import has
from bench.cases import METRICS
from bench.compare import faults_of, measure, plan, write
from bench.contender import BACKENDS
from bench.dispatch import consumer_module, split
from bench.processes import BASELINE, Contender, beside
from bench.promises import Measurements, Spread, metric_of, ratio, values
from bench.sizes import CHECK
from bench.tables import new_table, number

CPU = "cpu_each_us"


@dataclass(frozen=True)
class Change:
    """One layer in one case. Ratios are of now to the baseline, above 1 where now is better; `cpu` is of `CPU`."""

    layer: str
    workload: str
    before: float
    now: float
    usual: Spread
    cpu: Spread | None

    @property
    def verdict(self) -> str:
        """`faster` or `slower` only by more than the distance between the quartiles of the rounds."""
        judged = self.cpu or self.usual
        if judged.median - judged.quartiles > 1:
            return "faster"
        return "slower" if judged.median + judged.quartiles < 1 else "same"


def changes(measurements: Measurements) -> Iterator[Change]:
    """What was measured on both sides, in the order of the measurements."""
    measured = dict.fromkeys((line["workload"], line["layer"]) for line in measurements)
    for workload, layer in measured:
        usual = ratio(measurements, layer, f"{layer}{BASELINE}", workload)
        if usual is None:
            continue
        before, now = (
            Spread.of(values(measurements, name, workload, metric_of(workload))).median
            for name in (f"{layer}{BASELINE}", layer)
        )
        cpu = ratio(measurements, layer, f"{layer}{BASELINE}", workload, metric=CPU)
        yield Change(layer, workload, before, now, usual, cpu)


def change_table(found: Sequence[Change], baseline: str) -> Table:
    headings = ("baseline", "now", "ratio", "of CPU", "low - high", "verdict")
    table = new_table(f"beside {baseline}, above 1 is better", "work", *headings)
    for change in found:
        style = {"faster": "green", "slower": "red"}.get(change.verdict, "yellow")
        judged = change.cpu or change.usual
        table.add_row(
            f"{change.layer} {change.workload}, {METRICS[metric_of(change.workload)][0]}",
            number(change.before),
            number(change.now),
            f"{change.usual.median:.2f}",
            "" if change.cpu is None else f"{change.cpu.median:.2f}",
            f"{judged.low:.2f} - {judged.high:.2f}",
            f"[{style}]{change.verdict}[/]",
        )
    return table


def measurable(directory: Path) -> list[Contender]:
    """The rows of those layers that the package in a directory has too."""

    def modules(layer: str) -> Iterator[str]:
        yield BACKENDS[layer].rpartition(".")[0]
        if split(layer)[1] == "direct":
            yield consumer_module("direct")

    return [row for row in beside(directory) if all(has(directory, module) for module in modules(row.layer))]


def cases() -> dict[str, dict[str, int]]:
    """The cases of the short run, and what our layers are given in them."""
    ours = {row.layer for row in beside(Path())}
    sizes = {case: {layer: n for layer, n in counts.items() if layer in ours} for case, counts in CHECK.items()}
    return {case: counts for case, counts in sizes.items() if counts}


def run(
    against: str, directory: Path, names: Sequence[str], rounds: int, console: Console, path: Path | None = None
) -> int:
    """Measure and tell; 1 when a case has become slower, or when one of ours lost a message."""
    rows, sizes = measurable(directory), cases()
    left_out = dict.fromkeys(row.label for row in beside(directory) if row not in rows and row.directory is None)
    if left_out:
        console.print(f"not in {against}: {', '.join(left_out)}")
    report: dict[str, Any] = measure(rows, plan(rows, names or list(sizes), sizes, ("asyncio",)), rounds, console)
    report["against"] = against
    found = list(changes(report["measurements"]))
    console.print(change_table(found, against))
    write(report, path, console)
    slower = sum(change.verdict == "slower" for change in found)
    console.print(f"{slower} of {len(found)} became slower by more than the spread; load {report['machine']['load']}")
    return 1 if slower or faults_of(rows, report["measurements"], console) else 0
