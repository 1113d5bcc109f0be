"""Our layers beside those of another state of the package: the verdicts, and where a layer is imported from."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench import against, processes
from bench.baseline import DIRECTORY, PACKAGE, BaselineError, ensure
from bench.compare import take_turn
from bench.contender import BACKENDS
from bench.processes import Contender, beside
from bench.promises import check
from bench.sizes import CHECK
from bench.upstream import ROOT


def lines(layer: str, workload: str, **numbers: Any) -> list[dict[str, Any]]:
    common = {"layer": layer, "workload": workload, "loop": "asyncio"}
    rounds = len(next(iter(numbers.values())))
    return [
        {**common, "round": number, **{metric: values[number] for metric, values in numbers.items()}}
        for number in range(rounds)
    ]


@pytest.mark.parametrize(
    ("now", "word"), [((50, 50, 50), "faster"), ((130, 140, 130), "slower"), ((90, 100, 120), "same")]
)
def test_the_verdict_is_by_processor_time(now: tuple[int, ...], word: str) -> None:
    measured = lines("fast", "pairs", cpu_each_us=now, per_second=(1, 1, 1))
    measured += lines("fast-baseline", "pairs", cpu_each_us=(100, 100, 100), per_second=(9, 9, 9))
    [change] = against.changes(measured)
    assert (change.verdict, change.before, change.now) == (word, 9, 1)


def test_without_processor_time_it_is_by_the_usual_number() -> None:
    measured = lines("fast", "consumers-idle", kib_per_consumer=(2, 2))
    measured += lines("fast-baseline", "consumers-idle", kib_per_consumer=(1, 1))
    [change] = against.changes(measured)
    assert change.verdict == "slower"
    assert change.cpu is None


def test_what_only_one_of_both_can_do_is_not_compared() -> None:
    measured = lines("fast-direct", "consumers-echo", per_second=(1, 2))
    assert list(against.changes(measured)) == []


def test_every_case_of_ours_in_the_short_run_can_be_compared() -> None:
    """A core or Pub/Sub layer of ours that a promise measures also has a row of the baseline behind it."""
    rows = beside(Path())
    assert [row.directory is None for row in rows] == [True, False] * (len(rows) // 2)
    assert {row.layer for row in rows} <= set(BACKENDS)
    assert len({row.name for row in rows}) == len(rows)
    ours = {case for case, counts in CHECK.items() if not counts.keys().isdisjoint(row.layer for row in rows)}
    assert set(against.cases()) == ours
    assert {"pairs-1k", "roundtrip"} <= ours


def package(directory: Path, text: str = "") -> Path:
    (directory / PACKAGE).mkdir(exist_ok=True)
    (directory / PACKAGE / "__init__.py").write_text(text)
    return directory


def test_a_path_is_used_as_it_is(tmp_path: Path) -> None:
    assert ensure(str(package(tmp_path))) == tmp_path


def test_a_layer_that_the_other_state_lacks_is_left_out(tmp_path: Path) -> None:
    for module in ("core", "memory"):
        (package(tmp_path) / PACKAGE / f"{module}.py").touch()
    assert [row.name for row in against.measurable(tmp_path)] == [
        *("fast", "fast-baseline", "fast-memory", "fast-memory-baseline")
    ]


def test_upstream_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes no part, and making its venv takes minutes."""

    def fail() -> Path:
        raise AssertionError("a venv for upstream was asked for")

    monkeypatch.setattr(processes, "ensure_python", fail)
    assert against.cases()


def test_an_unknown_revision_is_said(tmp_path: Path) -> None:
    with pytest.raises(BaselineError, match="no-such-revision"):
        ensure("no-such-revision")


def test_nothing_of_this_checkout_is_mixed_in(tmp_path: Path) -> None:
    """This checkout is installed as editable, and its finder would give the modules that the other state lacks."""
    script = (
        f"from bench import baseline; baseline.use(); import {PACKAGE}; print({PACKAGE}.WHICH); import {PACKAGE}.hot"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), DIRECTORY: str(package(tmp_path, "WHICH = 'the other'"))}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == "the other\n"
    assert f"ModuleNotFoundError: No module named '{PACKAGE}.hot'" in done.stderr


def test_another_package_than_the_one_asked_for_is_never_measured(tmp_path: Path) -> None:
    row = Contender("fast", "ours, baseline", Path(sys.executable), "core", directory=tmp_path)
    line = take_turn(("roundtrip", row, "asyncio", 3), ["redis://127.0.0.1:1"], Console(file=io.StringIO()))
    assert line["layer"] == "fast-baseline"
    assert "failed" in line


def test_a_turn_of_a_baseline_has_a_name_of_its_own(own_server: Any) -> None:
    row = Contender("fast", "ours, baseline", Path(sys.executable), "core", directory=ROOT)
    line = take_turn(("roundtrip", row, "asyncio", 3), [own_server().url], Console(file=io.StringIO()))
    assert "failed" not in line, line["failed"]
    assert line["layer"] == "fast-baseline"
    assert line["cpu_each_us"] > 0


def test_a_promise_stands_beside_what_bare_tasks_reach() -> None:
    """In a group of 1,000, waking the tasks is most of it: a missed ratio says whether any layer could keep it."""
    measured = lines("fast", "group", per_second=(220, 220)) + lines("upstream", "group", per_second=(10, 10))
    measured += lines("floor-tasks", "group", per_second=(240, 240))
    found = {line["against"]: line for line in check(measured) if line["layer"] == "fast"}
    assert found["upstream"]["floor"]["median"] == 24
    assert "floor" not in found["floor-tasks"]
