"""
What became of each test on both packages, and where they differ. Knows no suite and runs nothing.

A test counts as passed if it did not fail: skipped and expected failures too. One that a package has no line for has
not been run there, and counts as failed, for the run may have ended before it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

FAILED = frozenset({"failed", "error", "not run"})
NOT_RUN = "not run"

#: Outcomes by the test's name.
Outcomes = Mapping[str, str]


def read_outcomes(lines: Iterable[str]) -> dict[str, str]:
    """Return the outcomes that the plugin has written, a line of JSON each. Raises ``ValueError`` for another line."""
    outcomes: dict[str, str] = {}
    for line in lines:
        found = json.loads(line)
        # Of a test that was run again, the last.
        outcomes[found["test"]] = found["outcome"]
    return outcomes


@dataclass(frozen=True)
class Comparison:
    """
    One suite with one layer, on both packages.

    ``error``: why it could not be run, in one sentence; there are no outcomes then. ``intended_failures``:
    the functions that are meant to fail on this package, and why.
    """

    suite: str
    layer: str
    there: Outcomes
    here: Outcomes
    error: str = ""
    intended_failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def tests(self) -> list[str]:
        """The names of all tests, in the order in which they were run."""
        return list(dict.fromkeys((*self.there, *self.here)))

    def _failed(self, outcomes: Outcomes) -> set[str]:
        return {test for test in self.tests if outcomes.get(test, NOT_RUN) in FAILED}

    @property
    def failed_there(self) -> set[str]:
        """The tests that fail on channels_redis."""
        return self._failed(self.there)

    @property
    def failed_here(self) -> set[str]:
        """The tests that fail on this package."""
        return self._failed(self.here)

    @property
    def worse(self) -> list[str]:
        """The tests that fail on this package alone, and are not meant to."""
        return [test for test in self._here_alone if not self.reason(test)]

    @property
    def intended(self) -> list[str]:
        """The tests that fail on this package alone, and are meant to."""
        return [test for test in self._here_alone if self.reason(test)]

    def reason(self, test: str) -> str | None:
        """Return why a test is meant to fail on this package; None if it is not."""
        return self.intended_failures.get(test.rpartition("::")[2].partition("[")[0])

    @property
    def _here_alone(self) -> list[str]:
        return [test for test in self.tests if test in self.failed_here - self.failed_there]

    @property
    def better(self) -> list[str]:
        """The tests that fail on channels_redis alone."""
        return [test for test in self.tests if test in self.failed_there - self.failed_here]

    @property
    def failed_on_both(self) -> list[str]:
        """The tests that fail on both."""
        return [test for test in self.tests if test in self.failed_there & self.failed_here]

    @property
    def is_good(self) -> bool:
        """Whether the suite was run, and nothing fails here that does not fail on channels_redis."""
        return not self.error and bool(self.tests) and not self.worse


def with_second_run(first: Outcomes, second: Outcomes) -> dict[str, str]:
    """Return the outcomes of a run in which some tests were tried once more: one that passed then has passed."""
    merged = dict(first)
    for test, outcome in second.items():
        if test in merged and outcome not in FAILED:
            merged[test] = outcome
    return merged
