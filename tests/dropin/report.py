"""The comparisons as text for the terminal, with the tests that differ, and as the table of docs/upgrading.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from .outcomes import NOT_RUN, Comparison, Outcomes
from .suites import SUITES, Suite

BEGIN, END = "<!-- make drop-in ARGS=--write -->", "<!-- end -->"


def counted(outcomes: Outcomes, tests: Sequence[str], failed: set[str]) -> str:
    """Return how many tests passed and failed, as in `52 passed` or `60 passed, 2 failed`."""
    skipped = sum(outcomes.get(test) == "skipped" for test in tests)
    numbers = {"passed": len(tests) - len(failed) - skipped, "failed": len(failed), "skipped": skipped}
    return ", ".join(f"{number} {name}" for name, number in numbers.items() if number or name == "passed")


def as_text(comparisons: Iterable[Comparison]) -> Iterator[str]:
    """Yield lines: both packages side by side, then the names of the tests that fail, by where they do."""
    comparisons = list(comparisons)
    rows = [("suite", "layer", "channels_redis 4.3", "channels_redis_fast")]
    rows += [_row(comparison) for comparison in comparisons]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    for comparison in comparisons:
        lists = {
            "fail here alone": comparison.worse,
            "fail here alone, as intended": comparison.intended,
            "fail on channels_redis alone": comparison.better,
            "fail on both": comparison.failed_on_both,
        }
        for title, tests in lists.items():
            if tests:
                yield ""
                yield f"{comparison.suite}, {comparison.layer}: {len(tests)} {title}"
                yield from (f"  {test}  ({_both(comparison, test)})" for test in tests)


def as_markdown(comparisons: Iterable[Comparison], suites: Sequence[Suite] = SUITES) -> str:
    """Return the table of the documentation."""
    found = {suite.name: suite for suite in suites}
    lines = [
        "| suite | layer | channels_redis 4.3 | channels_redis_fast | fail on both | fail here, as intended "
        "| else fail here alone |",
        "|---|---|---|---|---|---|---|",
    ]
    for comparison in comparisons:
        suite = found[comparison.suite]
        title = f"[{suite.name}]({suite.url}) {suite.version}"
        title += f" ({suite.remark})" if suite.remark else ""
        _, layer, there, here = _row(comparison)
        numbers = [len(tests) for tests in (comparison.failed_on_both, comparison.intended, comparison.worse)]
        lines.append(f"| {title} | {layer} | {there} | {here} | {' | '.join(map(str, numbers))} |")
    return "\n".join(lines)


def write(document: Path, table: str) -> None:
    """Put the table between its marks in a document. Raises ``ValueError`` where there are none."""
    text = document.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{document} has no {BEGIN} and {END}")
    document.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


def _row(comparison: Comparison) -> tuple[str, str, str, str]:
    if comparison.error:
        return comparison.suite, comparison.layer, comparison.error, ""
    return (
        comparison.suite,
        comparison.layer,
        counted(comparison.there, comparison.tests, comparison.failed_there),
        counted(comparison.here, comparison.tests, comparison.failed_here),
    )


def _both(comparison: Comparison, test: str) -> str:
    there, here = comparison.there.get(test, NOT_RUN), comparison.here.get(test, NOT_RUN)
    outcome = here if there == here else f"{there} there, {here} here"
    reason = comparison.reason(test)
    return f"{outcome}: {reason}" if reason else outcome
