"""That what the pages claim is held by tests: those that a page names in comments exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r"<!-- tests: ([^>]+) -->")
CLAIMING = ["your-issue.md"]


@pytest.mark.skipif(not (ROOT / "docs").exists(), reason="outside the source tree")
@pytest.mark.parametrize("page", CLAIMING)
def test_each_row_names_tests_that_exist(page: str) -> None:
    """A row without a test, or with the name of one that is gone, is a claim that nothing holds."""
    rows = [line for line in (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines() if "](https" in line]
    claims = {line: NAMED.findall(line) for line in rows if line.startswith("|")}
    assert len(claims) > 30
    assert [line for line, found in claims.items() if not found] == []
    named = {name for found in claims.values() for names in found for name in names.split(", ")}
    assert sorted(name for name in named if not is_test(name)) == []


def is_test(name: str) -> bool:
    """Whether a file of tests exists, and in it the function that follows ``::``."""
    path, _, function = name.partition("::")
    if not (ROOT / path).is_file():
        return False
    if not function:
        return True
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return any(getattr(node, "name", None) == function for node in ast.walk(tree))
