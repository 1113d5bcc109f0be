"""The software bill of materials of what is released: the one that SBOM names, and how it is completed."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.packaging import sbom
from tests.packaging.project import load
from tests.packaging.test_config import in_the_tree

DOCUMENT = os.environ.get("SBOM")


def normalised(name: str) -> str:
    """A project's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@in_the_tree
def test_version_hash_and_cython_are_added(tmp_path: Path) -> None:
    sdist = tmp_path / "channels_redis_fast-1.2.3.tar.gz"
    sdist.write_bytes(b"")
    document: dict[str, Any] = {
        "metadata": {"component": {"bom-ref": "root", "name": "channels-redis-fast"}},
        "components": [],
        "dependencies": [{"ref": "root", "dependsOn": ["redis==8"]}],
    }
    sbom.complete(document, sdist)
    component = document["metadata"]["component"]
    assert component["purl"] == "pkg:pypi/channels-redis-fast@1.2.3"
    # SHA-256 of nothing.
    assert component["hashes"][0]["content"].startswith("e3b0c44298fc1c14")
    (cython,) = document["components"]
    assert f"Cython=={cython['version']}" in load("pyproject.toml")["build-system"]["requires"]
    assert document["dependencies"] == [
        {"ref": "root", "dependsOn": [cython["bom-ref"], "redis==8"]},
        {"ref": cython["bom-ref"]},
    ]


@pytest.mark.skipif(not DOCUMENT, reason="SBOM names no document")
def test_everything_that_is_required_is_in_it_and_nothing_of_this_machine() -> None:
    text = Path(str(DOCUMENT)).read_text(encoding="utf-8")
    document = json.loads(text)
    assert document["bomFormat"] == "CycloneDX"
    component = document["metadata"]["component"]
    assert component["purl"].startswith("pkg:pypi/channels-redis-fast@")
    project = load("pyproject.toml")["project"]
    required = {normalised(re.split(r"[^\w.-]", requirement)[0]) for requirement in project["dependencies"]}
    held = {normalised(entry["name"]): entry for entry in document["components"]}
    assert required - held.keys() == set()
    # What runs the tests, makes wheels or writes this document is not what the package runs on.
    assert held.keys() & {"auditwheel", "cyclonedx-bom", "pip", "pytest", "setuptools"} == set()
    assert [name for name, entry in held.items() if not entry["purl"].endswith(f"@{entry['version']}")] == []
    (edges,) = (entry["dependsOn"] for entry in document["dependencies"] if entry["ref"] == component["bom-ref"])
    direct = {normalised(reference.partition("==")[0]) for reference in edges}
    assert direct == {*required, "cython"}
    assert "file:" not in text
    assert str(Path.home()) not in text
