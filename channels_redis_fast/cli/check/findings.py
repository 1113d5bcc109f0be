"""
The result of a check: a level, what was checked, what was seen, and a suggested fix. Knows no server.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

#: Everything works; it will become a problem; it does not work; it could not be examined, which is not a failure.
OK, WARNING, PROBLEM, UNSEEN = "ok", "warning", "problem", "unseen"

#: The version of the JSON's shape. Fields may be added under the same number, but none changes its meaning.
SHAPE = 1


@dataclass(frozen=True)
class Finding:
    """
    One line of a check: ``item`` is what was checked, ``text`` what was seen, ``fix`` how to fix it.
    """

    level: str
    item: str
    text: str
    fix: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return the finding for JSON."""
        return {"level": self.level, "item": self.item, "text": self.text, "fix": self.fix}


@dataclass
class Subject:
    """
    What the findings are about: one server, the settings, or a whole cluster.

    ``shard`` is the number of the shard, or of the primary in a cluster; None for the settings and for a whole cluster.
    """

    shard: int | None
    name: str
    findings: list[Finding] = field(default_factory=list)

    @property
    def has_problem(self) -> bool:
        """Whether something does not work."""
        return any(finding.level == PROBLEM for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Return the subject for JSON."""
        return {"shard": self.shard, "name": self.name, "findings": [finding.as_dict() for finding in self.findings]}


@dataclass
class Report:
    """Everything that one run of ``check`` found."""

    deployment: str
    layer: str
    prefix: str
    #: Seconds since 1970.
    at: float
    subjects: list[Subject] = field(default_factory=list)

    @property
    def has_problem(self) -> bool:
        """Whether something does not work."""
        return any(subject.has_problem for subject in self.subjects)

    def count(self, level: str) -> int:
        """Return how many findings are of a level."""
        return sum(finding.level == level for subject in self.subjects for finding in subject.findings)

    def as_dict(self) -> dict[str, Any]:
        """Return what ``check --json`` prints."""
        return {
            "shape": SHAPE,
            "has_problem": self.has_problem,
            "deployment": self.deployment,
            "layer": self.layer,
            "prefix": self.prefix,
            "at": self.at,
            "subjects": [subject.as_dict() for subject in self.subjects],
        }
