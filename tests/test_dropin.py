"""`make drop-in`: what it makes of outcomes, how it finds sources, and its plugin. Fetches nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bench.server import ForeignServer, Server
from tests.conftest import ROOT
from tests.dropin import __main__ as tool
from tests.dropin import report
from tests.dropin.outcomes import Comparison, read_outcomes, with_second_run
from tests.dropin.sources import Unobtainable, export, find_repository, put_ports
from tests.dropin.suites import PACKAGES, SUITES, Suite

THERE = {"a": "passed", "b": "failed", "c": "error", "d": "skipped", "e": "passed"}
HERE = {"a": "passed", "b": "passed", "c": "failed", "d": "skipped", "f": "passed"}


# Outcomes.


def test_where_tests_fail() -> None:
    comparison = Comparison("suite", "core", THERE, HERE)
    assert comparison.tests == ["a", "b", "c", "d", "e", "f"]
    # A test that one of them has not come to is no success there.
    assert comparison.worse == ["e"]
    assert comparison.better == ["b", "f"]
    assert comparison.failed_on_both == ["c"]
    assert not comparison.is_good


@pytest.mark.parametrize(
    ("there", "here", "error", "is_good"),
    [
        ({"a": "passed"}, {"a": "passed"}, "", True),
        ({"a": "failed"}, {"a": "failed"}, "", True),
        ({"a": "failed"}, {"a": "passed"}, "", True),
        ({"a": "failed"}, {"a": "error"}, "", True),
        ({"a": "skipped"}, {"a": "passed"}, "", True),
        ({"a": "passed"}, {"a": "failed"}, "", False),
        ({"a": "passed"}, {"a": "error"}, "", False),
        ({"a": "passed"}, {}, "", False),
        ({}, {}, "", False),
        ({}, {}, "no network", False),
    ],
)
def test_what_is_good(there: dict[str, str], here: dict[str, str], error: str, is_good: bool) -> None:
    assert Comparison("suite", "core", there, here, error).is_good is is_good


def test_lines_of_the_plugin() -> None:
    lines = [json.dumps({"test": test, "outcome": outcome}) for test, outcome in (*HERE.items(), ("c", "passed"))]
    assert read_outcomes(lines) == {**HERE, "c": "passed"}
    with pytest.raises(ValueError, match="Expecting value"):
        read_outcomes([*lines, "no JSON"])


def test_a_second_run_can_only_help() -> None:
    second = {"b": "passed", "c": "failed", "a": "failed", "other": "passed"}
    assert with_second_run(THERE, second) == {**THERE, "b": "passed"}


def test_failures_that_are_intended() -> None:
    there = {
        "a.py::test_x[1]": "passed",
        "a.py::T::test_x": "passed",
        "a.py::test_y": "passed",
        "b.py::test_x": "passed",
    }
    here = dict.fromkeys(there, "failed") | {"b.py::test_x": "passed"}
    comparison = Comparison("suite", "core", there, here, intended_failures={"test_x": "_part"})
    assert comparison.intended == ["a.py::test_x[1]", "a.py::T::test_x"]
    assert comparison.worse == ["a.py::test_y"]
    assert "  a.py::test_x[1]  (passed there, failed here: _part)" in list(report.as_text([comparison]))


# The report.


def test_text_and_table() -> None:
    comparisons = [
        Comparison(SUITES[0].name, "both", THERE, HERE),
        Comparison(SUITES[1].name, "core", {"a": "passed"}, {"a": "passed"}),
        Comparison(SUITES[2].name, "core", {}, {}, error="cannot be cloned"),
    ]
    lines = list(report.as_text(comparisons))
    assert re.split("  +", lines[1])[2:] == ["2 passed, 3 failed, 1 skipped", "3 passed, 2 failed, 1 skipped"]
    assert lines[3].endswith("core   cannot be cloned")
    assert lines[4:7] == ["", f"{SUITES[0].name}, both: 1 fail here alone", "  e  (passed there, not run here)"]
    assert "  b  (failed there, passed here)" in lines
    assert "  c  (error there, failed here)" in lines
    assert not any(line.startswith(f"{SUITES[1].name},") for line in lines[4:])
    rows = report.as_markdown(comparisons).splitlines()
    assert len(rows) == 5
    assert len({row.count("|") for row in rows}) == 1
    assert rows[2].endswith("| 1 | 0 | 1 |")


def test_the_table_is_written_between_its_marks(tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    document.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    for _ in range(2):
        report.write(document, "| new |")
        assert document.read_text() == f"before\n{report.BEGIN}\n| new |\n{report.END}\nafter\n"
    document.write_text("nothing")
    with pytest.raises(ValueError, match="has no <!--"):
        report.write(document, "| new |")


def test_the_documentation_has_the_table() -> None:
    text = tool.DOCUMENT.read_text(encoding="utf-8")
    table = text.partition(report.BEGIN)[2].partition(report.END)[0]
    for suite in SUITES:
        rows = [line for line in table.splitlines() if f"]({suite.url}) {suite.version}" in line]
        assert len(rows) == len(suite.layers or ("both",))


# Sources.


@pytest.fixture
def repository(tmp_path: Path) -> Callable[..., Suite]:
    """Make a git repository with these files; what comes back is a suite at its commit."""

    def make(**files: str) -> Suite:
        folder = tmp_path / "repositories" / "project"
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / f"{name}.py").write_text(text)
        git = ["git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e@example.org"]
        for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "c"]):
            subprocess.run([*git, *command], check=True)
        asked = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
        return Suite("project", "1", "nobody/project", asked.stdout.strip(), paths=("a.py",))

    return make


def test_sources_of_a_suite(repository: Callable[..., Suite], tmp_path: Path) -> None:
    suite = repository(a="'redis://localhost:6379', ('localhost', 26379)", b="")
    found = find_repository(suite, tmp_path / "repositories", tmp_path / "cache")
    folder = tmp_path / "run"
    for _ in range(2):
        export(suite, found, folder)
        assert [path.name for path in folder.iterdir()] == ["a.py"]
    export(replace(suite, has_settings=False), found, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["a.py", "pytest.ini"]
    replacements = (("localhost:6379", "localhost:{redis}"), ("26379", "{sentinel}"))
    put_ports(replace(suite, replacements=replacements), folder, 7001, 7002)
    assert (folder / "a.py").read_text() == "'redis://localhost:7001', ('localhost', 7002)"
    with pytest.raises(Unobtainable, match="project: nothing has '26379'"):
        put_ports(replace(suite, replacements=replacements[1:]), folder, 7001, 7002)


def test_sources_that_are_not_there(repository: Callable[..., Suite], tmp_path: Path) -> None:
    suite = repository(a="")
    given = tmp_path / "repositories"
    with pytest.raises(Unobtainable, match="other: there is no"):
        find_repository(Suite("other", "1", "nobody/other", suite.commit), given, tmp_path)
    with pytest.raises(Unobtainable, match="has no commit 0000"):
        find_repository(Suite("project", "1", "nobody/project", "0" * 40), given, tmp_path)
    with pytest.raises(Unobtainable, match="project cannot be read"):
        export(
            Suite("project", "1", "nobody/project", suite.commit, paths=("c.py",)), given / "project", tmp_path / "run"
        )


def test_a_suite_that_cannot_be_had_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tool, "CACHE", tmp_path / "cache")
    assert tool.main(["--suite", "channels", "--sources", str(tmp_path)]) == 2
    assert f"channels: there is no {tmp_path / 'channels'}" in capsys.readouterr().out


def test_the_suites() -> None:
    assert len({suite.name for suite in SUITES}) == len(SUITES)
    assert all(len(suite.commit) == 40 for suite in SUITES)
    assert tool.CACHE.is_relative_to(ROOT / "build")


# The plugin.

SOMEBODYS_SUITE = """
import asyncio
import pytest
from channels.layers import InMemoryChannelLayer

