"""That the places which name Pythons, platforms and extensions mean the same ones. Builds nothing."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    # pytest itself needs it there.
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]

#: Free-threaded builds: hiredis turns the GIL on there, but a wheel has to be there all the same.
FREE_THREADED = ("313t", "314t")
PLATFORMS = {
    "linux": ("manylinux_x86_64", "manylinux_aarch64", "musllinux_x86_64", "musllinux_aarch64"),
    "macos": ("macosx_x86_64", "macosx_arm64"),
    "windows": ("win_amd64",),
}

in_the_tree = pytest.mark.skipif(not (ROOT / "cibuildwheel.toml").exists(), reason="outside the source tree")


def load(name: str) -> dict[str, Any]:
    content: dict[str, Any] = tomllib.loads((ROOT / name).read_text(encoding="utf-8"))
    return content


def pythons() -> list[str]:
    """The Pythons that pyproject.toml names, as cibuildwheel writes them: `310`."""
    classifiers = "\n".join(load("pyproject.toml")["project"]["classifiers"])
    return [f"3{minor}" for minor in re.findall(r"^Programming Language :: Python :: 3\.(\d+)$", classifiers, re.M)]


@in_the_tree
def test_wheels_are_built_for_the_pythons_that_are_named() -> None:
    selected = load("cibuildwheel.toml")["tool"]["cibuildwheel"]["build"]
    assert sorted(selected) == sorted(f"cp{python}-*" for python in [*pythons(), *FREE_THREADED])


@in_the_tree
def test_the_oldest_python_is_the_same_everywhere() -> None:
    project = load("pyproject.toml")
    oldest = min(pythons(), key=int)
    assert project["project"]["requires-python"] == f">=3.{oldest[1:]}"
    assert project["tool"]["mypy"]["python_version"] == f"3.{oldest[1:]}"
    assert project["tool"]["ruff"]["target-version"] == f"py{oldest}"


@in_the_tree
@pytest.mark.parametrize("platform", PLATFORMS)
def test_cibuildwheel_selects_what_we_mean(platform: str) -> None:
    if importlib.util.find_spec("cibuildwheel") is None:
        pytest.skip("cibuildwheel comes with the dependency group `package`, which `make wheel` installs")
    command = [sys.executable, "-m", "cibuildwheel", "--config-file", "cibuildwheel.toml", "--platform", platform]
    said = subprocess.run(
        [*command, "--print-build-identifiers", "."], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60
    )
    meant = {f"cp{python}-{name}" for python in [*pythons(), *FREE_THREADED] for name in PLATFORMS[platform]}
    assert set(said.stdout.split()) == meant


@in_the_tree
def test_the_workflow_builds_with_the_cibuildwheel_that_is_checked() -> None:
    (pinned,) = [
        requirement.partition("==")[2]
        for requirement in load("pyproject.toml")["dependency-groups"]["package"]
        if requirement.startswith("cibuildwheel==")
    ]
    workflow = (ROOT / ".github" / "workflows" / "wheels.yml").read_text(encoding="utf-8")
    assert re.findall(r"pypa/cibuildwheel@v(\S+)", workflow) == [pinned]


@in_the_tree
def test_every_extension_has_its_sources_and_the_other_way_round() -> None:
    """What setup.py builds, read from its text: to import it would build."""
    (names,) = re.findall(r"^MODULES = \((.*?)\)$", (ROOT / "setup.py").read_text(encoding="utf-8"), re.M | re.S)
    assert set(re.findall(r'"(\w+)"', names)) == {path.stem for path in (ROOT / "_ext").glob("*.pyx")}


@in_the_tree
def test_every_package_is_named() -> None:
    """A directory that pyproject.toml does not name would be missing from the wheel, and be found in the tree."""
    packages = {path.parent.relative_to(ROOT) for path in (ROOT / "channels_redis_fast").rglob("__init__.py")}
    assert set(load("pyproject.toml")["tool"]["setuptools"]["packages"]) == {
        ".".join(package.parts) for package in packages
    }
