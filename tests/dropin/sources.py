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

from .suites import REDIS_PORT, SENTINEL_PORT, Suite


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


def put_ports(folder: Path, redis_port: int, sentinel_port: int) -> None:
    """In the Python files of a copy, name the ports of our servers in place of the usual ones."""
    for path in folder.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        # The longer one first: the shorter is its end.
        changed = text.replace(str(SENTINEL_PORT), "\0").replace(str(REDIS_PORT), str(redis_port))
        changed = changed.replace("\0", str(sentinel_port))
        if changed != text:
            path.write_text(changed, encoding="utf-8")


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
