"""
The sources of a suite, outside of git: a clone in `build/drop-in/sources`, and a copy of one commit for each run.

Nothing of other projects is ever in this repository.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

from .suites import Suite


class Unobtainable(Exception):
    """A suite cannot be had or run here; the text says why, in a sentence."""


def find_repository(suite: Suite, given: Path | None, cache: Path) -> Path:
    """
    Return a git repository that has a suite's commit: the one in the folder of local copies ``given``, by the suite's
    name, or a clone, made when it is first asked for.

    Raises ``Unobtainable``.
    """
    if given is not None:
        repository = given / suite.name
        if not repository.exists():
            raise Unobtainable(f"{suite.name}: there is no {repository}")
    else:
        repository = cache / "sources" / suite.name
        if not _has(repository, suite.commit):
            shutil.rmtree(repository, ignore_errors=True)
            clone = ["git", "clone", "--quiet", "--no-checkout", suite.url, str(repository)]
            _run(clone, f"{suite.name} cannot be cloned from {suite.url}")
    if not _has(repository, suite.commit):
        raise Unobtainable(f"{suite.name}: {repository} has no commit {suite.commit}")
    return repository


def export(suite: Suite, repository: Path, folder: Path) -> None:
    """Write what a suite needs of its commit into an empty folder. Raises ``Unobtainable``."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    archive = ["git", "-C", str(repository), "archive", "--format=tar", suite.commit, *suite.paths]
    with tarfile.open(fileobj=BytesIO(_run(archive, f"{suite.name} cannot be read"))) as tar:
        if hasattr(tarfile, "data_filter"):
            # Paths that lead out of the folder are refused, where Python knows how to.
            tar.extraction_filter = tarfile.data_filter
        tar.extractall(folder)
    if not suite.has_settings:
        (folder / "pytest.ini").write_text("[pytest]\n")


def put_ports(suite: Suite, folder: Path, redis: int, sentinel: int) -> None:
    """Make a suite's replacements in the Python files of a copy. Raises ``Unobtainable`` for one without a place."""
    unplaced = {text for text, _ in suite.replacements}
    for path in folder.rglob("*.py") if unplaced else ():
        text = path.read_text(encoding="utf-8")
        for old, new in suite.replacements:
            if old in text:
                unplaced.discard(old)
                text = text.replace(old, new.replace("{redis}", str(redis)).replace("{sentinel}", str(sentinel)))
        path.write_text(text, encoding="utf-8")
    if unplaced:
        raise Unobtainable(f"{suite.name}: nothing has {', '.join(map(repr, sorted(unplaced)))}, to be replaced")


def _has(repository: Path, commit: str) -> bool:
    asked = ["git", "-C", str(repository), "cat-file", "-e", f"{commit}^{{commit}}"]
    return repository.exists() and subprocess.run(asked, capture_output=True, check=False).returncode == 0


def _run(command: list[str], failure: str) -> bytes:
    try:
        return subprocess.run(command, capture_output=True, check=True, stdin=subprocess.DEVNULL).stdout
    except FileNotFoundError:
        raise Unobtainable(f"{failure}: there is no {command[0]}") from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {error.returncode}"]
        raise Unobtainable(f"{failure}: {lines[-1]}") from None
