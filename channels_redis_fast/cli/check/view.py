"""What ``check`` shows on a terminal: one line for each finding, the mend below it. Asks nothing."""

from __future__ import annotations

from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ..texts import counted
from .findings import OK, PROBLEM, UNSEEN, WARNING, Report, Subject

_STYLES = {OK: "green", WARNING: "yellow", PROBLEM: "bold red", UNSEEN: "dim"}


def render(report: Report) -> RenderableType:
    """Return all of a report."""
    kind = "Core layer" if report.layer == "core" else "Pub/Sub layer"
    parts: list[RenderableType] = [Text(f"{kind} of {report.deployment}, prefix {report.prefix!r}", style="bold")]
    for subject in report.subjects:
        parts += [Text(f"\n{_title(subject)}", style="bold"), _findings(subject)]
    return Stack(*parts, Text(f"\n{_sum(report)}", style=_STYLES[PROBLEM if report.has_problem else OK]))


def _title(subject: Subject) -> str:
    return subject.name if subject.shard is None else f"shard {subject.shard}, {subject.name}"


def _findings(subject: Subject) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, min_width=7)
    table.add_column(no_wrap=True, min_width=16)
    table.add_column(overflow="fold")
    for finding in subject.findings:
        table.add_row(Text(finding.level, style=_STYLES[finding.level]), finding.item, Text(finding.text))
        if finding.mend:
            table.add_row("", "", Text(f"-> {finding.mend}", style="italic"))
    return table


def _sum(report: Report) -> str:
    problems, warnings, unseen = (report.count(level) for level in (PROBLEM, WARNING, UNSEEN))
    said = [f"{report.count(OK)} ok", counted(warnings, "warning"), counted(problems, "problem")]
    return ", ".join(said + ([f"{unseen} unseen"] if unseen else []))
