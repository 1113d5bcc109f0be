"""That the places which name Pythons, platforms and extensions mean the same ones. Builds nothing."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from typing import Any

import pytest
import yaml

from tests.packaging.project import ROOT, load, pythons, requirements

#: Free-threaded builds: hiredis turns the GIL on there, but a wheel has to be there all the same.
FREE_THREADED = ("314t",)
PLATFORMS = {
    "linux": ("manylinux_x86_64", "manylinux_aarch64", "musllinux_x86_64", "musllinux_aarch64"),
    "macos": ("macosx_x86_64", "macosx_arm64"),
    "windows": ("win_amd64", "win_arm64"),
}

in_the_tree = pytest.mark.skipif(not (ROOT / "cibuildwheel.toml").exists(), reason="outside the source tree")


def workflow(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))
    return content


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


def selected(platform: str, **environment: str) -> set[str]:
    """The builds that cibuildwheel would make of our configuration."""
    if importlib.util.find_spec("cibuildwheel") is None:
        pytest.skip("cibuildwheel comes with the dependency group `package`, which `make wheel` installs")
    command = [sys.executable, "-m", "cibuildwheel", "--config-file", "cibuildwheel.toml", "--platform", platform]
    said = subprocess.run(
        [*command, "--print-build-identifiers", "."],
        cwd=ROOT,
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return set(said.stdout.split())


@in_the_tree
@pytest.mark.parametrize("platform", PLATFORMS)
def test_cibuildwheel_selects_what_we_mean(platform: str) -> None:
    meant = {f"cp{python}-{name}" for python in [*pythons(), *FREE_THREADED] for name in PLATFORMS[platform]}
    assert selected(platform) == meant


@in_the_tree
@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_next_python_is_tried_and_may_fail(platform: str) -> None:
    jobs = workflow("wheels.yml")["jobs"]
    following = f"3{max(int(python[1:]) for python in pythons()) + 1}"
    assert jobs["next"]["continue-on-error"] is True
    (environment,) = (step["env"] for step in jobs["next"]["steps"] if "env" in step)
    environment = {name: value for name, value in environment.items() if name != "CIBW_ARCHS"}
    meant = {f"cp{python}-{name}" for python in (following, f"{following}t") for name in PLATFORMS[platform]}
    assert selected(platform, **environment) == meant


@in_the_tree
def test_nothing_is_published_that_was_not_checked_and_signed() -> None:
    jobs = workflow("wheels.yml")["jobs"]

    def before(name: str) -> set[str]:
        """The jobs that one waits for, at once or through others."""
        needs = jobs[name].get("needs", [])
        direct = {needs} if isinstance(needs, str) else set(needs)
        return direct.union(*map(before, direct))

    assert before("publish") == {"attest", "check", "sdist", "wheels"}


@in_the_tree
def test_the_workflow_builds_with_the_cibuildwheel_that_is_checked() -> None:
    (pinned,) = (
        requirement.partition("==")[2]
        for requirement in requirements("package")
        if requirement.startswith("cibuildwheel==")
    )
    text = (ROOT / ".github" / "workflows" / "wheels.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"pypa/cibuildwheel@\S+ # v(\S+)", text)) == {pinned}


@in_the_tree
def test_every_action_is_named_by_its_commit_and_release() -> None:
    """A tag can be moved, to anything. The same action is of the same release everywhere."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / ".github").rglob("*.yml"))]
    named = [name for text in texts for name in re.findall(r"^[ -]*uses: +(.+)$", text, re.M)]
    foreign = {name for name in named if not name.startswith("./")}
    assert {name for name in foreign if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+(\.\d+){1,2}", name)} == set()
    assert foreign
    assert len({name.partition("@")[0] for name in foreign}) == len(foreign)
    assert {name for name in named if name.startswith("./") and not (ROOT / name / "action.yml").exists()} == set()


@in_the_tree
def test_the_extras_are_for_users_and_the_suite_has_them_all() -> None:
    """What the work on the package needs is a dependency group, which no user of the package meets."""
    extras = load("pyproject.toml")["project"]["optional-dependencies"]
    assert sorted(extras) == ["cli", "cryptography", "otel", "prometheus", "tune"]
    assert {requirement for extra in extras.values() for requirement in extra} - set(requirements("test")) == set()
    assert set(extras["cli"]) < set(extras["tune"])


@in_the_tree
def test_the_versions_of_django_that_are_named_are_tested() -> None:
    classifiers = "\n".join(load("pyproject.toml")["project"]["classifiers"])
    rows = re.findall(r"^    Row\((.+)\),$", (ROOT / "noxfile.py").read_text(encoding="utf-8"), re.M)
    django = {row.split(", ")[4].strip('"') for row in rows}
    assert set(re.findall(r"^Framework :: Django :: ([\d.]+)$", classifiers, re.M)) == django


@in_the_tree
def test_links_to_the_project_lead_where_it_says_it_is() -> None:
    urls = load("pyproject.toml")["project"]["urls"]
    assert sorted(urls) == ["Changelog", "Documentation", "Issues", "Source"]
    assert urls["Changelog"].startswith(urls["Documentation"])
    assert urls["Issues"].startswith(urls["Source"])
    names = ["CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "README.md", "SECURITY.md", "mkdocs.yml"]
    pages = [*(ROOT / name for name in names), *(ROOT / "docs").glob("*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    links = re.findall(
        r"https://[\w.-]*channels-redis-fast[\w./-]*|https://github.com/[\w-]*/channels.redis.fast", text
    )
    assert [link for link in links if not link.startswith((urls["Documentation"], urls["Source"]))] == []
    # The command line names a repository as its owner and its name.
    named = set(re.findall(r"gh attestation verify FILE --repo (\S+)", text))
    assert named == {urls["Source"].removeprefix("https://github.com/")}


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