def test_layer():
    layer = InMemoryChannelLayer(expiry=30)
    assert [base.__module__ for base in type(layer).__mro__][1] == "channels_redis_fast.{layer}"
    async def trip():
        channel = await layer.new_channel()
        await layer.send(channel, {{"type": "t"}})
        assert await asyncio.wait_for(layer.receive(channel), 5) == {{"type": "t"}}
        await layer.flush()
    asyncio.run(trip())

def test_upstream():
    import channels_redis.core, channels_redis.utils
    from channels_redis.core import RedisChannelLayer
    assert RedisChannelLayer.__module__.startswith("channels_redis_fast.core")

def test_failed():
    assert False

def test_skipped():
    pytest.skip("no")

@pytest.fixture
def broken():
    raise RuntimeError

@pytest.fixture
def unclean():
    yield
    raise RuntimeError

def test_setup(broken):
    pass

def test_teardown(unclean):
    pass
"""


@pytest.mark.parametrize("layer", ["core", "pubsub"])
def test_the_plugin(layer: str, tmp_path: Path, redis_server: Server | ForeignServer) -> None:
    (tmp_path / "test_it.py").write_text(SOMEBODYS_SUITE.format(layer=layer))
    (tmp_path / "test_wrong.py").write_text("import nothing_of_that_name\n")
    environment = {
        **{name: value for name, value in os.environ.items() if name not in tool.UNWANTED},
        "PYTHONPATH": os.pathsep.join([str(tool.PLUGIN), str(ROOT)]),
        "DROP_IN_PACKAGE": PACKAGES[1],
        "DROP_IN_LAYER": layer,
        "DROP_IN_URL": redis_server.url,
        "DROP_IN_RESULTS": str(tmp_path / "results"),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "drop_in", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += ["--continue-on-collection-errors", str(tmp_path)]
    ended = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    found = read_outcomes((tmp_path / "results").read_text().splitlines())
    assert found == {
        "test_wrong.py": "error",
        "test_it.py::test_layer": "passed",
        "test_it.py::test_upstream": "passed",
        "test_it.py::test_failed": "failed",
        "test_it.py::test_skipped": "skipped",
        "test_it.py::test_setup": "error",
        "test_it.py::test_teardown": "error",
    }, ended.stdout
