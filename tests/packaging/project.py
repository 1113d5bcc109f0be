"""What pyproject.toml says, as every file of this directory reads it."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    # pytest itself needs it there.
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]


def load(name: str) -> dict[str, Any]:
    """A TOML file of the project's root."""
    content: dict[str, Any] = tomllib.loads((ROOT / name).read_text(encoding="utf-8"))
    return content


def requirements(group: str) -> list[str]:
    """The requirements of a dependency group, and those of the groups that it includes."""
    found: list[str] = []
    for entry in load("pyproject.toml")["dependency-groups"][group]:
        found += [entry] if isinstance(entry, str) else requirements(entry["include-group"])
    return found


def pythons() -> list[str]:
    """The Pythons that pyproject.toml names, as cibuildwheel writes them: `310`."""
    classifiers = "\n".join(load("pyproject.toml")["project"]["classifiers"])
    return [f"3{minor}" for minor in re.findall(r"^Programming Language :: Python :: 3\.(\d+)$", classifiers, re.M)]
