"""
A venv for each of the two packages, in `build/drop-in`, with what the suites need. Nothing is installed twice.

This package is installed from its sources as they are, by pip, as a site has it. So it is built anew when one of them
has changed.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from .sources import Unobtainable
from .suites import CHANNELS_REDIS, COMMON_REQUIREMENTS, UPSTREAM_REQUIREMENTS, Suite

ROOT = Path(__file__).resolve().parents[2]

#: What the package is built from.
BUILD_INPUT = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "_ext", "channels_redis_fast")
#: What a build leaves there.
BUILT = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd", "*.c", "*.html")


class Environment:
    """The venv of one of the packages, made when first asked for."""

    def __init__(self, package: str, cache: Path) -> None:
        self._package = package
        self._cache = cache
        self._folder = cache / package
        self.python = self._folder / "bin" / "python"

    def install(self, suite: Suite) -> None:
        """Make sure that a suite can run. Raises ``Unobtainable`` with pip's last words where it cannot."""
        if not (self._folder / "made").exists():
            venv.create(self._folder, clear=True, with_pip=True)
            (self._folder / "made").touch()
        if self._package == CHANNELS_REDIS:
            self._ensure("package", "\n".join(UPSTREAM_REQUIREMENTS), *UPSTREAM_REQUIREMENTS)
        else:
            self._ensure_here()
        self._ensure("common", "\n".join(COMMON_REQUIREMENTS), *COMMON_REQUIREMENTS)
        if suite.requirements:
            self._ensure(suite.name, "\n".join(suite.requirements), *suite.requirements)

    def _ensure_here(self) -> None:
        state = hashlib.sha256()
        files = [path for name in BUILD_INPUT for path in _files(ROOT / name)]
        for path in files:
            state.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
        copy = self._cache / "package"
        if self._is("package", state.hexdigest()):
            return
        # Not in the tree, where a build would leave things and find older ones.
        shutil.rmtree(copy, ignore_errors=True)
        for path in files:
            (copy / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy / path.relative_to(ROOT))
        self._ensure("package", state.hexdigest(), "--force-reinstall", f"{copy}[cryptography]")
        compiled = "from channels_redis_fast import hot; raise SystemExit(not hot.COMPILED)"
        if subprocess.run([self.python, "-c", compiled], cwd=self._folder, check=False).returncode:
            raise Unobtainable("channels_redis_fast was installed without its compiled modules: see `pip install -v`")

    def _ensure(self, name: str, state: str, *requirements: str) -> None:
        if self._is(name, state):
            return
        print(f"installing {name} for {self._package} ...", file=sys.stderr, flush=True)
        pip = [str(self.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
        ended = subprocess.run(pip, capture_output=True, text=True, check=False)
        if ended.returncode:
            last = next(iter(reversed(ended.stderr.strip().splitlines())), f"exit code {ended.returncode}")
            raise Unobtainable(f"{name} cannot be installed for {self._package}: {last}")
        # Last: an interrupted installation is started over.
        (self._folder / f"{name}.installed").write_text(state)

    def _is(self, name: str, state: str) -> bool:
        stamp = self._folder / f"{name}.installed"
        return stamp.exists() and stamp.read_text() == state


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = sorted(entry for entry in path.rglob("*") if entry.is_file())
    return [entry for entry in found if not BUILT(str(entry.parent), [entry.name]) and "__pycache__" not in entry.parts]
