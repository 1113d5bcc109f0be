"""Other versions of redis-py, each unpacked in a directory of its own, and programs that run on one of them.

Knows pip and processes; what the program does is its own business.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.conftest import ROOT

#: The latest release of each is what is tested.
VERSIONS = (5, 6, 7, 8)


class Unavailable(RuntimeError):
    """pip could not get a version of redis-py."""


@cache
def get_tree(version: int) -> Path | Unavailable:
    """
    The directory, for PYTHONPATH, that holds the latest redis-py of that major version; or why there is none.

    It is kept between runs, in REDIS_PY_TREES or else beside the project's other venvs.
    """
    home = Path(os.environ.get("REDIS_PY_TREES") or ROOT / ".venv-redis-py")
    tree = home / f"{version}-py{sys.version_info.major}.{sys.version_info.minor}"
    if tree.is_dir():
        return tree
    home.mkdir(parents=True, exist_ok=True)
    # Beside the place where it belongs, and moved there when it is whole: an interrupted pip leaves no half tree.
    with tempfile.TemporaryDirectory(dir=home, prefix="making-") as directory:
        made = Path(directory) / "tree"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += ["--retries", "1", "--target", str(made), f"redis>={version},<{version + 1}"]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=100)
        except subprocess.CalledProcessError as error:
            lines = error.stderr.strip().splitlines() or ["pip said nothing"]
            return Unavailable(f"pip cannot get redis-py {version}: {lines[-1]}")
        except subprocess.TimeoutExpired:
            return Unavailable(f"pip cannot get redis-py {version}: it took too long")
        try:
            made.rename(tree)
        except OSError:
            # Another test run was faster.
            if not tree.is_dir():
                raise
    return tree


class Run:
    """A module run on one of the trees, which prints JSON lines with a `name`; they are read as they come."""

    def __init__(self, tree: Path, module: str, plan: dict[str, Any]) -> None:
        self._lines: dict[str, dict[str, Any]] = {}
        self._news = threading.Condition()
        self._ended = False
        # The tree first: it has to win over the redis-py that is installed.
        environment = {**os.environ, "PYTHONPATH": f"{tree}{os.pathsep}{ROOT}"}
        # A file, and no pipe: nobody reads it before the end. `__exit__` closes it.
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-W", "always::ResourceWarning", "-m", module, json.dumps(plan)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def result(self, name: str, seconds: float) -> dict[str, Any]:
        """The line with that name, waited for."""
        with self._news:
            self._news.wait_for(lambda: name in self._lines or self._ended, seconds)
            if name not in self._lines:
                state = "ended" if self._ended else f"has for {seconds:g} s been"
                raise AssertionError(f"the program {state} without a word on {name}:\n{self._said()}")
            return self._lines[name]

    def complaints(self, seconds: float) -> str:
        """What the program wrote to stderr until its end, which is waited for; its exit code, if that is not 0."""
        code = self._process.wait(seconds)
        return self._said() + (f"\nexit code {code}" if code else "")

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()
        self._errors.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                with self._news:
                    entry = json.loads(line)
                    self._lines[entry["name"]] = entry
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _said(self) -> str:
        self._errors.seek(0)
        return self._errors.read()
