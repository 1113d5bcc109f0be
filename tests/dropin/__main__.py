"""
Run other projects' suites on channels_redis 4.3 and on this package: `python -m tests.dropin`, or `make drop-in`.

Prints the results side by side, and the names of the tests that fail. Exit code 1 if a test fails here that does not
fail on channels_redis, 2 if a suite could not be had or run. Takes minutes, and the network, or local copies of the
repositories (`--sources`).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import report, servers
from .environments import ROOT, Environment
from .outcomes import Comparison, Outcomes, read_outcomes, with_second_run
from .sources import Unobtainable, export, find_repository, put_ports
from .suites import CHANNELS_REDIS, HERE, PACKAGES, SUITES, Suite

CACHE = ROOT / "build" / "drop-in"
PLUGIN = Path(__file__).resolve().parent / "plugin"
DOCUMENT = ROOT / "docs" / "upgrading.md"

#: Seconds for one test, and for a whole suite.
TEST_TIMEOUT, SUITE_TIMEOUT = 20, 900

#: What would change a run without being asked.
UNWANTED = ("PYTHONPATH", "PYTEST_ADDOPTS", "DJANGO_SETTINGS_MODULE", "REDIS_URL", "CHANNELS_REDIS_FAST_PURE")


def run_suite(
    suite: Suite, package: str, layer: str, python: Path, folder: Path, ports: servers.Servers, only: Sequence[str] = ()
) -> dict[str, str]:
    """
    Run a suite, or some of its tests, in the copy of its sources, and return the outcomes.

    Raises ``Unobtainable`` where no test could be run.
    """
    results = folder / "drop-in-results.jsonl"
    results.unlink(missing_ok=True)
    environment = {name: value for name, value in os.environ.items() if name not in UNWANTED}
    environment |= {
        "PYTHONPATH": str(PLUGIN),
        "DROP_IN_PACKAGE": package,
        "DROP_IN_LAYER": layer,
        "DROP_IN_URL": f"redis://127.0.0.1:{ports.redis}",
        "DROP_IN_RESULTS": str(results),
    }
    options = ["-p", "drop_in", "-p", "no:cacheprovider", "-q", f"--timeout={TEST_TIMEOUT}"]
    options += ["--continue-on-collection-errors"]
    # Options of a suite are for its tests, whichever they are; paths are replaced by the tests' names.
    chosen = (
        [*(argument for argument in suite.arguments if argument.startswith("-")), *only] if only else suite.arguments
    )
    command = [str(python), "-m", "pytest", *options, *chosen]
    log = folder / "drop-in.log"
    # What it has not come to when its time is over is missing in the outcomes.
    with log.open("a") as output, contextlib.suppress(subprocess.TimeoutExpired):
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
        subprocess.run(command, cwd=folder, env=environment, timeout=SUITE_TIMEOUT, check=False, **streams)
    if not results.exists():
        last = next(iter(reversed(log.read_text(errors="replace").strip().splitlines())), "nothing was printed")
        raise Unobtainable(f"{suite.name} ran no test on {package}: {last}")
    return read_outcomes(results.read_text(encoding="utf-8").splitlines())


def compare(
    suite: Suite, layer: str, environments: Mapping[str, Environment], repository: Path, ports: servers.Servers
) -> Comparison:
    """
    Run a suite on both packages; tests that fail on one alone are run once more there. Raises ``Unobtainable``.
    """
    outcomes: dict[str, Outcomes] = {}
    folders = {package: CACHE / "runs" / f"{suite.name}-{layer or 'itself'}-{package}" for package in PACKAGES}

    def run(package: str, only: Sequence[str] = ()) -> dict[str, str]:
        python = environments[package].python
        return run_suite(suite, package, layer, python, folders[package], ports, only)

    for package, folder in folders.items():
        print(f"{suite.name}, {layer or 'both layers'}: {package} ...", file=sys.stderr, flush=True)
        export(suite, repository, folder)
        put_ports(suite, folder, ports.redis, ports.sentinel)
        outcomes[package] = run(package)
    first = Comparison(
        suite.name, layer, outcomes[CHANNELS_REDIS], outcomes[HERE], intended_failures=suite.intended_failures
    )
    for package, differing in ((CHANNELS_REDIS, first.better), (HERE, first.worse)):
        again = [test for test in differing if "::" in test]
        if again:
            # A busy machine makes tests fail that wait for a time.
            outcomes[package] = with_second_run(outcomes[package], run(package, again))
    there, here = outcomes[CHANNELS_REDIS], outcomes[HERE]
    return Comparison(suite.name, layer or "both", there, here, intended_failures=suite.intended_failures)


def compare_all(suites: Sequence[Suite], sources: Path | None) -> Iterator[Comparison]:
    """Run suites one after the other; one that cannot be had is a comparison that says why."""
    environments = {package: Environment(package, CACHE) for package in PACKAGES}
    with servers.started() as ports:
        for suite in suites:
            for layer in suite.layers or ("",):
                try:
                    repository = find_repository(suite, sources, CACHE)
                    for environment in environments.values():
                        environment.install(suite)
                    yield compare(suite, layer, environments, repository, ports)
                except Unobtainable as error:
                    yield Comparison(suite.name, layer or "both", {}, {}, error=str(error))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line names; return the exit code."""
    parser = argparse.ArgumentParser(prog="make drop-in", description=__doc__.strip().splitlines()[0])
    names = [suite.name for suite in SUITES]
    parser.add_argument("--suite", action="append", choices=names, help="this one; may be repeated (default: all)")
    parser.add_argument("--sources", type=Path, metavar="FOLDER", help="git repositories, by the suites' names")
    parser.add_argument("--write", action="store_true", help=f"put the table into {DOCUMENT.relative_to(ROOT)}")
    options = parser.parse_args(arguments)
    if options.write and options.suite:
        parser.error("--write is for all suites")
    suites = [suite for suite in SUITES if not options.suite or suite.name in options.suite]
    comparisons = list(compare_all(suites, options.sources))
    print("\n".join(report.as_text(comparisons)))
    if any(comparison.error for comparison in comparisons):
        return 2
    if options.write:
        report.write(DOCUMENT, report.as_markdown(comparisons))
    return 0 if all(comparison.is_good for comparison in comparisons) else 1


if __name__ == "__main__":
    sys.exit(main())
