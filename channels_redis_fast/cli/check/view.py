"""What ``check`` shows on a terminal: one line for each finding, with its suggested fix below. Sends no commands."""

from __future__ import annotations

from rich.console import Group as Stack
from rich.console import RenderableType
from rich.text import Text

from ..tables import Column, FittingTable, Kind
from ..texts import counted
from .findings import OK, PROBLEM, UNSEEN, WARNING, Report, Subject

#: The width of the longest level and of the longest item, in cells.
LEVEL, ITEM = 7, 16

_STYLES = {OK: "green", WARNING: "yellow", PROBLEM: "bold red", UNSEEN: "dim"}


def render(report: Report) -> RenderableType:
    """Return a whole report."""
    kind = "Core layer" if report.layer == "core" else "Pub/Sub layer"
    parts: list[RenderableType] = [Text(f"{kind} of {report.deployment}, prefix {report.prefix!r}", style="bold")]
    for subject in report.subjects:
        parts += [Text(f"\n{_title(subject)}", style="bold"), _findings(subject)]
    return Stack(*parts, Text(f"\n{_sum(report)}", style=_STYLES[PROBLEM if report.has_problem else OK]))


def _title(subject: Subject) -> str:
    return subject.name if subject.shard is None else f"shard {subject.shard}, {subject.name}"


def _findings(subject: Subject) -> FittingTable:
    table = FittingTable(None, [Column("level"), Column("item"), Column("text", Kind.SENTENCE)], has_head=False)
    for finding in subject.findings:
        # Padded, so that all subjects' columns line up.
        level, item = f"{finding.level:<{LEVEL}}", f"{finding.item:<{ITEM}}"
        table.add(Text(level, style=_STYLES[finding.level]), item, finding.text)
        if finding.fix:
            table.add("", "", Text(f"-> {finding.fix}", style="italic"))
    return table


def _sum(report: Report) -> str:
    problems, warnings, unseen = (report.count(level) for level in (PROBLEM, WARNING, UNSEEN))
    said = [f"{report.count(OK)} ok", counted(warnings, "warning"), counted(problems, "problem")]
    return ", ".join(said + ([f"{unseen} unseen"] if unseen else []))
